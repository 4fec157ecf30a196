"""Measures how fast the service accepts messages, against an empty endpoint and against pgbench.

Then how fast it answers reads, and how fast a worker drains the queue. Then how soon an idle service delivers, and
how soon events reach their readers and webhook endpoints. At last how long retention takes with many tenants, and the
space that messages and processes take.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from app.commands import allow_open_files
from app.config import Settings
from app.db.embedded import EmbeddedPostgresError
from bench.database import throw_away_database
from bench.events import Endpoints
from bench.load import Plan
from bench.measurements import Figures, Measurement, Rounds
from bench.processes import BenchError
from bench.report import as_object, as_table
from bench.targets import Targets, title, warm_up

_PARTS = (
    *("accept", "reads", "lists", "log", "drain", "latency", "events", "webhooks"),
    *("disturbed", "retention", "storage", "memory"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns 0, 1 if answered and stored messages differ, 2 if it can't run, and 130 on Ctrl-C."""
    chosen = _chosen(arguments)
    allow_open_files()
    try:
        report = asyncio.run(_measure(_plan(chosen), chosen))
    except (BenchError, EmbeddedPostgresError) as error:
        print(f"The benchmark can't run. {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped.", file=sys.stderr)
        return 130
    print(json.dumps(report, indent=2) if chosen.json else as_table(report))
    for problem in report["problems"]:
        print(f"The figures don't count. {problem}", file=sys.stderr)
    return 1 if report["problems"] else 0


def _chosen(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="how long each target is measured in each round")
    parser.add_argument("--rounds", type=int, default=3, help="how often all targets take turns")
    parser.add_argument("--connections", type=int, default=64, help="keep-alive connections, and pgbench's clients")
    parser.add_argument("--pairs", type=int, default=1000, help="how many pairs of from and to take turns")
    parser.add_argument("--messages", type=int, default=20_000, help="how many the queue holds that is drained")
    sizes = [1_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="messages of reads; the last of lists")
    parser.add_argument("--minutes", type=float, default=1, help="how long memory may grow under mixed load")
    parser.add_argument("--entries", type=int, default=1_000_000, help="how many entries a long event log has")
    parser.add_argument("--singles", type=int, default=50, help="how many messages an idle service gets one by one")
    parser.add_argument("--readers", type=int, default=1000, help="how many idle readers of events are connected")
    parser.add_argument("--webhooks", type=int, default=10, help="how many messages go to all webhook endpoints")
    parser.add_argument("--endpoints", type=int, default=500, help="how many there are; a fifth is slow or dead")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="what is measured")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--directory", type=Path, help="where the throw-away database is made; choose the disk that is to be measured"
    )
    chosen = parser.parse_args(arguments)
    if not (
        chosen.seconds > 0 and chosen.rounds > 0 and 1 <= chosen.connections <= 90 and 1 <= chosen.pairs <= 100_000
    ):
        parser.error("seconds and rounds are positive, connections at most 90, pairs at most 100,000")
    least = warm_up(_plan(chosen)) + chosen.pairs + chosen.connections
    if {"drain", "storage"} & {*chosen.only} and chosen.messages <= least:
        parser.error(f"messages are more than {least:,}, which the warm-up needs")
    if min(chosen.sizes) < 1000 or any(size % 1000 for size in chosen.sizes) or chosen.sizes != sorted(chosen.sizes):
        parser.error("sizes are thousands of messages, the smallest first")
    if chosen.minutes <= 0:
        parser.error("minutes are positive")
    if "log" in chosen.only and chosen.entries < 1000:
        parser.error("entries are at least a thousand")
    if "latency" in chosen.only and chosen.singles < 2:
        parser.error("singles are at least two: the first is not counted among the others")
    if "events" in chosen.only and chosen.readers < 1:
        parser.error("readers are at least one")
    if "webhooks" in chosen.only and chosen.endpoints < 10:
        parser.error("endpoints are at least ten: one is slow, and one dead")
    return chosen


def _plan(chosen: argparse.Namespace) -> Plan:
    return Plan(port=0, seconds=chosen.seconds, connections=chosen.connections, pairs=chosen.pairs)


async def _measure(plan: Plan, chosen: argparse.Namespace) -> dict[str, Any]:
    """The report on all rounds. A signal cancels it, and then every started program is stopped."""
    _let_signals_cancel()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = Settings(env="development")  # only for settings of this machine
    place = _made(chosen.directory or settings.data_dir)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        _say("making a throw-away database")
        with throw_away_database(directory, settings.pg_bindir) as database:
            targets = Targets(plan, database, directory, settings.pg_bindir, entries=chosen.entries)
            rounds = Rounds()
            for number in range(1, chosen.rounds + 1):
                await _measure_once(targets, chosen, rounds, f"round {number} of {chosen.rounds}")
        return as_object(plan, rounds, targets.skipped)


async def _measure_once(targets: Targets, chosen: argparse.Namespace, rounds: Rounds, number: str) -> None:
    for target in targets.names(chosen.only):
        _add(rounds, {target: await targets.measure(target)}, number)
    if "reads" in chosen.only:
        _add(rounds, await targets.reads(chosen.sizes), number)
    if "lists" in chosen.only:
        _add(rounds, await targets.lists(chosen.sizes[-1]), number)
    if "drain" in chosen.only:
        rounds.drain.append(drain := await targets.drain(chosen.messages))
        _say(f"{number}: one worker: {drain.per_second:,.0f} msg/s, accepted {_summary(drain.accepted)}")
    if "latency" in chosen.only:
        rounds.latency.append(latency := await targets.latency(chosen.singles))
        slowest = max(latency.recorded_ms, default=0.0)
        _say(f"{number}: idle, message by message: the slowest was recorded after {slowest:.1f} ms")
    if "events" in chosen.only:
        rounds.events.append(events := await targets.events(chosen.singles, chosen.readers))
        _say(f"{number}: events: the slowest came after {max(events.after_ms, default=0.0):.1f} ms")
    if "webhooks" in chosen.only:
        rounds.webhooks.append(webhooks := await targets.webhooks(chosen.webhooks, Endpoints(chosen.endpoints)))
        slowest = max(webhooks.arrived_ms, default=0.0)
        _say(f"{number}: webhooks: the last of {len(webhooks.arrived_ms):,} arrived after {slowest:.1f} ms")
    measures: dict[str, Callable[[], Awaitable[Figures]]] = {
        "disturbed": partial(targets.disturbed, chosen.messages),
        "retention": targets.retention,
        "storage": partial(targets.storage, chosen.messages),
        "memory": partial(targets.memory, chosen.minutes),
    }
    for part, measure in measures.items():
        if part in chosen.only:
            rounds.figures.setdefault(part, []).append(figures := await measure())
            _say(f"{number}: {part}: " + ", ".join(f"{name} {value:,.2f}" for name, value in figures.values.items()))


def _add(rounds: Rounds, measured: dict[str, Measurement], number: str) -> None:
    for name, measurement in measured.items():
        rounds.targets.setdefault(name, []).append(measurement)
        _say(f"{number}: {title(name)}: {_summary(measurement)}")


def _made(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    return place.resolve()


def _let_signals_cancel() -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def cancel(*_: object) -> None:
        for one in known:
            signal.signal(one, signal.SIG_IGN)  # it is already stopping
        loop.call_soon_threadsafe(task.cancel)

    for one in known:
        signal.signal(one, cancel)


def _summary(measurement: Measurement) -> str:
    seen = measurement.seen
    limit = ", and the load generator was the limit" if seen.busy and seen.busy > 0.9 else ""
    return f"{seen.per_second:,.0f} req/s, p99 {seen.p99_ms:.1f} ms{limit}"


def _say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
