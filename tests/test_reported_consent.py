"""Reports of vendors about consent, from their callback to the message that is not sent any more."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.providers.registry import provider_registry
from app.testing.vendor import Vendor
from tests.factories import CONTACT, CUSTOMER, sms, until
from tests.providers import test_postmark, test_telnyx, test_twilio
from tests.providers.test_vendors_over_http import PUBLIC_URL, deliver, url_of
from tests.providers.test_vendors_over_http import reachable as reachable
from tests.providers.vendors import form, payload
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
JANE = "jane@example.com"
STOPPED = httpx.Response(400, json={"code": 21610, "message": "Attempt to send to unsubscribed recipient"})
BUSY = httpx.Response(429, json={"code": 20429, "message": "Too Many Requests"})


class Service:
    """A client of the service, whose messages leave by one vendor."""

    def __init__(self, client: httpx.AsyncClient, vendor: Vendor) -> None:
        self.client, self.vendor = client, vendor

    async def sends(self, channel: str, **message: Any) -> dict[str, Any]:
        """A message, once it has left or can't."""
        answer = await self.client.post(f"/api/messages/{channel}", json=message)
        assert answer.status_code == 200, answer.text

        async def look() -> dict[str, Any]:
            return dict((await self.client.get(f"/api/messages/{answer.json()['message_id']}")).json())

        return await until(look, lambda found: found["status"] not in {"queued", "sending"})

    async def mails(self, to: str = JANE) -> dict[str, Any]:
        mail = {"from": "shop@example.com", "to": to, "body": "Hello!", "attachments": None}
        return await self.sends("email", **mail)

    async def texts(self, **changes: object) -> dict[str, Any]:
        return await self.sends("sms", **sms(**changes))

    async def hears(self, event: dict[str, Any], *, at: datetime | None = None) -> None:
        """An event of Postmark's about the last mail that it has got."""
        reference = json.loads(self.vendor.requests[-1].content)["Metadata"]["reference"]
        moment = (at or datetime.now(UTC)).isoformat()
        times = {name: moment for name in ("BouncedAt", "ChangedAt", "DeliveredAt") if name in event}
        body = json.dumps({**event, **times, "Metadata": {"reference": reference}}).encode()
        assert (await deliver(self.client, test_postmark.of(body))).status_code == 200

    async def receives(self, body: str, *, to: str = CUSTOMER, **fields: str) -> None:
        """A text of the person's, as Twilio brings it."""
        given = {"MessageSid": f"SM{body}{len(fields)}", "From": CONTACT, "To": to, "Body": body, **fields}
        callback = test_twilio.signed(form(given.items()), url=url_of("twilio"))
        assert (await deliver(self.client, callback)).status_code == 200


def event(name: str, **values: Any) -> dict[str, Any]:
    return {**json.loads(payload("postmark", f"{name}.json")), **values}


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
def start(serve: Serve, reachable: Settings, monkeypatch: pytest.MonkeyPatch) -> Start:
    async def started(channel: str, name: str, make: Callable[..., Any], *answers: httpx.Response) -> Service:
        vendor = Vendor(*answers)
        monkeypatch.setitem(provider_registry, name, make(vendor))
        changes = {"routes": {channel: [name]}, "stop_reply": "You get no more.", "retry_base_seconds": 0.01}
        return Service(await serve(reachable.model_copy(update=changes)), vendor)

    return started


def accepted(count: int = 9) -> list[httpx.Response]:
    return [httpx.Response(200, json={"MessageID": f"id-{n}", "ErrorCode": 0, "Message": "OK"}) for n in range(count)]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (event("spam-complaint"), "The recipient has marked an earlier mail as spam."),
        (event("bounce"), "An earlier mail to this address bounced for good."),
        (
            event("subscription-change", SuppressionReason="ManualSuppression"),
            "The recipient has unsubscribed by mail.",
        ),
        (event("bounce", Type="ManuallyDeactivated"), "The recipient has opted out at the provider."),
    ],
)
async def test_after_a_report_no_mail_is_sent_to_the_address(start: Start, said: dict[str, Any], reason: str) -> None:
    service = await start("email", "postmark", test_postmark.provider, *accepted())
    assert (await service.mails())["status"] == "sent"
    await service.hears(said)
    refused = await service.mails()
    assert (refused["status"], refused["status_reason"], refused["attempts"]) == ("suppressed", reason, [])
    assert len(service.vendor.requests) == 1
    assert (await service.mails("max@example.com"))["status"] == "sent"


async def test_who_subscribes_again_gets_mail_again_but_not_after_a_complaint(start: Start) -> None:
    service = await start("email", "postmark", test_postmark.provider, *accepted())
    await service.mails()
    now = datetime.now(UTC)
    again = event("subscription-change", SuppressSending=False, SuppressionReason=None)
    await service.hears(event("subscription-change", SuppressionReason="ManualSuppression"))
    assert (await service.mails())["status"] == "suppressed"
    await service.hears(again, at=now + timedelta(minutes=1))
    assert (await service.mails())["status"] == "sent"
    await service.hears(event("spam-complaint"), at=now + timedelta(minutes=2))
    await service.hears(again, at=now + timedelta(minutes=3))
    assert (await service.mails())["status_reason"] == "The recipient has marked an earlier mail as spam."


@pytest.mark.parametrize(
    "said", [event("delivery"), event("bounce", Type="Blocked"), event("bounce", Type="SoftBounce")]
)
async def test_a_report_that_is_not_about_the_address_changes_nothing(start: Start, said: dict[str, Any]) -> None:
    service = await start("email", "postmark", test_postmark.provider, *accepted())
    await service.mails()
    await service.hears(said)
    assert (await service.mails())["status"] == "sent"


async def test_an_inactive_recipient_is_asked_for_once(start: Start, database_url: str) -> None:
    inactive = {"ErrorCode": 406, "Message": f"Found inactive addresses: {JANE}"}
    service = await start("email", "postmark", test_postmark.provider, httpx.Response(422, json=inactive))
    assert (await service.mails())["status"] == "failed"
    assert (await service.mails())["status_reason"] == "The recipient has opted out at the provider."
    assert len(service.vendor.requests) == 1
    [(address, detail)] = rows_of(database_url, "SELECT address, detail FROM consent_entries")
    assert address == JANE
    assert detail == "postmark 406 Found inactive addresses: j***@***.com"


async def test_a_number_that_twilio_refuses_is_asked_for_once_until_start(start: Start, database_url: str) -> None:
    answers = [STOPPED, httpx.Response(201, json={"sid": "SM1", "status": "queued"})]
    service = await start("sms", "twilio", test_twilio.provider, *answers)
    failed = await service.texts()
    assert (failed["status"], failed["status_reason"]) == (
        "failed",
        "21610 Attempt to send to unsubscribed recipient",
    )
    refused = await service.texts(from_="+12016665678")
    assert (refused["status"], refused["status_reason"]) == (
        "suppressed",
        "The recipient has opted out at the provider.",
    )
    found = rows_of(database_url, "SELECT source, message_id, detail FROM consent_entries")
    assert found == [("vendor", failed["id"], "twilio 21610 Attempt to send to unsubscribed recipient")]
    await service.receives("START", OptOutType="START")
    assert (await service.texts())["status"] == "sent"


async def test_a_status_callback_says_the_same_as_an_answer(start: Start) -> None:
    accepted = httpx.Response(201, json={"sid": "SM1", "status": "queued"})
    service = await start("sms", "twilio", test_twilio.provider, accepted)
    await service.texts()
    fields = {"MessageSid": "SM1", "MessageStatus": "failed", "ErrorCode": "21610", "To": CONTACT, "From": CUSTOMER}
    callback = test_twilio.signed(form(fields.items()), url=url_of("twilio"))
    answers = await asyncio.gather(*(deliver(service.client, callback) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert (await service.texts())["status_reason"] == "The recipient has opted out at the provider."
    types = [each["type"] for each in (await service.client.get("/api/events")).json()["events"]]
    assert types.count("consent.revoked") == 1


async def test_an_error_that_may_pass_is_tried_again(start: Start, database_url: str) -> None:
    answers = [BUSY, httpx.Response(201, json={"sid": "SM1", "status": "queued"})]
    service = await start("sms", "twilio", test_twilio.provider, *answers)
    assert (await service.texts())["status"] == "sent"
    assert rows_of(database_url, "SELECT * FROM consent_entries") == []


async def test_a_stop_that_twilio_has_answered_gets_no_second_answer(start: Start, database_url: str) -> None:
    service = await start("sms", "twilio", test_twilio.provider, httpx.Response(201, json={"sid": "SM1"}))
    await service.receives("Arrêt svp", OptOutType="STOP")
    assert (await service.texts())["status_reason"] == "The recipient has opted out at the provider."
    assert rows_of(database_url, "SELECT source FROM consent_entries") == [("vendor",)]
    assert rows_of(database_url, "SELECT status FROM messages WHERE direction = 'outbound'") == [("suppressed",)]
    assert service.vendor.requests == []


async def test_a_stop_that_telnyx_has_answered_gets_no_second_answer(start: Start, database_url: str) -> None:
    service = await start("sms", "telnyx", test_telnyx.provider, httpx.Response(200, json={"data": {"id": "1"}}))
    message = {
        "id": "inbound-1",
        "type": "SMS",
        "from": {"phone_number": CONTACT},
        "to": [{"phone_number": CUSTOMER}],
        "text": "STOP",
        "autoresponse_type": "STOP",
    }
    document = {"data": {"id": "event-1", "event_type": "message.received", "payload": message}}
    callback = test_telnyx.signed(json.dumps(document).encode(), at=datetime.now(UTC))
    assert callback.url.startswith(PUBLIC_URL)
    assert (await deliver(service.client, callback)).status_code == 200
    assert rows_of(database_url, "SELECT source FROM consent_entries") == [("vendor",)]
    assert (await service.texts())["status"] == "suppressed"
    assert service.vendor.requests == []
