"""The figures of all rounds, as one table for people and one object for programs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.load import Plan
from bench.targets import TITLES, Measurement

Rounds = Mapping[str, Sequence[Measurement]]

_RATIOS = [
    (service, yardstick) for service in ("service", "delivering") for yardstick in ("empty", "pgbench")
]  # service over yardstick


def as_object(plan: Plan, rounds: Rounds, skipped: Mapping[str, str]) -> dict[str, Any]:
    """Everything, ready for JSON. Times are in the units their names end with; a missing target is left out."""
    return {
        "seconds": plan.seconds,
        "connections": plan.connections,
        "pairs": plan.pairs,
        "targets": {name: _target(measured) for name, measured in rounds.items()},
        "ratios": {f"{one}/{other}": ratio(rounds, one, other) for one, other in _RATIOS if other in rounds},
        "skipped": dict(skipped),
        "problems": [
            f"{name}: {problem}"
            for name, measured in rounds.items()
            for one in measured
            for problem in one.problems()
        ],
    }


def ratio(rounds: Rounds, one: str, other: str) -> dict[str, float]:
    """Requests/s of `one` over those of `other`: computed in each round, then the median, the lowest, the highest."""
    pairs = zip(rounds[one], rounds[other], strict=True)
    each = [a.seen.per_second / b.seen.per_second if b.seen.per_second else 0.0 for a, b in pairs]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def as_table(report: Mapping[str, Any]) -> str:
    """What `as_object` gave, for a terminal."""
    width = max(map(len, TITLES.values()))
    lines = [f"{'median of the rounds':{width}} {'req/s':>9} {'p50 ms':>9} {'p99 ms':>9} {'CPU µs/req':>11}"]
    for name, target in report["targets"].items():
        cpu = target["cpu_microseconds"]
        lines.append(
            f"{TITLES[name]:{width}} {target['per_second']:9,.0f} {target['p50_ms']:9.1f} {target['p99_ms']:9.1f} "
            f"{'-' if cpu is None else format(cpu, '11,.0f'):>11}"
        )
    lines += ["", f"{'ratio of req/s, round by round':{width}} {'median':>9} {'lowest':>9} {'highest':>9}"]
    for name, figures in report["ratios"].items():
        lines.append(f"{name:{width}} " + " ".join(f"{figure:9.2f}" for figure in figures.values()))
    lines.append("")
    lines += [f"{name} is left out: {reason}" for name, reason in report["skipped"].items()]
    share = report["targets"]["delivering"]["delivered_share"]
    lines.append(f"Of what was accepted while delivering, {share:.0%} was delivered when the last answer came.")
    if not report["problems"]:
        lines.append("Every message that was answered with 2xx is in the database, and no other.")
    return "\n".join(lines)


def _target(measured: Sequence[Measurement]) -> dict[str, Any]:
    def median(figure: Callable[[Measurement], float | None]) -> float | None:
        figures = [value for one in measured if (value := figure(one)) is not None]
        return statistics.median(figures) if figures else None

    return {
        "per_second": median(lambda one: one.seen.per_second),
        "p50_ms": median(lambda one: one.seen.p50_ms),
        "p99_ms": median(lambda one: one.seen.p99_ms),
        "cpu_microseconds": median(lambda one: one.cpu_microseconds),
        "delivered_share": median(
            lambda one: None if one.delivered is None else one.delivered / max(one.seen.answered, 1)
        ),
        "rounds": [{**asdict(one.seen), **{k: v for k, v in asdict(one).items() if k != "seen"}} for one in measured],
    }
