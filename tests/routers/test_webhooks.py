"""Receiving: stored exactly once, and answered the same however often it comes."""

from typing import Any

import httpx
import pytest

from tests.cases import each_case
from tests.factories import (
    CONTACT,
    CONTACT_EMAIL,
    CUSTOMER,
    CUSTOMER_EMAIL,
    WEBHOOKS,
    email_webhook,
    sms,
    sms_webhook,
)
from tests.wire import locations_of, row_counts, rows_of, stored

pytestmark = pytest.mark.anyio

PROVIDER_ID = {"/api/webhooks/sms": "messaging_provider_id", "/api/webhooks/email": "xillio_id"}


@pytest.mark.parametrize("path", WEBHOOKS)
async def test_what_comes_in_is_committed_and_answered_ok(
    client: httpx.AsyncClient, database_url: str, path: str
) -> None:
    response = await client.post(path, json=WEBHOOKS[path](body="committed"))
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert response.headers["content-type"] == "application/json"
    assert rows_of(database_url, "SELECT direction, body FROM messages") == [("inbound", "committed")]


@pytest.mark.parametrize(
    ("path", "request_body", "shown"),
    [
        ("/api/webhooks/sms", sms_webhook(), {"channel": "sms", "type": "sms", "from": CONTACT, "to": CUSTOMER}),
        (
            "/api/webhooks/sms",
            sms_webhook(type="mms", attachments=["https://example.com/image.jpg"]),
            {"channel": "sms", "type": "mms", "attachments": ["https://example.com/image.jpg"]},
        ),
        (
            "/api/webhooks/sms",
            sms_webhook(attachments=["media-id-17"]),  # some providers name media instead of giving a URL
            {"attachments": ["media-id-17"]},
        ),
        (
            "/api/webhooks/email",
            email_webhook(),
            {"channel": "email", "type": "email", "from": CONTACT_EMAIL, "to": CUSTOMER_EMAIL},
        ),
        ("/api/webhooks/sms", sms_webhook(), {"provider_type": "sms", "provider_message_id": "message-1"}),
        ("/api/webhooks/email", email_webhook(), {"provider_type": "email", "provider_message_id": "message-2"}),
        ("/api/webhooks/sms", sms_webhook(attachments=[]), {"attachments": [], "status": "received"}),
    ],
)
async def test_a_message_that_came_in_is_shown_as_it_came(
    client: httpx.AsyncClient, path: str, request_body: dict[str, Any], shown: dict[str, object]
) -> None:
    assert (await client.post(path, json=request_body)).status_code == 200
    [message] = await stored(client)
    assert message["direction"] == "inbound"
    assert message["body"] == request_body["body"]
    assert {name: message[name] for name in shown} == shown


@pytest.mark.parametrize("path", WEBHOOKS)
async def test_a_repeat_is_answered_ok_and_stores_nothing(
    client: httpx.AsyncClient, database_url: str, path: str
) -> None:
    await client.post(path, json=WEBHOOKS[path](body="first"))
    before = row_counts(database_url)
    for repeat in (WEBHOOKS[path](body="first"), WEBHOOKS[path](body="other words, same id")):
        response = await client.post(path, json=repeat)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert row_counts(database_url) == before
    [message] = await stored(client)
    assert message["body"] == "first"


async def test_a_repeat_that_names_other_ends_makes_no_conversation(
    client: httpx.AsyncClient, database_url: str
) -> None:
    await client.post("/api/webhooks/sms", json=sms_webhook())
    before = row_counts(database_url)
    assert (await client.post("/api/webhooks/sms", json=sms_webhook(from_="+18045559999"))).status_code == 200
    assert row_counts(database_url) == before


async def test_one_id_from_two_kinds_of_provider_is_two_messages(client: httpx.AsyncClient) -> None:
    await client.post("/api/webhooks/sms", json=sms_webhook(messaging_provider_id="message-1"))
    await client.post("/api/webhooks/email", json=email_webhook(xillio_id="message-1"))
    messages = await stored(client)
    assert [(one["channel"], one["provider_message_id"]) for one in messages] == [
        ("sms", "message-1"),
        ("email", "message-1"),
    ]


async def test_an_mms_and_an_sms_share_the_ids_of_their_provider(client: httpx.AsyncClient) -> None:
    await client.post("/api/webhooks/sms", json=sms_webhook(type="sms"))
    await client.post("/api/webhooks/sms", json=sms_webhook(type="mms"))
    assert [one["type"] for one in await stored(client)] == ["sms"]


@pytest.mark.parametrize("path", WEBHOOKS)
async def test_an_id_is_compared_to_the_letter(client: httpx.AsyncClient, path: str) -> None:
    ids = ["Message-1", "message-1", "message-1 ", "0", "00"]
    for provider_id in ids:
        await client.post(path, json=WEBHOOKS[path](**{PROVIDER_ID[path]: provider_id}))
    assert [one["provider_message_id"] for one in await stored(client)] == ids


@each_case("provider_id", [None, "", 17, ["message-1"], "left out"])
async def test_without_a_provider_s_id_nothing_is_stored(untouched: httpx.AsyncClient, provider_id: object) -> None:
    for path in WEBHOOKS:
        given = WEBHOOKS[path](**{PROVIDER_ID[path]: provider_id})
        if provider_id == "left out":
            del given[PROVIDER_ID[path]]
        assert locations_of(await untouched.post(path, json=given)) == [f"body.{PROVIDER_ID[path]}"]


async def test_each_kind_of_provider_has_its_own_name_for_its_id(untouched: httpx.AsyncClient) -> None:
    mail = email_webhook(messaging_provider_id="message-2")
    del mail["xillio_id"]
    assert locations_of(await untouched.post("/api/webhooks/email", json=mail)) == ["body.xillio_id"]


@pytest.mark.parametrize("body", ["", "  ", None])
async def test_a_message_without_words_is_stored_all_the_same(client: httpx.AsyncClient, body: str | None) -> None:
    for path, make in WEBHOOKS.items():
        assert (await client.post(path, json=make(body=body))).status_code == 200
    assert [message["body"] for message in await stored(client)] == [body or ""] * len(WEBHOOKS)


@pytest.mark.parametrize("path", WEBHOOKS)
async def test_what_providers_add_is_ignored(client: httpx.AsyncClient, path: str) -> None:
    extra = {"account_sid": "AC1", "direction": "outbound", "status": "queued", "num_segments": 1, "x": [{"y": None}]}
    assert (await client.post(path, json=WEBHOOKS[path](**extra))).status_code == 200
    [message] = await stored(client)
    assert (message["direction"], message["status"]) == ("inbound", "received")


@pytest.mark.parametrize("sender", ["12345", "ALERTS", "My Bank 24"])
async def test_short_codes_and_alphanumeric_senders_can_write_to_us(client: httpx.AsyncClient, sender: str) -> None:
    assert (await client.post("/api/webhooks/sms", json=sms_webhook(from_=sender))).status_code == 200
    [message] = await stored(client)
    assert message["from"] == sender


@pytest.mark.parametrize(
    ("path", "given"), [("/api/messages/sms", sms(to="ALERTS")), ("/api/webhooks/sms", sms_webhook(to="ALERTS"))]
)
async def test_nobody_can_write_to_an_alphanumeric_sender(
    untouched: httpx.AsyncClient, path: str, given: dict[str, Any]
) -> None:
    assert locations_of(await untouched.post(path, json=given)) == ["body.to"]
