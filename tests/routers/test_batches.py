"""Batches through the API: what each line becomes, repeats, progress, and pausing, resuming and canceling."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.domain import NewMessage, StoredMessage
from app.errors import DatabaseUnavailable
from app.services.batches.holding import settle_batches
from app.services.messages.service import MessageService
from tests.batches import PATH, TYPE, body_of, line, mail_line, send
from tests.factories import CONTACT, email, sms, until
from tests.logs import captured
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
KEY = {"Idempotency-Key": "campaign"}


@pytest.fixture
async def idle(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """A client of an application that delivers nothing."""
    return await serve(settings.model_copy(update={"worker_enabled": False}))


def stored(database_url: str, columns: str) -> list[tuple[Any, ...]]:
    return rows_of(database_url, f"SELECT {columns} FROM messages ORDER BY batch_line")


async def test_each_line_is_a_message_and_is_answered_in_order(idle: httpx.AsyncClient, database_url: str) -> None:
    answer = await send(idle, *(line(number, body=f"text {number}") for number in range(300)))
    assert [each["line"] for each in answer.lines] == [*range(1, 301)]
    assert set(answer.statuses) == {"accepted"}
    assert answer.summary == {"batch_id": 1, "status": "complete", "accepted": 300, "refused": 0}
    assert answer.response.headers["location"] == "/api/batches/1"
    found = stored(database_url, "batch_line, id::text, conversation_id, body, batch_id, priority")
    assert found == [
        (each["line"], each["message_id"], each["conversation_id"], f"text {each['line'] - 1}", 1, 2)
        for each in answer.lines
    ]


async def test_a_line_may_be_of_any_channel_and_blank_ones_are_left_out(idle: httpx.AsyncClient) -> None:
    answer = await send(idle, b"\n", line(), b"  \r\n", mail_line(), line(1))
    assert [(each["line"], each["status"]) for each in answer.lines] == [
        (2, "accepted"),
        (4, "accepted"),
        (5, "accepted"),
    ]


async def test_a_batch_without_lines_is_complete(idle: httpx.AsyncClient) -> None:
    answer = await send(idle)
    assert (answer.lines, answer.summary["status"]) == ([], "complete")


@pytest.mark.parametrize(
    ("bad", "location"),
    [
        (b"no json\n", "body"),
        (b"\xff\xfe\n", "body"),
        (b"[1]\n", "body"),
        (b"{}\n", "body.channel"),
        ({"channel": 5}, "body.channel"),
        ({"channel": "sms"}, "body.from"),
        (line(to="nonsense"), "body.to"),
        (line(priority="urgent"), "body.priority"),
        (line(send_at="2001-01-01T00:00:00Z"), "body.send_at"),
        ({**line(), "channel": "pigeon"}, "body"),
        ({"channel": "email", **email(to=["a@b.example", "c@b.example"])}, "body.to"),
        (b'{"channel":"sms","channel":"email"}\n', "body.channel"),
        (b'{"channel":"sms","a":' + b"[" * 40 + b"]" * 40 + b"}\n", "body"),
        (b'{"channel":"sms","a":"' + b"x" * 2000 + b'"}\n', "body"),
    ],
)
async def test_a_bad_line_is_refused_by_itself(
    serve: Serve, settings: Settings, database_url: str, bad: dict[str, Any] | bytes, location: str
) -> None:
    client = await serve(settings.model_copy(update={"worker_enabled": False, "max_body_bytes": 1500}))
    answer = await send(client, line(1), bad, line(2))
    assert answer.statuses == ["accepted", "refused", "accepted"]
    assert location in {error["location"].removesuffix(".pigeon") for error in answer.lines[1]["errors"]}
    assert all(error["message"] for error in answer.lines[1]["errors"])
    assert (answer.summary["accepted"], answer.summary["refused"]) == (2, 1)
    assert stored(database_url, "batch_line") == [(1,), (3,)]


async def test_the_same_batch_again_is_answered_like_the_first_time(
    idle: httpx.AsyncClient, database_url: str
) -> None:
    lines = [line(1), line(2, to="nonsense"), mail_line(), line(3)]
    first, again = await send(idle, *lines), await send(idle, *lines)
    assert (again.lines, again.summary) == (first.lines, first.summary)
    assert "idempotent-replayed" not in first.response.headers
    assert again.response.headers["idempotent-replayed"] == "true"
    assert len(stored(database_url, "id")) == 3


async def test_another_key_is_another_batch(idle: httpx.AsyncClient, database_url: str) -> None:
    await send(idle, line())
    await send(idle, line(), key="another")
    assert stored(database_url, "batch_id") == [(1,), (2,)]


async def test_a_line_with_another_content_is_refused_and_the_others_are_repeats(
    idle: httpx.AsyncClient, database_url: str
) -> None:
    first = await send(idle, line(1), line(2), line(3))
    again = await send(idle, line(1), line(2, body="Bye!"), mail_line())
    assert again.statuses == ["accepted", "refused", "refused"]
    assert again.lines[0] == first.lines[0]
    assert "another content" in again.lines[1]["errors"][0]["message"]
    assert len(stored(database_url, "id")) == 3


async def test_a_batch_that_was_cut_is_completed_by_a_repeat(idle: httpx.AsyncClient, database_url: str) -> None:
    lines = [line(number) for number in range(50)]
    content = body_of(lines)
    await cut(idle, content[: len(content) // 2])
    before = stored(database_url, "batch_line, id")
    assert 0 < len(before) < 50
    shown = (await idle.get(f"{PATH}/1")).json()
    assert (shown["completed_at"], shown["lines"], shown["accepted"]) == (None, None, len(before))
    answer = await send(idle, *lines)
    assert answer.summary == {"batch_id": 1, "status": "complete", "accepted": 50, "refused": 0}
    after = stored(database_url, "batch_line, id")
    assert after[: len(before)] == before
    assert [number for number, _ in after] == [*range(1, 51)]
    shown = (await idle.get(f"{PATH}/1")).json()
    assert (shown["lines"], shown["refused"], shown["accepted"]) == (50, 0, 50)
    assert shown["completed_at"]


async def cut(client: httpx.AsyncClient, content: bytes) -> None:
    """Send a part of a batch, and leave."""

    async def leave() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert b"complete" not in await sent_in_part(client, content, leave)


async def sent_in_part(
    client: httpx.AsyncClient, content: bytes, then: Callable[[], Awaitable[dict[str, Any]]]
) -> bytes:
    """Send a part of a batch, and then what `then` returns; the answer."""
    messages = iter([{"type": "http.request", "body": content, "more_body": True}])
    headers = [(name.lower().encode(), value.encode()) for name, value in (TYPE | KEY).items()]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"messaging.test"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("messaging.test", 80),
    }
    said = []

    async def receive() -> dict[str, Any]:
        return next(messages, None) or await then()

    async def tell(message: dict[str, Any]) -> None:
        said.append(message)

    await client._transport.app(scope, receive, tell)  # type: ignore[attr-defined]
    assert said[0]["status"] == 200
    return b"".join(each.get("body", b"") for each in said)


async def test_a_service_that_is_stopped_reads_no_further_lines(idle: httpx.AsyncClient, database_url: str) -> None:
    async def stop() -> dict[str, Any]:
        idle._transport.app.state.services.batches.close()  # type: ignore[attr-defined]
        await asyncio.Event().wait()  # the client sends nothing more
        raise AssertionError

    answer = await sent_in_part(idle, body_of([line(1), line(2)]), stop)
    *results, summary = map(json.loads, answer.splitlines())
    assert [each["status"] for each in results] == ["accepted", "accepted"]
    assert summary["status"] == "interrupted"
    assert "is being stopped" in summary["detail"]
    assert len(stored(database_url, "id")) == 2


async def test_a_complete_batch_takes_no_further_lines(idle: httpx.AsyncClient, database_url: str) -> None:
    await send(idle, line(1), line(2))
    longer = await send(idle, line(1), line(2), line(3))
    assert longer.statuses == ["accepted", "accepted", "refused"]
    shorter = await send(idle, line(1))
    assert shorter.statuses == ["accepted"]
    shown = (await idle.get(f"{PATH}/1")).json()
    assert (shown["lines"], shown["refused"], shown["accepted"]) == (2, 0, 2)


async def test_priority_and_topic_of_the_batch_hold_for_lines_that_name_none(
    idle: httpx.AsyncClient, database_url: str
) -> None:
    await send(idle, line(1), line(2, priority="high", topic="news"), priority="normal", topic="offers", name="May")
    assert stored(database_url, "priority, topic") == [(1, "offers"), (0, "news")]
    [shown] = (await idle.get(PATH)).json()
    assert (shown["name"], shown["key"], shown["priority"], shown["topic"]) == ("May", "campaign", "normal", "offers")


async def test_lines_to_the_same_person_keep_their_order(idle: httpx.AsyncClient, database_url: str) -> None:
    await send(idle, *(line(number % 3, body=f"{number}") for number in range(120)))
    found = rows_of(database_url, "SELECT to_address, body FROM messages ORDER BY id")
    for to in {to for to, _ in found}:
        bodies = [int(body) for each, body in found if each == to]
        assert bodies == sorted(bodies)


@pytest.mark.parametrize(
    ("headers", "query", "status", "locations"),
    [
        (TYPE, {}, 422, ["header.Idempotency-Key"]),
        (TYPE | {"Idempotency-Key": "ä b"}, {}, 422, ["header.Idempotency-Key"]),
        (KEY, {}, 415, None),
        (KEY | {"Content-Type": "application/json"}, {}, 415, None),
        (TYPE | KEY, {"priority": "urgent"}, 422, ["query.priority"]),
        (TYPE | KEY, {"topic": "No Topic"}, 422, ["query.topic"]),
        (TYPE | KEY, {"name": "x" * 201}, 422, ["query.name"]),
    ],
)
async def test_a_request_that_is_wrong_as_a_whole_stores_nothing(
    idle: httpx.AsyncClient,
    database_url: str,
    headers: dict[str, str],
    query: dict[str, str],
    status: int,
    locations: list[str] | None,
) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = await idle.post(PATH, content=body_of([line()]), headers=encoded, params=query)
    problem_of(answer, status)
    if locations is not None:
        assert locations_of(answer) == locations
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(0,)]
    assert rows_of(database_url, "SELECT count(*) FROM batches") == [(0,)]


async def test_lines_beyond_the_daily_cap_are_refused_and_taken_later(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    capped = settings.model_copy(update={"worker_enabled": False, "daily_caps": {"US": 2}})
    lines = [line(number) for number in range(3)]
    answer = await send(await serve(capped), *lines)
    assert sorted(answer.statuses) == ["accepted", "accepted", "refused"]
    later = await send(await serve(capped.model_copy(update={"daily_caps": {}})), *lines)
    assert later.statuses == ["accepted"] * 3
    assert [number for (number,) in stored(database_url, "batch_line")] == [1, 2, 3]


async def test_results_are_paged_in_the_order_of_lines(idle: httpx.AsyncClient) -> None:
    answer = await send(idle, *(line(number) for number in range(5)))
    first = await idle.get(f"{PATH}/1/results", params={"limit": 3})
    second = await idle.get(first.links["next"]["url"])
    found = first.json() + second.json()
    assert [(each["line"], each["message_id"]) for each in found] == [
        (each["line"], each["message_id"]) for each in answer.lines
    ]
    assert found[0] == {
        "line": 1,
        "message_id": "1",
        "conversation_id": 1,
        "status": "queued",
        "status_reason": None,
    }


async def test_a_message_names_its_batch(idle: httpx.AsyncClient) -> None:
    await send(idle, line(1), line(2))
    shown = (await idle.get("/api/messages/2")).json()
    assert (shown["batch_id"], shown["batch_line"], shown["priority"]) == (1, 2, "bulk")


async def test_the_progress_counts_by_status(client: httpx.AsyncClient) -> None:
    await send(client, *(line(number) for number in range(4)), line(9, send_at="2027-01-01T00:00:00Z"))

    async def progress() -> dict[str, Any]:
        shown: dict[str, Any] = (await client.get(f"{PATH}/1")).json()
        return shown

    shown = await until(progress, lambda shown: shown["waiting"] == 1)
    assert shown["statuses"]["scheduled"] == 1
    assert sum(shown["statuses"].values()) == shown["accepted"] == 5
    assert shown["state"] == "running"


# Pausing, resuming and canceling.


def held(database_url: str) -> list[bool]:
    """By line, whether the message waits for its batch."""
    return [is_held for (is_held,) in stored(database_url, "coalesce(due_at >= '2100-01-01', false)")]


async def act(client: httpx.AsyncClient, action: str, *, batch_id: int = 1) -> dict[str, Any]:
    answer = await client.post(f"{PATH}/{batch_id}/{action}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def test_a_pause_holds_what_is_there_and_what_comes(idle: httpx.AsyncClient, database_url: str) -> None:
    await cut(idle, body_of([line(1), line(2)]))
    assert (await act(idle, "pause"))["state"] == "paused"
    await send(idle, line(1), line(2), line(3), line(4, send_at="2027-01-01T00:00:00Z"))
    assert held(database_url) == [True] * 4
    steps = (await idle.get("/api/messages/1/timeline")).json()
    assert "its batch is paused" in steps[-1]["sentence"]


async def test_a_resumed_batch_leaves_and_scheduled_messages_keep_their_time(
    idle: httpx.AsyncClient, database_url: str
) -> None:
    await send(idle, line(1), line(2, send_at="2027-01-01T00:00:00Z"), line(3, expires_at="2027-01-01T00:00:00Z"))
    await act(idle, "pause")
    assert (await act(idle, "resume"))["state"] == "running"
    assert stored(database_url, "due_at <= now(), due_at = send_at") == [(True, None), (False, True), (True, None)]


async def test_a_paused_batch_does_not_hold_up_other_messages_of_a_conversation(client: httpx.AsyncClient) -> None:
    other = sms(send_at="2027-01-01T00:00:00Z")
    await send(client, {"channel": "sms", **other}, priority="high")
    await act(client, "pause")
    sent = (await client.post("/api/messages/sms", json=sms(to=CONTACT))).json()

    async def status() -> str:
        shown: str = (await client.get(f"/api/messages/{sent['message_id']}")).json()["status"]
        return shown

    await until(status, lambda status: status in {"sent", "delivered"})


async def test_a_canceled_batch_ends_with_an_event_for_each_message(
    idle: httpx.AsyncClient, database_url: str
) -> None:
    await cut(idle, body_of([line(1), line(2)]))
    shown = await act(idle, "cancel")
    assert (shown["state"], shown["statuses"], shown["waiting"]) == ("canceled", {"canceled": 2}, 0)
    events = (await idle.get("/api/events", params={"types": "message.canceled"})).json()["events"]
    assert {each["data"]["message_id"] for each in events} == {1, 2}
    steps = (await idle.get("/api/messages/1/timeline")).json()
    assert steps[-1]["kind"] == "canceled"
    later = await send(idle, line(1), line(2), line(3))
    assert later.statuses == ["accepted", "accepted", "refused"]
    assert stored(database_url, "status") == [("canceled",)] * 2


async def test_a_message_that_may_have_left_is_not_canceled(idle: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await send(idle, line(1), line(2))
    async with engine.begin() as connection:
        attempt = (
            "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, outcome, started_at)"
            " VALUES (1, 1, 1, 'sms', 'unknown', now())"
        )
        await connection.execute(text(attempt).execution_options(all_tenants="a test"))
    await act(idle, "pause")
    assert (await act(idle, "cancel"))["statuses"] == {"queued": 1, "canceled": 1}
    assert (await idle.get("/api/messages/1")).json()["due_at"] < "2100"


@pytest.mark.parametrize("first", ["pause", "resume", "cancel"])
async def test_asking_twice_changes_nothing_more(idle: httpx.AsyncClient, first: str) -> None:
    await send(idle, line())
    assert await act(idle, first) == await act(idle, first)


@pytest.mark.parametrize("action", ["pause", "resume"])
async def test_a_canceled_batch_stays_so(idle: httpx.AsyncClient, action: str) -> None:
    await send(idle, line())
    await act(idle, "cancel")
    problem_of(await idle.post(f"{PATH}/1/{action}"), 409)


@pytest.mark.parametrize("path", ["1", "1/results", "1/pause", "1/resume", "1/cancel"])
async def test_a_batch_that_is_not_there_is_404(idle: httpx.AsyncClient, path: str) -> None:
    method = "POST" if path.endswith(("pause", "resume", "cancel")) else "GET"
    problem_of(await idle.request(method, f"{PATH}/{path}"), 404)


@pytest.mark.parametrize(
    ("before", "state", "ends"),
    [
        ([], "paused", [(True, "queued")] * 3),
        (["pause"], "resuming", [(False, "queued")] * 3),
        (["pause"], "canceling", [(False, "canceled")] * 3),
    ],
)
async def test_a_worker_completes_what_was_interrupted(
    idle: httpx.AsyncClient,
    engine: AsyncEngine,
    database_url: str,
    before: list[str],
    state: str,
    ends: list[tuple[bool, str]],
) -> None:
    """Killed after the state was stored, and before a message was changed."""
    await send(idle, *(line(number) for number in range(3)))
    for action in before:
        await act(idle, action)
    run(database_url, f"UPDATE batches SET state = '{state}'")
    logged: list[int] = []
    await settle_batches(engine, on_due=lambda: None, on_logged=logged.append)
    assert stored(database_url, "coalesce(due_at >= '2100-01-01', false), status") == ends
    assert logged == [1]
    await settle_batches(engine, on_due=lambda: None, on_logged=logged.append)
    assert logged == [1]
    assert rows_of(database_url, "SELECT state FROM batches") == [(state,)]
    run(database_url, "UPDATE batches SET changed_at = now() - interval '2 minutes'")
    await settle_batches(engine, on_due=lambda: None, on_logged=logged.append)
    end = {"paused": "paused", "resuming": "running", "canceling": "canceled"}[state]
    assert rows_of(database_url, "SELECT state FROM batches") == [(end,)]


async def test_a_message_that_returns_to_the_queue_of_a_paused_batch_is_held(
    idle: httpx.AsyncClient, engine: AsyncEngine, database_url: str
) -> None:
    await send(idle, line(1), line(2))
    run(database_url, "UPDATE messages SET status = 'sending' WHERE id = 1")
    await act(idle, "pause")
    assert held(database_url) == [False, True]
    run(database_url, "UPDATE messages SET status = 'queued', due_at = now() WHERE id = 1")
    await settle_batches(engine, on_due=lambda: None, on_logged=lambda _: None)
    assert held(database_url) == [True, True]


def run(database_url: str, statement: str) -> None:
    rows_of(database_url, f"{statement} RETURNING 1")


async def test_two_requests_for_one_batch_store_each_line_once(idle: httpx.AsyncClient, database_url: str) -> None:
    lines = [line(number) for number in range(200)]
    answers = await asyncio.gather(*(send(idle, *lines) for _ in range(3)))
    assert answers[0].lines == answers[1].lines == answers[2].lines
    assert len(stored(database_url, "id")) == 200


async def test_a_database_that_stays_away_interrupts_the_batch(
    idle: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.batches.receiving._PATIENCE_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(MessageService, "send", away_for(line(1)["to"]))
        answer = await send(idle, *(line(number) for number in range(3)))
    assert answer.statuses == ["accepted", "unavailable", "accepted"]
    assert answer.summary["status"] == "interrupted"
    assert "Send the same lines with the same key again" in answer.summary["detail"]
    assert (await idle.get(f"{PATH}/1")).json()["completed_at"] is None
    again = await send(idle, *(line(number) for number in range(3)))
    assert (again.statuses, again.summary["status"]) == (["accepted"] * 3, "complete")


async def test_a_database_that_comes_back_in_time_is_waited_for(
    idle: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.batches.receiving._PATIENCE_SECONDS", 600)
    monkeypatch.setattr("app.services.batches.receiving._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(MessageService, "send", away_for(line(1)["to"], times=2))
    answer = await send(idle, *(line(number) for number in range(3)))
    assert (answer.statuses, answer.summary["status"]) == (["accepted"] * 3, "complete")


def away_for(recipient: str, times: int = 1000) -> Callable[..., Awaitable[StoredMessage]]:
    """A way to send by which the database is away for the messages to one recipient, so many times."""
    sends, left = MessageService.send, [times]

    async def send_or_not(self: MessageService, message: NewMessage, **sender: Any) -> StoredMessage:
        if message.recipient.value == recipient and left[0]:
            left[0] -= 1
            raise DatabaseUnavailable("The database is away.")
        return await sends(self, message, **sender)

    return send_or_not


async def test_a_line_that_fails_by_our_fault_fails_alone(
    idle: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = MessageService.send

    async def fail(self: MessageService, message: NewMessage, **sender: Any) -> StoredMessage:
        if message.batch_line == 2:
            raise ValueError("a bug")
        return await sends(self, message, **sender)

    monkeypatch.setattr(MessageService, "send", fail)
    log = captured()
    answer = await send(idle, *(line(number) for number in range(3)))
    assert answer.statuses == ["accepted", "refused", "accepted"]
    assert "batch_line_failed" in log.getvalue()


async def test_as_many_batches_are_read_at_once_as_may_be(
    idle: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.batches.service._MOST_OF_ONE", 0)
    answer = await idle.post(PATH, content=b"", headers=TYPE | KEY)
    assert problem_of(answer, 503)["title"] == "Overloaded"
    assert int(answer.headers["retry-after"]) > 0


async def test_more_lines_than_a_batch_may_have_are_not_read(
    idle: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.batches.receiving.MOST_LINES", 3)
    answer = await send(idle, *(line(number) for number in range(5)))
    assert answer.statuses == ["accepted"] * 3
    assert answer.summary["status"] == "interrupted"
    assert "another batch" in answer.summary["detail"]
    assert len(stored(database_url, "id")) == 3


async def test_json_of_a_line_is_one_object_a_line(idle: httpx.AsyncClient) -> None:
    answer = await send(idle, line(body="two\nlines\u2028three"))
    assert len(answer.response.content.split(b"\n")) == 3
    assert json.loads(answer.response.content.split(b"\n")[0])["status"] == "accepted"
