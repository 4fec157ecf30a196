"""The simulator in vendors' wire formats: callbacks checked by official libraries, and malformed requests."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from pydantic import SecretStr
from sendgrid.helpers.eventwebhook import EventWebhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from twilio.request_validator import RequestValidator

from app.providers.base import Callback, InboundMessage
from app.providers.sendgrid import SendgridSettings
from app.providers.twilio import TwilioProvider, TwilioSettings
from app.providers.whatsapp import WhatsappSettings
from app.simulator.application import create_simulator
from tests.live import LOCAL
from tests.providers import simulator_settings
from tests.providers.conftest import served
from tests.providers.wire.sendgrid import SendgridFormat
from tests.providers.wire.twilio import TwilioFormat
from tests.providers.wire.whatsapp import WhatsappFormat

pytestmark = pytest.mark.anyio

ACCOUNT, AUTH, APP_SECRET = "AC00000000000000000000000000000001", "f" * 32, "app-secret"
TWILIO = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
SENDGRID, WHATSAPP = "/v3/mail/send", "/v23.0/106540352242922/messages"
AUTHORIZED = {"Authorization": "Bearer whatever"}


@dataclass(frozen=True)
class Called:
    url: str
    headers: httpx.Headers
    body: bytes


class Service:
    """Takes the place of the service, and keeps the callbacks it gets."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Called] = asyncio.Queue()
        self.app = Starlette(routes=[Route("/{path:path}", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.calls.put_nowait(Called(str(request.url), httpx.Headers(request.headers.raw), await request.body()))
        return Response()

    async def next(self) -> Called:
        async with asyncio.timeout(60):
            return await self.calls.get()


@dataclass(frozen=True)
class Rig:
    url: str
    service: Service
    service_url: str
    sendgrid: SendgridFormat
    client: httpx.AsyncClient

    async def ask(self, path: str, **request: Any) -> httpx.Response:
        return await self.client.post(f"{self.url}{path}", **{"headers": AUTHORIZED, **request})


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_with(tmp_path, TwilioSettings(_env_file=None, auth_token=SecretStr(f"{AUTH},{'0' * 32}"))) as rig:
        yield rig


@asynccontextmanager
async def rig_with(directory: Path, twilio: TwilioSettings, **settings: object) -> AsyncIterator[Rig]:
    service = Service()
    async with served(service.app) as service_url, httpx.AsyncClient(verify=LOCAL) as client:
        sendgrid = SendgridFormat(
            SendgridSettings(_env_file=None, inbound_token=SecretStr("a+token")), f"{service_url}/sendgrid"
        )
        whatsapp = WhatsappSettings(
            _env_file=None, app_secret=SecretStr(APP_SECRET), phone_number_ids="+15550783881:106540352242922"
        )
        formats = [
            TwilioFormat(twilio, f"{service_url}/twilio"),
            sendgrid,
            WhatsappFormat(whatsapp, f"{service_url}/whatsapp"),
        ]
        app = create_simulator(simulator_settings(**settings), directory / "ledger.jsonl", None, formats)
        async with served(app) as url:
            yield Rig(url, service, service_url, sendgrid, client)


def text(to: str, **fields: str) -> dict[str, str]:
    return {"To": to, "From": "+12016661234", "Body": "Grüße", **fields}


def mail(to: str, **changes: object) -> dict[str, object]:
    return {
        "personalizations": [{"to": [{"email": to}], "custom_args": {"reference": "1-17"}}],
        "from": {"email": "shop@example.com"},
        "subject": "Greetings",
        "content": [{"type": "text/plain", "value": "Hello!"}],
        "headers": {"Message-ID": "<1-17@example.com>"},
        **changes,
    }


def whatsapp(to: str, **changes: object) -> dict[str, object]:
    message = {"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": "Hello!"}}
    return {**message, "biz_opaque_callback_data": "1-17", **changes}


async def test_twilio_s_own_library_finds_its_calls_signed(rig: Rig) -> None:
    status_callback = f"{rig.service_url}/receipts?ref=1-17"
    answer = await rig.ask(TWILIO, data=text("+15005553000", StatusCallback=status_callback))
    assert answer.status_code == 201
    validator = RequestValidator(AUTH)
    calls = [await rig.service.next() for _ in range(3)]
    for call in calls:
        fields = dict(parse_qsl(call.body.decode(), keep_blank_values=True))
        assert validator.validate(call.url, fields, call.headers["x-twilio-signature"])
        assert fields["AccountSid"] == ACCOUNT
    assert sorted(call.url for call in calls) == sorted(
        [status_callback, status_callback, f"{rig.service_url}/twilio"]
    )


@pytest.mark.parametrize("vendor", ["twilio", "sendgrid", "whatsapp"])
async def test_receipts_that_are_to_come_before_the_answer_have_come_when_it_does(rig: Rig, vendor: str) -> None:
    if vendor == "twilio":
        status_callback = f"{rig.service_url}/receipts"
        answer = await rig.ask(TWILIO, data=text("+15005552400", StatusCallback=status_callback))
    elif vendor == "sendgrid":
        answer = await rig.ask(SENDGRID, json=mail("receipt-first@simulator.test"))
    else:
        answer = await rig.ask(WHATSAPP, json=whatsapp("15005552400"))
    assert answer.is_success
    assert rig.service.calls.qsize() == 2


async def test_without_a_status_callback_twilio_sends_no_receipts(rig: Rig) -> None:
    await rig.ask(TWILIO, data=text("+15005553000"))
    call = await rig.service.next()
    assert dict(parse_qsl(call.body.decode()))["Body"] == "STOP"
    assert rig.service.calls.empty()


async def test_sendgrid_s_own_library_finds_its_events_signed(rig: Rig) -> None:
    answer = await rig.ask(SENDGRID, json=mail("undelivered@simulator.test"))
    assert (answer.status_code, answer.content) == (202, b"")
    library = EventWebhook()
    shown = (await rig.client.get(f"{rig.url}/v3/user/webhooks/event/settings/signed")).json()["public_key"]
    assert shown == rig.sendgrid.public_key
    key = library.convert_public_key_to_ecdsa(shown)
    words = []
    for _ in range(2):
        call = await rig.service.next()
        signature, timestamp = (
            call.headers[f"X-Twilio-Email-Event-Webhook-{name}"] for name in ("Signature", "Timestamp")
        )
        assert library.verify_signature(call.body.decode(), signature, timestamp, key)
        [event] = json.loads(call.body)
        assert event["sg_message_id"].startswith(f"{answer.headers['x-message-id']}.")
        assert event["reference"] == "1-17"
        words.append(event["event"])
    assert sorted(words) == ["bounce", "processed"]


async def test_a_mail_comes_in_with_the_token_in_the_address_and_in_its_thread(tmp_path: Path) -> None:
    async with rig_with(tmp_path, TwilioSettings(_env_file=None), receipts=False) as rig:
        await rig.ask(SENDGRID, json=mail("stop-reply@simulator.test"))
        call = await rig.service.next()
    assert call.url == f"{rig.service_url}/sendgrid?token=a%2Btoken"
    assert call.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b"In-Reply-To: <1-17@example.com>" in call.body
    assert b"STOP" in call.body


async def test_whatsapp_s_calls_are_signed_with_the_app_secret(rig: Rig) -> None:
    answer = await rig.ask(WHATSAPP, json=whatsapp("15005553000"))
    [message] = answer.json()["messages"]
    values = []
    for _ in range(3):
        call = await rig.service.next()
        digest = hmac.new(APP_SECRET.encode(), call.body, hashlib.sha256).hexdigest()
        assert call.headers["x-hub-signature-256"] == f"sha256={digest}"
        values.append(json.loads(call.body)["entry"][0]["changes"][0]["value"])
    assert all(value["metadata"]["display_phone_number"] == "15550783881" for value in values)
    statuses = [status for value in values for status in value.get("statuses", [])]
    assert sorted(status["status"] for status in statuses) == ["delivered", "sent"]
    assert {(status["id"], status["biz_opaque_callback_data"]) for status in statuses} == {(message["id"], "1-17")}


async def test_whatsapp_does_not_speak_of_what_is_only_queued(rig: Rig) -> None:
    await rig.ask(WHATSAPP, json=whatsapp("15005552300"))
    statuses = [
        json.loads((await rig.service.next()).body)["entry"][0]["changes"][0]["value"]["statuses"][0]["status"]
        for _ in range(2)
    ]
    assert sorted(statuses) == ["delivered", "sent"]


async def test_without_a_secret_calls_are_not_signed(tmp_path: Path) -> None:
    async with rig_with(tmp_path, TwilioSettings(_env_file=None)) as rig:
        await rig.ask(TWILIO, data=text("+15005553000"))
        assert "x-twilio-signature" not in (await rig.service.next()).headers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "request_body", "field", "expected"),
    [
        (TWILIO, {"data": {"From": "+1", "Body": "x"}}, "code", 21604),
        (TWILIO, {"data": {"To": "+1", "Body": "x"}}, "code", 21603),
        (TWILIO, {"data": {"To": "+1", "From": "+1"}}, "code", 21602),
        (TWILIO, {"content": b"\xff\x00"}, "code", 21604),
        (SENDGRID, {"content": b"{"}, "errors", None),
        (SENDGRID, {"json": mail("a@b.test", personalizations=[])}, "errors", None),
        (SENDGRID, {"json": mail("a@b.test", content=[{"type": "text/plain", "value": ""}])}, "errors", None),
        (WHATSAPP, {"content": b"[]"}, "error", None),
        (WHATSAPP, {"json": {"messaging_product": "whatsapp"}}, "error", None),
    ],
)
async def test_a_malformed_request_is_refused_in_the_vendor_s_words(
    rig: Rig, path: str, request_body: dict[str, Any], field: str, expected: int | None
) -> None:
    answer = await rig.ask(path, **request_body)
    assert answer.status_code == 400
    assert expected in (None, answer.json()[field])
    assert answer.json()[field]


@pytest.mark.parametrize(
    ("path", "request_body"),
    [(TWILIO, {"data": text("+1")}), (SENDGRID, {"json": mail("a@b.test")}), (WHATSAPP, {"json": whatsapp("1")})],
)
async def test_nobody_is_served_without_credentials(rig: Rig, path: str, request_body: dict[str, Any]) -> None:
    answer = await rig.ask(path, headers={}, **request_body)
    assert answer.status_code == 401


@pytest.mark.slow
async def test_these_vendors_have_no_idempotency_keys_so_a_repeat_is_accepted_again(rig: Rig) -> None:
    for _ in range(2):
        await rig.ask(WHATSAPP, json=whatsapp("16505551234"))
    summary = (await rig.client.get(f"{rig.url}/ledger/summary")).json()
    assert summary == {"accepted": 2, "distinct": 1, "duplicates_refused": 0}


async def test_what_came_in_can_be_fetched_from_twilio_s_list_page_by_page(tmp_path: Path) -> None:
    settings = TwilioSettings(_env_file=None, account_sid=ACCOUNT, auth_token=SecretStr(AUTH))
    async with rig_with(tmp_path, settings, inbound_burst_size=60) as rig:
        await rig.ask(TWILIO, data=text("+15005553100"))
        calls = [await rig.service.next() for _ in range(60)]
        provider = TwilioProvider(settings.model_copy(update={"api_url": rig.url}), rig.client)
        found = [each async for each in provider.inbound_since(datetime.now(UTC) - timedelta(minutes=1))]
    assert len(found) == 60
    brought = {event.provider_message_id: event for call in calls for event in [_inbound(provider, call)]}
    assert {each.provider_message_id: each.body for each in found} == {
        name: event.body for name, event in brought.items()
    }


def _inbound(provider: TwilioProvider, call: Called) -> InboundMessage:
    [event] = provider.parse(Callback("POST", call.url, list(call.headers.items()), call.body))
    assert isinstance(event, InboundMessage)
    return event


def test_the_public_key_is_one_that_can_be_entered() -> None:
    key = SendgridFormat(SendgridSettings(_env_file=None), None).public_key
    assert len(base64.b64decode(key, validate=True)) == 91
