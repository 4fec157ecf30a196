"""Periodic tasks go on after an error, and statistics keep up with tables that grow fast."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.process_lock import ProcessLock
from app.db.schema.statistics import learn_sizes
from app.services.delivery.housekeeping import Housekeeping
from app.services.delivery.periodic import PeriodicTask
from app.services.delivery.results.outcomes import AttemptResult, record_outcomes
from app.services.delivery.results.retry_policy import ACCEPTED
from tests.conftest import execute
from tests.factories import make_messages, until
from tests.logs import captured

pytestmark = pytest.mark.anyio

#: So often PostgreSQL plans anew for the parameters it is given; after that it may keep a plan.
_PLANNED_ANEW = 5
_MANY = 5_000


@pytest.fixture
def young(new_database: Callable[..., str]) -> str:
    """A database that was never analysed, and that no other test fills."""
    url = new_database()
    for table in ("messages", "delivery_attempts"):
        execute(url, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    return url


@pytest.fixture
async def engine(settings: Settings, young: str) -> AsyncIterator[AsyncEngine]:
    engine = create_serving_engine(young, settings)
    yield engine
    await engine.dispose()


async def settle(connection: AsyncConnection, message_id: int) -> int:
    """Record an outcome; returns how many rows of attempts were read for it."""
    count = text(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname LIKE 'delivery_att%'"
    )
    before = (await connection.execute(count)).scalar_one()
    await record_outcomes(connection, [AttemptResult(1, message_id, 1, "simulator", *ACCEPTED)])
    return int((await connection.execute(count)).scalar_one() - before)


def fill(url: str, *, beyond: int) -> None:
    """Store messages with the next ids, each with an attempt under way."""
    execute(
        url,
        "INSERT INTO messages (tenant_id, id, conversation_id, direction, channel, type, from_address, to_address,"
        " body, attachments, status, attempt_count, sent_at) OVERRIDING SYSTEM VALUE"
        " SELECT 1, id, 1, 'outbound', 'sms', 'sms', '', '', repeat('x', 100), '[]', 'sending', 1, now()"
        f" FROM generate_series({beyond + 1}, {beyond + _MANY}) AS id",
        "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, started_at)"
        f" SELECT 1, id, 1, 'simulator', now() FROM generate_series({beyond + 1}, {beyond + _MANY}) AS id",
    )


async def test_what_was_planned_for_an_empty_table_is_planned_again_when_it_has_grown(
    engine: AsyncEngine, young: str
) -> None:
    async with engine.connect() as connection:
        async with connection.begin():
            [first] = await make_messages(connection)
        for _ in range(_PLANNED_ANEW + 1):
            async with connection.begin():
                await settle(connection, first)
        fill(young, beyond=first)
        async with connection.begin():
            assert await settle(connection, first + 1) >= _MANY  # which is why it has to be looked at
        assert {"messages", "delivery_attempts"} <= set(await learn_sizes(engine))
        async with connection.begin():
            assert await settle(connection, first + 2) < 10


async def test_a_table_is_looked_at_again_only_when_it_has_doubled(engine: AsyncEngine, young: str) -> None:
    async with engine.begin() as connection:
        [first] = await make_messages(connection)
    fill(young, beyond=first)
    assert "messages" in await learn_sizes(engine)
    assert await learn_sizes(engine) == []
    for number in (1, 2):
        fill(young, beyond=first + number * _MANY)
    assert "messages" in await learn_sizes(engine)


async def test_small_tables_are_left_alone(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await make_messages(connection, 10)
    assert await learn_sizes(engine) == []


async def test_a_task_that_fails_is_logged_and_run_again(
    engine: AsyncEngine, settings: Settings, tmp_path: Path
) -> None:
    runs, third = 0, asyncio.Event()

    async def fail() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            third.set()
        raise ValueError("a bug")

    logged = captured()
    task = PeriodicTask("failing", 0.01, fail, "not_cleaned")
    async with Housekeeping(
        engine, settings, ProcessLock(tmp_path), [], on_change=lambda: None, on_logged=lambda _: None, tasks=[task]
    ):
        await asyncio.wait_for(third.wait(), 10)
    assert logged.getvalue().count("not_cleaned") >= 2


async def test_a_worker_whose_only_neighbour_dies_at_once_knows_that_it_is_the_last(
    engine: AsyncEngine, settings: Settings, tmp_path: Path
) -> None:
    neighbour = ProcessLock(tmp_path)
    neighbour.enter()
    housekeeping = Housekeeping(
        engine, settings, ProcessLock(tmp_path), [], on_change=lambda: None, on_logged=lambda _: None
    )
    housekeeping.join()
    neighbour.leave()  # its file stays, as that of a dead one
    async with housekeeping:
        await until(lambda: asyncio.sleep(0, housekeeping.is_last_worker()), bool)
