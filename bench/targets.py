"""The measurements: accepting and reading by the service and by targets for comparison, draining, and latency.

Each runs alone.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import httpx

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.statistics import learn_sizes
from app.domain import DEFAULT_TENANT_ID
from app.services.events.cursors import cursor_at
from bench.database import Database
from bench.load import PATIENCE, Plan, Seen
from bench.measurements import Drain, Events, Latency, Measurement, Webhooks
from bench.pgbench import find_pgbench, run_pgbench
from bench.processes import HOST, BenchError, Server, answer_of, cpu_seconds, free_port, serving, started, until
from bench.readers import measure_readers
from bench.reads import FROM_MEMORY, MESSAGES_EACH, READS
from bench.reads import TITLES as READ_TITLES
from bench.singles import send_singly
from bench.webhooks import Endpoints, receiving, send_to

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
    **READ_TITLES,
    **{name + FROM_MEMORY: f"{title}, from memory" for name, title in READ_TITLES.items()},
}
#: Entries of the event log with which a long one is compared.
_FEW = 1_000
#: Targets with an event log of some length.
_LOGS = ("few", "many", "logged")
#: Messages/s. A slower worker fails the measurement.
_SLOWEST_DRAIN = 100
#: Seconds between two queries of the queue. They cost a little load, but do not affect the measured times.
_LOOK_SECONDS = 0.5


class Targets:
    """Measures targets by name. `skipped` has the reason for each target that is left out."""

    def __init__(self, plan: Plan, database: Database, directory: Path, bindir: Path | None, *, entries: int) -> None:
        self._plan = plan
        self._database = database
        self._entries = entries
        self._directory = directory
        self._settings = {"DATA_DIR": str(directory)} | ({"PG_BINDIR": str(bindir.resolve())} if bindir else {})
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
        for name in READS:
            self._measures[name] = partial(self._reading, name)
            self._measures[name + FROM_MEMORY] = partial(self._reading_from_memory, name)
        try:
            self._pgbench = find_pgbench(directory, bindir)
            self._measures["pgbench"] = self._inserting
        except BenchError as reason:
            self.skipped["pgbench"] = str(reason)

    def names(self, parts: Collection[str]) -> list[str]:
        """The names of the targets of some parts: accept, reads and log."""
        read = {*READS, *(name + FROM_MEMORY for name in READS)}
        chosen = {"service", *_LOGS} if "log" in parts else set()
        chosen |= read if "reads" in parts else set()
        chosen |= {*self._measures} - read - {*_LOGS} if "accept" in parts else set()
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
        accepted = await self._accepting(replace(self._plan, seconds=PATIENCE, messages=messages))
        output = self._directory / "worker.log"
        settings = self._settings | {"SIMULATOR_RECEIPTS": "false"}
        async with started(
            [sys.executable, "-m", "app", "worker"], self._directory, settings, output=output
        ) as worker:
            has_begun = partial(asyncio.to_thread, self._database.has_attempts)
            await until(has_begun, worker, output, within_seconds=PATIENCE)
            before = cpu_seconds(worker)
            is_over = partial(asyncio.to_thread, self._database.is_drained)
            patience = PATIENCE + messages / _SLOWEST_DRAIN
            await until(is_over, worker, output, within_seconds=patience, look_seconds=_LOOK_SECONDS)
            used = cpu_seconds(worker) - before
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
        async with self._service(worker_enabled=True, SIMULATOR_RECEIPTS="false") as server:
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
        async with self._service(worker_enabled=False, MAX_EVENT_READERS=str(2 * readers)) as server:
            return await measure_readers(server, readers=readers, count=count, pairs=self._plan.pairs)

    async def webhooks(self, count: int, endpoints: Endpoints) -> Webhooks:
        """Measure one round: `count` single messages, whose events go to all `endpoints`."""
        self._database.empty()
        self._database.add_conversations(self._plan.pairs)
        async with receiving() as receiver, self._service(worker_enabled=True) as server:
            missing = await send_to(server.port, receiver, count, endpoints)
        return Webhooks(endpoints.all, endpoints.dead, endpoints.slow, receiver.milliseconds, missing)

    async def _accepting(self, plan: Plan | None = None, *, worker_enabled: bool = False) -> Measurement:
        async with self._service(worker_enabled=worker_enabled) as server, self._learning():
            seen, cpu = await self._load(server, plan or self._plan)
            delivered = self._database.delivered() if worker_enabled else None
            return Measurement(seen, self._database.messages(), delivered, cpu)

    async def _accepting_beside_many(self) -> Measurement:
        self._database.add_entries(self._entries)
        return await self._accepting()

    async def _reading_log(self, entries: int) -> Measurement:
        """Reading a page in the middle of an event log."""
        self._database.add_conversations(self._plan.pairs)
        self._database.add_messages(1)
        cursor = cursor_at(DEFAULT_TENANT_ID, self._database.add_entries(entries))
        async with self._service(worker_enabled=False) as server:
            plan = replace(self._plan, path=f"/api/events?limit=100&after={cursor}")
            seen, cpu = await self._load(server, plan)
            return Measurement(seen, cpu_microseconds=cpu)

    async def _keyed(self) -> Measurement:
        """Accepting with a key, whose rate limit is counted but never reached."""
        plan = replace(self._plan, key=self._database.add_key())
        limits = {"RATE_LIMIT_PER_SECOND": "1000000", "RATE_LIMIT_BURST": "1000000"}
        async with self._service(worker_enabled=False, **limits) as server, self._learning():
            seen, cpu = await self._load(server, plan)
            return Measurement(seen, self._database.messages(), cpu_microseconds=cpu)

    @asynccontextmanager
    async def _learning(self) -> AsyncIterator[None]:
        """Keep the statistics of young tables, as a worker does in every installation."""
        engine = create_serving_engine(self._database.url, Settings.model_construct())

        async def repeat() -> None:
            while True:
                await asyncio.sleep(1)
                await learn_sizes(engine)

        task = asyncio.create_task(repeat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await engine.dispose()

    def _service(self, *, worker_enabled: bool, **settings: str) -> AbstractAsyncContextManager[Server]:
        port = free_port()
        settings |= {**self._settings, "HOST": HOST, "PORT": str(port), "WORKER_ENABLED": str(worker_enabled)}
        return serving(self._directory, ["-m", "app", "serve"], port, **settings)

    async def _empty(self) -> Measurement:
        port = free_port()
        async with serving(self._directory, ["-m", "bench.empty", str(port)], port) as server:
            seen, cpu = await self._load(server, self._plan)
            return Measurement(seen, cpu_microseconds=cpu)

    async def _reading(self, name: str) -> Measurement:
        self._fill()
        async with self._service(worker_enabled=False) as server:
            return await self._read(server, name)

    async def _reading_from_memory(self, name: str) -> Measurement:
        """Reading the service's own answers from memory."""
        self._fill()
        async with self._service(worker_enabled=False) as server, httpx.AsyncClient(trust_env=False) as client:
            url = f"http://{HOST}:{server.port}"
            answers = {path: (await client.get(url + path)).json() for path in READS.values()}
        file = self._directory / "answers.json"
        file.write_text(json.dumps(answers), encoding="utf-8")
        port = free_port()
        async with serving(self._directory, ["-m", "bench.memory", str(port), str(file)], port) as server:
            return await self._read(server, name)

    def _fill(self) -> None:
        self._database.add_conversations(self._plan.pairs)
        self._database.add_messages(MESSAGES_EACH)

    async def _read(self, server: Server, name: str) -> Measurement:
        seen, cpu = await self._load(server, replace(self._plan, path=READS[name]))
        return Measurement(seen, cpu_microseconds=cpu)

    async def _inserting(self) -> Measurement:
        self._database.add_conversations(self._plan.pairs)
        seen = await run_pgbench(self._pgbench, self._database, self._plan, self._directory)
        return Measurement(seen, self._database.messages())

    async def _load(self, server: Server, plan: Plan) -> tuple[Seen, float]:
        """The load generator's results, and the server's microseconds of processor time for each request."""
        words = [sys.executable, "-m", "bench.load", json.dumps({**asdict(plan), "port": server.port})]
        before = cpu_seconds(server.process)
        said = await answer_of(words, self._directory, within_seconds=plan.seconds + 2 * PATIENCE)
        seen = Seen(**json.loads(said))
        used = cpu_seconds(server.process) - before
        return seen, used * 1e6 / max(seen.answered, 1)
