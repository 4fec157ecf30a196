"""The figures of all rounds, as one table for people and one object for programs."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from bench.load import Plan, percentile
from bench.measurements import Drain, Events, Figures, Latency, Measurement, Rounds, Webhooks
from bench.reads import FROM_MEMORY, READS, READY
from bench.targets import title

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
]
#: The titles of single figures, their decimals, and their targets. None of these fails a run.
_FIGURES: Mapping[str, tuple[str, int, str]] = {
    "calm": ("draining a queue, msg/s", 0, ""),
    "throttled": ("with 1 % of 429, msg/s", 0, ""),
    "snapshot": ("beside an open snapshot, msg/s", 0, ""),
    "throttled/calm": ("with 1 % of 429, of the rate without", 2, ">= 0.90"),
    "snapshot/calm": ("beside a snapshot, of the rate without", 2, ">= 0.95"),
    "throttled/calm, to the last": ("with 1 % of 429, to the last message", 2, ""),
    "retention": ("retention pass, 10,000 tenants, s", 3, "< 0.5"),
    "bytes": ("tables and indexes, bytes a message", 0, ""),
    "wal": ("WAL, bytes a message", 0, ""),
    "rss": ("idle service, RSS in MB", 1, ""),
    "pss": ("idle service, PSS in MB", 1, ""),
    "growth": ("growth under mixed load, MB a minute", 2, ""),
}
#: The targets of ratios that have one.
_TARGETS = {"drain/accept": "> 1.00"}
_MOMENTS = {"called": "the provider is called", "recorded": "its outcome is recorded"}
_WIDTH = 44


def as_object(plan: Plan, rounds: Rounds, skipped: Mapping[str, str]) -> dict[str, Any]:
    """All figures, ready for JSON. Times are in the unit in their name. Parts that were not measured are left out."""
    speeds = {name: [one.seen.per_second for one in measured] for name, measured in rounds.targets.items()}
    ratios = {
        f"{one}/{other}": ratio(speeds[one], speeds[other])
        for one, other in _RATIOS
        if one in speeds and other in speeds
    } | _ratios_of_reads(speeds)
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
    if rounds.figures:
        report["figures"] = {name: figures for each in rounds.figures.values() for name, figures in _figures(each)}
    return report


def ratio(ones: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """The median, lowest and highest ratio of two rates, computed in each round."""
    each = [one / other if other else 0.0 for one, other in zip(ones, others, strict=True)]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def _ratios_of_reads(speeds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Each read of each size over the same from memory, over ready bytes, and over that of the smallest size."""
    ratios = {}
    for name in READS:
        sizes = [each for each in speeds if each.startswith(f"{name}@")]
        for one in sizes:
            ratios[f"{one}/memory"] = ratio(speeds[one], speeds[name + FROM_MEMORY])
            ratios[f"{one}/bytes"] = ratio(speeds[one], speeds[name + READY])
        for one in sizes[1:]:
            ratios[f"{one}/{sizes[0].removeprefix(name)}"] = ratio(speeds[one], speeds[sizes[0]])
    return ratios


def as_table(report: Mapping[str, Any]) -> str:
    """The report of `as_object` as a table for a terminal."""
    lines = [
        *(_accepting_lines(report["targets"]) if report["targets"] else []),
        *(_drain_lines(report["drain"]) if "drain" in report else []),
        *(_ratio_lines(report["ratios"]) if report["ratios"] else []),
        *(_latency_lines(report["latency"]) if "latency" in report else []),
        *(_events_lines(report["events"]) if "events" in report else []),
        *(_webhook_lines(report["webhooks"]) if "webhooks" in report else []),
        *(_figure_lines(report["figures"]) if "figures" in report else []),
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
            f"{title(name):{_WIDTH}} {target['per_second']:9,.0f} {target['p50_ms']:9.1f} {target['p99_ms']:9.1f} "
            f"{'-' if cpu is None else format(cpu, '11,.0f'):>11}"
        )
    return [*lines, ""]


def _drain_lines(drain: Mapping[str, Any]) -> list[str]:
    heading = f"one worker, draining {drain['messages']:,} messages"
    return [
        f"{'median of the rounds':{_WIDTH}} {'msg/s':>9} {'accept/s':>9} {'seconds':>9} {'CPU µs/msg':>11}",
        f"{heading:{_WIDTH}} {drain['per_second']:9,.0f} {drain['accepted_per_second']:9,.0f} "
        f"{drain['seconds']:9.1f} {drain['cpu_microseconds']:11,.0f}",
        "",
    ]


def _ratio_lines(ratios: Mapping[str, Any]) -> list[str]:
    lines = [f"{'ratio of rates, round by round':{_WIDTH}} {'median':>9} {'lowest':>9} {'highest':>9} {'target':>9}"]
    for name, figures in ratios.items():
        each = " ".join(f"{figure:9.2f}" for figure in figures.values())
        lines.append(f"{name:{_WIDTH}} {each} {_TARGETS.get(name, ''):>9}".rstrip())
    return [*lines, ""]


def _figure_lines(figures: Mapping[str, Any]) -> list[str]:
    lines = [f"{'figures, round by round':{_WIDTH}} {'median':>9} {'lowest':>9} {'highest':>9} {'target':>9}"]
    for name, (words, decimals, target) in _FIGURES.items():
        if name in figures:
            each = " ".join(f"{figures[name][kind]:9,.{decimals}f}" for kind in ("median", "lowest", "highest"))
            lines.append(f"{words:{_WIDTH}} {each} {target:>9}".rstrip())
    return [*lines, ""]


def _latency_lines(latency: Mapping[str, Any]) -> list[str]:
    lines = [f"{'idle: ms from acceptance until':{_WIDTH}} {'p50':>9} {'p95':>9} {'the first':>9}"]
    for name, words in _MOMENTS.items():
        lines.append(f"{words:{_WIDTH}} " + " ".join(f"{figure:9.1f}" for figure in latency[name].values()))
    return [*lines, ""]


def _events_lines(events: Mapping[str, Any]) -> list[str]:
    words = f"a reader beside {events['readers']:,} idle ones"
    return [
        f"{'events: ms from timestamp to':{_WIDTH}} {'p50':>9} {'p99':>9} {'kB/reader':>9}",
        f"{words:{_WIDTH}} {events['p50_ms']:9.1f} {events['p99_ms']:9.1f} {events['kilobytes_each']:9.1f}",
        "",
    ]


def _webhook_lines(webhooks: Mapping[str, Any]) -> list[str]:
    words = "webhooks: {endpoints} endpoints, {dead} dead, {slow} slow".format_map(webhooks)
    figures = " ".join(f"{webhooks[name]:9.1f}" for name in ("p50_ms", "p99_ms", "slowest_ms"))
    heading = f"{'ms from the log to endpoints that are well':{_WIDTH}} {'p50':>9} {'p99':>9} {'the last':>9}"
    return [heading, f"{words:{_WIDTH}} {figures}", ""]


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


def _figures(measured: Sequence[Figures]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each figure of a part by its name, over all rounds."""
    for name in measured[0].values:
        each = [one.values[name] for one in measured]
        yield name, {"median": statistics.median(each), "lowest": min(each), "highest": max(each), "rounds": each}


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
    everything: dict[str, Sequence[Measurement | Drain | Latency | Events | Webhooks | Figures]] = {
        **rounds.targets,
        "drain": rounds.drain,
        "latency": rounds.latency,
        "events": rounds.events,
        "webhooks": rounds.webhooks,
        **rounds.figures,
    }
    return [
        f"{name}: {problem}"
        for name, measured in everything.items()
        for one in measured
        for problem in one.problems()
    ]
