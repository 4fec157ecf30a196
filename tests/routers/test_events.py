"""The event log over HTTP: pages, long polls and streams of server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.config import Settings
from app.errors import Unauthorized
from app.services.events import feed as feeds
from app.services.events.cursors import Position, cursor_at
from tests.cases import each_case
from tests.conftest import client_of, execute, started
from tests.factories import sms, until
from tests.services.delivery.test_notifier import listening
from tests.streams import opened
from tests.tenancy import make_key, revoke
from tests.wire import locations_of, problem_of

pytestmark = pytest.mark.anyio

PAGE, STREAM = "/api/events", "/api/events/stream"
LONG = 10.0**6  # seconds
#: What the first message between two addresses brings.
FIRST = ["contact.created", "contact.created", "conversation.created", "message.accepted"]


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    quiet = {"worker_enabled": False, "event_heartbeat_seconds": LONG}
    async with AsyncExitStack() as stack:
        yield await started(stack, settings.model_copy(update=quiet))


@pytest.fixture
def client(app: FastAPI) -> httpx.AsyncClient:
    return client_of(app)


async def accept(client: httpx.AsyncClient, **changes: object) -> int:
    answer = await client.post("/api/messages/sms", json=sms(**changes))
    assert answer.status_code == 200
    return int(answer.json()["message_id"])


async def page(client: httpx.AsyncClient, **query: object) -> dict[str, Any]:
    answer = await client.get(PAGE, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def readers(app: FastAPI, count: int) -> None:
    """Wait until there are so many readers in the process."""

    async def ask() -> int:
        return len(app.state.services.events._readers)

    await until(ask, lambda found: found == count)


async def waiting(app: FastAPI, count: int) -> None:
    """Wait until so many requests wait, and are not in flight."""

    async def ask() -> int:
        return int(app.state.overload.waiting)

    await until(ask, lambda found: found == count)


async def test_a_stream_gives_what_a_page_gives_with_ids_that_go_on(app: FastAPI, client: httpx.AsyncClient) -> None:
    await accept(client)
    events = (await page(client))["events"]
    async with opened(app, STREAM) as stream:
        first = [await stream.event() for _ in FIRST]
        await accept(client, body="Another")
        last = await stream.event()
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        assert "content-length" not in stream.headers
    events += (await page(client, after=events[-1]["id"]))["events"]
    assert [each["data"] for each in [*first, last]] == events
    assert [each["event"] for each in [*first, last]] == [*FIRST, FIRST[-1]] == [each["type"] for each in events]
    assert [each["id"] for each in [*first, last]] == [each["id"] for each in events]
    async with opened(app, f"{STREAM}?after=now", headers={"Last-Event-ID": first[1]["id"]}) as stream:
        assert [(await stream.event())["id"] for _ in range(3)] == [each["id"] for each in events[2:]]


async def test_a_stream_opens_at_once_and_has_heartbeats(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        app = await started(stack, settings)
        stream = await stack.enter_async_context(opened(app, STREAM))
        retry = await stream.block()
        assert retry is not None
        seconds, place = retry.split("\n")
        assert 1000 <= int(seconds.removeprefix("retry: ")) <= 3000
        assert place.startswith("id: evt_")
        assert [await stream.block() for _ in range(4)] == [":", place] * 2


@each_case("path", [STREAM, f"{STREAM}?after=now", f"{PAGE}?after=now&wait=60"])
async def test_head_is_answered_at_once(app: FastAPI, client: httpx.AsyncClient, path: str) -> None:
    async with opened(app, path, method="HEAD") as stream:
        assert await stream.block() is None
        assert stream.status == 200
    await readers(app, 0)


_ELSEWHERE = cursor_at(2, Position(1, 1, 1))
_FUTURE = cursor_at(1, Position(2**40, 1, 1))


@each_case(
    ("path", "headers", "location"),
    [
        *(
            (f"{path}?{query}", {}, location)
            for path in (PAGE, f"{PAGE}?wait=5", STREAM)
            for query, location in [
                ("after=evt_x", "query.after"),
                ("after=NOW", "query.after"),
                ("after=", "query.after"),
                (f"after={_ELSEWHERE}", "query.after"),
                (f"after={_FUTURE}", "query.after"),
                ("types=message.eaten", "query.types.0"),
                ("conversation_id=0", "query.conversation_id"),
            ]
            if "?" not in path
        ),
        (f"{PAGE}?wait=5&after={_ELSEWHERE}", {}, "query.after"),
        (f"{PAGE}?wait=5&after={_FUTURE}", {}, "query.after"),
        *((f"{PAGE}?wait={wait}", {}, "query.wait") for wait in ("-1", "61", "soon", "1.5", "")),
        (STREAM, {"Last-Event-ID": "evt_x"}, "header.Last-Event-ID"),
        (STREAM, {"Last-Event-ID": _ELSEWHERE}, "header.Last-Event-ID"),
        (f"{STREAM}?after=now", {"Last-Event-ID": "now"}, "header.Last-Event-ID"),
    ],
)
async def test_bad_input_is_named(
    app: FastAPI, client: httpx.AsyncClient, path: str, headers: dict[str, str], location: str
) -> None:
    assert locations_of(await client.get(path, headers=headers)) == [location]
    await readers(app, 0)


async def test_a_long_poll_answers_at_once_where_there_is_something(client: httpx.AsyncClient) -> None:
    await accept(client)
    found = await page(client, wait=60, limit=3)
    assert [each["type"] for each in found["events"]] == FIRST[:3]
    assert found["more"] is True
    assert found["cursor"] == found["events"][-1]["id"]
    rest = await page(client, wait=60, after=found["cursor"])
    assert [each["type"] for each in rest["events"]] == FIRST[3:]
    assert rest["more"] is False


async def test_a_long_poll_waits_for_what_the_filter_wants(app: FastAPI, client: httpx.AsyncClient) -> None:
    await accept(client)
    query = {"after": "now", "wait": 60, "types": "message.canceled", "conversation_id": 1}
    asking = asyncio.create_task(page(client, **query))
    await readers(app, 1)
    message_id = await accept(client, body="Another")
    assert (await client.post(f"/api/messages/{message_id}/cancel")).status_code == 200
    [event] = (await asking)["events"]
    assert (event["type"], event["data"]["message_id"]) == ("message.canceled", message_id)
    assert event["data"]["message"]["status"] == "canceled"
    await readers(app, 0)


async def test_a_long_poll_without_events_has_a_cursor_that_has_moved_on(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    start = (await page(client))["cursor"]
    asking = asyncio.create_task(page(client, after=start, wait=1, types="contact.erased"))
    await readers(app, 1)
    await accept(client)
    found = await asking
    assert found == {"events": [], "cursor": (await page(client))["cursor"], "more": False}


@each_case("path", [STREAM, f"{PAGE}?after=now&wait=60"])
async def test_a_client_that_leaves_makes_room(app: FastAPI, path: str) -> None:
    async with opened(app, path):
        await readers(app, 1)
    await readers(app, 0)


async def test_readers_have_a_limit_of_their_own_and_are_not_in_flight(settings: Settings) -> None:
    limits = {"max_requests_in_flight": 1, "max_event_readers": 2, "event_heartbeat_seconds": LONG}
    async with AsyncExitStack() as stack:
        app = await started(stack, settings.model_copy(update=limits))
        client = await stack.enter_async_context(client_of(app))
        for number, path in enumerate((STREAM, f"{PAGE}?after=now&wait=60"), start=1):
            await stack.enter_async_context(opened(app, path))
            await waiting(app, number)
        await readers(app, 2)
        for path in (STREAM, f"{PAGE}?wait=1"):
            refused = await client.get(path)
            assert problem_of(refused, 503)["title"] == "Too many readers"
            assert int(refused.headers["retry-after"]) > 0
        assert (await page(client))["events"] == []
    assert app.state.overload.waiting == 0


async def test_a_reader_slows_nobody_down(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[float] = []
    clock = {"now": 0.0}
    async with AsyncExitStack() as stack:
        app = await started(stack, settings.model_copy(update={"event_heartbeat_seconds": LONG}))
        monkeypatch.setattr(app.state.overload.limit, "record", lambda seconds, in_flight, now: took.append(seconds))
        monkeypatch.setattr("app.http.overload.time.monotonic", lambda: clock["now"])
        async with opened(app, STREAM) as stream:
            await stream.block()
            clock["now"] = 1000.0
    assert took == [0.0]


async def test_a_trimmed_cursor_is_gone_before_a_stream_begins(
    app: FastAPI, client: httpx.AsyncClient, database_url: str
) -> None:
    await accept(client)
    cursors = [each["id"] for each in (await page(client))["events"]]
    trim(database_url)
    for path, headers in ((PAGE, {}), (f"{PAGE}?wait=5", {}), (STREAM, {}), (STREAM, {"Last-Event-ID": cursors[0]})):
        mark = "&" if "?" in path else "?"
        answer = await client.get(path if headers else f"{path}{mark}after={cursors[0]}", headers=headers)
        assert answer.status_code == 410
        assert answer.json()["oldest"] == cursors[-1]
    assert (await page(client))["events"] == []


def trim(database_url: str) -> None:
    execute(
        database_url,
        "UPDATE event_logs SET (trimmed_to_generation, trimmed_to_transaction, trimmed_to_id) ="
        " (SELECT generation, transaction_id, id FROM events ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1)",
    )


async def test_events_that_are_removed_during_a_stream_end_it_with_an_event(
    app: FastAPI, client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.routers.events._AT_ONCE", 2)
    await accept(client)
    events = (await page(client))["events"]
    reading = app.state.services.events._catch_up

    async def late(*arguments: Any) -> None:
        trim(database_url)
        await reading(*arguments)

    monkeypatch.setattr(app.state.services.events, "_catch_up", late)
    async with opened(app, STREAM) as stream:
        assert [(await stream.event())["id"] for _ in range(2)] == [each["id"] for each in events[:2]]
        gone = await stream.event()
        assert gone == {"event": "gone", "data": {"oldest": events[-1]["id"]}}
        assert await stream.block() is None


async def test_a_key_that_is_revoked_ends_its_streams_and_long_polls(
    app: FastAPI, client: httpx.AsyncClient, database_url: str
) -> None:
    token, other = make_key(database_url), make_key(database_url)
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        opened(app, STREAM, headers=headers) as stream,
        opened(app, STREAM, headers={"Authorization": f"Bearer {other}"}) as kept,
    ):
        polling = asyncio.create_task(client.get(f"{PAGE}?after=now&wait=60", headers=headers))
        await readers(app, 3)
        revoke(database_url, token)
        await app.state.services.events.end_invalid()
        assert [await stream.block() for _ in range(2)][1] is None
        problem_of(await polling, 401)
        await accept(client)
        assert (await kept.event())["event"] == FIRST[0]


async def test_a_key_that_is_revoked_before_a_long_poll_waits_ends_it_too(
    client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe = feeds.EventFeed.subscribe

    async def revoked_at_once(*arguments: Any, **options: Any) -> Any:
        subscription = await subscribe(*arguments, **options)
        subscription.end(Unauthorized("revoked"))
        return subscription

    monkeypatch.setattr(feeds.EventFeed, "subscribe", revoked_at_once)
    headers = {"Authorization": f"Bearer {make_key(database_url)}"}
    problem_of(await client.get(f"{PAGE}?after=now&wait=60", headers=headers), 401)


async def test_processes_tell_each_other(
    app: FastAPI, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_POLL_SECONDS", LONG)
    async with AsyncExitStack() as stack:
        other = await started(stack, settings.model_copy(update={"worker_enabled": False}))
        client = await stack.enter_async_context(client_of(other))
        await listening(database_url, 2)
        async with opened(app, STREAM) as stream:
            await stream.block()
            for number in range(3):
                await accept(client, to=f"+1804555{number:04}")
                kinds = [(await stream.event())["event"] for _ in range(3 if number else 4)]
                assert kinds == FIRST[-len(kinds) :]


async def test_a_stream_cannot_be_opened_while_the_process_stops(app: FastAPI, client: httpx.AsyncClient) -> None:
    async with opened(app, STREAM) as stream, opened(app, f"{PAGE}?after=now&wait=60") as poll:
        await readers(app, 2)
        app.state.services.events.close()
        assert [await stream.block() for _ in range(2)][1] is None
        problem_of(await client.get(STREAM), 503)
        await poll.block()
        assert poll.status == 200
