"""The event log while readers are killed, PostgreSQL restarts, and a standby takes over that lacks the end of it."""

import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg2
import pytest
from sqlalchemy.engine import URL, make_url

from app.services.events.cursors import BEGINNING, Position, position_of
from tests.faults.client import Load
from tests.faults.reader import last_cursor, noted
from tests.faults.rig import Postgres, drawn_seed, report, size, until
from tests.faults.standby import Standby, Switch
from tests.live import LOCAL, LiveProcess, LiveServer, free_port

pytestmark = pytest.mark.anyio

PROCESSES = 4
AT_ONCE = 8  #: messages that are handed to each of them
KINDS = ("page", "stream", "webhook") * 2


class ReaderProcess(LiveProcess):
    """A reader that is killed, and started again with another process of the service."""

    is_in_order = True

    def __init__(self, directory: Path, number: int, kind: str) -> None:
        self.kind = kind
        self.path = directory / f"reader-{number}.jsonl"
        super().__init__(directory / f"reader-{number}.log", module="tests.faults.reader")

    def ask(self, port: int) -> None:
        self._command = [sys.executable, "-m", "tests.faults.reader", self.kind, str(self.path), str(port)]
        self.launch()

    def positions(self) -> list[Position]:
        return [_position(id) for ids, _ in noted(self.path) for id in ids]

    def last(self) -> Position:
        """The place in the log that it has come to."""
        cursor = last_cursor(self.path)
        return _position(cursor) if cursor else BEGINNING

    def has_all(self, log: Sequence[Position]) -> bool:
        return self.last() >= log[-1]

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None


class Receiver(ReaderProcess):
    """A receiver of webhooks; what it gets may come twice, and a retry late."""

    is_in_order = False

    def __init__(self, directory: Path, number: int, kind: str) -> None:
        super().__init__(directory, number, kind)
        self.port = free_port()
        self._command = [sys.executable, "-m", "tests.faults.receiver", str(self.path), str(self.port)]

    def ask(self, port: int) -> None:
        self.launch()

    def has_all(self, log: Sequence[Position]) -> bool:
        return {*log} <= {*self.positions()}


def _position(cursor: str) -> Position:
    return position_of(1, cursor, location="cursor")


class Service:
    """Several web processes on one address of the database, and readers of them all."""

    def __init__(self, directory: Path, database: str, dice: random.Random) -> None:
        self._dice = dice
        self.servers = [
            LiveServer(_made(directory / f"web-{number}"), DATABASE_URL=database, LOG_FORMAT="json")
            for number in range(PROCESSES)
        ]
        self.readers = [
            (Receiver if kind == "webhook" else ReaderProcess)(directory, number, kind)
            for number, kind in enumerate(KINDS)
        ]

    def start(self) -> None:
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until(server.is_ready)
        for reader in self.readers:
            if isinstance(reader, Receiver):
                endpoint = {"url": f"http://127.0.0.1:{reader.port}/"}
                made = httpx.post(f"{self.servers[0].url}/api/webhook-endpoints", json=endpoint, verify=LOCAL)
                assert made.is_success, made.text
            self._let_ask(reader)

    def retry_webhooks(self) -> None:
        """Have everything sent now that waits for a retry, as a client can."""
        with httpx.Client(base_url=f"{self.servers[0].url}/api/webhook-endpoints", verify=LOCAL) as client:
            for endpoint in client.get("").json():
                client.patch(f"/{endpoint['id']}", json={"enabled": True}).raise_for_status()

    def kill_a_reader(self) -> None:
        reader = self._dice.choice(self.readers)
        assert not reader.has_ended(), reader.log.read_text()
        reader.kill()
        self._let_ask(reader)

    def _let_ask(self, reader: ReaderProcess) -> None:
        reader.ask(self._dice.choice(self.servers).port)

    def close(self) -> None:
        for process in [*self.servers, *self.readers]:
            if process.process is not None and process.process.poll() is None:
                process.kill()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@dataclass(frozen=True)
class Reading:
    """A comparison of what a reader got with the entries that survived."""

    missed: int
    out_of_order: int
    doubled: int
    lost_by_standby: int  #: entries that it got, and that the standby does not have


def compared(got: list[Position], survived: set[Position]) -> Reading:
    return Reading(
        missed=len(survived - {*got}),
        out_of_order=sum(one > other for one, other in pairwise(got)),
        doubled=len(got) - len({*got}),
        lost_by_standby=len({*got} - survived),
    )


def _through(port: int | None, database: URL) -> str:
    return database.set(port=port).render_as_string(hide_password=False)


def _rows(url: str, question: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall()


def log_of(url: str) -> list[Position]:
    """The log in its order."""
    return [
        Position(*row) for row in _rows(url, "SELECT generation, transaction_id, id FROM events ORDER BY 1, 2, 3")
    ]


def messages_of(url: str) -> set[str]:
    return {body for (body,) in _rows(url, "SELECT body FROM messages")}


async def test_readers_get_everything_that_survives_a_failover(
    tmp_path: Path, primary: Postgres, standby: Standby
) -> None:
    dice, messages, kills = drawn_seed(), size(1_000, 10_000), size(12, 100)
    kills_in_order = kills - kills // 10  #: the others come while the primary is ahead of the standby
    database = make_url(primary.new_database())
    switch = Switch(primary.url)
    service = Service(tmp_path, _through(switch.port, database), dice)
    loads = [Load(server.port, inbound=True) for server in service.servers]
    promoted = _through(make_url(standby.url).port, database)

    safe: set[str] = set()  #: messages that the standby must have
    lost: set[str] = set()  #: messages that it does not have
    is_ahead = False  #: the primary is, and what it accepts may be lost

    def acknowledged() -> set[str]:
        return {body for load in loads for body in load.acknowledged}

    def count() -> int:
        return sum(len(load.acknowledged) for load in loads) - len(lost)

    async def come_to(part: float) -> None:
        """Wait for messages that survive."""
        await until(
            lambda: not is_ahead and count() >= part * messages, within_seconds=600, why="messages that survive"
        )

    async def kill_readers(count: int) -> None:
        for number in range(count):
            await come_to(number / count)
            await anyio.to_thread.run_sync(service.kill_a_reader)

    async def restart() -> None:
        await come_to(0.3)
        await anyio.to_thread.run_sync(primary.stop_immediately)
        await anyio.to_thread.run_sync(primary.start)

    async def fail_over() -> None:
        """Have the standby take over without the last entries, which all readers have got."""
        nonlocal is_ahead
        await come_to(0.6)
        is_ahead = True
        safe.update(acknowledged())
        await until(lambda: standby.has_all_of(primary), within_seconds=120, why="a standby that follows")
        standby.cut_off()
        await until(standby.is_cut_off, within_seconds=120, why="a standby that is cut off")
        for _ in range(kills - kills_in_order):
            await anyio.to_thread.run_sync(service.kill_a_reader)
        behind, accepted = log_of(promoted)[-1], count()
        await until(lambda: count() > accepted + messages / 20, within_seconds=120, why="messages to be lost")
        for load in loads:
            load.pause()
        await until(
            lambda: all(reader.last() > behind for reader in service.readers),
            within_seconds=300,
            why="readers that are ahead of the standby",
        )
        for load in loads:
            load.go_on()
        await anyio.to_thread.run_sync(primary.kill)
        await anyio.to_thread.run_sync(standby.promote)
        lost.update(acknowledged() - messages_of(promoted))
        is_ahead = False
        switch.lead_to(standby.url)

    try:
        switch.start()
        await anyio.to_thread.run_sync(service.start)
        async with anyio.create_task_group() as tasks:
            for load in loads:
                tasks.start_soon(partial(load.send, 10 * messages, at_once=AT_ONCE))
            tasks.start_soon(kill_readers, kills_in_order)
            await restart()
            await fail_over()
            await come_to(1)
            for load in loads:
                load.stop()
        log = log_of(promoted)
        await anyio.to_thread.run_sync(service.retry_webhooks)
        await until(
            lambda: all(reader.has_all(log) for reader in service.readers),
            within_seconds=600,
            why="readers that have got everything",
        )
    finally:
        service.close()
    readings = [compared(reader.positions(), {*log}) for reader in service.readers]
    in_order = [reading for reader, reading in zip(service.readers, readings, strict=True) if reader.is_in_order]
    missing = acknowledged() - messages_of(promoted)
    report(
        "events_of_a_failover",
        n=len(acknowledged() - missing),
        entries=len(log),
        readers=dict(Counter(KINDS)),
        kills=kills,
        missed=sum(reading.missed for reading in readings),
        out_of_order=sum(reading.out_of_order for reading in in_order),
        doubled=sum(reading.doubled for reading in in_order),
        webhooks_repeated=sum(reading.doubled for reading in readings) - sum(each.doubled for each in in_order),
        read_and_lost_by_the_standby=max(reading.lost_by_standby for reading in readings),
        messages_lost_by_the_standby=len(missing),
        generations=len({position.generation for position in log}),
    )
    assert missing == lost
    assert not lost & safe
    assert all(reading.missed == 0 and reading.lost_by_standby > 0 for reading in readings)
    assert all((reading.out_of_order, reading.doubled) == (0, 0) for reading in in_order)
    for reader in service.readers:
        if isinstance(reader, Receiver):
            assert all(ids == [event_id] for ids, event_id in noted(reader.path))
    assert len({position.generation for position in log}) == 3
