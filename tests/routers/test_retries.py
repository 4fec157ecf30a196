"""Retrying all messages that a filter finds."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from tests.batches import line, send
from tests.factories import make_messages, sms
from tests.tenancy import make_tenant
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PATH = "/api/messages/retry"


@pytest.fixture
async def idle(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """A client of an application that delivers nothing."""
    return await serve(settings.model_copy(update={"worker_enabled": False}))


def run(database_url: str, statement: str) -> None:
    rows_of(database_url, f"{statement} RETURNING 1")


def queued(database_url: str) -> list[int]:
    return [id_ for (id_,) in rows_of(database_url, "SELECT id FROM messages WHERE status = 'queued' ORDER BY id")]


async def retry(client: httpx.AsyncClient, **wanted: object) -> dict[str, Any]:
    answer = await client.post(PATH, json={"status": "failed"} | wanted)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
async def failed(engine: AsyncEngine, database_url: str) -> list[int]:
    """Ten failed messages: of two providers in turn, the first five stored two days ago."""
    async with engine.begin() as connection:
        ids = await make_messages(connection, 10)
    run(
        database_url,
        "UPDATE messages SET status = 'failed', due_at = NULL, attempt_count = 3,"
        " provider_type = CASE WHEN id % 2 = 0 THEN 'even' ELSE 'odd' END,"
        " created_at = now() - CASE WHEN id <= 5 THEN interval '2 days' ELSE interval '0' END",
    )
    return ids


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"provider": "even"}, [2, 4, 6, 8, 10]),
        ({"provider": "none"}, []),
        ({"limit": 3}, [1, 2, 3]),
        ({"provider": "odd", "limit": 2}, [1, 3]),
        ({"status": "unknown"}, []),
        ({"batch_id": 1}, []),
        ({"until": "2001-01-01T00:00:00Z"}, []),
        ({"since": "2001-01-01T00:00:00Z"}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
async def test_the_messages_of_a_filter_are_queued_again(
    idle: httpx.AsyncClient, database_url: str, failed: list[int], wanted: dict[str, object], found: list[int]
) -> None:
    answer = await retry(idle, **wanted)
    assert answer == {"retried": len(found), "capped": 0, "more": len(found) == wanted.get("limit")}
    assert queued(database_url) == found


async def test_since_and_until_are_times_of_storing(
    idle: httpx.AsyncClient, database_url: str, failed: list[int]
) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert (await retry(idle, since=yesterday))["retried"] == 5
    assert queued(database_url) == [6, 7, 8, 9, 10]
    assert (await retry(idle, until=yesterday))["retried"] == 5


async def test_many_are_retried_in_parts(
    idle: httpx.AsyncClient, database_url: str, failed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.messages.retries._AT_ONCE", 3)
    assert await retry(idle, limit=8) == {"retried": 8, "capped": 0, "more": True}
    assert await retry(idle, limit=8) == {"retried": 2, "capped": 0, "more": False}


async def test_each_retry_gets_a_new_count_and_a_place_in_the_history(
    idle: httpx.AsyncClient, database_url: str, failed: list[int]
) -> None:
    await retry(idle, limit=1)
    [(limit, retries)] = rows_of(database_url, "SELECT attempt_limit, retry_count FROM messages WHERE id = 1")
    assert (limit, retries) == (3 + 8, 1)
    assert rows_of(database_url, "SELECT message_id, kind FROM message_events") == [(1, "retried")]


async def test_a_message_of_no_known_provider_is_found_by_its_last_attempt(
    idle: httpx.AsyncClient, database_url: str, failed: list[int]
) -> None:
    run(database_url, "UPDATE messages SET provider_type = NULL, status = 'unknown' WHERE id = 7")
    run(
        database_url,
        "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, outcome, started_at)"
        " VALUES (1, 7, 3, 'lost', 'unknown', now())",
    )
    assert (await retry(idle, status="unknown", provider="lost"))["retried"] == 1
    assert rows_of(database_url, "SELECT retry_count FROM messages WHERE id = 7") == [(0,)]  # it may have left


async def test_the_messages_of_a_batch_are_retried(idle: httpx.AsyncClient, database_url: str) -> None:
    await idle.post("/api/messages/sms", json=sms())
    await send(idle, line(1), line(2))
    run(database_url, "UPDATE messages SET status = 'failed', due_at = NULL")
    assert (await retry(idle, batch_id=1))["retried"] == 2
    assert queued(database_url) == [2, 3]


async def test_a_daily_cap_keeps_the_rest_back(
    serve: Serve, settings: Settings, database_url: str, failed: list[int]
) -> None:
    client = await serve(settings.model_copy(update={"worker_enabled": False, "daily_caps": {"US": 4}}))
    assert await retry(client) == {"retried": 4, "capped": 6, "more": False}
    assert queued(database_url) == [1, 2, 3, 4]


async def test_messages_of_other_tenants_stay(
    idle: httpx.AsyncClient, engine: AsyncEngine, database_url: str
) -> None:
    other = make_tenant(database_url)
    async with engine.begin() as connection:
        await make_messages(connection, tenant_id=other)
    run(database_url, "UPDATE messages SET status = 'failed', due_at = NULL")
    assert (await retry(idle))["retried"] == 0
    assert queued(database_url) == []


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ({"status": "sent"}, "body.status"),
        ({"limit": 0}, "body.limit"),
        ({"limit": 10_001}, "body.limit"),
        ({"limit": "5"}, "body.limit"),
        ({"batch_id": 0}, "body.batch_id"),
        ({"since": "yesterday"}, "body.since"),
    ],
)
async def test_a_filter_that_is_wrong_retries_nothing(
    idle: httpx.AsyncClient, database_url: str, failed: list[int], wanted: dict[str, object], location: str
) -> None:
    assert locations_of(await idle.post(PATH, json={"status": "failed"} | wanted)) == [location]
    assert queued(database_url) == []


async def test_the_address_takes_no_other_method(idle: httpx.AsyncClient) -> None:
    answer = await idle.get(PATH)
    problem_of(answer, 405)
