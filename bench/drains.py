"""Draining: one worker delivers all that is queued, undisturbed, beside 429s, and beside an open snapshot."""

import asyncio
import sys
from contextlib import nullcontext
from functools import partial

from bench.database import Database
from bench.load import PATIENCE
from bench.measurements import Figures
from bench.processes import Site, cpu_seconds, started, until

#: Messages/s. A slower worker fails the measurement.
_SLOWEST = 100
#: Seconds between two queries of the queue. They cost a little load, but do not affect the measured times.
_LOOK_SECONDS = 0.5
#: The share of the messages whose rate is compared. The last ones are left out, since they wait for a `Retry-After`.
_SHARE = 0.95
#: Both mixes draw a behaviour for each message, so they cost the same. Without receipts, `lost_receipt` is `ok`.
_CALM = {"SIMULATOR_MIX": "ok:0.99 lost_receipt:0.01"}
_THROTTLING = {"SIMULATOR_MIX": "ok:0.99 throttled:0.01", "SIMULATOR_FAILURES_BEFORE_OK": "1"}


async def drain(site: Site, database: Database, messages: int, **simulator: str) -> float:
    """Have one worker deliver the queue of `messages`. Returns its processor time in seconds.

    Raises `BenchError` if it does not drain the queue.
    """
    output = site.directory / "worker.log"
    settings = {**site.settings, **simulator, "SIMULATOR_RECEIPTS": "false"}
    async with started([sys.executable, "-m", "app", "worker"], site.directory, settings, output=output) as worker:
        has_begun = partial(asyncio.to_thread, database.has_attempts)
        await until(has_begun, worker, output, within_seconds=PATIENCE)
        before = cpu_seconds(worker)
        is_over = partial(asyncio.to_thread, database.is_drained)
        patience = PATIENCE + messages / _SLOWEST
        await until(is_over, worker, output, within_seconds=patience, look_seconds=_LOOK_SECONDS)
        return cpu_seconds(worker) - before


async def measure_disturbed(site: Site, database: Database, pairs: int, messages: int) -> Figures:
    """Measure one round: the same queue undisturbed, with 1 % of 429s, and beside an open snapshot.

    A drain precedes them, so that no one of the three writes the first files of a new database.
    """
    figures, to_the_last = Figures(), {}
    for name, mix in (("first", _CALM), ("calm", _CALM), ("throttled", _THROTTLING), ("snapshot", _CALM)):
        database.empty()
        database.add_conversations(pairs)
        database.add_queue(messages)
        with database.snapshot() if name == "snapshot" else nullcontext() as queued:
            await drain(site, database, messages, **mix)
            if queued is not None and (still := queued()) != messages:
                figures.found.append(f"snapshot: it was lost, for {still} messages are queued in it")
        figures.values[name] = _SHARE * messages / (database.drain_seconds(_SHARE) or 1)
        to_the_last[name] = messages / (database.drain_seconds() or 1)
        astray = database.astray(throttling=mix is _THROTTLING)
        figures.found += [f"{name}: {problem}" for problem in astray.problems()]
        if mix is _THROTTLING and not database.throttled():
            figures.found.append(f"{name}: no send was answered 429")
    del figures.values["first"]
    for name in ("throttled", "snapshot"):
        figures.values[f"{name}/calm"] = figures.values[name] / figures.values["calm"]
    figures.values["throttled/calm, to the last"] = to_the_last["throttled"] / to_the_last["calm"]
    return figures
