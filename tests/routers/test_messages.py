"""Sending: what is answered, when, and what of it can be read again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.cases import each_case
from tests.factories import CONTACT, CONTACT_EMAIL, CUSTOMER, CUSTOMER_EMAIL, SENDS, email, sms
from tests.wire import locations_of, problem_of, rows_of, stored

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


@pytest.mark.parametrize("path", SENDS)
async def test_a_send_is_answered_as_the_contract_says(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=SENDS[path]())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "message_id": "1",
        "provider_message_id": None,
        "conversation_id": 1,
        "status": "accepted",
        **({"segments": {"encoding": "gsm7", "count": 1, "forcing": []}} if path.endswith("sms") else {}),
    }
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize("path", SENDS)
async def test_what_is_accepted_is_committed(client: httpx.AsyncClient, database_url: str, path: str) -> None:
    answer = (await client.post(path, json=SENDS[path](body="committed"))).json()
    [row] = rows_of(database_url, "SELECT id, conversation_id, body, direction FROM messages")
    assert row == (int(answer["message_id"]), answer["conversation_id"], "committed", "outbound")


async def test_a_message_has_an_id_of_its_own_and_the_conversation_of_its_pair(client: httpx.AsyncClient) -> None:
    answers = [(await client.post("/api/messages/sms", json=sms())).json() for _ in range(2)]
    answers.append((await client.post("/api/messages/sms", json=sms(to="+18045559999"))).json())
    assert [(one["message_id"], one["conversation_id"]) for one in answers] == [("1", 1), ("2", 1), ("3", 2)]


@pytest.mark.parametrize(
    ("path", "request_body", "shown"),
    [
        ("/api/messages/sms", sms(type="sms"), {"channel": "sms", "type": "sms", "from": CUSTOMER, "to": CONTACT}),
        ("/api/messages/sms", sms(type="mms"), {"channel": "sms", "type": "mms", "from": CUSTOMER, "to": CONTACT}),
        (
            "/api/messages/email",
            email(subject="Greetings"),
            {
                "channel": "email",
                "type": "email",
                "from": CUSTOMER_EMAIL,
                "to": CONTACT_EMAIL,
                "subject": "Greetings",
            },
        ),
    ],
)
async def test_a_message_is_shown_with_its_channel_and_type(
    client: httpx.AsyncClient, path: str, request_body: dict[str, Any], shown: dict[str, str]
) -> None:
    await client.post(path, json=request_body)
    [message] = await stored(client)
    assert message["direction"] == "outbound"
    assert message["body"] == request_body["body"]
    assert {name: message[name] for name in shown} == shown


@pytest.mark.parametrize(
    ("attachments", "shown"),
    [
        (None, []),
        ([], []),
        (["https://example.com/image.jpg"], ["https://example.com/image.jpg"]),
        (
            ["https://example.com/b?c=d&e=%20#f", "HTTP://EXAMPLE.com", "https://example.com/b?c=d&e=%20#f"],
            ["https://example.com/b?c=d&e=%20#f", "HTTP://EXAMPLE.com", "https://example.com/b?c=d&e=%20#f"],
        ),
    ],
    ids=["null", "empty", "one", "three, as they were written"],
)
async def test_attachments_are_a_list_or_null(
    client: httpx.AsyncClient, attachments: list[str] | None, shown: list[str]
) -> None:
    for path, make in SENDS.items():
        assert (await client.post(path, json=make(attachments=attachments))).status_code == 200
    assert [message["attachments"] for message in await stored(client)] == [shown] * len(SENDS)


@pytest.mark.parametrize("path", SENDS)
async def test_attachments_and_timestamp_may_be_left_out(client: httpx.AsyncClient, path: str) -> None:
    given = SENDS[path]()
    del given["attachments"], given["timestamp"]
    assert (await client.post(path, json=given)).status_code == 200
    [message] = await stored(client)
    assert message["attachments"] == []
    assert message["sent_at"] == message["created_at"]


async def test_media_need_no_words(client: httpx.AsyncClient) -> None:
    given = sms(type="mms", body="", attachments=["https://example.com/image.jpg"])
    assert (await client.post("/api/messages/sms", json=given)).status_code == 200
    [message] = await stored(client)
    assert message["body"] == ""


async def test_html_in_a_mail_is_kept_as_it_is(client: httpx.AsyncClient) -> None:
    html = "<html>\r\n<body><p onclick='x()'>Grüße &amp; 😀</p></body></html>"
    await client.post("/api/messages/email", json=email(body=html))
    [message] = await stored(client)
    assert message["body"] == html


@pytest.mark.parametrize("path", SENDS)
async def test_fields_that_nobody_knows_are_ignored(client: httpx.AsyncClient, path: str) -> None:
    extra = {
        "id": 99,
        "status": "sent",
        "direction": "inbound",
        "tenant_id": 2,
        "conversation_id": 77,
        "x": {"y": []},
    }
    response = await client.post(path, json=SENDS[path](**extra))
    assert response.json()["message_id"] == "1"
    assert response.json()["conversation_id"] == 1
    [message] = await stored(client)
    assert message["direction"] == "outbound"


@each_case(
    ("path", "field"),
    [(path, field) for path in SENDS for field in ("from", "to", "type", "body") if field in SENDS[path]()],
)
async def test_a_missing_field_is_named(untouched: httpx.AsyncClient, path: str, field: str) -> None:
    given = SENDS[path]()
    del given[field]
    assert locations_of(await untouched.post(path, json=given)) == [f"body.{field}"]


@each_case("type_", ["email", "SMS", "", None, 1, ["sms"]])
async def test_a_text_is_sms_or_mms(untouched: httpx.AsyncClient, type_: object) -> None:
    assert locations_of(await untouched.post("/api/messages/sms", json=sms(type=type_))) == ["body.type"]


async def test_every_wrong_field_is_named_at_once_each_with_a_sentence(untouched: httpx.AsyncClient) -> None:
    given = sms(from_="nobody!", to="", type="fax", body=7, attachments="x", timestamp="yesterday")
    problem = problem_of(await untouched.post("/api/messages/sms", json=given), 422)
    said = {error["location"]: error["message"] for error in problem["errors"]}
    assert set(said) == {f"body.{field}" for field in ("from", "to", "type", "body", "attachments", "timestamp")}
    assert said["body.to"] == "an address can't be empty"
    assert said["body.timestamp"] == "write it as ISO 8601, such as 2024-11-01T14:00:00Z"


@pytest.mark.parametrize("path", SENDS)
async def test_who_prefers_to_wait_gets_the_provider_s_id(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=SENDS[path](), headers={"Prefer": "wait=10"})
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=10"
    answer = response.json()
    assert answer["status"] == "accepted"
    assert isinstance(answer["provider_message_id"], str)
    [message] = await stored(client)
    assert message["provider_message_id"] == answer["provider_message_id"]
    assert message["status"] == "sent"


async def test_waiting_ends_at_the_cap_and_says_so(settings: Settings, serve: Serve) -> None:
    nobody_delivers = settings.model_copy(update={"worker_enabled": False, "prefer_wait_seconds": 1})
    client = await serve(nobody_delivers)
    async with asyncio.timeout(60):
        response = await client.post("/api/messages/sms", json=sms(), headers={"Prefer": "wait=3600"})
    assert response.headers["preference-applied"] == "wait=1"
    assert (response.json()["status"], response.json()["provider_message_id"]) == ("accepted", None)


PREFERENCES = {
    "wait=7": "wait=7",
    "WAIT = 7": "wait=7",
    'wait="7"': "wait=7",
    "respond-async, wait=7": "wait=7",
    "wait=7, handling=lenient": "wait=7",
    "wait=99999999999999999999": "wait=30",
    "wait=0": None,
    "wait": None,
    "wait=": None,
    "wait=-1": None,
    "wait=soon": None,
    "await=7": None,
    "return=minimal": None,
    "": None,
}


@pytest.mark.slow
async def test_those_who_wait_leave_room_for_those_who_do_not(serve: Serve, settings: Settings) -> None:
    nobody_delivers = settings.model_copy(
        update={"worker_enabled": False, "max_requests_in_flight": 4, "prefer_wait_seconds": 2}
    )
    client = await serve(nobody_delivers)
    sending = [client.post("/api/messages/sms", json=sms(), headers={"Prefer": "wait=2"}) for _ in range(4)]
    answers = await asyncio.gather(*sending)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert sum("preference-applied" in answer.headers for answer in answers) == 2


async def test_a_preference_is_applied_or_ignored_and_never_refused(client: httpx.AsyncClient) -> None:
    for prefer, applied in PREFERENCES.items():
        response = await client.post("/api/messages/sms", json=sms(), headers={"Prefer": prefer})
        assert response.status_code == 200, prefer
        assert response.headers.get("preference-applied") == applied, prefer
        assert (response.json()["provider_message_id"] is not None) == (applied is not None), prefer


async def test_preferences_may_come_in_two_headers(client: httpx.AsyncClient) -> None:
    headers = [("Prefer", "respond-async"), ("Prefer", "wait=7")]
    response = await client.post("/api/messages/sms", json=sms(), headers=headers)
    assert response.headers["preference-applied"] == "wait=7"


async def test_a_message_can_be_asked_for_with_its_attempts(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/api/messages/sms", json=sms(), headers={"Prefer": "wait=10"})).json()
    message = (await client.get(f"/api/messages/{answer['message_id']}")).json()
    assert (message["id"], message["status"], message["body"]) == (1, "sent", "Hello!")
    [attempt] = message["attempts"]
    assert (attempt["number"], attempt["outcome"]) == (1, "accepted")
    assert attempt["provider_message_id"] == answer["provider_message_id"]


async def test_an_unknown_message_is_not_found(untouched: httpx.AsyncClient) -> None:
    assert problem_of(await untouched.get("/api/messages/1"), 404)["title"] == "Message not found"
