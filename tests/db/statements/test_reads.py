"""Reads of one statement: alone, sharing a round trip, and with a database that goes away."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Integer, bindparam, cast, func, literal_column, select

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.models import Conversation, EventLog, Tenant
from app.db.statements.batches import TENANT
from app.db.statements.reads import Read, Reads, Rows
from app.db.tenant_guard import TenantNotNamed
from app.errors import DatabaseUnavailable
from app.services.messages.conversations import ConversationService
from app.services.messages.reading import MessageFilter
from tests.conftest import execute
from tests.factories import make_messages

pytestmark = pytest.mark.anyio

_NUMBER = bindparam("number", type_=Integer())
_series = func.generate_series(1, 1000).column_valued("series")
#: The next numbers after one, and a number for which it is at fault.
COUNT = Read(
    select(_series, cast(10 / (_NUMBER - 500), Integer()))
    .where(Tenant.id == TENANT, _series > _NUMBER)
    .order_by(_series)
    .limit(bindparam("most", type_=Integer()))
)


@pytest.fixture
async def reads(settings: Settings, database_url: str) -> AsyncIterator[Reads]:
    async with Reads(database_url, settings) as reads:
        yield reads


async def numbers_after(reads: Reads, number: int, most: int) -> list[int]:
    return [row[0] for row in await reads.fetch(COUNT, {"tenant": 1, "number": number, "most": most})]


async def test_each_of_many_gets_its_own_rows_in_order(reads: Reads) -> None:
    asked = [(number, number % 7) for number in range(400)]
    answers = await asyncio.gather(*(numbers_after(reads, *each) for each in asked))
    assert answers == [list(range(number + 1, number + 1 + most)) for number, most in asked]


async def test_reads_of_several_tenants_do_not_mix(reads: Reads, database_url: str) -> None:
    tenants = range(2, 6)
    for tenant in tenants:
        execute(database_url, f"INSERT INTO tenants OVERRIDING SYSTEM VALUE VALUES ({tenant}, 'tenant {tenant}')")
    numbered: Any = select(Tenant.id, _NUMBER).where(Tenant.id == TENANT)
    read = Read(numbered)
    asked = [{"tenant": tenants[number % 4], "number": number} for number in range(100)]
    answers = await asyncio.gather(*(reads.fetch(read, each) for each in asked))
    assert [[(row[0], row[1])] for [row] in answers] == [[(each["tenant"], each["number"])] for each in asked]


async def test_one_that_is_at_fault_fails_alone(reads: Reads) -> None:
    asked = [500 if number == 40 else number for number in range(100)]
    answers = await asyncio.gather(*(numbers_after(reads, number, 1) for number in asked), return_exceptions=True)
    assert [type(answer).__name__ for answer in answers if isinstance(answer, Exception)] == ["DivisionByZeroError"]
    assert [answer for answer in answers if isinstance(answer, list)] == [[n + 1] for n in asked if n != 500]


async def test_callers_that_give_up_keep_nobody_waiting(reads: Reads) -> None:
    tasks = [asyncio.create_task(numbers_after(reads, number, 1)) for number in range(60)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[1::2] == [[number + 1] for number in range(1, 60, 2)]


async def test_a_connection_that_was_lost_while_it_was_idle_is_replaced(reads: Reads, database_url: str) -> None:
    assert await numbers_after(reads, 1, 1) == [2]
    execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'messaging-service'",
    )
    assert await numbers_after(reads, 2, 1) == [3]


async def test_a_database_that_can_not_be_reached_is_unavailable(settings: Settings) -> None:
    async with Reads("postgresql://nobody@127.0.0.1:1/none", settings) as reads:
        with pytest.raises(DatabaseUnavailable):
            await numbers_after(reads, 1, 1)


async def test_a_read_that_does_not_name_its_tenant_is_refused(reads: Reads, settings: Settings) -> None:
    for unnamed in (select(Conversation.id), select(literal_column("id")).select_from(EventLog.__table__)):
        with pytest.raises(TenantNotNamed):
            await reads.fetch(Read(unnamed.limit(_NUMBER)), {"tenant": 1, "number": 1})


async def test_pages_are_the_same_alone_and_shared(reads: Reads, settings: Settings, database_url: str) -> None:
    engine = create_serving_engine(database_url, settings)
    async with engine.begin() as connection:
        await make_messages(connection, 30)
    await engine.dispose()
    service, of_provider = ConversationService(reads, 1), MessageFilter(provider_type="sms")
    failed = noted_failures(reads)
    alone = [await service.recent(limit=limit) for limit in range(1, 31)]
    assert await asyncio.gather(*(service.recent(limit=limit) for limit in range(1, 31))) == alone
    cursors = [page.next for page in alone if page.next]
    after = [await service.recent(limit=5, cursor=cursor) for cursor in cursors]
    assert await asyncio.gather(*(service.recent(limit=5, cursor=cursor) for cursor in cursors)) == after
    filtered = [await of_provider.page(reads, 1, limit=limit, cursor=None) for limit in range(1, 31)]
    asked = (of_provider.page(reads, 1, limit=limit, cursor=None) for limit in range(1, 31))
    assert await asyncio.gather(*asked) == filtered
    assert failed == []


def noted_failures(reads: Reads) -> list[Exception]:
    """The errors of statements from now on: a shared one that fails is repeated alone."""
    failed, execute_plain = [], reads._execute

    async def noted(call: list[Any]) -> Rows:
        try:
            return await execute_plain(call)
        except Exception as error:
            failed.append(error)
            raise

    reads._execute = noted  # type: ignore[method-assign]
    return failed
