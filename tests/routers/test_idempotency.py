"""`Idempotency-Key` on sends: a repeat is the same message in every process and every spelling."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import Text, cast, func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.models import Message
from app.schemas.sending import SmsSend
from app.services.delivery.housekeeping import forget_idempotency_keys
from tests.cases import each_case
from tests.factories import SENDS, email, make_messages, sms, until
from tests.wire import locations_of, problem_of, row_counts, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
KEY = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}


@pytest.fixture
def quiet(settings: Settings) -> Settings:
    """An application that does not deliver."""
    return settings.model_copy(update={"worker_enabled": False})


@pytest.fixture
async def idle(serve: Serve, quiet: Settings) -> httpx.AsyncClient:
    return await serve(quiet)


@pytest.mark.parametrize("path", SENDS)
async def test_the_same_key_with_the_same_body_is_answered_like_the_first_time_and_stores_nothing(
    idle: httpx.AsyncClient, database_url: str, path: str
) -> None:
    first = await idle.post(path, json=SENDS[path](), headers=KEY)
    assert "idempotent-replayed" not in first.headers
    before = row_counts(database_url)
    for _ in range(2):
        again = await idle.post(path, json=SENDS[path](), headers=KEY)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    assert row_counts(database_url) == before
    assert before["messages"] == 1


async def test_without_a_key_every_send_is_a_message(idle: httpx.AsyncClient, database_url: str) -> None:
    for _ in range(2):
        answer = await idle.post("/api/messages/sms", json=sms())
        assert "idempotent-replayed" not in answer.headers
    assert row_counts(database_url)["messages"] == 2


CHANGES = {
    "from": {"from_": "+12016669999"},
    "to": {"to": "+18045559999"},
    "type": {"type": "mms"},
    "body": {"body": "Hello"},
    "attachments": {"attachments": ["https://example.com/a.jpg"]},
    "timestamp": {"timestamp": "2024-11-01T14:00:01Z"},
    "send_at": {"send_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()},
    "expires_at": {"expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()},
}


@each_case("changes", CHANGES.values(), ids=CHANGES)
async def test_the_same_key_with_another_body_is_refused_and_stores_nothing(
    idle: httpx.AsyncClient, database_url: str, changes: dict[str, object]
) -> None:
    await idle.post("/api/messages/sms", json=sms(), headers=KEY)
    before = row_counts(database_url)
    problem = problem_of(await idle.post("/api/messages/sms", json=sms(**changes), headers=KEY), 422)
    assert problem["title"] == "Idempotency key reused"
    assert row_counts(database_url) == before
    assert (await idle.post("/api/messages/sms", json=sms(), headers=KEY)).status_code == 200


async def test_how_the_json_is_written_does_not_matter(idle: httpx.AsyncClient) -> None:
    given = sms(body="Grüße 😀")
    spellings = [
        json.dumps(given),
        json.dumps(given, indent=4),
        json.dumps(given, ensure_ascii=False),
        json.dumps(dict(reversed(given.items())), separators=(",", ":")),
        json.dumps(given | {"something": "that we ignore"}),
        json.dumps(given | {"attachments": []}),
        json.dumps(given | {"timestamp": "2024-11-01T15:00:00+01:00"}),
    ]
    headers = KEY | {"Content-Type": "application/json"}
    answers = [
        await idle.post("/api/messages/sms", content=spelling.encode(), headers=headers) for spelling in spellings
    ]
    assert [answer.json() for answer in answers] == [answers[0].json()] * len(spellings)
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None] + ["true"] * 6


def test_a_field_that_another_version_has_changes_nothing_for_who_does_not_use_it() -> None:
    class Later(SmsSend):
        urgency: int = 5

    def fingerprint(kind: type[SmsSend], **changes: object) -> str | None:
        return kind.model_validate(sms(**changes)).new_message(1, "key").fingerprint

    assert fingerprint(Later) == fingerprint(SmsSend)
    assert fingerprint(Later, urgency=6) != fingerprint(SmsSend)


async def test_a_text_and_a_mail_may_have_the_same_key(idle: httpx.AsyncClient) -> None:
    answers = [await idle.post(path, json=make(), headers=KEY) for path, make in SENDS.items()]
    assert [answer.json()["message_id"] for answer in answers] == ["1", "2"]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, None]


async def test_keys_are_compared_to_the_letter(idle: httpx.AsyncClient) -> None:
    keys = ["key", "KEY", "key.", "k", "~", "!" * 255, "a:b,c;d\"e'"]
    ids = [
        (await idle.post("/api/messages/sms", json=sms(), headers={"Idempotency-Key": key})).json()["message_id"]
        for key in keys
    ]
    assert len(set(ids)) == len(keys)


@pytest.mark.parametrize("count", [1, 5])
async def test_fifty_copies_at_once_through_two_applications_make_one_message(
    serve: Serve, quiet: Settings, database_url: str, count: int
) -> None:
    clients = [await serve(quiet), await serve(quiet)]
    copies = [
        client.post("/api/messages/sms", json=sms(body=str(number)), headers={"Idempotency-Key": f"key-{number}"})
        for _ in range(25)
        for number in range(count)
        for client in clients
    ]
    answers = await asyncio.gather(*copies)
    assert Counter(answer.status_code for answer in answers) == {200: 50 * count}
    assert sorted(Counter(answer.json()["message_id"] for answer in answers).values()) == [50] * count
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == count
    assert row_counts(database_url)["messages"] == count
    assert rows_of(database_url, "SELECT message_count FROM conversations") == [(count,)]


async def test_of_two_bodies_with_one_key_at_once_one_wins_and_the_other_is_refused(
    serve: Serve, quiet: Settings, database_url: str
) -> None:
    clients = [await serve(quiet), await serve(quiet)]
    posts = [
        clients[number % 2].post("/api/messages/sms", json=sms(body=str(number // 2 % 2)), headers=KEY)
        for number in range(40)
    ]
    answers = await asyncio.gather(*posts)
    assert Counter(answer.status_code for answer in answers) == {200: 20, 422: 20}
    [(body,)] = rows_of(database_url, "SELECT body FROM messages")
    for number, answer in enumerate(answers):
        assert (answer.status_code == 200) == (str(number // 2 % 2) == body)


@each_case(
    "key", [b"", b"k" * 256, "schlüssel".encode(), "schlüssel".encode("latin-1"), b"two words", b"\x7f", b"tab\there"]
)
async def test_a_key_is_made_of_1_to_255_visible_ascii_characters(untouched: httpx.AsyncClient, key: bytes) -> None:
    answer = await untouched.post("/api/messages/sms", json=sms(), headers=[(b"Idempotency-Key", key)])
    assert locations_of(answer) == ["header.Idempotency-Key"]


async def test_the_longest_key_is_kept_whole(idle: httpx.AsyncClient) -> None:
    longest = {"Idempotency-Key": "k" * 255}
    await idle.post("/api/messages/sms", json=sms(), headers=longest)
    again = await idle.post("/api/messages/sms", json=sms(), headers=longest)
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_malformed_request_uses_up_no_key(idle: httpx.AsyncClient) -> None:
    assert (await idle.post("/api/messages/sms", json=sms(to=""), headers=KEY)).status_code == 422
    answer = await idle.post("/api/messages/sms", json=sms(), headers=KEY)
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers


async def test_a_key_is_free_again_after_its_time(
    idle: httpx.AsyncClient, settings: Settings, database_url: str
) -> None:
    engine = create_serving_engine(database_url, settings)

    async def forget(age_seconds: float) -> int:
        return await forget_idempotency_keys(engine, 1, age_seconds)

    await idle.post("/api/messages/sms", json=sms(), headers=KEY)
    await idle.post("/api/messages/sms", json=sms())
    assert await forget(3600) == 0
    assert (await idle.post("/api/messages/sms", json=sms(), headers=KEY)).headers["idempotent-replayed"] == "true"
    assert await forget(0) == 1
    assert await forget(0) == 0
    await engine.dispose()
    other = await idle.post("/api/messages/sms", json=sms(body="another"), headers=KEY)
    assert (other.status_code, other.json()["message_id"]) == (200, "3")
    assert "idempotent-replayed" not in other.headers
    assert rows_of(database_url, "SELECT body FROM messages ORDER BY id") == [("Hello!",), ("Hello!",), ("another",)]


async def test_keys_are_freed_as_fast_as_they_come(engine: AsyncEngine, database_url: str) -> None:
    """However many are over at once: who cleans up now and then does not fall behind."""
    async with engine.begin() as connection:
        ids = [id for _ in range(5) for id in await make_messages(connection, 300)]
        await connection.execute(
            update(Message)
            .where(Message.tenant_id == 1, Message.id.in_(ids))
            .values(idempotency_key=cast(Message.id, Text), created_at=func.now() - timedelta(days=2))
        )
    assert await forget_idempotency_keys(engine, 1, 3600) == 1_500
    assert rows_of(database_url, "SELECT count(*) FROM messages WHERE idempotency_key IS NOT NULL") == [(0,)]


async def test_a_replay_may_wait_for_the_provider_s_id(client: httpx.AsyncClient) -> None:
    first = await client.post("/api/messages/sms", json=sms(), headers=KEY)
    again = await client.post("/api/messages/sms", json=sms(), headers=KEY | {"Prefer": "wait=10"})
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["preference-applied"] == "wait=10"
    assert again.json()["provider_message_id"] is not None
    assert again.json()["message_id"] == first.json()["message_id"]


async def test_a_message_is_replayed_also_when_it_is_over_and_done_with(
    client: httpx.AsyncClient, database_url: str
) -> None:
    first = await client.post("/api/messages/email", json=email(), headers=KEY | {"Prefer": "wait=10"})
    again = await client.post("/api/messages/email", json=email(), headers=KEY)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["message_id"] == first.json()["message_id"]
    assert row_counts(database_url)["messages"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("field", ["send_at", "expires_at"])
async def test_a_repeat_that_comes_after_the_time_it_names_is_still_a_repeat(
    idle: httpx.AsyncClient, field: str
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=1)
    given = sms(**{field: moment.isoformat()})
    first = await idle.post("/api/messages/sms", json=given, headers=KEY)
    assert first.status_code == 200
    await until(lambda: asyncio.sleep(0, datetime.now(UTC)), lambda now: now > moment)
    again = await idle.post("/api/messages/sms", json=given, headers=KEY)
    assert (again.status_code, again.json()) == (200, first.json())
