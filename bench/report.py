"""The figures of all rounds, as one table for people and one object for programs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from bench.load import Plan, percentile
from bench.measurements import Drain, Events, Latency, Measurement, Rounds, Webhooks
from bench.reads import FROM_MEMORY, READS
from bench.targets import TITLES

Round = TypeVar("Round")

#: Pairs of targets: the rate of the first over that of the second.
_RATIOS = [
    *(
        (service, yardstick)
        for service in ("service", "delivering", "first", "inbound")
        for yardstick in ("empty", "pgbench")
    ),
    ("keyed", "service"),
    ("logged", "service"),
    ("many", "few"),
    *((name, name + FROM_MEMORY) for name in READS),
]
_MOMENTS = {"called": "the provider is called", "recorded": "its outcome is recorded"}
_WIDTH = max(map(len, TITLES.values()))


def as_object(plan: Plan, rounds: Rounds, skipped: Mapping[str, str]) -> dict[str, Any]:
    """All figures, ready for JSON. Times are in the unit in their name. Parts that were not measured are left out."""
    speeds = {name: [one.seen.per_second for one in measured] for name, measured in rounds.targets.items()}
    ratios = {
        f"{one}/{other}": ratio(speeds[one], speeds[other])
        for one, other in _RATIOS
        if one in speeds and other in speeds
    }
    report = {
        "seconds": plan.seconds,
        "connections": plan.connections,
        "pairs": plan.pairs,
        "targets": {name: _target(measured) for name, measured in rounds.targets.items()},
        "ratios": ratios,
        "skipped": dict(skipped),
        "problems": _problems(rounds),
    }
    if rounds.drain:
        report["drain"] = _drain(rounds.drain)
        accepted = [one.accepted.seen.per_second for one in rounds.drain]
        ratios["drain/accept"] = ratio([one.per_second for one in rounds.drain], accepted)
    if rounds.latency:
        report["latency"] = _latency(rounds.latency)
    if rounds.events:
        report["events"] = _events(rounds.events)
    if rounds.webhooks:
        report["webhooks"] = _webhooks(rounds.webhooks)
    return report


def ratio(ones: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """The median, lowest and highest ratio of two rates, computed in each round."""
    each = [one / other if other else 0.0 for one, other in zip(ones, others, strict=True)]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def as_table(report: Mapping[str, Any]) -> str:
    """The report of `as_object` as a table for a terminal."""
    lines = [
        *(_accepting_lines(report["targets"]) if report["targets"] else []),
        *(_drain_lines(report["drain"]) if "drain" in report else []),
        *(_ratio_lines(report["ratios"]) if report["ratios"] else []),
        *(_latency_lines(report["latency"]) if "latency" in report else []),
        *(_events_lines(report["events"]) if "events" in report else []),
        *(_webhook_lines(report["webhooks"]) if "webhooks" in report else []),
    ]
    lines += [f"{name} is left out: {reason}" for name, reason in report["skipped"].items()]
    if "delivering" in report["targets"]:
        share = report["targets"]["delivering"]["delivered_share"]
        lines.append(f"Of what was accepted while delivering, {share:.0%} was delivered when the last answer came.")
    if not report["problems"]:
        lines.append("Every message that was answered with 2xx is in the database, and no other.")
        if "drain" in report or "latency" in report:
            lines.append("Every message that was to be delivered was sent, in exactly one attempt.")
    return "\n".join(lines)


def _accepting_lines(targets: Mapping[str, Any]) -> list[str]:
    lines = [f"{'median of the rounds':{_WIDTH}} {'req/s':>9} {'p50 ms':>9} {'p99 ms':>9} {'CPU µs/req':>11}"]
    for name, target in targets.items():
        cpu = target["cpu_microseconds"]
        lines.append(
            f"{TITLES[name]:{_WIDTH}} {target['per_second']:9,.0f} {target['p50_ms']:9.1f} {target['p99_ms']:9.1f} "
            f"{'-' if cpu is None else format(cpu, '11,.0f'):>11}"
        )
    return [*lines, ""]


def _drain_lines(drain: Mapping[str, Any]) -> list[str]:
    title = f"one worker, draining {drain['messages']:,} messages"
    return [
        f"{'median of the rounds':{_WIDTH}} {'msg/s':>9} {'accept/s':>9} {'seconds':>9} {'CPU µs/msg':>11}",
        f"{title:{_WIDTH}} {drain['per_second']:9,.0f} {drain['accepted_per_second']:9,.0f} "
        f"{drain['seconds']:9.1f} {drain['cpu_microseconds']:11,.0f}",
        "",
    ]


def _ratio_lines(ratios: Mapping[str, Any]) -> list[str]:
    lines = [f"{'ratio of rates, round by round':{_WIDTH}} {'median':>9} {'lowest':>9} {'highest':>9}"]
    for name, figures in ratios.items():
        lines.append(f"{name:{_WIDTH}} " + " ".join(f"{figure:9.2f}" for figure in figures.values()))
    return [*lines, ""]


def _latency_lines(latency: Mapping[str, Any]) -> list[str]:
    lines = [f"{'idle: ms from acceptance until':{_WIDTH}} {'p50':>9} {'p95':>9} {'the first':>9}"]
    for name, title in _MOMENTS.items():
        lines.append(f"{title:{_WIDTH}} " + " ".join(f"{figure:9.1f}" for figure in latency[name].values()))
    return [*lines, ""]


def _events_lines(events: Mapping[str, Any]) -> list[str]:
    title = f"a reader beside {events['readers']:,} idle ones"
    return [
        f"{'events: ms from timestamp to':{_WIDTH}} {'p50':>9} {'p99':>9} {'kB/reader':>9}",
        f"{title:{_WIDTH}} {events['p50_ms']:9.1f} {events['p99_ms']:9.1f} {events['kilobytes_each']:9.1f}",
        "",
    ]


def _webhook_lines(webhooks: Mapping[str, Any]) -> list[str]:
    title = "webhooks: {endpoints} endpoints, {dead} dead, {slow} slow".format_map(webhooks)
    figures = " ".join(f"{webhooks[name]:9.1f}" for name in ("p50_ms", "p99_ms", "slowest_ms"))
    heading = f"{'ms from the log to endpoints that are well':{_WIDTH}} {'p50':>9} {'p99':>9} {'the last':>9}"
    return [heading, f"{title:{_WIDTH}} {figures}", ""]


def _target(measured: Sequence[Measurement]) -> dict[str, Any]:
    return {
        "per_second": _median(measured, lambda one: one.seen.per_second),
        "p50_ms": _median(measured, lambda one: one.seen.p50_ms),
        "p99_ms": _median(measured, lambda one: one.seen.p99_ms),
        "cpu_microseconds": _median(measured, lambda one: one.cpu_microseconds),
        "delivered_share": _median(
            measured, lambda one: None if one.delivered is None else one.delivered / max(one.seen.answered, 1)
        ),
        "rounds": [_flat(one) for one in measured],
    }


def _drain(measured: Sequence[Drain]) -> dict[str, Any]:
    return {
        "messages": measured[0].messages,
        "per_second": _median(measured, lambda one: one.per_second),
        "accepted_per_second": _median(measured, lambda one: one.accepted.seen.per_second),
        "seconds": _median(measured, lambda one: one.seconds),
        "cpu_microseconds": _median(measured, lambda one: one.cpu_microseconds),
        "rounds": [{**asdict(one), "accepted": _flat(one.accepted)} for one in measured],
    }


def _latency(measured: Sequence[Latency]) -> dict[str, Any]:
    return {
        "called": _moment([one.called_ms for one in measured]),
        "recorded": _moment([one.recorded_ms for one in measured]),
        "rounds": [asdict(one) for one in measured],
    }


def _events(measured: Sequence[Events]) -> dict[str, Any]:
    return {
        "readers": measured[0].readers,
        "p50_ms": _median(measured, lambda one: percentile(sorted(one.after_ms), 50)),
        "p99_ms": _median(measured, lambda one: percentile(sorted(one.after_ms), 99)),
        "kilobytes_each": _median(measured, lambda one: one.bytes_each / 1000),
        "rounds": [asdict(one) for one in measured],
    }


def _webhooks(measured: Sequence[Webhooks]) -> dict[str, Any]:
    sizes = {name: getattr(measured[0], name) for name in ("endpoints", "dead", "slow")}
    rounds = [sorted(one.arrived_ms) or [0.0] for one in measured]
    figures = {
        "p50_ms": statistics.median(percentile(times, 50) for times in rounds),
        "p99_ms": statistics.median(percentile(times, 99) for times in rounds),
        "slowest_ms": max(times[-1] for times in rounds),
    }
    each = [{"arrived": len(one.arrived_ms), "missing": one.missing} for one in measured]
    return sizes | figures | {"rounds": each}


def _moment(rounds: Sequence[Sequence[float]]) -> dict[str, float]:
    """Percentiles over all messages but each round's first, which meets a cold process and has its own figure."""
    later = [sorted(times[1:]) for times in rounds]
    return {
        "p50_ms": statistics.median(percentile(times, 50) for times in later),
        "p95_ms": statistics.median(percentile(times, 95) for times in later),
        "first_ms": statistics.median(times[0] if times else 0.0 for times in rounds),
    }


def _median(measured: Sequence[Round], figure: Callable[[Round], float | None]) -> float | None:
    figures = [value for one in measured if (value := figure(one)) is not None]
    return statistics.median(figures) if figures else None


def _flat(measurement: Measurement) -> dict[str, Any]:
    own = asdict(measurement)
    return {**own.pop("seen"), **own}


def _problems(rounds: Rounds) -> list[str]:
    everything: dict[str, Sequence[Measurement | Drain | Latency | Events | Webhooks]] = {
        **rounds.targets,
        "drain": rounds.drain,
        "latency": rounds.latency,
        "events": rounds.events,
        "webhooks": rounds.webhooks,
    }
    return [
        f"{name}: {problem}"
        for name, measured in everything.items()
        for one in measured
        for problem in one.problems()
    ]
