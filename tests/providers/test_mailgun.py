"""Mailgun: the form that a mail is sent by, and the calls of its webhooks and its routes."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from app.config import Settings
from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers.base import (
    Callback,
    CallbackRefused,
    CallbackUnverifiable,
    CredentialsRefused,
    InboundMessage,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    Receipt,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.mail.events import Notice
from app.providers.mail.outbound import Composer, MailSettings
from app.providers.mailgun import STATUSES, MailgunProvider, MailgunSettings, configured
from app.providers.registry import provider_registry
from app.testing.description import form_data
from app.testing.vendor import ODD_VALUES, Vendor, with_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.kit.mailgun import MAIL
from tests.providers.mails import FILES, UNSUBSCRIBE, FileStore
from tests.providers.vendors import NOW, PAYLOADS, basic, call, form, payload
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PATH = "/api/webhooks/mailgun"
API_KEY, KEY, OLD_KEY = "key-0123456789", "signing-key", "old-signing-key"
URL = f"https://messages.example{PATH}"
TOKEN = "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0"  # noqa: S105 - what a signature is about
ACCEPTED = httpx.Response(200, json={"id": "<1-17-5@example.com>", "message": "Queued. Thank you."})
EVENTS = sorted(path.name for path in (PAYLOADS / "mailgun").glob("*.json"))


def provider(vendor: Vendor | None = None, *, fetches: bool = False, **values: Any) -> MailgunProvider:
    given = {"api_key": API_KEY, "domain": "mg.example.com", "signing_key": KEY, **values}
    composer = Composer(MailSettings(_env_file=None, fetch_attachments=fetches), FileStore())
    return MailgunProvider(MailgunSettings(_env_file=None, **given), vendor.client if vendor else None, composer)


def mail(**values: Any) -> OutboundMessage:
    facts = {"from_address": "shop@example.com", "subject": "Grüße", "body": "Hallo!", "key": "1-17-5"}
    return outbound("jane@example.com", **{**facts, **values})


def signature(*, key: str = KEY, at: datetime = NOW, token: str = TOKEN) -> dict[str, str]:
    timestamp = str(int(at.timestamp()))
    shown = hmac.new(key.encode(), (timestamp + token).encode(), hashlib.sha256).hexdigest()
    return {"timestamp": timestamp, "token": token, "signature": shown}


def signed(name: str = "delivered.json", **values: Any) -> Callback:
    body = json.loads(payload("mailgun", name))
    return event(body["event-data"], **values)


def event(data: Any, **values: Any) -> Callback:
    body = {"signature": signature(**values), "event-data": data}
    return call(URL, json.dumps(body).encode(), {"content-type": "application/json"})


def inbound(*more: tuple[str, str], **values: Any) -> Callback:
    headers = [["From", "jane@example.com"], ["To", "shop@example.com"], ["Message-Id", "<answer@example.com>"]]
    fields = {
        "recipient": "shop@example.com",
        "sender": "jane@example.com",
        "subject": "Re: Greetings",
        "body-plain": "Thank you!",
        "message-headers": json.dumps(headers),
    }
    shown = signature(**values)
    body = form([*fields.items(), *shown.items(), *more])
    return call(URL, body, {"content-type": "application/x-www-form-urlencoded"})


def receipt_of(callback: Callback) -> Receipt:
    [receipt] = provider().parse(callback)
    assert isinstance(receipt, Receipt)
    return receipt


async def test_a_mail_is_one_form() -> None:
    vendor = Vendor(ACCEPTED)
    message = mail(body="<p>Hallo</p>", thread=["<a@example.com>", "<b@example.com>"], headers=UNSUBSCRIBE)
    result = await provider(vendor).send(message)
    assert result.provider_message_id == "1-17-5@example.com"
    request = vendor.request
    assert (request.method, str(request.url)) == ("POST", "https://api.mailgun.net/v3/mg.example.com/messages")
    assert request.headers["authorization"] == basic("api", API_KEY)
    assert dict(parse_qsl(request.content.decode())) == {
        "from": "shop@example.com",
        "to": "jane@example.com",
        "subject": "Grüße",
        "text": "Hallo",
        "html": "<p>Hallo</p>",
        "h:Message-Id": "<1-17-5@example.com>",
        "h:In-Reply-To": "<b@example.com>",
        "h:References": "<a@example.com> <b@example.com>",
        "h:List-Unsubscribe": UNSUBSCRIBE["List-Unsubscribe"],
        "h:List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "v:reference": "1-17-5",
    }


async def test_files_go_along_as_parts_of_the_form() -> None:
    vendor = Vendor(ACCEPTED)
    eu = provider(vendor, fetches=True, api_url="https://api.eu.mailgun.net")
    await eu.send(mail(attachments=["https://files.example/1.pdf"]))
    request = vendor.request
    assert request.url.host == "api.eu.mailgun.net"
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts = list(BytesParser(policy=HTTP).parsebytes(head + request.content).iter_parts())
    names = [part.get_param("name", header="content-disposition") for part in parts]
    assert names == ["from", "to", "subject", "text", "h:Message-Id", "v:reference", "attachment", "attachment"]
    sent = [(part.get_content_type(), part.get_payload(decode=True)) for part in parts[-2:]]
    assert sent == [(file.content_type, file.content) for file in FILES]
    assert 'filename="Prüfung.pdf"'.encode() in request.content


@each_case(
    ("answer", "failure", "text"),
    [
        (httpx.Response(400, json={"message": "'to' parameter is not valid"}), PermanentFailure, "not valid"),
        (httpx.Response(401, content=b"Forbidden"), CredentialsRefused, "401"),
        (httpx.Response(403, json={"message": "Domain is not allowed"}), CredentialsRefused, "not allowed"),
        (httpx.Response(404, json={"message": "Domain not found: x"}), CredentialsRefused, "MAILGUN_DOMAIN"),
        (httpx.Response(429), TemporaryFailure, "429"),
        (httpx.Response(500, json={}), UnknownOutcome, "500"),
        (httpx.Response(503, headers={"Retry-After": "9"}), TemporaryFailure, "503"),
        (httpx.Response(200, json={"message": "Queued"}), UnknownOutcome, "without an id"),
        (httpx.Response(200, json={"id": ""}), UnknownOutcome, "without an id"),
        (httpx.Response(200, content=b"<html>"), UnknownOutcome, "without an id"),
        (httpx.ReadTimeout("slow"), UnknownOutcome, "no answer"),
        (httpx.ConnectError("away"), TemporaryFailure, "No connection"),
    ],
)
async def test_an_answer_means_what_it_says(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], text: str
) -> None:
    with pytest.raises(failure, match=text) as raised:
        await provider(Vendor(answer)).send(mail())
    assert raised.type is failure
    assert API_KEY not in str(raised.value)
    assert not isinstance(raised.value, TemporaryFailure) or raised.value.throttled is ("429" in text)


async def test_the_example_of_its_documentation_is_genuine() -> None:
    shown = hmac.new(b"k", b"1529006854" + b"a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0", hashlib.sha256)
    body = {"timestamp": "1529006854", "token": TOKEN, "signature": shown.hexdigest()}
    callback = call(URL, json.dumps({"signature": body}).encode(), {"content-type": "application/json"})
    await provider(signing_key="k").verify(replace(callback, received_at=datetime.fromtimestamp(1529006900, UTC)))


@pytest.mark.parametrize("make", [signed, inbound])
async def test_both_keys_are_good_while_they_are_changed(make: Any) -> None:
    both = provider(signing_key=f"{OLD_KEY},{KEY}")
    await both.verify(make())
    await both.verify(make(key=OLD_KEY))
    with pytest.raises(CallbackRefused):
        await provider().verify(make(key=OLD_KEY))
    with pytest.raises(CallbackUnverifiable):
        await provider(signing_key=None).verify(make())


async def test_a_call_about_a_subaccount_is_genuine_by_its_own_key_or_by_the_one_of_the_account_above() -> None:
    def about_a_subaccount(own: str, parent: str) -> Callback:
        shown = signature(key=own) | {"parent-signature": signature(key=parent)["signature"]}
        return call(URL, json.dumps({"signature": shown}).encode(), {"content-type": "application/json"})

    await provider().verify(about_a_subaccount("of the subaccount", KEY))
    await provider().verify(about_a_subaccount(KEY, "of the account above"))
    for neither in (about_a_subaccount("a", "b"), about_a_subaccount("", "")):
        with pytest.raises(CallbackRefused):
            await provider().verify(neither)


@pytest.mark.parametrize("make", [signed, inbound])
async def test_a_call_is_good_for_as_long_as_mailgun_tries_again(make: Any) -> None:
    for seconds in (-8 * 3600 - 300, -301, 0, 299):
        await provider().verify(make(at=NOW + timedelta(seconds=seconds)))
    for seconds in (-9 * 3600, 301, 86_400):
        with pytest.raises(CallbackRefused, match="seconds old"):
            await provider().verify(make(at=NOW + timedelta(seconds=seconds)))


class TestOverHttp:
    """Its signature covers no more than a time and a token."""

    @pytest.fixture
    async def client(self, serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
        monkeypatch.setitem(provider_registry, "mailgun", provider())
        return await serve(settings.model_copy(update={"worker_enabled": False, "quarantine_refused": True}))

    @staticmethod
    async def status_of(client: httpx.AsyncClient, callback: Callback) -> int:
        return (await client.post(PATH, content=callback.body, headers=callback.headers)).status_code

    @staticmethod
    def about(id_: str) -> Callback:
        data = json.loads(payload("mailgun", "delivered.json"))["event-data"]
        return event(data | {"id": id_}, at=datetime.now(UTC))

    async def test_it_is_good_for_one_event_however_often_that_comes(
        self, client: httpx.AsyncClient, database_url: str
    ) -> None:
        for _ in range(2):
            assert await self.status_of(client, self.about("first")) == 200
        for other in (self.about("second"), inbound(at=datetime.now(UTC))):
            assert await self.status_of(client, other) == 401
        assert await self.status_of(client, self.about("first")) == 200
        assert rows_of(database_url, "SELECT split_part(event_id, ':', 1) FROM provider_events") == [("first",)]
        assert rows_of(database_url, "SELECT 1 FROM messages") == []
        for call_id in (3, 4):  # which it is not when it is taken again either
            answer = await client.post(f"/api/admin/webhook-calls/1/{call_id}/replay")
            assert answer.json()["verdict"] == "refused"
            assert "token" in answer.json()["reason"]
        assert (await client.post("/api/admin/webhook-calls/1/1/replay")).json()["verdict"] == "taken"

    async def test_it_is_good_for_one_of_those_that_come_at_once(
        self, client: httpx.AsyncClient, database_url: str
    ) -> None:
        asking = (self.status_of(client, self.about(f"e-{number % 5}")) for number in range(10))
        statuses = await asyncio.gather(*asking)
        assert sorted(statuses) == [200] * 2 + [401] * 8
        assert len(rows_of(database_url, "SELECT 1 FROM provider_events")) == 1

    async def test_a_mail_that_comes_again_in_another_envelope_is_the_same(
        self, client: httpx.AsyncClient, database_url: str
    ) -> None:
        fields = form_data(MAIL | signature(at=datetime.now(UTC)))
        for boundary in (b"kit", b"other"):
            headers = {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
            body = fields.replace(b"--kit", b"--" + boundary)
            assert (await client.post(PATH, content=body, headers=headers)).status_code == 200
        to_another = fields.replace(b"shop@example.com", b"mine@example.com")
        headers = {"content-type": "multipart/form-data; boundary=kit"}
        assert (await client.post(PATH, content=to_another, headers=headers)).status_code == 401
        assert rows_of(database_url, "SELECT to_address FROM messages") == [("shop@example.com",)]


async def test_what_shows_no_signature_or_an_odd_one_is_refused_and_nothing_else() -> None:
    good = signed()
    odd = [replace(good, body=body) for body in (b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000)]
    odd += [with_header(good, "content-type", value) for value in ODD_VALUES]
    odd += [with_header(inbound(), "content-type", value) for value in ("multipart/form-data", "application/json")]
    for name in signature():
        odd.append(inbound((name, "again")))
        for value in [*ODD_VALUES, None, 17, ["x"], {"x": 1}]:
            shown = {"signature": {**signature(), name: value}}
            odd.append(replace(good, body=json.dumps(shown).encode()))
    for callback in odd:
        with pytest.raises(CallbackRefused):
            await provider().verify(callback)


async def test_the_signature_of_a_large_mail_is_found_too() -> None:
    await provider().verify(inbound(("body-html", "x" * 200_000)))
    with pytest.raises(CallbackRefused):
        await provider().verify(inbound(("token", "x" * 200_000)))


def test_a_mail_that_came_in_is_a_message() -> None:
    [message] = provider().parse(inbound())
    assert isinstance(message, InboundMessage)
    assert (message.from_address, message.to_address) == ("jane@example.com", "shop@example.com")
    assert message.body == "Thank you!"


def test_every_event_is_a_receipt() -> None:
    found = {name.removesuffix(".json"): receipt_of(signed(name)) for name in EVENTS}
    assert {name: receipt.status for name, receipt in found.items()} == {
        "accepted": MessageStatus.QUEUED,
        "delivered": MessageStatus.DELIVERED,
        "failed-permanent": MessageStatus.UNDELIVERED,
        "failed-temporary": None,
        "rejected": MessageStatus.FAILED,
        "opened": MessageStatus.READ,
        "clicked": None,
        "complained": None,
        "unsubscribed": None,
    }
    assert {receipt.status for receipt in found.values()} - {None} == set(STATUSES.values())
    failed = found["failed-permanent"]
    assert failed == Receipt(
        event_id="CPgfbmQMTCKtHW6uIWtuVe:1772366400.123456",
        status=MessageStatus.UNDELIVERED,
        provider_message_id="1-17-5@example.com",
        idempotency_key="1-17-5",
        detail="Not delivering to previously bounced address",
        occurred_at=datetime.fromtimestamp(1772366400.123456, UTC),
        raw=failed.raw,
        recipient="jane@example.com",
        named=["jane@example.com"],
        consent=ReportedConsent.HARD_BOUNCE,
    )
    delay = "4.2.2 The email account that you tried to reach is over quota"
    assert found["failed-temporary"].detail == f"{Notice.DELAY}: {delay}"
    assert (found["rejected"].idempotency_key, found["accepted"].detail) == (None, None)


def test_a_word_that_we_do_not_know_is_kept() -> None:
    data = {"id": "x", "event": "nudged", "timestamp": 1772366400}
    receipt = receipt_of(event(data))
    assert (receipt.status, receipt.raw) == (None, data)


@each_case("data", [None, [], {}, {"event": "delivered"}, {"id": "x" * 513, "event": "delivered", "timestamp": 1}])
def test_what_is_no_event_is_not_understood(data: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(event(data))


def test_no_secret_is_shown() -> None:
    settings = provider()._settings
    assert API_KEY not in repr(settings)
    assert KEY not in repr(settings)


def test_it_is_there_where_its_key_and_domain_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILGUN_DOMAIN", raising=False)
    monkeypatch.setenv("MAILGUN_API_KEY", API_KEY)
    assert configured() is None
    monkeypatch.setenv("MAILGUN_DOMAIN", "mg.example.com")
    assert isinstance(configured(), MailgunProvider)
