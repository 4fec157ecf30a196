"""One worker serves a tenant, and a record of another one changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.services.events.cursors import Position
from app.services.people.removal import remove_messages
from app.services.people.retention import remove_what_is_over
from app.services.webhooks.leases import lease_states, release_leases, take_lease
from app.services.webhooks.sender import Answer
from app.services.webhooks.state import EndpointState, Retry
from app.services.webhooks.store import Attempt, Record, Recorded, add_attempts, load_endpoints, record
from tests.conftest import execute, make_settings
from tests.factories import make_messages
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

_GENERATION = 3
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_BEFORE = EndpointState(Position(1, 1, 1), {Position(1, 1, 0): Retry(1, _NOW, _NOW)})
_AFTER = EndpointState(
    Position(1, 1, 5), {Position(1, 1, 4): Retry(1, _NOW, _NOW), Position(1, 1, 3): Retry(2, _NOW, _NOW)}, _NOW
)


@pytest.fixture
async def engine(settings: Settings, database_url: str) -> AsyncIterator[AsyncEngine]:
    execute(
        database_url,
        "INSERT INTO webhook_leases (tenant_id) VALUES (1)",
        "INSERT INTO webhook_endpoints (tenant_id, url, headers, suppress_automatic, secret, cursor_generation,"
        " cursor_transaction, cursor_id) VALUES (1, 'http://127.0.0.1:9/', '{}', false, 'whsec_AAAA', 1, 1, 1)",
        "INSERT INTO webhook_retries VALUES (1, 1, 1, 1, 0, 1, '2026-01-01Z', '2026-01-01Z')",
    )
    engine = create_serving_engine(database_url, settings)
    async with engine.connect():  # raises the generation
        execute(database_url, f"UPDATE event_logs SET generation = {_GENERATION}")
    yield engine
    await engine.dispose()


def attempt(message_id: int | None = None, event_type: str = "message.sent", answer: str | None = None) -> Attempt:
    return Attempt("evt_1", event_type, message_id, 1, Answer(_NOW, 0.1, 200, None, None, answer))


def made(lease: int, version: int = 0, endpoint_id: int = 1, generation: int = _GENERATION) -> Record:
    return Record(1, lease, generation, endpoint_id, version, _BEFORE, _AFTER, [attempt()])


async def take(engine: AsyncEngine) -> tuple[int, int] | None:
    async with engine.begin() as connection:
        return await take_lease(connection, 1)


async def taken_now(engine: AsyncEngine) -> int:
    taken = await take(engine)
    assert taken is not None
    return taken[0]


async def test_of_many_workers_one_takes_the_lease_and_the_next_one_after_its_end(
    engine: AsyncEngine, database_url: str
) -> None:
    taken = await asyncio.gather(*(take(engine) for _ in range(5)))
    [first] = [number for number, _ in filter(None, taken)]
    execute(database_url, "UPDATE webhook_leases SET leased_until = now()")
    second = await taken_now(engine)
    async with engine.begin() as connection:
        await release_leases(connection, [(1, first)])  # no longer that worker's
        [state] = await lease_states(connection)
        assert (state.number, state.is_free, state.has_endpoints) == (second, False, True)
        await release_leases(connection, [(1, second)])
        [state] = await lease_states(connection)
        assert state.is_free


async def test_after_a_failover_that_lost_a_lease_no_other_has_its_number(
    engine: AsyncEngine, database_url: str
) -> None:
    first = await taken_now(engine)
    execute(database_url, "UPDATE webhook_leases SET leased_until = null, number = 0")
    assert await taken_now(engine) > first


async def test_a_record_is_stored_as_it_is_read_again(engine: AsyncEngine) -> None:
    lease = await taken_now(engine)
    async with engine.begin() as connection:
        [endpoint] = await load_endpoints(connection, 1)
        assert endpoint.state == _BEFORE
        assert await record(connection, [made(lease)]) == [Recorded.FULLY]
        [endpoint] = await load_endpoints(connection, 1)
        assert endpoint.state == _AFTER


async def test_a_record_of_another_lease_or_version_changes_no_state(engine: AsyncEngine, database_url: str) -> None:
    lease = await taken_now(engine)
    fates = {}
    records = {
        "lease": made(lease + 1),
        "version": made(lease, version=1),
        "generation": made(lease, generation=4),
        "endpoint": made(lease, endpoint_id=9),
    }
    for name, each in records.items():
        async with engine.begin() as connection:
            [fates[name]] = await record(connection, [each])
            [endpoint] = await load_endpoints(connection, 1)
            assert endpoint.state == _BEFORE
    assert fates == {
        "lease": Recorded.NOT,
        "version": Recorded.ATTEMPTS_ONLY,
        "generation": Recorded.ATTEMPTS_ONLY,
        "endpoint": Recorded.NOT,
    }
    assert rows_of(database_url, "SELECT count(*) FROM webhook_attempts") == [(2,)]


async def test_an_answer_is_kept_for_as_long_as_the_message_and_for_tests(
    engine: AsyncEngine, database_url: str
) -> None:
    async with engine.begin() as connection:
        message_ids = await make_messages(connection, 2)
    kept, gone = message_ids
    async with engine.begin() as connection:
        attempts = [
            attempt(kept, answer="kept"),
            attempt(gone, answer="gone"),
            attempt(10**6, answer="never"),
            attempt(None, "contact.created", answer="contact"),
            attempt(None, "webhook_endpoint.test", answer="test"),
        ]
        await add_attempts(connection, 1, [(1, each) for each in attempts])
    stored = "SELECT answer FROM webhook_attempts ORDER BY id"
    assert rows_of(database_url, stored) == [("kept",), ("gone",), (None,), (None,), ("test",)]
    async with engine.begin() as connection:
        await remove_messages(connection, 1, [(gone, 2)], unfinished=True)
    assert rows_of(database_url, stored) == [("kept",), (None,), (None,), ("test",)]


async def test_old_attempts_are_removed(engine: AsyncEngine, database_url: str) -> None:
    new = replace(attempt(), answer=replace(attempt().answer, started_at=datetime.now(UTC)))
    async with engine.begin() as connection:
        await add_attempts(connection, 1, [(1, attempt()), (1, new)])
    await remove_what_is_over(engine, make_settings())
    assert rows_of(database_url, "SELECT id FROM webhook_attempts") == [(2,)]
