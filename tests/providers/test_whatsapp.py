"""WhatsApp: what we ask of the Cloud API, what its errors mean, and its calls."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from app.details import MessageDetails
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
    Reply,
    TemporaryFailure,
    UnknownOutcome,
    Unread,
)
from app.providers.base import send_through as hand_over
from app.providers.chat.whatsapp_callback import STATUSES
from app.providers.whatsapp import WhatsappProvider, WhatsappSettings, configured
from app.testing.vendor import ODD_VALUES, Vendor, items_in, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import call, payload

pytestmark = pytest.mark.anyio

TOKEN, SECRET, OLD_SECRET, VERIFY = "EAAtoken", "new-app-secret", "old-app-secret", "our-verify-token"
OURS, OUR_ID = "+15550783881", "106540352242922"
REFERENCE = "1-17-1772366400000000"
URL = "https://messages.example/api/webhooks/whatsapp"
SIGNATURE = "x-hub-signature-256"
ACCEPTED = httpx.Response(
    200,
    json={
        "messaging_product": "whatsapp",
        "contacts": [{"input": "16505551234", "wa_id": "16505551234"}],
        "messages": [
            {"id": "wamid.HBgLMTY0NjcwNDM1OTUVAgARGBI1RjQyNUE3NEYxMzAzMzQ5MkEA", "message_status": "accepted"}
        ],
    },
)


def settings(**values: Any) -> WhatsappSettings:
    known: dict[str, Any] = {
        "access_token": SecretStr(TOKEN),
        "phone_number_ids": f"{OURS}:{OUR_ID}",
        "app_secret": SecretStr(f"{SECRET},{OLD_SECRET}"),
        "verify_token": SecretStr(VERIFY),
    }
    return WhatsappSettings(_env_file=None, **{**known, **values})


def provider(vendor: Vendor | None = None, **values: Any) -> WhatsappProvider:
    return WhatsappProvider(settings(**values), vendor.client if vendor else None)


def message(to: str = "+16505551234", **values: Any) -> OutboundMessage:
    facts = {"channel": "whatsapp", "type": "whatsapp", "from_address": OURS, "key": REFERENCE}
    return outbound(to, **{**facts, **values})


def signed(body: bytes, secret: str = SECRET) -> Callback:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return call(URL, body, {SIGNATURE: f"sha256={digest}", "content-type": "application/json"})


def events_of(name: str) -> list[Any]:
    return list(items_in(provider(), signed(payload("whatsapp", name))))


async def test_a_text_is_asked_for_as_documented() -> None:
    vendor = Vendor(ACCEPTED)
    result = await provider(vendor).send(message(body="Hello!"))
    assert result.provider_message_id == "wamid.HBgLMTY0NjcwNDM1OTUVAgARGBI1RjQyNUE3NEYxMzAzMzQ5MkEA"
    assert (vendor.request.method, str(vendor.request.url)) == (
        "POST",
        f"https://graph.facebook.com/v23.0/{OUR_ID}/messages",
    )
    assert vendor.request.headers["authorization"] == f"Bearer {TOKEN}"
    assert vendor.request.headers["content-type"] == "application/json"
    assert json.loads(vendor.request.content) == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "16505551234",
        "type": "text",
        "text": {"preview_url": False, "body": "Hello!"},
        "biz_opaque_callback_data": REFERENCE,
    }


async def test_who_has_no_number_is_named_by_an_id() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor).send(message("whatsapp:US.13491208655302741918"))
    sent = json.loads(vendor.request.content)
    assert (sent["recipient"], "to" in sent) == ("US.13491208655302741918", False)


async def test_a_group_is_named_by_its_id() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor).send(message("whatsapp:group-Y2FwaV9ncm91cDox"))
    sent = json.loads(vendor.request.content)
    assert (sent["recipient_type"], sent["to"]) == ("group", "Y2FwaV9ncm91cDox")
    assert "recipient" not in sent


@each_case(
    ("link", "body", "medium"),
    [
        (
            "https://a.example/b.jpg?c=d",
            "Look",
            {"image": {"link": "https://a.example/b.jpg?c=d", "caption": "Look"}},
        ),
        ("https://a.example/b.mp4", "", {"video": {"link": "https://a.example/b.mp4"}}),
        ("https://a.example/b.mp3", "", {"audio": {"link": "https://a.example/b.mp3"}}),
        (
            "https://a.example/b.mp3",
            "Listen",
            {"document": {"link": "https://a.example/b.mp3", "caption": "Listen", "filename": "b.mp3"}},
        ),
        ("https://a.example/b.pdf", "", {"document": {"link": "https://a.example/b.pdf", "filename": "b.pdf"}}),
        (
            "https://a.example/",
            "",
            {"document": {"link": "https://a.example/", "filename": "attachment"}},
        ),
        *[
            (f"https://a.example/{name}", "", {kind: {"link": f"https://a.example/{name}"}})
            for name, kind in {
                "B.JPG": "image",
                "b.jpeg": "image",
                "b.final.png": "image",
                "b.3gp": "video",
                "b.m4a": "audio",
                "b.amr": "audio",
                "b.ogg": "audio",
            }.items()
        ],
        *[
            (
                f"https://a.example/{path}",
                "",
                {"document": {"link": f"https://a.example/{path}", "filename": name}},
            )
            for path, name in {
                "b.webp": "b.webp",
                "b.gif": "b.gif",
                "b.webm": "b.webm",
                "b.svg": "b.svg",
                "b.mov": "b.mov",
                "b.heic": "b.heic",
                "b.tiff": "b.tiff",
                "b.wav": "b.wav",
                "b.flac": "b.flac",
                "jpg": "jpg",
                "download?file=b.jpg": "download",
                "my%20invoice%0A.pdf": "my invoice.pdf",
            }.items()
        ],
    ],
)
async def test_a_medium_is_given_by_its_link(link: str, body: str, medium: dict[str, Any]) -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor).send(message(body=body, attachments=[link]))
    sent = json.loads(vendor.request.content)
    [kind] = medium
    assert (sent["type"], {kind: sent[kind]}, "text" in sent) == (kind, medium, False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"from_address": "+12016661234"}, "from"),
        ({"attachments": ["https://a.example/1.jpg", "https://a.example/2.jpg"]}, "attachments"),
    ],
)
async def test_what_can_not_be_sent_is_said_beforehand_and_not_tried(changes: dict[str, Any], field: str) -> None:
    vendor = Vendor(ACCEPTED)
    whatsapp = provider(vendor)
    assert list(whatsapp.refusals(message(**changes))) == [field]
    with pytest.raises(PermanentFailure):
        await hand_over(whatsapp, message(**changes))
    assert vendor.requests == []


def refusal(status: int, code: int, **headers: str) -> httpx.Response:
    error = {
        "message": f"(#{code}) No",
        "type": "OAuthException",
        "code": code,
        "error_data": {"messaging_product": "whatsapp", "details": "Because of that."},
        "fbtrace_id": "A1",
    }
    return httpx.Response(status, json={"error": error}, headers=headers)


@each_case(
    ("answer", "failure", "throttled"),
    [
        *[(refusal(400, code), TemporaryFailure, True) for code in (4, 80007, 130429, 131048)],
        *[
            (refusal(400, code), TemporaryFailure, False)
            for code in (2, 131000, 131016, 131053, 131056, 131057, 133016)
        ],
        *[
            (refusal(400, code), CredentialsRefused, False)
            for code in (0, 3, 10, 190, 200, 299, 368, 131005, 131031, 131042, 133010)
        ],
        *[(refusal(400, code), PermanentFailure, False) for code in (100, 131026, 131047, 131051, 132001)],
        (refusal(400, 131050), RecipientRefused, False),
        (refusal(500, 131000), TemporaryFailure, False),
        (refusal(500, 131026), UnknownOutcome, False),
        (refusal(500, 1), UnknownOutcome, False),
        (httpx.Response(401), CredentialsRefused, False),
        (httpx.Response(403), CredentialsRefused, False),
        (httpx.Response(404, text="<html>"), PermanentFailure, False),
        (httpx.Response(429), TemporaryFailure, True),
        (httpx.Response(503), UnknownOutcome, False),
        (httpx.Response(200, text="ok"), UnknownOutcome, False),
        (httpx.Response(200, json={"messages": []}), UnknownOutcome, False),
        (httpx.Response(200, json={"messages": [{"id": ""}]}), UnknownOutcome, False),
        (httpx.ConnectError("no"), TemporaryFailure, False),
        (httpx.ReadTimeout("no"), UnknownOutcome, False),
    ],
)
async def test_every_error_means_something(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], throttled: bool
) -> None:
    with pytest.raises(failure) as raised:
        await provider(Vendor(answer)).send(message())
    assert getattr(raised.value, "throttled", False) is throttled
    assert TOKEN not in str(raised.value)


async def test_an_error_says_why_and_when_to_come_back() -> None:
    with pytest.raises(TemporaryFailure, match="130429 Because of that") as raised:
        await provider(Vendor(refusal(400, 130429, **{"Retry-After": "7"}))).send(message())
    assert raised.value.retry_after == 7


def test_a_signed_call_is_let_in_with_either_secret() -> None:
    body = payload("whatsapp", "text.json")
    for secret in (SECRET, OLD_SECRET):
        provider().verify(signed(body, secret))


def test_the_signature_is_the_documented_one() -> None:
    # `printf '{"a":1}' | openssl dgst -sha256 -hmac new-app-secret`
    known = "sha256=" + hmac.digest(b"new-app-secret", b'{"a":1}', "sha256").hex()
    provider().verify(call(URL, b'{"a":1}', {SIGNATURE: known}))


@each_case("value", [*ODD_VALUES, "sha256=", "sha256=" + "0" * 64, "sha1=" + "0" * 40])
def test_no_odd_signature_is_let_in(value: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(with_header(signed(b"{}"), SIGNATURE, value))


def test_nothing_else_is_let_in() -> None:
    good = signed(payload("whatsapp", "text.json"))
    upper = with_header(good, SIGNATURE, str(good.header(SIGNATURE)).upper())
    other_body = Callback("POST", URL, good.headers, good.body + b" ")
    for bad in (
        without_header(good, SIGNATURE),
        with_header_twice(good, SIGNATURE),
        upper,
        other_body,
        signed(good.body, "another secret"),
    ):
        with pytest.raises(CallbackRefused):
            provider().verify(bad)
    with pytest.raises(CallbackUnverifiable):
        provider(app_secret=None).verify(good)


def subscribing(query: str) -> Callback:
    return call(f"{URL}?{query}", b"", {}, method="GET")


def test_it_shakes_hands_with_who_knows_the_token() -> None:
    asked = subscribing(f"hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={VERIFY}")
    provider().verify(asked)
    assert provider().parse(asked) == Reply(b"1158201444", "text/plain")


@each_case(
    "query",
    [
        "",
        "hub.mode=subscribe&hub.challenge=1",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=%C3%A9",
        f"hub.mode=subscribe&hub.challenge=1&hub.verify_token={VERIFY}x",
        f"hub.mode=subscribe&hub.challenge=1&hub.verify_token={VERIFY}&hub.verify_token={VERIFY}",
    ],
)
def test_nobody_else_is_answered(query: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(subscribing(query))
    with pytest.raises(CallbackUnverifiable):
        provider(verify_token=None).verify(subscribing(query))


@each_case(
    "query",
    ["hub.mode=subscribe", "hub.mode=unsubscribe&hub.challenge=1", "hub.mode=subscribe&hub.challenge=%3Cb%3E%20x"],
)
def test_only_a_subscription_is_confirmed(query: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().parse(subscribing(query))


def test_a_text_comes_in() -> None:
    assert events_of("text.json") == [
        InboundMessage(
            provider_message_id="wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQzQTRBNjU5OUFFRTAzODEwMTQ0RgA=",
            channel="whatsapp",
            type="whatsapp",
            from_address="+16505551234",
            to_address=OURS,
            body="Does it come in another color?",
            sent_at=datetime(2025, 6, 8, 20, 59, 43, tzinfo=UTC),
            details=MessageDetails(from_name="Sheena Nelson"),
            alias="whatsapp:US.13491208655302741918",
        )
    ]


def test_a_medium_is_named_by_its_id() -> None:
    [image] = events_of("image.json")
    assert (image.body, image.attachments) == ("My plant", ["1003383421387256"])


def test_who_shows_no_number_has_an_address_of_another_kind() -> None:
    [text] = events_of("without_number.json")
    assert text.from_address == "whatsapp:US.13491208655302741918"
    assert text.sent_at == datetime(2025, 6, 8, 20, 59, 43, tzinfo=UTC)  # though it came in milliseconds


def test_several_messages_and_statuses_come_in_one_call() -> None:
    events = events_of("mixed.json")
    said = {event.provider_message_id: event.body for event in events if isinstance(event, InboundMessage)}
    assert said == {
        "wamid.1": "Approve",
        "wamid.2": "Priority Mail",
        "wamid.3": "👍",
        "wamid.4": "Philz Coffee\n101 Forest Ave\n37.44, -122.16",
        "wamid.5": "Barbara",
        "wamid.6": "[voice message]",
        "wamid.7": "+16505551234 is now +12195555358.",
        "wamid.7:new": "+16505551234 is now +12195555358.",
        "wamid.8": "Change",
    }
    [receipt] = [event for event in events if isinstance(event, Receipt)]
    assert receipt.status is MessageStatus.SENT


def test_a_status_names_our_message() -> None:
    [receipt] = events_of("delivered.json")
    assert receipt.status is MessageStatus.DELIVERED
    assert receipt.event_id == "wamid.HBgLMTY1MDU1NTEyMzQVAgARGBJDQjZCMzlEQUE4OTJBMTE4RTUA:delivered:1750263773"
    assert receipt.provider_message_id == "wamid.HBgLMTY1MDU1NTEyMzQVAgARGBJDQjZCMzlEQUE4OTJBMTE4RTUA"
    assert (receipt.idempotency_key, receipt.recipient, receipt.detail) == (REFERENCE, "+16505551234", None)
    assert receipt.occurred_at == datetime(2025, 6, 18, 16, 22, 53, tzinfo=UTC)
    assert receipt.raw["status"] == "delivered"


def test_a_failure_says_why() -> None:
    [receipt] = events_of("failed.json")
    assert receipt.status is MessageStatus.UNDELIVERED
    assert str(receipt.detail).startswith("131047 Message failed to send because more than 24 hours")


def test_what_is_no_message_is_no_concern() -> None:
    assert events_of("account_alert.json") == []


def changed(name: str, change: Any) -> Callback:
    document = json.loads(payload("whatsapp", name))
    change(document["entry"][0]["changes"][0]["value"])
    return signed(json.dumps(document).encode())


@each_case(("word", "status"), [*STATUSES.items(), ("deleted", None), ("warning", None)])
def test_every_word_has_a_status_or_none(word: str, status: MessageStatus | None) -> None:
    def say(value: Any) -> None:
        value["statuses"][0]["status"] = word

    [receipt] = items_in(provider(), changed("delivered.json", say))
    assert isinstance(receipt, Receipt)
    assert (receipt.status, receipt.raw["status"]) == (status, word)


def test_one_that_can_not_be_read_costs_no_other() -> None:
    def spoil(value: Any) -> None:
        value["messages"][0]["id"] = ["wamid.1"]
        value["messages"][1].pop("id")
        del value["messages"][3:]

    events = items_in(provider(), changed("mixed.json", spoil))
    told = [event for event in events if isinstance(event, InboundMessage)]
    assert [event.provider_message_id for event in told] == ["wamid.3", "wamid.8"]
    assert [event.reason for event in events if isinstance(event, Unread)] == ["an id has 1 to 400 characters"] * 2


@each_case(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"object": "page", "entry": []}',
        b'{"object": "whatsapp_business_account", "entry": 1}',
        b"[" * 5000,
    ],
)
def test_what_can_not_be_understood_is_said(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        provider().parse(signed(body))


def test_a_message_from_nobody_is_not_understood() -> None:
    def anonymous(value: Any) -> None:
        del value["messages"][0]["from"], value["messages"][0]["from_user_id"], value["contacts"]

    assert provider().parse(changed("text.json", anonymous)) == [Unread("a message has a sender")]


def test_a_change_without_a_number_is_not_understood() -> None:
    def bare(value: Any) -> None:
        del value["metadata"]

    [unread] = items_in(provider(), changed("text.json", bare))
    assert isinstance(unread, Unread)
    assert "metadata" in unread.reason


def test_secrets_show_nowhere() -> None:
    shown = f"{settings()!r} {provider()!r} {vars(provider())!r}"
    assert not any(secret in shown for secret in (TOKEN, SECRET, OLD_SECRET, VERIFY))


@each_case("written", ["106540352242922", "15550783881:1", "+15550783881:", "+15550783881:a"])
def test_numbers_are_given_with_their_ids(written: str) -> None:
    with pytest.raises(ValidationError, match="phone_number_ids"):
        settings(phone_number_ids=written)


def test_it_is_there_where_its_settings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured() is None
    monkeypatch.setenv("WHATSAPP_ACCESS_TOKEN", TOKEN)
    assert configured() is None
    monkeypatch.setenv("WHATSAPP_PHONE_NUMBER_IDS", f"{OURS}:{OUR_ID} +12016661234:2")
    assert isinstance(configured(), WhatsappProvider)
