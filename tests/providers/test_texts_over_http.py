"""Groups and signatures that do not cover the body, through the application."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.providers.base import Callback
from app.providers.registry import provider_registry
from app.testing.vendor import Vendor
from tests.factories import sms, until
from tests.providers import test_plivo, test_telnyx
from tests.providers.test_vendors_over_http import PUBLIC_URL, Serve, deliver, url_of
from tests.providers.test_vendors_over_http import reachable as reachable
from tests.providers.vendors import call, form
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

OURS, JANE, MAX = "+12016661234", "+18045551234", "+18045557777"
GROUP = f"group:{JANE},{MAX}"


def received(id_: str, sender: str, *others: str) -> Callback:
    message: dict[str, Any] = {
        "id": id_,
        "type": "MMS",
        "from": {"phone_number": sender},
        "to": [{"phone_number": OURS}],
        "cc": [{"phone_number": other} for other in others],
        "text": f"from {sender}",
    }
    event = {"data": {"id": id_, "event_type": "message.received", "payload": message}}
    return test_telnyx.signed(json.dumps(event).encode(), at=datetime.now(UTC))


async def test_a_group_is_one_conversation_that_is_answered_and_erased_with_its_members(
    serve: Serve, reachable: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = Vendor(httpx.Response(200, json={"data": {"id": "40385f64"}}))
    monkeypatch.setitem(provider_registry, "telnyx", test_telnyx.provider(vendor))
    client = await serve(reachable.model_copy(update={"routes": {"sms": ["telnyx"]}}))
    for callback in (received("1", JANE, MAX), received("2", MAX, JANE), received("3", JANE)):
        assert (await deliver(client, callback)).status_code == 200
    answer = {"from": OURS, "to": GROUP, "type": "mms", "body": "Hello all", "attachments": []}
    sent = await client.post("/api/messages/sms", json=answer)
    assert sent.status_code == 200, sent.text

    async def status() -> str:
        return str((await client.get(f"/api/messages/{sent.json()['message_id']}")).json()["status"])

    await until(status, lambda found: found == "sent")
    assert json.loads(vendor.request.content)["to"] == [JANE, MAX]
    stored = (await client.get("/api/messages")).json()
    conversations = {each["body"]: each["conversation_id"] for each in stored}
    of_group = {each["conversation_id"] for each in stored if GROUP in (each["from"], each["to"])}
    assert of_group == {conversations["Hello all"]}
    authors = {each["author"] for each in stored if each["from"] == GROUP}
    assert authors == {JANE, MAX}

    [jane] = (await client.get("/api/contacts", params={"address": JANE})).json()
    assert (await client.delete(f"/api/contacts/{jane['id']}")).status_code == 200
    assert rows_of(database_url, "SELECT body FROM messages UNION SELECT url FROM webhook_calls") == []
    for table in ("contacts", "conversations", "provider_events"):
        assert JANE[1:] not in str(rows_of(database_url, f"SELECT to_jsonb({table})::text FROM {table}"))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["delivered first", "failed first"])
async def test_a_text_of_which_a_part_failed_did_not_arrive(
    serve: Serve, reachable: Settings, monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    vendor = Vendor(httpx.Response(202, json={"message_uuid": ["whole"]}))
    monkeypatch.setitem(provider_registry, "plivo", test_plivo.provider(vendor))
    client = await serve(reachable.model_copy(update={"routes": {"sms": ["plivo"]}}))
    message_id = (await client.post("/api/messages/sms", json=sms())).json()["message_id"]

    async def message() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
        return found

    await until(message, lambda found: found["status"] == "sent")
    parts = {
        1: {"MessageUUID": "whole", "PartInfo": "1 of 2", "Status": "delivered"},
        2: {"MessageUUID": "second", "ParentMessageUUID": "whole", "PartInfo": "2 of 2", "Status": "undelivered"},
    }
    for part in order:
        callback = test_plivo.signed(form(parts[part].items()), url=url_of("plivo"))
        assert (await deliver(client, callback)).status_code == 200
    found = await until(message, lambda found: found["status"] == "undelivered")
    assert found["status_reason"].startswith("In part: part 2 of 2 undelivered")


async def test_a_signature_that_does_not_cover_the_body_is_good_for_one_message(
    serve: Serve, reachable: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "plivo", test_plivo.provider())
    client = await serve(reachable)
    url = url_of("plivo")
    headers = {
        "x-plivo-signature-v2": test_plivo.v2_of("17", url=url),
        "x-plivo-signature-v2-nonce": "17",
        "content-type": "application/x-www-form-urlencoded",
    }

    async def post(id_: str, words: str) -> int:
        body = form({"MessageUUID": id_, "From": JANE[1:], "To": OURS[1:], "Text": words}.items())
        return (await deliver(client, call(url, body, headers))).status_code

    assert [await post("1", "first"), await post("1", "first"), await post("2", "forged")] == [200, 200, 401]
    assert rows_of(database_url, "SELECT body FROM messages") == [("first",)]
    assert url.startswith(PUBLIC_URL)
