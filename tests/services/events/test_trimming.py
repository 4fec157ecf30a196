"""Trimming the event log: the oldest entries go in order, and a reader is told, never led past a gap."""

import asyncio
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.models import Event
from app.domain import EventType
from app.errors import EventsGone
from app.services.event_log.entries import NewEvent, write_entries
from app.services.events.cursors import BEGINNING
from app.services.events.reading import LogState, log_state, read_page
from app.services.events.trimming import trim, trim_logs
from app.services.people.retention import remove_what_is_over
from tests.cases import each_case
from tests.conftest import make_settings
from tests.factories import sms, until
from tests.tenancy import make_tenant
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

_DAY = 24 * 3600
_ENTRY = NewEvent(EventType.CONVERSATION_CREATED, conversation_id=1)


async def write(engine: AsyncEngine, *ages: int, tenant_id: int = 1, wait: bool = True) -> None:
    """Entries of so many days ago, each in a transaction of its own. Returns when a neighbour's lets them be read."""
    for days in ages:
        async with engine.begin() as connection:
            await write_entries(connection, tenant_id, [_ENTRY])
            newest = select(Event.id).where(Event.tenant_id == tenant_id).order_by(Event.id.desc()).limit(1)
            written = update(Event).where(Event.tenant_id == tenant_id, Event.id == newest.scalar_subquery())
            await connection.execute(written.values(created_at=Event.created_at - timedelta(days=days)))

    if wait:
        await all_decided(engine, tenant_id)


async def all_decided(engine: AsyncEngine, tenant_id: int = 1) -> None:
    async def state() -> LogState:
        async with engine.connect() as connection:
            return await log_state(connection, tenant_id)

    await until(state, lambda found: found.decided == found.head)


async def ids(engine: AsyncEngine, tenant_id: int = 1) -> list[int]:
    """The entries that a reader gets from the beginning of the log on."""
    async with engine.connect() as connection:
        state = await log_state(connection, tenant_id)
        page = await read_page(connection, tenant_id, state.trimmed_to, state, limit=100)
    return [entry.position.id for entry in page.entries]


@each_case(
    "ages, left",
    [
        ([1, 1], 2),
        ([31, 31, 1], 1),
        ([31, 31], 0),
        ([31, 1, 31, 1], 3),  # a transaction that was open for long: in order, or not at all
        ([], 0),
    ],
)
async def test_old_entries_go_up_to_the_first_that_is_not(
    engine: AsyncEngine, database_url: str, ages: list[int], left: int
) -> None:
    tenant_id = make_tenant(database_url, f"Trimmed {ages}")
    await write(engine, *ages, tenant_id=tenant_id)
    before = await ids(engine, tenant_id)
    assert len(before) == len(ages)
    assert await trim_logs(engine, 30 * _DAY) == len(ages) - left
    assert await ids(engine, tenant_id) == before[len(ages) - left :]
    assert await trim_logs(engine, 30 * _DAY) == 0


async def test_a_log_of_another_tenant_is_left_as_it_is(engine: AsyncEngine, database_url: str) -> None:
    other = make_tenant(database_url)
    await write(engine, 31, 31)
    await write(engine, 1, tenant_id=other)
    await remove_what_is_over(engine, make_settings(event_days=30))
    assert (await ids(engine), len(await ids(engine, other))) == ([], 1)
    assert rows_of(database_url, f"SELECT trimmed_to_id FROM event_logs WHERE tenant_id = {other}") == [(0,)]


async def test_batches_go_on_where_the_last_one_ended_also_by_two_workers(engine: AsyncEngine) -> None:
    await write(engine, *[31] * 30, 1)
    *old, young = await ids(engine)

    async def worker() -> int:
        removed = 0
        while await ids(engine) != [young]:
            async with engine.begin() as connection:
                removed += await trim(connection, 1, 30 * _DAY, limit=4)
        return removed

    assert sum(await asyncio.gather(worker(), worker())) == len(old)


async def test_an_entry_behind_which_another_may_appear_stays(engine: AsyncEngine) -> None:
    async with engine.connect() as late:
        await late.execute(text("SELECT pg_current_xact_id()"))
        await write(engine, 31, wait=False)
        assert await trim_logs(engine, 30 * _DAY) == 0
        await write_entries(late, 1, [_ENTRY])
        await late.commit()
    await all_decided(engine)
    assert len(await ids(engine)) == 2


async def test_a_reader_behind_is_told_and_so_is_one_that_is_overtaken(engine: AsyncEngine) -> None:
    await write(engine, 31, 31, 1)
    async with engine.connect() as connection:
        state = await log_state(connection, 1)
    await trim_logs(engine, 30 * _DAY)
    async with engine.connect() as connection:
        # The state is from before: an empty page, which takes the reader no further.
        page = await read_page(connection, 1, BEGINNING, state, limit=10)
        assert (page.entries, page.position) == ([], BEGINNING)
        with pytest.raises(EventsGone):
            await read_page(connection, 1, BEGINNING, await log_state(connection, 1), limit=10)


async def test_a_cursor_that_is_too_old_gets_410_with_the_oldest_one_which_reads_on(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    for _ in range(2):
        await client.post("/api/messages/sms", json=sms())

    async def page() -> list[str]:
        return [event["id"] for event in (await client.get("/api/events")).json()["events"]]

    # Each message is accepted and sent; the first one also makes its contacts and its conversation.
    before = await until(page, lambda found: len(found) >= 7)
    async with engine.begin() as connection:
        await connection.execute(
            update(Event).where(Event.tenant_id == 1).values(created_at=Event.created_at - timedelta(days=31))
        )
        await trim(connection, 1, 30 * _DAY, limit=3)
    gone = await client.get("/api/events", params={"after": before[0]})
    assert problem_of(gone, 410)["oldest"] == before[2]
    rest = (await client.get("/api/events", params={"after": before[2]})).json()
    assert [event["id"] for event in rest["events"]][: len(before) - 3] == before[3:]
    assert (await client.get("/api/events")).json()["events"][0]["id"] == before[3]
