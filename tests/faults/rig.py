"""The parts that a fault can hit: PostgreSQL, carrier, web process and workers, each a process that can be killed."""

import hashlib
import json
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
import psutil
import psycopg2
from sqlalchemy.engine import make_url

from app.db.embedded import EmbeddedPostgres
from app.db.schema.migrate import migrate
from tests.conftest import database_named, execute, let_in_quickly
from tests.faults.client import Load
from tests.live import LOCAL, LiveProcess, LiveServer, free_port, kill_all

FULL = os.environ.get("FAULTS") == "full"
LEASE_SECONDS = 3 if FULL else 2

#: The means of a carrier to settle a doubt: it recognises our keys, looks up our reference, sends it back in
#: receipts, or has none.
Carrier = Literal["knows_keys", "can_be_asked", "sends_receipts", "nothing"]


def size(short: int, full: int) -> int:
    return full if FULL else short


def drawn_seed() -> random.Random:
    """Dice for this fault, whose seed is printed; FAULTS_SEED has it thrown again."""
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(10**6)))
    print(f"seed {seed}")
    return random.Random(seed)


def report(fault: str, account: "Account | None" = None, **figures: object) -> None:
    """The line that a fault ends with. Figures take the place of those of the account."""
    if account is not None:
        figures = {name: value for name, value in asdict(account).items() if name != "doubled_ids"} | figures
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}
    print("\n" + json.dumps({"fault": fault, **rounded}), flush=True)


async def until(is_so: Callable[[], object], *, within_seconds: float, why: str) -> float:
    """Wait for a condition; returns the seconds that took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within_seconds, f"not within {within_seconds} seconds: {why}"
        await anyio.sleep(0.02)
    return time.monotonic() - began


class Postgres:
    """An embedded server that can be crashed, frozen and started again: same directory, same port."""

    def __init__(self, directory: Path, **options: str) -> None:
        self._serve(directory, **options)
        let_in_quickly(self.url)
        self._template = database_named(self.url, "faults_template")
        execute(self.url, "CREATE DATABASE faults_template")
        migrate(self._template)

    def _serve(self, directory: Path, **options: str) -> None:
        self._files = directory / "postgres" / "data"
        self._embedded = EmbeddedPostgres(directory / "postgres", options={"max_connections": "200", **options})
        self.url = self._embedded.start()

    def new_database(self) -> str:
        name = f"faults_{secrets.token_hex(4)}"
        execute(self.url, f"CREATE DATABASE {name} TEMPLATE faults_template")
        return database_named(self.url, name)

    def start(self) -> None:
        """Start it again after a crash."""
        assert self._embedded.start() == self.url

    def stop(self) -> None:
        self._embedded.stop()

    def stop_immediately(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, no farewell."""
        parent, *children = self._processes()
        parent.send_signal(signal.SIGQUIT)
        psutil.wait_procs([parent, *children], timeout=60)

    def stop_fast(self) -> None:
        """As `pg_ctl stop -m fast`: who is connected is cut off, and all is written down."""
        parent, *children = self._processes()
        parent.send_signal(signal.SIGINT)
        psutil.wait_procs([parent, *children], timeout=60)

    def kill(self) -> None:
        """SIGKILL for all of it, the parent first, so that it can't restart its children."""
        kill_all(self._processes())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Not dead, but silent: connections stay open and get no answer."""
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def terminate_backends(self, database: str) -> None:
        execute(
            self.url,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{make_url(database).database}'",
        )

    def _processes(self) -> list[psutil.Process]:
        """The parent, then its children."""
        pid = int((self._files / "postmaster.pid").read_text().splitlines()[0])
        found = [process for process in psutil.process_iter(["name", "cmdline"]) if self._is_parent(process)]
        parent = next((process for process in found if process.pid == pid), found[0])
        return [parent, *parent.children(recursive=True)]

    def _is_parent(self, process: psutil.Process) -> bool:
        command = process.info["cmdline"] or []
        return "postgres" in (process.info["name"] or "") and str(self._files) in command


class CarrierProcess(LiveProcess):
    """`python -m app simulate`, and its ledger as it grows."""

    def __init__(self, directory: Path, *, carrier: Carrier, callback: str | None, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.path = directory / "carrier.jsonl"
        words = ["simulate", "--port", str(self.port), "--ledger", str(self.path)]
        words += ["--callback", callback] if callback else []
        words += [] if carrier == "knows_keys" else ["--ignore-keys"]
        super().__init__(directory / "carrier.log", *words, **environment)
        self._read = 0
        self._entries: list[dict[str, Any]] = []

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ledger/summary", verify=LOCAL).status_code == 200
        except httpx.TransportError:
            return False

    def entries(self) -> list[dict[str, Any]]:
        """Every request that it has written down so far."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    self._entries.append(json.loads(line))
        return self._entries

    def acceptances(self) -> list[dict[str, Any]]:
        """The messages that it accepted; repeats that it recognised are not among them."""
        return [entry for entry in self.entries() if entry["accepted_at"] and not entry["duplicate"]]


class WorkerProcess(LiveProcess):
    """`python -m app worker`."""

    def launch(self) -> None:
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        super().launch()

    def is_ready(self) -> bool:
        return b"worker_started" in self.log.read_bytes()[self._seen :]


@dataclass(frozen=True)
class Account:
    """Both ledgers, joined by the hash of the body."""

    n: int
    lost: int
    doubled: int
    in_doubt_visible: int
    doubled_ids: list[int]


class Rig:
    """One database, one carrier, one web process, and the workers that a fault asks for."""

    def __init__(
        self,
        directory: Path,
        postgres: Postgres,
        *,
        carrier: Carrier = "knows_keys",
        web_delivers: bool = False,
        callback: bool = False,
        module: str | None = None,
        **environment: str,
    ) -> None:
        self.directory = directory
        self.postgres = postgres
        self.database = postgres.new_database()
        self._module = module or (f"tests.faults.{carrier}" if carrier in {"sends_receipts", "nothing"} else "app")
        web_port = free_port()
        receipts_to = f"http://127.0.0.1:{web_port}/api/webhooks/simulator" if callback else None
        self.carrier = CarrierProcess(directory, carrier=carrier, callback=receipts_to, **environment)
        self.environment = {
            "DATABASE_URL": self.database,
            "SIMULATOR_URL": self.carrier.url,
            "ROUTES": "sms:simulator",
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "RETRY_BASE_SECONDS": "0.2",
            "IN_DOUBT_AFTER_CRASH": "retry",
            "SIMULATOR_HONOURS_IDEMPOTENCY_KEY": "true" if carrier == "knows_keys" else "false",
            **environment,
        }
        self.web = LiveServer(
            directory, port=web_port, module=self._module, **self.environment, WORKER_ENABLED=str(web_delivers)
        )
        self.workers: list[WorkerProcess] = []
        self.started: list[LiveProcess] = [self.carrier, self.web]

    def start(self, *, workers: int = 0) -> None:
        """Start everything at once, and wait until it works."""
        self.carrier.launch()
        self.web.launch()
        added = [self.add_worker() for _ in range(workers)]
        self.carrier.wait_until(self.carrier.is_ready)
        self.web.wait_until(self.web.is_ready)
        for worker in added:
            worker.wait_until(worker.is_ready)

    def add_worker(self, **environment: str) -> WorkerProcess:
        """One more, launched but not waited for."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        own = {"DATA_DIR": str(self.web.data_dir)}
        worker = WorkerProcess(log, "worker", module=self._module, **self.environment | own | environment)
        self.workers.append(worker)
        self.started.append(worker)
        worker.launch()
        return worker

    def close(self) -> None:
        for process in self.started:
            if process.process is not None and process.process.poll() is None:
                process.kill()
        execute(self.postgres.url, f"DROP DATABASE {make_url(self.database).database} WITH (FORCE)")

    def query(self, statement: str, database: str | None = None) -> list[Any]:
        """Rows of the database, or of another one, read past the service."""
        connection = psycopg2.connect(database or self.database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        finally:
            connection.close()

    def in_hand(self) -> int:
        [(count,)] = self.query("SELECT count(*) FROM messages WHERE status = 'sending'")
        return int(count)

    def is_settled(self) -> bool:
        """Tell if no message is due any more."""
        [(due,)] = self.query("SELECT count(*) FROM messages WHERE due_at IS NOT NULL")
        return bool(due == 0)

    async def settled(self, *, within_seconds: float) -> float:
        began = time.monotonic()
        while not await anyio.to_thread.run_sync(self.is_settled):
            assert time.monotonic() - began < within_seconds, f"messages are still due: {self.statuses()}"
            await anyio.sleep(0.1)
        return time.monotonic() - began

    def statuses(self) -> dict[str, int]:
        found = self.query("SELECT status, count(*) FROM messages WHERE direction = 'outbound' GROUP BY status")
        return {status: int(count) for status, count in found}

    def account(self, load: Load) -> Account:
        """Join the ledgers; a message is lost unless it is stored as it was sent, and the carrier has it."""
        taken = Counter(entry["body_sha256"] for entry in self.carrier.acceptances())
        stored: dict[str, int] = {}
        for id, body in self.query("SELECT id, body FROM messages WHERE direction = 'outbound'"):
            assert body not in stored, "one key, two messages"
            stored[body] = id
        lost = [body for body, id in load.acknowledged.items() if stored.get(body) != id or not taken[_sha256(body)]]
        doubled = {body: taken[_sha256(body)] - 1 for body in stored if taken[_sha256(body)] > 1}
        [(in_doubt,)] = self.query(
            "SELECT count(DISTINCT message_id) FROM delivery_attempts WHERE outcome = 'unknown'"
        )
        return Account(
            n=len(load.acknowledged),
            lost=len(lost),
            doubled=sum(doubled.values()),
            in_doubt_visible=int(in_doubt),
            doubled_ids=[stored[body] for body in doubled],
        )

    def assert_doubts_are_visible(self, ids: list[int]) -> None:
        """Each of these messages is shown as having been in doubt."""
        with httpx.Client(base_url=self.web.url, trust_env=False, verify=LOCAL) as client:
            for id in ids:
                attempts = client.get(f"/api/messages/{id}").json()["attempts"]
                assert "unknown" in {attempt["outcome"] for attempt in attempts}, f"message {id}: {attempts}"


def _sha256(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


MakeRig = Callable[..., Rig]
