"""The measurements: accepting and reading by the service and by targets for comparison, draining, and latency.

Each runs alone.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.schema.statistics import learn_sizes
from app.domain import DEFAULT_TENANT_ID
from app.services.events.cursors import cursor_at
from bench.database import Database
from bench.drains import drain, measure_disturbed
from bench.events import Endpoints, measure_readers, receiving, send_singly, send_to
from bench.footprint import measure_memory, measure_storage
from bench.load import PATIENCE, Plan, Seen
from bench.measurements import Drain, Events, Figures, Latency, Measurement, Webhooks
from bench.pgbench import find_pgbench, run_pgbench
from bench.processes import BenchError, Server, Site, answer_of, until
from bench.reads import measure_lists, measure_reads, title_of

TITLES = {
    "service": "this service, accepting",
    "keyed": "this service, accepting with a key",
    "first": "this service, first messages of pairs",
    "inbound": "this service, webhooks with repeats",
    "delivering": "this service, accepting and delivering",
    "logged": "this service, accepting, long event log",
    "few": "100 events of a thousand",
    "many": "100 events of a long log",
    "empty": "empty FastAPI endpoint",
    "pgbench": "pgbench, one insert per commit",
}
#: Entries of the event log with which a long one is compared.
_FEW = 1_000
#: Targets with an event log of some length.
_LOGS = ("few", "many", "logged")
_TENANTS = 10_000


def title(name: str) -> str:
    """The title of a target, read or list."""
    return TITLES.get(name) or title_of(name)


def warm_up(plan: Plan) -> int:
    """The number of requests of the warm-up of accepting. After it the sizes of tables are learned.

    With the default pairs, each table of first messages is then large enough for that.
    """
    return 3 * plan.pairs + plan.connections + 1


class Targets:
    """Measures targets by name, and the other parts. `skipped` has the reason for each target that is left out."""

    def __init__(self, plan: Plan, database: Database, directory: Path, bindir: Path | None, *, entries: int) -> None:
        self._plan = plan
        self._database = database
        self._entries = entries
        self._site = Site(
            directory, {"DATA_DIR": str(directory)} | ({"PG_BINDIR": str(bindir.resolve())} if bindir else {})
        )
        self.skipped: dict[str, str] = {}
        self._measures: dict[str, Callable[[], Awaitable[Measurement]]] = {
            "service": partial(self._accepting, worker_enabled=False),
            "keyed": self._keyed,
            "first": partial(self._accepting, replace(plan, fresh=True)),
            "inbound": partial(self._accepting, replace(plan, inbound=True)),
            "delivering": partial(self._accepting, worker_enabled=True),
            "empty": self._empty,
        }
        self._measures["logged"] = self._accepting_beside_many
        self._measures["few"] = partial(self._reading_log, _FEW)
        self._measures["many"] = partial(self._reading_log, entries)
        try:
            self._pgbench = find_pgbench(directory, bindir)
            self._measures["pgbench"] = self._inserting
        except BenchError as reason:
            self.skipped["pgbench"] = str(reason)

    def names(self, parts: Collection[str]) -> list[str]:
        """The names of the targets of some parts: accept and log."""
        chosen = {"service", *_LOGS} if "log" in parts else set()
        chosen |= {*self._measures} - {*_LOGS} if "accept" in parts else set()
        return [name for name in self._measures if name in chosen]

    async def measure(self, name: str) -> Measurement:
        """Measure one round. Raises `BenchError` if that is impossible."""
        self._database.empty()
        return await self._measures[name]()

    async def drain(self, messages: int) -> Drain:
        """Measure one round: `messages` are accepted without a worker, then one worker delivers them.

        Raises `BenchError` if the worker does not drain the queue.
        """
        self._database.empty()
        many = replace(self._plan, seconds=PATIENCE, messages=messages - warm_up(self._plan))
        accepted = await self._accepting(many)
        used = await drain(self._site, self._database, messages)
        return Drain(
            accepted,
            seconds=self._database.drain_seconds(),
            cpu_microseconds=used * 1e6 / max(accepted.seen.answered, 1),
            astray=self._database.astray(),
        )

    async def latency(self, count: int) -> Latency:
        """Measure one round: single messages to a service that has just started, in existing conversations."""
        self._database.empty()
        self._database.add_conversations(self._plan.pairs)
        async with self._site.service(worker_enabled=True, SIMULATOR_RECEIPTS="false") as server:
            answered = await send_singly(server.port, count, self._plan.pairs)
            is_over = partial(asyncio.to_thread, self._database.is_drained)
            await until(is_over, server.process, server.output, within_seconds=PATIENCE)
        times = self._database.attempt_times()
        return Latency(
            answered,
            rows=self._database.messages(),
            called_ms=[called for called, _ in times],
            recorded_ms=[recorded for _, recorded in times],
            astray=self._database.astray(),
        )

    async def events(self, count: int, readers: int) -> Events:
        """Measure one round: single messages, and their way to a reader beside many idle ones."""
        self._database.empty()
        self._database.add_conversations(self._plan.pairs)
        async with self._site.service(worker_enabled=False, MAX_EVENT_READERS=str(2 * readers)) as server:
            return await measure_readers(server, readers=readers, count=count, pairs=self._plan.pairs)

    async def webhooks(self, count: int, endpoints: Endpoints) -> Webhooks:
        """Measure one round: `count` single messages, whose events go to all `endpoints`."""
        self._database.empty()
        self._database.add_conversations(self._plan.pairs)
        async with receiving() as receiver, self._site.service(worker_enabled=True) as server:
            missing = await send_to(server.port, receiver, count, endpoints)
        return Webhooks(endpoints.all, endpoints.dead, endpoints.slow, receiver.milliseconds, missing)

    async def reads(self, sizes: Sequence[int]) -> dict[str, Measurement]:
        """Measure one round of reads from databases of so many messages, and from memory."""
        return await measure_reads(self._site, self._database, self._plan, sizes)

    async def lists(self, messages: int) -> dict[str, Measurement]:
        """Measure one round of lists from a database of so many messages."""
        return await measure_lists(self._site, self._database, self._plan, messages)

    async def disturbed(self, messages: int) -> Figures:
        """Measure one round of draining beside 429s, and beside an open snapshot."""
        return await measure_disturbed(self._site, self._database, self._plan.pairs, messages)

    async def retention(self) -> Figures:
        """Measure one retention pass with many tenants."""
        self._database.empty()
        expected = self._database.add_tenants(_TENANTS)
        words = [sys.executable, "-m", "bench.retention", self._database.url]
        figures = Figures({"retention": float(await answer_of(words, self._site.directory, within_seconds=PATIENCE))})
        if (kept := self._database.messages()) != expected:
            figures.found.append(f"{kept} messages were kept instead of {expected}")
        return figures

    async def storage(self, messages: int) -> Figures:
        """Measure one round of the bytes that messages take."""
        return await measure_storage(self._site, self._database, self._plan, messages)

    async def memory(self, minutes: float) -> Figures:
        """Measure one round of the memory of a process."""
        return await measure_memory(self._site, self._database, self._plan, minutes)

    async def _accepting(
        self, plan: Plan | None = None, *, worker_enabled: bool = False, settings: Mapping[str, str] | None = None
    ) -> Measurement:
        service = self._site.service(worker_enabled=worker_enabled, **(settings or {}))
        async with service as server, self._learning() as engine:
            seen, cpu = await self._accept(server, engine, plan or self._plan)
            delivered = self._database.delivered() if worker_enabled else None
            return Measurement(seen, self._database.messages(), delivered, cpu)

    async def _accept(self, server: Server, engine: AsyncEngine, plan: Plan) -> tuple[Seen, float]:
        """Load after a warm-up. Plans for empty tables end with it, as they do in the first second of a worker."""
        first, _ = await self._site.load(server, replace(plan, seconds=PATIENCE, messages=warm_up(plan)))
        await learn_sizes(engine)
        seen, cpu = await self._site.load(server, plan)
        return seen.after(first), cpu

    async def _accepting_beside_many(self) -> Measurement:
        self._database.add_entries(self._entries)
        return await self._accepting()

    async def _reading_log(self, entries: int) -> Measurement:
        """Reading a page in the middle of an event log."""
        self._database.fill(self._plan.pairs)
        cursor = cursor_at(DEFAULT_TENANT_ID, self._database.add_entries(entries))
        async with self._site.service(worker_enabled=False) as server:
            plan = replace(self._plan, path=f"/api/events?limit=100&after={cursor}")
            seen, cpu = await self._site.load(server, plan)
            return Measurement(seen, cpu_microseconds=cpu)

    async def _keyed(self) -> Measurement:
        """Accepting with a key, whose rate limit is counted but never reached."""
        plan = replace(self._plan, key=self._database.add_key())
        limits = {"RATE_LIMIT_PER_SECOND": "1000000", "RATE_LIMIT_BURST": "1000000"}
        return await self._accepting(plan, settings=limits)

    @asynccontextmanager
    async def _learning(self) -> AsyncIterator[AsyncEngine]:
        """Keep the statistics of young tables, as a worker does in every installation."""
        engine = create_serving_engine(self._database.url, Settings.model_construct())

        async def repeat() -> None:
            while True:
                await asyncio.sleep(1)
                await learn_sizes(engine)

        task = asyncio.create_task(repeat())
        try:
            yield engine
        finally:
            task.cancel()
            await asyncio.wait([task])
            await engine.dispose()

    async def _empty(self) -> Measurement:
        async with self._site.comparators() as server:
            seen, cpu = await self._site.load(server, self._plan)
            return Measurement(seen, cpu_microseconds=cpu)

    async def _inserting(self) -> Measurement:
        self._database.add_conversations(self._plan.pairs)
        seen = await run_pgbench(self._pgbench, self._database, self._plan, self._site.directory)
        return Measurement(seen, self._database.messages())
