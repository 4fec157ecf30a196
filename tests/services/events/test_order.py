"""The order of the event log: a reader misses nothing, whichever transaction commits first."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction

from app.config import Settings
from app.db.embedded import EmbeddedPostgres
from app.db.engine import create_serving_engine
from app.db.schema.migrate import migrate
from app.domain import EventType
from app.services.event_log.entries import NewEvent, write_entries
from app.services.events.cursors import BEGINNING, Position, cursor_at, position_of
from app.services.events.reading import LogState, log_state, read_page
from tests.conftest import execute, let_in_quickly, make_settings
from tests.factories import until

pytestmark = pytest.mark.anyio

WRITERS, READERS = 12, 2
ENDLESS = 2**62
_numbers = count(1)


@pytest.fixture
async def engine(settings: Settings, database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_serving_engine(database_url, settings.model_copy(update={"database_pool_overflow": 30}))
    yield engine
    await engine.dispose()


async def write(connection: AsyncConnection, size: int = 1) -> list[int]:
    """Write entries; the numbers that they are told by."""
    numbers = [next(_numbers) for _ in range(size)]
    await write_entries(connection, 1, [NewEvent(EventType.MESSAGE_SENT, number, 1) for number in numbers])
    return numbers


async def committed(engine: AsyncEngine, size: int = 1) -> list[int]:
    async with engine.begin() as connection:
        return await write(connection, size)


@dataclass
class Writer:
    """A connection with at most one transaction, which it opens in one step and ends in a later one."""

    connection: AsyncConnection
    dice: random.Random
    ended: list[int]  #: the transactions that have been committed, by the order in which they began
    kept: set[int]  #: the numbers of what has been committed
    _transaction: AsyncTransaction | None = None
    _began: int = 0
    _written: list[int] = field(default_factory=list)

    async def step(self) -> None:
        if self._transaction is None:
            self._transaction, self._began = await self.connection.begin(), next(_numbers)
            self._written = await write(self.connection, self.dice.randint(1, 3))
        elif (choice := self.dice.random()) < 0.2:
            savepoint = await self.connection.begin_nested()
            written = await write(self.connection)
            if self.dice.random() < 0.5:
                await savepoint.rollback()
            else:
                await savepoint.commit()
                self._written += written
        elif choice < 0.3:
            await self._transaction.rollback()
            self._transaction = None
        else:
            await self.end()

    async def end(self) -> None:
        """Commit what is open."""
        if self._transaction is not None:
            await self._transaction.commit()
            self._transaction = None
            self.ended.append(self._began)
            self.kept.update(self._written)


@dataclass
class Reader:
    """A reader that keeps a cursor, and may take the state of the log long before the page."""

    connection: AsyncConnection
    dice: random.Random
    sees: Callable[[LogState], LogState] = lambda state: state
    cursor: str = field(default_factory=lambda: cursor_at(1, BEGINNING))
    got: list[tuple[Position, int | None]] = field(default_factory=list)
    _state: LogState | None = None

    async def step(self) -> None:
        if self._state is None:
            self._state = self.sees(await log_state(self.connection, 1))
        else:
            await self._read(self._state, self.dice.randint(1, 30))
            self._state = None

    async def read_on(self) -> list[int | None]:
        """The numbers of everything that can be read now."""
        before = len(self.got)
        while await self._read(self.sees(await log_state(self.connection, 1)), 500):
            pass
        return [number for _, number in self.got[before:]]

    async def _read(self, state: LogState, limit: int) -> bool:
        after = position_of(1, self.cursor, location="query.after")
        page = await read_page(self.connection, 1, after, state, limit=limit)
        self.got += [(entry.position, entry.message_id) for entry in page.entries]
        self.cursor = cursor_at(1, page.position)
        return page.more


async def all_decided(connection: AsyncConnection) -> None:
    """Wait for the transactions of others: the tests beside this one are on the same server."""
    await until(lambda: log_state(connection, 1), lambda state: state.decided == state.head)


@dataclass
class Outcome:
    transactions: int
    overtaken: int  #: transactions that were committed after one that began later
    missed: int
    out_of_order: int
    doubled: int


async def at_random(
    engine: AsyncEngine, steps: int, *, sees: Callable[[LogState], LogState] = lambda state: state
) -> Outcome:
    """Let writers and readers take steps at random, several at once, and compare what was read with the log."""
    dice = random.Random(steps)
    ended: list[int] = []
    kept: set[int] = set()
    reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with AsyncExitStack() as stack:

        async def connected(engine: AsyncEngine) -> AsyncConnection:
            return await stack.enter_async_context(engine.connect())

        writers = [Writer(await connected(engine), dice, ended, kept) for _ in range(WRITERS)]
        readers = [Reader(await connected(reading), dice, sees) for _ in range(READERS)]
        for _ in range(steps):
            async with asyncio.TaskGroup() as tasks:
                for writer in dice.sample(writers, 3):
                    tasks.create_task(writer.step())
                tasks.create_task(dice.choice(readers).step())
        for writer in writers:
            await writer.end()
        await all_decided(readers[0].connection)
        for reader in readers:
            await reader.read_on()
        everything = Reader(await connected(reading), dice, lambda state: state._replace(bound=ENDLESS))
        assert {*await everything.read_on()} == kept
    newest = [max(ended[: place + 1]) for place in range(len(ended))]
    return Outcome(
        transactions=len(ended),
        overtaken=sum(began < latest for began, latest in zip(ended, newest, strict=True)),
        missed=sum(len(kept - {number for _, number in reader.got}) for reader in readers),
        out_of_order=sum(one >= other for reader in readers for (one, _), (other, _) in pairwise(reader.got)),
        doubled=sum(len(reader.got) - len({*reader.got}) for reader in readers),
    )


@pytest.mark.parametrize("steps", [150, pytest.param(4_000, marks=pytest.mark.slow)])
async def test_transactions_that_overtake_each_other_are_read_in_order(engine: AsyncEngine, steps: int) -> None:
    outcome = await at_random(engine, steps)
    print(outcome)
    assert outcome.transactions > steps
    assert outcome.overtaken > outcome.transactions / 4
    assert (outcome.missed, outcome.out_of_order, outcome.doubled) == (0, 0, 0)


async def test_without_the_bound_the_same_would_miss_entries(engine: AsyncEngine) -> None:
    """So the test above can fail."""
    outcome = await at_random(engine, 100, sees=lambda state: state._replace(bound=ENDLESS))
    assert outcome.missed > 0


@contextmanager
def open_beside(url: str, *statements: str) -> Iterator[psycopg2.extensions.connection]:
    """A transaction of another client that stays open."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        yield connection


@pytest.fixture
async def reader(engine: AsyncEngine) -> AsyncIterator[Reader]:
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        yield Reader(connection, random.Random(1))


async def test_a_snapshot_that_only_reads_holds_no_reader_back(
    engine: AsyncEngine, reader: Reader, database_url: str
) -> None:
    """As pg_dump takes one, for hours."""
    begin = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"
    with open_beside(database_url, begin, "SELECT count(*) FROM messages"):
        written = await committed(engine, 3)
        await all_decided(reader.connection)
        assert await reader.read_on() == written


async def test_a_transaction_of_another_database_delays_and_loses_nothing(
    engine: AsyncEngine, reader: Reader, new_database: Callable[..., str]
) -> None:
    before = await committed(engine)
    with open_beside(new_database(empty=True), "CREATE TABLE something ()") as other:
        after = await committed(engine) + await committed(engine)
        assert not {*after} & {*await reader.read_on()}
        other.commit()
    await all_decided(reader.connection)
    await reader.read_on()
    assert [number for _, number in reader.got] == before + after


async def test_what_a_rolled_back_transaction_wrote_is_never_read(engine: AsyncEngine, reader: Reader) -> None:
    async with engine.connect() as connection, connection.begin() as transaction:
        await write(connection)
        after = await committed(engine)
        assert not {*after} & {*await reader.read_on()}
        await transaction.rollback()
    await all_decided(reader.connection)
    await reader.read_on()
    assert [number for _, number in reader.got] == after


@pytest.mark.slow
async def test_a_prepared_transaction_delays_and_is_read_first(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres", options={"fsync": "off", "max_prepared_transactions": "2"}) as url:
        let_in_quickly(url)
        migrate(url)
        engine = create_serving_engine(url, make_settings(database_url=url))
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            reader = Reader(connection, random.Random(1))
            async with engine.begin() as writing:
                prepared = await write(writing)
                await writing.execute(text("PREPARE TRANSACTION 'late'"))
            after = await committed(engine)
            assert await reader.read_on() == []
            execute(url, "COMMIT PREPARED 'late'")
            assert await reader.read_on() == prepared + after
        await engine.dispose()
