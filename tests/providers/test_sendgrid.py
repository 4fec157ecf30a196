"""SendGrid: what we ask of it beside what its own library asks, and its calls, which that library finds genuine."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, SECP384R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.mail import (
    Attachment,
    Content,
    CustomArg,
    From,
    Header,
    Mail,
    Subject,
    To,
)

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
    Unread,
)
from app.providers.mail.events import Notice
from app.providers.mail.outbound import Composer, MailSettings
from app.providers.sendgrid import (
    SIGNATURE_HEADER,
    STATUSES,
    TIMESTAMP_HEADER,
    SendgridProvider,
    SendgridSettings,
    configured,
)
from app.testing.vendor import ODD_VALUES, Vendor, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.mails import FILES, UNSUBSCRIBE, FileStore
from tests.providers.vendors import NOW, call, payload

pytestmark = pytest.mark.anyio

KEY, OLD_KEY = derive_private_key(4711, SECP256R1()), derive_private_key(815, SECP256R1())
API_KEY, TOKEN = "SG.0123456789", "a-long-inbound-token"
URL = "https://messages.example/api/webhooks/sendgrid"
ACCEPTED = httpx.Response(202, headers={"X-Message-Id": "14c5d75ce93.dfd.64b469"})
EVENTS = payload("sendgrid", "events.json")


def public(key: PrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def provider(vendor: Vendor | None = None, *, fetches: bool = False, **values: Any) -> SendgridProvider:
    given = {"api_key": API_KEY, "webhook_key": public(KEY), "inbound_token": TOKEN, **values}
    composer = Composer(MailSettings(_env_file=None, fetch_attachments=fetches), FileStore())
    return SendgridProvider(SendgridSettings(_env_file=None, **given), vendor.client if vendor else None, composer)


def mail(**values: Any) -> OutboundMessage:
    facts = {"from_address": "shop@example.com", "subject": "Grüße", "body": "Hallo!", "key": "1-17-5"}
    return outbound("jane@example.com", **{**facts, **values})


def signed(body: bytes, *, key: PrivateKey = KEY, at: datetime = NOW, timestamp: str | None = None) -> Callback:
    timestamp = timestamp or str(int(at.timestamp()))
    signature = base64.b64encode(key.sign(timestamp.encode() + body, ECDSA(SHA256()))).decode()
    return call(
        URL,
        body,
        {SIGNATURE_HEADER: signature, TIMESTAMP_HEADER: timestamp, "content-type": "application/json"},
        at=NOW,
    )


def inbound(query: str = "", content_type: str = "multipart/form-data; boundary=xYzZY") -> Callback:
    fields = {
        "headers": "From: jane@example.com\nTo: shop@example.com\nMessage-ID: <answer@example.com>",
        "envelope": '{"to":["shop@example.com"],"from":"jane@example.com"}',
        "subject": "Re: Greetings",
        "text": "Thank you!",
        "charsets": '{"text":"UTF-8"}',
    }
    parts = [
        f'--xYzZY\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return call(f"{URL}{query}", "".join([*parts, "--xYzZY--\r\n"]).encode(), {"content-type": content_type})


def inbound_signed(query: str = "", *, text: str = "", key: PrivateKey = KEY, at: datetime = NOW) -> Callback:
    mail = inbound(query)
    by_policy = signed(mail.body + text.encode(), key=key, at=at)
    headers = [each for each in by_policy.headers if each[0] != "content-type"]
    return replace(mail, headers=[*mail.headers, *headers], body=by_policy.body)


def receipts(callback: Callback) -> list[Receipt]:
    events = provider().parse(callback)
    assert all(isinstance(event, Receipt) for event in events)
    return [event for event in events if isinstance(event, Receipt)]


@each_case("body", ["Hallo!", "<p>Hallo</p>"])
@each_case("attachments", [[], ["https://files.example/1.pdf"]])
async def test_a_mail_is_asked_for_as_its_own_library_asks(body: str, attachments: list[str]) -> None:
    vendor = Vendor(ACCEPTED)
    thread = ["<a@example.com>", "<b@example.com>"]
    message = mail(body=body, attachments=attachments, thread=thread, headers=UNSUBSCRIBE)
    result = await provider(vendor, fetches=True).send(message)
    assert result.provider_message_id == "14c5d75ce93.dfd.64b469"

    asked = Mail(From("shop@example.com"), To("jane@example.com"), Subject("Grüße"))
    asked.add_content(Content("text/plain", "Hallo!" if body == "Hallo!" else "Hallo"))
    if body != "Hallo!":
        asked.add_content(Content("text/html", body))
    asked.personalizations[0].add_custom_arg(CustomArg("reference", "1-17-5"))
    asked.header = Header("Message-ID", "<1-17-5@example.com>")
    asked.header = Header("In-Reply-To", "<b@example.com>")
    asked.header = Header("References", "<a@example.com> <b@example.com>")
    for name, value in UNSUBSCRIBE.items():
        asked.header = Header(name, value)
    for file in reversed(FILES) if attachments else []:  # it puts each before the others
        content = base64.b64encode(file.content).decode()
        asked.attachment = Attachment(content, file.name, file.content_type, "attachment")

    request = vendor.request
    assert (request.method, str(request.url)) == ("POST", "https://api.sendgrid.com/v3/mail/send")
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == asked.get()


async def test_what_sendgrid_demands_is_there_also_where_a_mail_has_none() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, api_url="https://api.eu.sendgrid.com").send(mail(subject=None, body=""))
    assert vendor.request.url.host == "api.eu.sendgrid.com"
    submission = json.loads(vendor.request.content)
    assert submission["subject"] == "(no subject)"
    assert submission["content"] == [{"type": "text/plain", "value": "(no text)"}]


@each_case(
    ("answer", "failure", "text"),
    [
        (httpx.Response(400, json={"errors": [{"message": "Bad to", "field": "to"}]}), PermanentFailure, "Bad to"),
        (httpx.Response(413), PermanentFailure, "413"),
        (httpx.Response(401, json={"errors": [{"message": "Not a key"}]}), CredentialsRefused, "Not a key"),
        (httpx.Response(403), CredentialsRefused, "403"),
        (
            httpx.Response(403, json={"errors": [{"message": "No verified Sender Identity", "field": "from"}]}),
            PermanentFailure,
            "No verified Sender Identity",
        ),
        (httpx.Response(500), UnknownOutcome, "500"),
        (httpx.Response(502), UnknownOutcome, "502"),
        (httpx.Response(503, content=b"<html>"), TemporaryFailure, "503"),
        (httpx.Response(202), UnknownOutcome, "without an id"),
        (httpx.Response(202, headers={"X-Message-Id": "x" * 513}), UnknownOutcome, "without an id"),
        (httpx.Response(302, headers={"Location": "/"}), UnknownOutcome, "302"),
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


async def test_too_many_requests_hold_it_back() -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await provider(Vendor(httpx.Response(429, headers={"Retry-After": "7"}))).send(mail())
    assert (raised.value.throttled, raised.value.retry_after) == (True, 7)


async def test_what_we_verify_its_own_library_verifies() -> None:
    callback = signed(EVENTS)
    await provider().verify(callback)
    theirs = EventWebhook(public(KEY))
    signature, timestamp = callback.header(SIGNATURE_HEADER), callback.header(TIMESTAMP_HEADER)
    assert theirs.verify_signature(EVENTS.decode(), signature, timestamp)
    assert not theirs.verify_signature(EVENTS.decode() + " ", signature, timestamp)
    with pytest.raises(CallbackRefused):
        await provider().verify(replace(callback, body=EVENTS + b" "))


async def test_both_keys_are_good_while_they_are_changed() -> None:
    both = provider(webhook_key=f"{public(OLD_KEY)},{public(KEY)}")
    await both.verify(signed(EVENTS))
    await both.verify(signed(EVENTS, key=OLD_KEY))
    with pytest.raises(CallbackRefused):
        await provider().verify(signed(EVENTS, key=OLD_KEY))


@pytest.mark.parametrize("seconds", [301, -86_701])
async def test_a_signature_of_another_time_is_refused(seconds: int) -> None:
    with pytest.raises(CallbackRefused, match="seconds old"):
        await provider().verify(signed(EVENTS, at=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize("seconds", [300, -86_700])
async def test_a_signature_is_good_for_the_day_on_which_sendgrid_calls_again(seconds: int) -> None:
    await provider().verify(signed(EVENTS, at=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize("name", [SIGNATURE_HEADER, TIMESTAMP_HEADER])
async def test_odd_headers_are_refused_and_nothing_else(name: str) -> None:
    callback = signed(EVENTS)
    odd = [without_header(callback, name), with_header_twice(callback, name)]
    for value in ODD_VALUES:
        odd.append(with_header(callback, name, value))
        odd.append(with_header(callback, "content-type", value))
    for each in odd[:2] + odd[2::2]:
        with pytest.raises(CallbackRefused):
            await provider().verify(each)
    for each in odd[3::2]:
        await provider().verify(each)


@each_case("key", ["", "nonsense", public(derive_private_key(1, SECP384R1()))])
async def test_without_a_key_that_can_be_read_nothing_can_be_told(key: str) -> None:
    with pytest.raises(CallbackUnverifiable, match="SENDGRID_WEBHOOK_KEY"):
        await provider(webhook_key=key).verify(signed(EVENTS))
    for query in (f"?token={TOKEN}", ""):
        with pytest.raises(CallbackUnverifiable):
            await provider(inbound_token=None).verify(inbound(query))


@each_case(
    "query", ["", "?token=", "?token=wrong", f"?Token={TOKEN}", f"?token={TOKEN}&token={TOKEN}", "?token=%ff%00é"]
)
async def test_a_mail_without_the_token_of_its_address_is_refused(query: str) -> None:
    with pytest.raises(CallbackRefused) as raised:
        await provider().verify(inbound(query))
    assert raised.value.expected is None
    assert TOKEN[:5] not in str(raised.value)


@pytest.mark.parametrize("text", ["", "x" * 200_000])
async def test_a_mail_that_is_signed_needs_no_token(text: str) -> None:
    by_key = provider(inbound_token=None, inbound_key=f"{public(OLD_KEY)},{public(KEY)}", webhook_key=None)
    await by_key.verify(inbound_signed(text=text))
    await by_key.verify(inbound_signed(text=text, key=OLD_KEY, at=NOW - timedelta(hours=72)))
    callback = inbound_signed(text=text)
    for other in (
        replace(callback, body=callback.body.replace(b"Thank you", b"I quit")),
        inbound_signed(text=text, key=derive_private_key(5, SECP256R1())),
        inbound_signed(text=text, at=NOW - timedelta(hours=73)),
        without_header(callback, SIGNATURE_HEADER),
        without_header(callback, TIMESTAMP_HEADER),
        with_header_twice(callback, SIGNATURE_HEADER),
        inbound(f"?token={TOKEN}"),
    ):
        with pytest.raises(CallbackRefused):
            await by_key.verify(other)


async def test_a_mail_is_genuine_by_its_token_or_by_its_signature_where_both_are_set() -> None:
    both = provider(inbound_key=public(KEY), webhook_key=public(OLD_KEY))
    for genuine in (
        inbound(f"?token={TOKEN}"),
        inbound_signed(),
        inbound_signed("?token=wrong"),
        inbound_signed(f"?token={TOKEN}", key=OLD_KEY),
    ):
        await both.verify(genuine)
    for forged in (inbound(), inbound("?token=wrong"), inbound_signed(key=OLD_KEY)):
        with pytest.raises(CallbackRefused):
            await both.verify(forged)
    with pytest.raises(CallbackUnverifiable, match="SENDGRID_INBOUND_KEY"):
        await provider(inbound_key="nonsense").verify(inbound_signed())


async def test_a_mail_shows_its_token_and_an_event_its_signature_and_neither_the_other_s() -> None:
    both = provider(inbound_token=f"old-token,{TOKEN}")
    await both.verify(inbound(f"?token={TOKEN}"))
    await both.verify(inbound("?token=old-token"))
    with pytest.raises(CallbackRefused):
        await both.verify(replace(inbound(f"?token={TOKEN}"), headers=[("content-type", "application/json")]))
    with pytest.raises(CallbackRefused):
        await both.verify(with_header(signed(EVENTS), "content-type", "multipart/form-data; boundary=x"))


def test_a_mail_that_came_in_is_a_message() -> None:
    [message] = provider().parse(inbound(f"?token={TOKEN}"))
    assert isinstance(message, InboundMessage)
    assert (message.from_address, message.to_address) == ("jane@example.com", "shop@example.com")
    assert message.body == "Thank you!"


def test_every_event_is_a_receipt() -> None:
    found = {str(receipt.raw["event"]): receipt for receipt in receipts(signed(EVENTS))}
    assert len(found) == 11
    assert {name: receipt.status for name, receipt in found.items() if receipt.status} == STATUSES
    bounce = found["bounce"]
    assert bounce == Receipt(
        event_id="sg_event_3",
        status=MessageStatus.UNDELIVERED,
        provider_message_id="14c5d75ce93.dfd.64b469",
        idempotency_key="1-17-5",
        detail="550 5.1.1 no such user",
        occurred_at=datetime.fromtimestamp(1772366400, UTC),
        raw=bounce.raw,
        recipient="jane@example.com",
        consent=ReportedConsent.HARD_BOUNCE,
    )
    assert found["deferred"].detail == f"{Notice.DELAY}: 400 try again later"


def event(**values: Any) -> dict[str, Any]:
    facts = {
        "email": "jane@example.com",
        "timestamp": 1772366400,
        "event": "delivered",
        "sg_message_id": "abc.recvd-1",
    }
    return {**facts, **values}


def of(*events: Any) -> Callback:
    return signed(json.dumps(events).encode())


def test_a_picture_that_a_program_loaded_was_not_read() -> None:
    [receipt] = receipts(of(event(event="open", sg_machine_open=True)))
    assert receipt.status is None


def test_an_event_without_an_id_has_the_same_name_each_time() -> None:
    [one], [again] = receipts(of(event())), receipts(of(event()))
    assert one.event_id == again.event_id == "abc.recvd-1:delivered:1772366400"
    assert one.provider_message_id == "abc"


def test_an_event_that_can_not_be_read_does_not_take_the_others_with_it() -> None:
    broken = [event(timestamp="soon"), {"event": "delivered"}, "text", None]
    first, *unread, last = provider().parse(of(event(), *broken, event(event="nudged", sg_event_id="x")))
    assert isinstance(first, Receipt)
    assert first.status is MessageStatus.DELIVERED
    assert all(isinstance(each, Unread) and "soon" not in each.reason for each in unread)
    assert len(unread) == len(broken)
    assert isinstance(last, Receipt)
    assert (last.event_id, last.status) == ("x", None)


@each_case("body", [b"", b"{", b"{}", b"null", b'"text"', b"[" * 100_000, b"\xff"])
def test_what_is_no_list_of_events_is_not_understood(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(signed(body))


def test_no_secret_is_shown() -> None:
    settings = provider()._settings
    assert API_KEY not in repr(settings)
    assert TOKEN not in repr(settings)


def test_it_is_there_where_its_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENDGRID_API_KEY", raising=False)
    assert configured() is None
    monkeypatch.setenv("SENDGRID_API_KEY", API_KEY)
    assert isinstance(configured(), SendgridProvider)
