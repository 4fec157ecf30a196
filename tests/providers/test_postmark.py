"""Postmark: the JSON that a mail is sent by, its own error codes, and its calls."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

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
    RecipientRefused,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.mail.outbound import Composer, MailSettings
from app.providers.postmark import BOUNCES, STATUSES, TOKEN_HEADER, PostmarkProvider, PostmarkSettings, configured
from app.providers.toolbox.verification import hash_of
from app.testing.vendor import ODD_VALUES, Vendor
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.mails import UNSUBSCRIBE, FileStore
from tests.providers.vendors import PAYLOADS, basic, call, payload

pytestmark = pytest.mark.anyio

SERVER_TOKEN, TOKEN, OLD_TOKEN = "server-token-0123", "webhook-token-4567", "old-token-89"
URL = "https://messages.example/api/webhooks/postmark"
ID = "883953f4-6105-42a2-a16a-77a8eac79483"
ACCEPTED = httpx.Response(200, json={"To": "x", "MessageID": ID, "ErrorCode": 0, "Message": "OK"})
EVENTS = sorted(path.name for path in (PAYLOADS / "postmark").glob("*.json") if path.name != "inbound.json")


def provider(vendor: Vendor | None = None, *, fetches: bool = False, **values: Any) -> PostmarkProvider:
    given = {"server_token": SERVER_TOKEN, "webhook_token": TOKEN, **values}
    composer = Composer(MailSettings(_env_file=None, fetch_attachments=fetches), FileStore())
    return PostmarkProvider(PostmarkSettings(_env_file=None, **given), vendor.client if vendor else None, composer)


def mail(**values: Any) -> OutboundMessage:
    facts = {"from_address": "shop@example.com", "subject": "Grüße", "body": "Hallo!", "key": "1-17-5"}
    return outbound("jane@example.com", **{**facts, **values})


def of(body: bytes, headers: dict[str, str] | None = None) -> Callback:
    return call(URL, body, {"authorization": basic("postmark", TOKEN)} if headers is None else headers)


def receipt_of(body: bytes) -> Receipt:
    [receipt] = provider().parse(of(body))
    assert isinstance(receipt, Receipt)
    return receipt


async def test_a_mail_is_asked_for_as_postmark_documents_it() -> None:
    vendor = Vendor(ACCEPTED)
    files = ["https://files.example/1.pdf"]
    message = mail(body="<p>Hallo</p>", thread=["<a@example.com>"], attachments=files, headers=UNSUBSCRIBE)
    result = await provider(vendor, fetches=True, message_stream="notices").send(message)
    assert result.provider_message_id == ID
    request = vendor.request
    assert (request.method, str(request.url)) == ("POST", "https://api.postmarkapp.com/email")
    assert request.headers["x-postmark-server-token"] == SERVER_TOKEN
    assert request.headers["accept"] == request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "From": "shop@example.com",
        "To": "jane@example.com",
        "Subject": "Grüße",
        "TextBody": "Hallo",
        "HtmlBody": "<p>Hallo</p>",
        "MessageStream": "notices",
        "Headers": [
            {"Name": "Message-ID", "Value": "<1-17-5@example.com>"},
            {"Name": "X-PM-KeepID", "Value": "true"},
            {"Name": "In-Reply-To", "Value": "<a@example.com>"},
            {"Name": "References", "Value": "<a@example.com>"},
            {"Name": "List-Unsubscribe", "Value": UNSUBSCRIBE["List-Unsubscribe"]},
            {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
        ],
        "Metadata": {"reference": "1-17-5"},
        "Attachments": [
            {"Name": "Prüfung.pdf", "Content": "JVBERg0KAP8=", "ContentType": "application/pdf"},
            {"Name": "a.txt", "Content": "YQo=", "ContentType": "text/plain"},
        ],
    }


async def test_a_text_has_one_part() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor).send(mail())
    submission = json.loads(vendor.request.content)
    assert submission["TextBody"] == "Hallo!"
    assert not {"HtmlBody", "Attachments"} & set(submission)


def said(status: int, code: int) -> httpx.Response:
    return httpx.Response(status, json={"ErrorCode": code, "Message": "So it is."})


@each_case(
    ("answer", "failure", "text"),
    [
        (said(401, 10), CredentialsRefused, "10 So it is"),
        (said(422, 405), CredentialsRefused, "405"),
        (said(422, 412), CredentialsRefused, "412"),
        (said(422, 413), CredentialsRefused, "413"),
        (said(422, 100), TemporaryFailure, "100"),
        (said(422, 429), TemporaryFailure, "429"),
        (said(429, 0), TemporaryFailure, "429"),
        (said(422, 300), PermanentFailure, "300 So it is"),
        (said(422, 400), PermanentFailure, "400"),
        (said(422, 406), RecipientRefused, "406"),
        (httpx.Response(413), PermanentFailure, "413"),
        (httpx.Response(500), UnknownOutcome, "500"),
        (said(500, 0), UnknownOutcome, "500"),
        (said(503, 0), TemporaryFailure, "503"),
        (httpx.Response(503, content=b"<html>"), TemporaryFailure, "503"),
        (httpx.Response(200, json={"ErrorCode": 0, "Message": "OK"}), UnknownOutcome, "without an id"),
        (httpx.Response(200, json={"ErrorCode": 701, "MessageID": ID}), UnknownOutcome, "without an id"),
        (httpx.Response(200, content=b"OK"), UnknownOutcome, "without an id"),
        (httpx.ReadTimeout("slow"), UnknownOutcome, "no answer"),
        (httpx.ConnectError("away"), TemporaryFailure, "No connection"),
    ],
)
async def test_an_answer_means_what_its_code_says_and_then_its_status(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], text: str
) -> None:
    with pytest.raises(failure, match=text) as raised:
        await provider(Vendor(answer)).send(mail())
    assert raised.type is failure
    assert SERVER_TOKEN not in str(raised.value)
    assert not isinstance(raised.value, TemporaryFailure) or raised.value.throttled is ("429" in text)


@each_case(
    "headers",
    [
        {"authorization": basic("any", TOKEN)},
        {"Authorization": basic("", TOKEN).replace("Basic", "basic")},
        {"authorization": basic("any", OLD_TOKEN)},
        {TOKEN_HEADER: TOKEN},
        {TOKEN_HEADER: OLD_TOKEN},
    ],
)
def test_both_tokens_are_good_while_they_are_changed_in_either_place(headers: dict[str, str]) -> None:
    both = provider(webhook_token=f"{OLD_TOKEN},{TOKEN}")
    both.verify(of(b"{}", headers))
    if OLD_TOKEN in (headers.get(TOKEN_HEADER), "x") or basic("any", OLD_TOKEN) in headers.values():
        with pytest.raises(CallbackRefused):
            provider().verify(of(b"{}", headers))


def test_what_shows_no_token_or_an_odd_one_is_refused_and_nothing_else() -> None:
    odd = [of(b"{}", {}), of(b"{}", {"authorization": f"Bearer {TOKEN}"}), of(b"{}", {"authorization": TOKEN})]
    odd += [replace(of(b"{}"), headers=[*of(b"{}").headers, *of(b"{}").headers])]
    for value in ODD_VALUES:
        odd += [
            of(b"{}", {TOKEN_HEADER: value}),
            of(b"{}", {"authorization": value}),
            of(b"{}", {"authorization": f"Basic {value}"}),
        ]
    for callback in odd:
        with pytest.raises(CallbackRefused) as raised:
            provider().verify(callback)
        assert TOKEN[:4] not in f"{raised.value}{raised.value.seen}{raised.value.expected}"
    with pytest.raises(CallbackUnverifiable):
        provider(webhook_token=None).verify(of(b"{}"))


def test_of_a_kept_call_the_hash_is_judged_and_in_no_other() -> None:
    body = payload("postmark", "delivery.json")
    hashed = hash_of(TOKEN)
    for headers in ({"authorization": f"Basic {hashed}"}, {TOKEN_HEADER: hashed}):
        provider(webhook_token=f"{OLD_TOKEN},{TOKEN}").verify(replace(of(body, headers), is_kept=True))
        with pytest.raises(CallbackRefused):
            provider(webhook_token=OLD_TOKEN).verify(replace(of(body, headers), is_kept=True))
    for headers in (
        {"authorization": f"Basic {hashed}"},
        {"authorization": basic("x", hashed)},
        {TOKEN_HEADER: hashed},
    ):
        with pytest.raises(CallbackRefused):
            provider().verify(of(body, headers))


def test_a_mail_that_came_in_is_a_message() -> None:
    [message] = provider().parse(of(payload("postmark", "inbound.json")))
    assert isinstance(message, InboundMessage)
    assert (message.from_address, message.to_address) == ("jane@example.com", "shop@example.com")
    assert message.body == "Thank you!"


def test_every_event_is_a_receipt() -> None:
    found = {name.removesuffix(".json"): receipt_of(payload("postmark", name)) for name in EVENTS}
    assert {name: receipt.status for name, receipt in found.items()} == {
        "delivery": MessageStatus.DELIVERED,
        "bounce": MessageStatus.UNDELIVERED,
        "open": MessageStatus.READ,
        "click": None,
        "spam-complaint": None,
        "subscription-change": None,
    }
    delivery, bounce = found["delivery"], found["bounce"]
    assert delivery == Receipt(
        event_id=f"Delivery:{ID}:2026-03-01 12:00:00+00:00:jane@example.com",
        status=MessageStatus.DELIVERED,
        provider_message_id=ID,
        idempotency_key="1-17-5",
        detail="smtp;250 OK",
        occurred_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        raw=delivery.raw,
        recipient="jane@example.com",
    )
    assert (bounce.event_id, bounce.recipient) == ("Bounce:692560173", "jane@example.com")
    assert bounce.detail == "smtp;550 5.1.1 The email account that you tried to reach does not exist."
    assert len({receipt.event_id for receipt in found.values()}) == len(found)


@each_case("kind", [*STATUSES, *BOUNCES, "Transient", "AutoResponder", "DnsError", "Unknown", "Newest"])
def test_a_bounce_is_judged_by_its_type(kind: str) -> None:
    body = {**json.loads(payload("postmark", "bounce.json")), "Type": kind}
    assert receipt_of(json.dumps(body).encode()).status == BOUNCES.get(kind)


@each_case(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"RecordType": {}}',
        b"\xff",
    ],
)
def test_what_is_no_event_is_not_understood(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(of(body))


def test_no_secret_is_shown() -> None:
    settings = provider()._settings
    assert SERVER_TOKEN not in repr(settings)
    assert TOKEN not in repr(settings)


def test_it_is_there_where_its_token_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTMARK_SERVER_TOKEN", raising=False)
    assert configured() is None
    monkeypatch.setenv("POSTMARK_SERVER_TOKEN", SERVER_TOKEN)
    assert isinstance(configured(), PostmarkProvider)
