"""Group commit by itself: batches form, a poisoned item fails alone, the queue is bounded, leaving drains it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.errors import DatabaseUnavailable, Overloaded
from app.services.accept.group_commit import GroupCommit
from tests.conftest import make_settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(settings: Settings, database_url: str) -> AsyncEngine:
    return create_serving_engine(database_url, settings)


class Divider:
    """Divides 100 by each item in SQL, so that a zero breaks the whole statement; keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(self, connection: AsyncConnection, items: list[int]) -> list[int]:
        self.sizes.append(len(items))
        self.started.set()
        await self.may_go_on.wait()
        question = text(
            "SELECT 100 / item FROM unnest(cast(:items AS int[])) WITH ORDINALITY AS t(item, n) ORDER BY n"
        )
        return list((await connection.execute(question, {"items": items})).scalars())


def group_commit(
    engine: AsyncEngine,
    work: Callable[[AsyncConnection, list[int]], Awaitable[list[int]]],
    *,
    queue_limit: int = 1000,
    deadline: float = 5,
) -> GroupCommit[int, int]:
    settings = make_settings(
        accept_batch_size=50, accept_queue_limit=queue_limit, database_statement_timeout_seconds=deadline
    )
    return GroupCommit(engine, settings, work, name="test", tenant_of=lambda item: 1)


async def test_what_arrives_while_a_batch_is_written_forms_the_next(engine: AsyncEngine) -> None:
    work = Divider()
    async with group_commit(engine, work) as commit:
        answers = await asyncio.gather(*(commit.submit(item) for item in [1, 2, 5] * 40))
    assert answers == [100, 50, 20] * 40
    assert sum(work.sizes) == 120
    assert len(work.sizes) <= 4
    assert max(work.sizes) == 50
    await engine.dispose()


async def test_a_poisoned_item_fails_alone(engine: AsyncEngine) -> None:
    async with group_commit(engine, Divider()) as commit:
        answers = await asyncio.gather(*(commit.submit(item) for item in [1, 2, 0, 4, 5]), return_exceptions=True)
    poisoned = answers.pop(2)
    assert answers == [100, 50, 25, 20]
    assert isinstance(poisoned, DBAPIError)
    await engine.dispose()


async def test_a_batch_that_lost_a_race_is_written_item_by_item(engine: AsyncEngine) -> None:
    async def work(connection: AsyncConnection, items: list[int]) -> list[int]:
        if len(items) > 1 or items == [0]:
            await connection.execute(text("DO $$ BEGIN RAISE deadlock_detected; END $$"))
        return items

    async with group_commit(engine, work) as commit:
        answers = await asyncio.gather(*(commit.submit(item) for item in [1, 2, 0, 4, 5]), return_exceptions=True)
    lost = answers.pop(2)
    assert answers == [1, 2, 4, 5]
    assert isinstance(lost, DatabaseUnavailable)
    await engine.dispose()


async def test_a_full_queue_refuses_at_once(engine: AsyncEngine) -> None:
    work = Divider()
    work.may_go_on.clear()
    async with group_commit(engine, work, queue_limit=2) as commit:
        first = asyncio.ensure_future(commit.submit(1))
        await work.started.wait()  # the first is being written, and is no longer in the queue
        waiting = [asyncio.ensure_future(commit.submit(item)) for item in (2, 4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await commit.submit(5)
        work.may_go_on.set()
        assert await asyncio.gather(first, *waiting) == [100, 50, 25]
    await engine.dispose()


async def test_leaving_writes_what_is_waiting_and_takes_no_more(engine: AsyncEngine) -> None:
    work = Divider()
    work.may_go_on.clear()
    commit = group_commit(engine, work)
    await commit.__aenter__()
    waiting = [asyncio.ensure_future(commit.submit(item)) for item in (1, 2, 4)]
    await asyncio.sleep(0)
    leaving = asyncio.ensure_future(commit.__aexit__())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await commit.submit(5)
    work.may_go_on.set()
    await leaving
    assert await asyncio.gather(*waiting) == [100, 50, 25]
    await engine.dispose()


async def test_a_caller_that_stops_waiting_harms_nobody(engine: AsyncEngine) -> None:
    work = Divider()
    work.may_go_on.clear()
    async with group_commit(engine, work) as commit:
        first, second = (asyncio.ensure_future(commit.submit(item)) for item in (1, 2))
        await work.started.wait()
        first.cancel()
        work.may_go_on.set()
        assert await second == 50
        assert await commit.submit(4) == 25
    await engine.dispose()


async def test_a_database_that_does_not_answer_in_time_is_unavailable_and_the_next_batch_goes_on(
    engine: AsyncEngine,
) -> None:
    work = Divider()
    work.may_go_on.clear()
    async with group_commit(engine, work, deadline=0.2) as commit:
        with pytest.raises(DatabaseUnavailable):
            await commit.submit(1)
        work.may_go_on.set()
        assert await commit.submit(2) == 50
    await engine.dispose()


async def test_who_has_waited_elsewhere_waits_no_longer_in_all(engine: AsyncEngine) -> None:
    work = Divider()
    work.may_go_on.clear()
    async with group_commit(engine, work, deadline=60) as commit:
        with pytest.raises(DatabaseUnavailable):
            await commit.submit(1, until=asyncio.get_running_loop().time() + 0.05)
        work.may_go_on.set()
