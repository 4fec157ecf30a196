"""The space that the service takes: tables and WAL for each message, and the memory of a process with a worker."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import psutil

from bench.database import Database
from bench.events import send_singly
from bench.load import PATIENCE, Plan, provider_id
from bench.measurements import Figures, Measurement
from bench.processes import HOST, Server, Site, answering, until
from bench.reads import READS

#: Messages to a service that has just started, so that its code is loaded and its connections are open.
_FIRST = 5
#: The mixed load: connections that send, that bring webhooks, and that read each of the reads.
_SENDING, _INBOUND, _READING = 8, 4, 2
#: The part of the minutes for which the same load runs before, as a warm-up.
_WARM_UP = 0.25
_MB = 1e6


async def measure_storage(site: Site, database: Database, plan: Plan, messages: int) -> Figures:
    """Measure one round: `messages` are accepted and sent to a carrier over HTTP, and each gets a receipt."""
    database.empty()
    before = database.written()
    async with answering(_carrier()) as port:
        carrier = {"SIMULATOR_URL": f"http://{HOST}:{port}", "ROUTES": "sms:simulator email:simulator"}
        async with site.service(worker_enabled=True, **carrier) as server:
            many = replace(plan, messages=messages, seconds=PATIENCE)
            accepted, _ = await site.load(server, many)
            is_over = partial(asyncio.to_thread, database.is_drained)
            await until(is_over, server.process, server.output, within_seconds=PATIENCE)
            received, _ = await site.load(server, replace(many, receipts=True))
    tables, wal = (after - earlier for after, earlier in zip(database.written(), before, strict=True))
    figures = Figures({"bytes": tables / messages, "wal": wal / messages})
    figures.found += Measurement(accepted, database.messages()).problems()
    figures.found += Measurement(received, database.receipts()).problems()
    return figures


def _carrier() -> Callable[[str, bytes], Awaitable[bytes]]:
    """A carrier that accepts every message, and numbers them."""
    numbers = itertools.count()

    async def answer(path: str, body: bytes) -> bytes:
        accepted = json.dumps({"id": provider_id(next(numbers))}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(accepted)
        return head + accepted

    return answer


async def measure_memory(site: Site, database: Database, plan: Plan, minutes: float) -> Figures:
    """Measure one round: the memory of an idle service, and its growth under mixed load."""
    database.empty()
    database.add_conversations(plan.pairs)
    figures = Figures()
    # The simulated carrier's own memory of messages is kept small.
    async with site.service(worker_enabled=True, SIMULATOR_REMEMBERED_KEYS="1000") as server:
        stored = await send_singly(server.port, _FIRST, plan.pairs)
        figures.values |= _memory(server)
        seconds = 60 * minutes
        stored += await _mixed_load(site, server, replace(plan, seconds=_WARM_UP * seconds), figures)
        before, started = _memory(server)["rss"], time.monotonic()
        stored += await _mixed_load(site, server, replace(plan, seconds=seconds), figures)
        figures.values["growth"] = (_memory(server)["rss"] - before) / (time.monotonic() - started) * 60
    if stored != (rows := database.messages()):
        figures.found.append(f"{stored} messages were accepted and {rows} are stored")
    return figures


async def _mixed_load(site: Site, server: Server, plan: Plan, figures: Figures) -> int:
    """Send, receive and read at once. Returns the number of messages that were accepted."""
    plans = [replace(plan, connections=_SENDING), replace(plan, connections=_INBOUND, inbound=True)]
    plans += [replace(plan, connections=_READING, path=path) for path in READS.values()]
    results = [seen for seen, _ in await asyncio.gather(*(site.load(server, each) for each in plans))]
    for seen in results:
        figures.found += Measurement(seen).problems()
    return sum(seen.answered - seen.repeats for seen in results[:2])


def _memory(server: Server) -> dict[str, float]:
    """The resident and, on Linux, the proportional memory of the process, in MB."""
    process = psutil.Process(server.process.pid)
    memory = {"rss": process.memory_info().rss / _MB}
    with contextlib.suppress(AttributeError):
        memory["pss"] = process.memory_full_info().pss / _MB
    return memory
