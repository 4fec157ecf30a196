"""The event feed of a process: every reader gets each wanted entry once, in order."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import is_unavailable
from app.db.models import Event, EventLog
from app.domain import EventType
from app.errors import EventsGone, TooManyReaders, Unauthorized
from app.services.event_log.entries import NewEvent, write_entries
from app.services.events import feed as feeds
from app.services.events import subscriptions
from app.services.events.cursors import Position
from app.services.events.feed import EventFeed
from app.services.events.reading import EVERYTHING, EventFilter, Start
from app.services.events.subscriptions import Subscription
from tests.cases import each_case
from tests.factories import until
from tests.tenancy import make_key, make_tenant, revoke

pytestmark = pytest.mark.anyio

SOON = 60.0  # seconds, on a machine that is busy
_CREATED, _ERASED = EventType.CONTACT_CREATED, EventType.CONTACT_ERASED
Write = Callable[..., Awaitable[None]]


@pytest.fixture
async def feed(engine: AsyncEngine, settings: Settings) -> AsyncIterator[EventFeed]:
    async with EventFeed(engine, settings) as feed:
        yield feed


@pytest.fixture
def write(engine: AsyncEngine, feed: EventFeed) -> Write:
    """Commits entries about contacts with these numbers, all in one transaction, and wakes the feed."""

    async def write(*numbers: int, tenant: int = 1, type_: EventType = _CREATED, tell: bool = True) -> None:
        async with engine.begin() as connection:
            await write_entries(connection, tenant, [NewEvent(type_, contact_id=number) for number in numbers])
        if tell:
            feed.wake([tenant])

    return write


async def numbers_of(reader: Subscription, count: int, *, limit: int = 100) -> list[int]:
    """The numbers of the next `count` entries."""
    clock = asyncio.get_running_loop().time
    found: list[int] = []
    until = clock() + SOON
    while len(found) < count and not reader.ended:
        entries = await reader.next(limit=min(limit, count - len(found)), until=until)
        assert entries or reader.ended, f"after {found[-3:]} nothing more"
        found += [entry.entry.contact_id or 0 for entry in entries]
    return found


async def nothing_more(reader: Subscription) -> bool:
    """True if a look at the log brings the reader nothing."""
    return not await reader.next(limit=1, until=asyncio.get_running_loop().time() + 0.05)


async def test_readers_get_the_same_entries_once_wherever_they_start(feed: EventFeed, write: Write) -> None:
    await write(*range(1, 451))
    first = await feed.subscribe(1, Start.OLDEST)
    assert await numbers_of(first, 100) == [*range(1, 101)]
    middle = first.position
    readers = [await feed.subscribe(1, place) for place in (Start.OLDEST, middle, Start.NOW, Start.OLDEST)]
    starts = [1, 101, 451, 1]
    reading = [
        asyncio.create_task(numbers_of(reader, 500 - start + 1))
        for reader, start in zip(readers, starts, strict=True)
    ]
    for number in range(451, 501):
        await write(number)
    for task, start in zip(reading, starts, strict=True):
        assert await task == [*range(start, 501)]
    assert await numbers_of(first, 400) == [*range(101, 501)]
    assert [await nothing_more(reader) for reader in readers] == [True] * 4
    assert {reader.position for reader in readers} == {first.position}


async def test_an_up_to_date_reader_needs_no_page_of_its_own(
    feed: EventFeed, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(1)
    first = await feed.subscribe(1, Start.OLDEST)
    await numbers_of(first, 1)
    await write(2)
    await numbers_of(first, 1)
    monkeypatch.setattr(feeds, "rendered_page", None)
    again = await feed.subscribe(1, first.position)
    await write(3)
    assert await numbers_of(again, 1) == await numbers_of(first, 1) == [3]


async def test_order_is_kept_while_transactions_overtake_each_other_and_readers_come_back(
    engine: AsyncEngine, feed: EventFeed, write: Write
) -> None:
    dice, count = random.Random(1), 120

    async def overtaken(number: int) -> None:
        """Write in a transaction that others, which begin later, overtake."""
        async with engine.begin() as connection:
            await write_entries(connection, 1, [NewEvent(_CREATED, contact_id=number)])
            await asyncio.sleep(dice.random() / 100)
        feed.wake([1])

    async def read() -> list[Position]:
        place: Position | Start = Start.OLDEST
        found: list[Position] = []
        while len(found) < count:
            reader = await feed.subscribe(1, place, limit=5)
            for _ in range(dice.randrange(1, 4)):
                entries = await reader.next(limit=dice.randrange(1, 9), until=asyncio.get_running_loop().time() + 0.2)
                found += [entry.position for entry in entries]
                place = found[-1] if found and dice.random() < 0.5 else reader.position
            reader.end()
        return found

    reading = [asyncio.create_task(read()) for _ in range(3)]
    for start in range(0, count, 6):
        await asyncio.gather(*(overtaken(number) for number in range(start, start + 6)))
    async with engine.connect() as connection:
        order = select(Event.generation, Event.transaction_id, Event.id).where(Event.tenant_id == 1)
        written = [Position(*row) for row in await connection.execute(order.order_by(*order.selected_columns))]
    async with asyncio.timeout(SOON):
        for task in reading:
            assert await task == written


async def test_entries_that_are_undecided_come_when_they_are_decided_without_a_wake_up(
    engine: AsyncEngine, feed: EventFeed, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_POLL_SECONDS", 10 * SOON)
    reader = await feed.subscribe(1, Start.NOW)
    async with engine.begin() as earlier:
        await earlier.execute(text("SELECT pg_current_xact_id()"))
        await write(1)
        assert await nothing_more(reader)
    assert await numbers_of(reader, 1) == [1]


async def test_what_nothing_tells_of_is_found_by_polling(
    feed: EventFeed, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_POLL_SECONDS", 0.05)
    reader = await feed.subscribe(1, Start.NOW)
    await write(1, tell=False)
    assert await numbers_of(reader, 1) == [1]


@each_case(
    ("wanted", "expected"),
    [
        (EVERYTHING, [1, 2, 3, 4]),
        (EventFilter(types=frozenset({_CREATED})), [1, 2, 4]),
        (EventFilter(types=frozenset({_ERASED})), [3]),
        (EventFilter(types=frozenset({_CREATED, _ERASED})), [1, 2, 3, 4]),
        (EventFilter(conversation_id=7), [2, 4]),
        (EventFilter(types=frozenset({_ERASED}), conversation_id=7), []),
    ],
)
async def test_a_reader_gets_what_the_filter_wants_behind_and_up_to_date(
    engine: AsyncEngine, settings: Settings, database_url: str, wanted: EventFilter, expected: list[int]
) -> None:
    tenant = make_tenant(database_url, f"Acme {wanted}")
    events = [
        NewEvent(_CREATED, contact_id=1),
        NewEvent(_CREATED, contact_id=2, conversation_id=7),
        NewEvent(_ERASED, contact_id=3, conversation_id=8),
        NewEvent(_CREATED, contact_id=4, conversation_id=7),
    ]
    async with EventFeed(engine, settings) as feed:
        live = await feed.subscribe(tenant, Start.OLDEST, wanted)
        assert not live.is_behind
        async with engine.begin() as connection:
            await write_entries(connection, tenant, events)
        feed.wake(None)
        late = await feed.subscribe(tenant, Start.OLDEST, wanted)
        for reader in (live, late):
            assert await numbers_of(reader, len(expected)) == expected
        async with engine.connect() as connection:
            newest = await connection.scalar(select(func.max(Event.id)).where(Event.tenant_id == tenant))

        async def places() -> list[int]:
            assert await nothing_more(live)
            assert await nothing_more(late)
            return [live.position.id, late.position.id]

        await until(places, lambda found: found == [newest, newest])


async def test_tenants_are_apart(feed: EventFeed, write: Write, database_url: str) -> None:
    acme = make_tenant(database_url)
    readers = [await feed.subscribe(tenant, Start.OLDEST) for tenant in (1, acme)]
    for number in (1, 2, 3):
        await write(number)
        await write(number + 10, tenant=acme)
    assert [await numbers_of(reader, 3) for reader in readers] == [[1, 2, 3], [11, 12, 13]]


async def test_a_database_that_went_away_costs_no_entry(
    engine: AsyncEngine, feed: EventFeed, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_POLL_SECONDS", 0.05)
    reader = await feed.subscribe(1, Start.OLDEST)
    behind = await feed.subscribe(1, Start.OLDEST, limit=1)

    async def write_once_it_is_back(*numbers: int) -> None:
        while True:
            try:
                return await write(*numbers)
            except DBAPIError as error:
                if not is_unavailable(error):  # a connection that has just been ended is
                    raise

    for number in range(1, 21, 2):
        await write_once_it_is_back(number, number + 1)
        async with engine.connect() as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'messaging-service' AND pid != pg_backend_pid()"
                )
            )
    assert await numbers_of(reader, 20) == await numbers_of(behind, 20, limit=3) == [*range(1, 21)]


async def test_a_reader_who_does_not_read_is_ended_and_can_go_on(
    feed: EventFeed, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_MOST_ENTRIES", 5)
    await write(1)
    slow = await feed.subscribe(1, Start.OLDEST)
    quick = await feed.subscribe(1, Start.OLDEST)
    assert await numbers_of(slow, 1) == [1]
    found = await numbers_of(quick, 1)
    for number in range(2, 12):
        await write(number)
        found += await numbers_of(quick, 1)
    assert found == [*range(1, 12)]
    assert slow.ended
    assert await slow.next(limit=9, until=0) == []
    again = await feed.subscribe(1, slow.position)
    assert await numbers_of(again, 10) == [*range(2, 12)]


@each_case("limit", ["_MOST_ENTRIES", "_MOST_BYTES"])
async def test_a_reader_who_waits_gets_any_number_at_once(
    engine: AsyncEngine, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(subscriptions, limit, 5)
    tenant = make_tenant(database_url, limit)
    async with EventFeed(engine, settings) as feed:
        reader = await feed.subscribe(tenant, Start.OLDEST)
        reading = asyncio.create_task(numbers_of(reader, 500))
        await asyncio.sleep(0)
        async with engine.begin() as connection:
            await write_entries(connection, tenant, [NewEvent(_CREATED, contact_id=n) for n in range(500)])
        feed.wake([tenant])
        assert await reading == [*range(500)]


async def trim(engine: AsyncEngine, position: Position) -> None:
    names = ("trimmed_to_generation", "trimmed_to_transaction", "trimmed_to_id")
    async with engine.begin() as connection:
        trimmed = update(EventLog).where(EventLog.tenant_id == 1).values(dict(zip(names, position, strict=True)))
        await connection.execute(trimmed)


async def test_entries_that_were_removed_before_they_were_read_end_the_reader(
    engine: AsyncEngine, feed: EventFeed, write: Write
) -> None:
    await write(1, 2, 3, 4)
    ahead = await feed.subscribe(1, Start.OLDEST)
    await numbers_of(ahead, 4)  # a neighbour's transaction may have held them back
    reader = await feed.subscribe(1, Start.OLDEST, limit=2)
    await trim(engine, ahead.position)
    assert await numbers_of(reader, 2, limit=2) == [1, 2]
    with pytest.raises(EventsGone):
        await reader.next(limit=2, until=0)
    assert reader.ended
    with pytest.raises(EventsGone):
        await feed.subscribe(1, Position(0, 0, 1))
    await write(5)
    assert await numbers_of(ahead, 1) == [5]


async def test_entries_that_a_failover_has_lost_keep_no_reader_out(
    engine: AsyncEngine, feed: EventFeed, write: Write
) -> None:
    await write(1, 2)
    ahead = await feed.subscribe(1, Start.OLDEST)
    await numbers_of(ahead, 2)
    async with engine.begin() as connection:
        await connection.execute(delete(Event).where(Event.tenant_id == 1, Event.contact_id == 2))
        await connection.execute(
            update(EventLog).where(EventLog.tenant_id == 1).values(generation=EventLog.generation + 1)
        )
    reader = await feed.subscribe(1, Start.OLDEST)
    assert await numbers_of(reader, 1) == [1]
    await write(3)
    assert await numbers_of(reader, 1) == await numbers_of(ahead, 1) == [3]


async def test_a_cursor_of_the_future_keeps_no_other_reader_out(feed: EventFeed, write: Write) -> None:
    await write(1)
    future = await feed.subscribe(1, Position(1, 2**62, 1))
    reader = await feed.subscribe(1, Start.OLDEST)
    assert await numbers_of(reader, 1) == [1]
    await write(2)
    assert await numbers_of(reader, 1) == [2]
    assert await nothing_more(future)


async def test_there_are_only_so_many_readers(engine: AsyncEngine, settings: Settings) -> None:
    async with EventFeed(engine, settings.model_copy(update={"max_event_readers": 2})) as feed:
        first, _ = [await feed.subscribe(1, Start.NOW) for _ in range(2)]
        with pytest.raises(TooManyReaders):
            await feed.subscribe(1, Start.NOW)
        first.end()
        await trim(engine, Position(1, 5, 0))
        with pytest.raises(EventsGone):  # one that fails takes no place
            await feed.subscribe(1, Position(1, 1, 1))
        await feed.subscribe(1, Start.NOW)


async def test_a_process_that_stops_ends_its_readers_and_takes_no_more(feed: EventFeed, write: Write) -> None:
    reader = await feed.subscribe(1, Start.NOW)
    waiting = asyncio.create_task(reader.next(limit=1, until=asyncio.get_running_loop().time() + SOON))
    await asyncio.sleep(0)
    feed.close()
    assert await waiting == []
    assert reader.ended
    with pytest.raises(TooManyReaders):
        await feed.subscribe(1, Start.NOW)


async def test_a_key_that_is_no_longer_valid_ends_its_readers_alone(feed: EventFeed, database_url: str) -> None:
    tokens = [make_key(database_url), make_key(database_url), make_key(database_url, seconds=-1)]
    names = [token.split("_")[2] for token in tokens]
    good, revoked, expired, without = [await feed.subscribe(1, Start.NOW, key=name) for name in [*names, None]]
    revoke(database_url, tokens[1])
    await feed.end_invalid()
    for reader in (revoked, expired):
        with pytest.raises(Unauthorized):
            await reader.next(limit=1, until=0)
    assert [reader.ended for reader in (good, revoked, expired, without)] == [False, True, True, False]
