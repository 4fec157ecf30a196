"""What is measured, and how: the service twice, and the two yardsticks, each alone on the machine while it lasts."""

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.database import Database
from bench.load import PATIENCE, Plan, Seen
from bench.pgbench import find_pgbench, run_pgbench
from bench.processes import HOST, BenchError, Server, answer_of, free_port, serving

TITLES = {
    "service": "this service, accepting",
    "delivering": "this service, accepting and delivering",
    "empty": "empty FastAPI endpoint",
    "pgbench": "pgbench, one insert per commit",
}


@dataclass(frozen=True)
class Measurement:
    """One round of one target."""

    seen: Seen
    rows: int | None = None  #: messages in the database afterwards; None where nothing is stored
    delivered: int | None = None  #: messages that a provider had taken when the last answer came
    cpu_microseconds: float | None = None  #: processor time of the web process for each request

    def problems(self) -> list[str]:
        """What makes the figures worthless: stored is not what was promised, or nothing was promised."""
        found = []
        if self.rows is not None and self.rows != self.seen.answered:
            found.append(f"{self.seen.answered} messages were accepted and {self.rows} are stored")
        if self.seen.broken:
            found.append(f"{self.seen.broken} of the connections broke")
        if self.seen.others:
            found.append(f"some answers were not 2xx (status: how many): {self.seen.others}")
        if not self.seen.per_second:
            found.append("no message was accepted in the measured time")
        return found


class Targets:
    """Measures targets by name. `skipped` says for what reason those that it leaves out are missing."""

    def __init__(self, plan: Plan, database: Database, directory: Path, bindir: Path | None) -> None:
        self._plan = plan
        self._database = database
        self._directory = directory
        self._settings = {"PG_BINDIR": str(bindir.resolve())} if bindir else {}
        self.skipped: dict[str, str] = {}
        self._measures: dict[str, Callable[[], Awaitable[Measurement]]] = {
            "service": self._accepting,
            "delivering": self._delivering,
            "empty": self._empty,
        }
        try:
            self._pgbench = find_pgbench(directory, bindir)
            self._measures["pgbench"] = self._inserting
        except BenchError as reason:
            self.skipped["pgbench"] = str(reason)

    @property
    def names(self) -> list[str]:
        return list(self._measures)

    async def measure(self, name: str) -> Measurement:
        """One round. Raises `BenchError` when there is nothing to measure."""
        self._database.empty()
        return await self._measures[name]()

    async def _accepting(self) -> Measurement:
        return await self._service(worker_enabled=False)

    async def _delivering(self) -> Measurement:
        return await self._service(worker_enabled=True)

    async def _service(self, *, worker_enabled: bool) -> Measurement:
        port = free_port()
        settings = {
            **self._settings,
            "HOST": HOST,
            "PORT": str(port),
            "DATA_DIR": str(self._directory),
            "WORKER_ENABLED": str(worker_enabled),
        }
        async with serving(self._directory, ["-m", "app", "serve"], port, **settings) as server:
            seen, cpu = await self._load(server)
            delivered = self._database.delivered() if worker_enabled else None
            return Measurement(seen, self._database.messages(), delivered, cpu)

    async def _empty(self) -> Measurement:
        port = free_port()
        async with serving(self._directory, ["-m", "bench.empty", str(port)], port) as server:
            seen, cpu = await self._load(server)
            return Measurement(seen, cpu_microseconds=cpu)

    async def _inserting(self) -> Measurement:
        self._database.add_conversations(self._plan.pairs)
        seen = await run_pgbench(self._pgbench, self._database, self._plan, self._directory)
        return Measurement(seen, self._database.messages())

    async def _load(self, server: Server) -> tuple[Seen, float]:
        """What the load generator saw, and the microseconds of processor time that each request took."""
        plan = {**asdict(self._plan), "port": server.port}
        words = [sys.executable, "-m", "bench.load", json.dumps(plan)]
        before = server.cpu_seconds()
        said = await answer_of(words, self._directory, within_seconds=self._plan.seconds + 2 * PATIENCE)
        seen = Seen(**json.loads(said))
        used = server.cpu_seconds() - before
        return seen, used * 1e6 / max(seen.answered, 1)
