"""One bucket for all processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker

from app.config import Settings
from app.db.engine import create_serving_engine
from app.services.limits.rate_limits import RateLimited, RateLimiter
from app.services.limits.tenant_limits import TenantLimitsCache
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Process = Callable[..., Awaitable[RateLimiter]]


@pytest.fixture
async def process(settings: Settings) -> AsyncIterator[Process]:
    """Makes the limiters of processes that share nothing but the database."""
    async with AsyncExitStack() as stack:

        async def make(*, rate: float, burst: int, statements: list[str] | None = None) -> RateLimiter:
            own = settings.model_copy(update={"rate_limit_per_second": rate, "rate_limit_burst": burst})
            assert own.database_url
            engine = create_serving_engine(own.database_url.get_secret_value(), own)
            stack.push_async_callback(engine.dispose)
            if statements is not None:

                def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
                    statements.append(statement)

                event.listen(engine.sync_engine, "before_cursor_execute", note)
            return RateLimiter(
                engine, TenantLimitsCache(async_sessionmaker(engine), own, deadline_seconds=4), deadline_seconds=4
            )

        yield make


async def admitted(limiter: RateLimiter, count: int) -> int:
    """Of so many requests at once, the number that is admitted."""

    async def one() -> bool:
        try:
            await limiter.take(1)
        except RateLimited:
            return False
        return True

    return sum(await asyncio.gather(*(one() for _ in range(count))))


async def test_a_burst_gets_in_and_not_one_more(process: Process) -> None:
    limiter = await process(rate=0.01, burst=50)
    assert await admitted(limiter, 200) == 50
    with pytest.raises(RateLimited) as refused:
        await limiter.take(1)
    assert refused.value.quota.left == 0
    assert refused.value.retry_after is not None
    assert 1 < refused.value.retry_after <= 100


async def test_processes_share_one_burst(process: Process) -> None:
    limiters = [await process(rate=0.01, burst=100) for _ in range(4)]
    taken = await asyncio.gather(*(admitted(limiter, 60) for limiter in limiters))
    assert sum(taken) == 100


@pytest.mark.slow
async def test_processes_that_ask_for_far_more_get_what_the_rate_allows(process: Process) -> None:
    rate, burst = 200, 20
    limiters = [await process(rate=rate, burst=burst) for _ in range(3)]
    began = time.monotonic()

    async def flood(limiter: RateLimiter) -> int:
        taken = 0
        while taken < rate:
            taken += await admitted(limiter, 20)
            await asyncio.sleep(0.005)
        return taken

    async with asyncio.timeout(60):
        taken = sum(await asyncio.gather(*(flood(limiter) for limiter in limiters)))
    assert taken <= burst + rate * (time.monotonic() - began)


@pytest.mark.slow
async def test_whoever_is_refused_gets_in_after_the_time_that_was_named(process: Process) -> None:
    limiter = await process(rate=0.5, burst=1)
    await limiter.take(1)
    with pytest.raises(RateLimited) as refused:
        await limiter.take(1)
    assert refused.value.retry_after is not None
    await asyncio.sleep(refused.value.retry_after)
    assert await admitted(limiter, 1) == 1


async def test_a_busy_tenant_costs_few_statements_and_a_flood_above_the_limit_none(process: Process) -> None:
    statements: list[str] = []
    limiter = await process(rate=1000, burst=2000, statements=statements)
    assert await admitted(limiter, 500) == 500
    leases = [statement for statement in statements if "UPDATE rate_budgets" in statement]
    assert len(leases) <= 12

    statements.clear()
    shut = await process(rate=0.01, burst=1, statements=statements)
    await admitted(shut, 1000)
    assert await admitted(shut, 1000) == 0
    assert len([statement for statement in statements if "UPDATE rate_budgets" in statement]) <= 6


async def test_without_a_limit_the_bucket_is_never_touched(process: Process, database_url: str) -> None:
    limiter = await process(rate=0, burst=1)
    assert await admitted(limiter, 100) == 100
    assert rows_of(database_url, "SELECT tenant_id FROM rate_budgets") == []


async def test_one_who_gives_up_waiting_changes_nothing_for_the_others(process: Process) -> None:
    limiter = await process(rate=0.01, burst=3)
    tasks = [asyncio.create_task(limiter.take(1)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(*tasks[1:])
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_what_is_left_is_told(process: Process) -> None:
    limiter = await process(rate=0.01, burst=10)
    standings = [await limiter.take(1) for _ in range(10)]
    left = [standing.left for standing in standings if standing]
    assert left[0] == 9
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)
