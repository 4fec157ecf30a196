"""The vendor that settings describe.

No text breaks out of its templates, answers and callbacks are read by paths, and callbacks are signed by the library
of Standard Webhooks."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook

from app.domain import MessageStatus
from app.providers.base import (
    Callback,
    CallbackRefused,
    CallbackUnverifiable,
    CredentialsRefused,
    InboundMessage,
    PermanentFailure,
    ProviderFailure,
    Receipt,
    TemporaryFailure,
    UnknownOutcome,
    Unread,
)
from app.providers.base import send_through as hand_over
from app.providers.http import GenericProvider, HttpSettings, configured
from app.testing.vendor import ODD_VALUES, Vendor, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import NOW, call

pytestmark = pytest.mark.anyio

KEY, OLD_KEY = b"k" * 24, b"o" * 24
SECRET, OLD_SECRET = (f"whsec_{base64.b64encode(key).decode()}" for key in (KEY, OLD_KEY))
REFERENCE = "1-17-1772366400000000"
URL = "https://messages.example/api/webhooks/http"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
#: A gateway as there are many.
GATEWAY: dict[str, Any] = {
    "url": "https://sms.example/v1/messages",
    "headers": {"Authorization": "Bearer vendor-key", "Idempotency-Key": "{reference}"},
    "body": {"to": ["{to}"], "message": {"from": "{from}", "text": "{body}"}, "ref": "r-{reference}", "flash": False},
    "id_path": "data.messages[0].id",
    "status_path": "data.messages[0].state",
    "error_path": "error.text",
    "statuses": {"DELIVRD": "delivered", "REJECTD": "failed", "ENROUTE": "sent"},
    "secret": f"{SECRET},{OLD_SECRET}",
    "receipt_id_path": "id",
    "receipt_reference_path": "ref",
    "receipt_status_path": "state",
    "inbound_id_path": "message.id",
    "inbound_from_path": "message.from",
    "inbound_to_path": "message.to",
    "inbound_body_path": "message.text",
}
ACCEPTED = httpx.Response(200, json={"data": {"messages": [{"id": 4711, "state": "ENROUTE"}]}})


def settings(**values: Any) -> HttpSettings:
    return HttpSettings(_env_file=None, **{**GATEWAY, **values})


def provider(vendor: Vendor | None = None, **values: Any) -> GenericProvider:
    return GenericProvider(settings(**values), vendor.client if vendor else None)


async def asked(payload: Any, **values: Any) -> httpx.Request:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, **values).send(payload)
    return vendor.request


async def test_it_asks_as_its_templates_say() -> None:
    vendor = Vendor(ACCEPTED)
    result = await provider(vendor).send(outbound(key=REFERENCE))
    assert result.provider_message_id == "4711"
    assert (vendor.request.method, str(vendor.request.url)) == ("POST", "https://sms.example/v1/messages")
    assert vendor.request.headers["authorization"] == "Bearer vendor-key"
    assert vendor.request.headers["idempotency-key"] == REFERENCE
    assert json.loads(vendor.request.content) == {
        "to": ["+18045551234"],
        "message": {"from": "+12016661234", "text": "Hello!"},
        "ref": f"r-{REFERENCE}",
        "flash": False,
    }


async def test_a_placeholder_alone_keeps_its_kind() -> None:
    body = {
        "media": "{attachments}",
        "subject": "{subject}",
        "all": "see {attachments}{subject}",
        "to": "{callback_url}",
    }
    request = await asked(outbound(attachments=["https://a.example/1", "https://a.example/2"]), body=body)
    assert json.loads(request.content) == {
        "media": ["https://a.example/1", "https://a.example/2"],
        "subject": None,
        "all": "see https://a.example/1 https://a.example/2",
        "to": None,
    }


async def test_a_form_and_an_address_are_filled_in_too() -> None:
    request = await asked(
        outbound(body="a&b=c d\n{to}"),
        body={"text": "{body}", "number": "{to}", "parts": 2},
        body_as="form",
        headers={},
    )
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(request.content.decode(), strict_parsing=True) == [
        ("text", "a&b=c d\n{to}"),
        ("number", "+18045551234"),
        ("parts", "2"),
    ]
    request = await asked(
        outbound(body="a&to=b#/../ é"),
        url="https://sms.example/{from}/send?key=1&to={to}&text={body}",
        method="GET",
        body=None,
    )
    assert (request.method, request.content) == ("GET", b"")
    assert str(request.url) == (
        "https://sms.example/%2B12016661234/send?key=1&to=%2B18045551234&text=a%26to%3Db%23%2F..%2F%20%C3%A9"
    )


odd_texts = st.text() | st.sampled_from(
    ['"}', '","to":"x', "{to}", "\\", "\r\nX: y", "%22", "&to=1", "{", "\x00", "..", "\u2028"]
)


@given(body=odd_texts, subject=odd_texts)
async def test_no_text_breaks_out_of_its_place(body: str, subject: str) -> None:
    payload = outbound(body=body, subject=subject, key=REFERENCE)
    request = await asked(
        payload,
        url="https://sms.example/{to}?text={body}&end=1",
        body={"a": "{body}", "b": "<{subject}|{to}>", "end": 1},
    )
    assert json.loads(request.content) == {"a": body, "b": f"<{subject}|+18045551234>", "end": 1}
    assert parse_qsl(request.url.query.decode(), keep_blank_values=True) == [("text", body), ("end", "1")]
    assert (request.url.host, request.url.raw_path.partition(b"?")[0]) == ("sms.example", b"/%2B18045551234")
    form = await asked(payload, body={"a": "{body}", "end": "1"}, body_as="form")
    assert parse_qsl(form.content.decode(), keep_blank_values=True) == [("a", body), ("end", "1")]


@each_case(
    ("answer", "failure", "throttled"),
    [
        (httpx.Response(400, json={"error": {"text": "No such number"}}), PermanentFailure, False),
        (httpx.Response(400, text="No"), PermanentFailure, False),
        (httpx.Response(401), CredentialsRefused, False),
        (httpx.Response(403), CredentialsRefused, False),
        (httpx.Response(429, headers={"Retry-After": "5"}), TemporaryFailure, True),
        (httpx.Response(500), UnknownOutcome, False),
        (httpx.Response(503), UnknownOutcome, False),
        (httpx.Response(200, json={"data": {"messages": [{"id": 1, "state": "REJECTD"}]}}), PermanentFailure, False),
        (httpx.Response(200, text="OK"), UnknownOutcome, False),
        (httpx.Response(200, json={"data": {"messages": []}}), UnknownOutcome, False),
        (httpx.Response(200, json={"data": {"messages": [{"id": True}]}}), UnknownOutcome, False),
        (httpx.Response(200, json={"data": {"messages": [{"id": "a" * 513}]}}), UnknownOutcome, False),
        (httpx.Response(200, json=[]), UnknownOutcome, False),
        (httpx.Response(302), UnknownOutcome, False),
        (httpx.ConnectError("no"), TemporaryFailure, False),
        (httpx.ReadTimeout("no"), UnknownOutcome, False),
    ],
)
async def test_every_error_means_something(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], throttled: bool
) -> None:
    with pytest.raises(failure) as raised:
        await provider(Vendor(answer)).send(outbound())
    assert getattr(raised.value, "throttled", False) is throttled
    assert "vendor-key" not in str(raised.value)


@each_case(("status", "failure"), [(500, TemporaryFailure), (502, UnknownOutcome), (504, TemporaryFailure)])
async def test_the_settings_may_say_after_which_errors_it_has_taken_nothing(
    monkeypatch: pytest.MonkeyPatch, status: int, failure: type[ProviderFailure]
) -> None:
    monkeypatch.setenv("HTTP_NOT_TAKEN", "500 504")
    with pytest.raises(failure):
        await provider(Vendor(httpx.Response(status))).send(outbound())


async def test_an_error_is_told_in_the_vendors_words() -> None:
    with pytest.raises(PermanentFailure, match="400 Bad Request - No such number"):
        await provider(Vendor(httpx.Response(400, json={"error": {"text": "No such number"}}))).send(outbound())


async def test_without_a_path_there_is_no_id() -> None:
    result = await provider(Vendor(httpx.Response(204)), id_path=None).send(outbound())
    assert result.provider_message_id is None


@each_case(
    ("name", "value"),
    [
        ("url", "ftp://sms.example"),
        ("url", "sms.example"),
        ("url", "https://{to}/"),
        ("url", "https://{to}.sms.example/"),
        ("url", "https://sms.example/{body}"),
        ("url", "https://sms.example/?a={secret}"),
        ("url", "https://sms.example/#{to}"),
        ("body", {"a": ["{secret}"]}),
        ("body", ["{body}"]),
        ("headers", {"X": "{body}"}),
        ("headers", {"X": "a\r\nB: c"}),
        ("headers", {"X": "é"}),
        ("channels", "sms,push"),
        ("channels", "SMS"),
        ("id_path", "a..b"),
        ("id_path", "a[x]"),
        ("id_path", ""),
        ("statuses", {"a": "gone"}),
        ("method", "DELETE"),
    ],
)
def test_a_mistake_is_named_at_the_start(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(**{name: value})


def test_channels_have_the_usual_kind_or_their_own() -> None:
    assert provider(channels="sms email push fax:phone").channels == {
        "sms": "phone",
        "email": "email",
        "push": "push",
        "fax": "phone",
    }
    assert (provider().channels, provider().honours_idempotency_key) == ({"sms": "phone"}, False)
    assert provider(honours_reference=True).honours_idempotency_key


def signed(body: bytes, secret: str = SECRET, *, at: datetime = NOW, id_: str = "msg_1") -> Callback:
    """A call, signed by the library of Standard Webhooks and made now."""
    signature = Webhook(secret).sign(id_, at, body.decode())
    return call(URL, body, {ID: id_, TIMESTAMP: str(int(at.timestamp())), SIGNATURE: signature})


def test_what_the_library_signs_is_let_in_with_either_secret() -> None:
    for secret in (SECRET, OLD_SECRET):
        provider().verify(signed(b'{"a": 1}', secret))
    both = signed(b'{"a": 1}')
    provider().verify(with_header(both, SIGNATURE, f"v1a,xx v1,AAAA {both.header(SIGNATURE)}"))


def test_the_headers_may_have_svix_s_names() -> None:
    theirs = signed(b'{"a": 1}')
    names = [(name.replace("webhook-", "svix-"), value) for name, value in theirs.headers]
    provider().verify(replace(theirs, headers=names))
    with pytest.raises(CallbackRefused):
        provider().verify(replace(theirs, headers=[*names, (ID, "msg_2")]))
    assert provider().parse(replace(theirs, headers=names))


def test_a_public_key_may_stand_in_place_of_a_secret() -> None:
    private = Ed25519PrivateKey.generate()
    public = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
    theirs = signed(b"{}")
    shown = private.sign(f"msg_1.{theirs.header(TIMESTAMP)}.".encode() + b"{}")
    whole = with_header(theirs, SIGNATURE, "v1a," + base64.b64encode(shown).decode())
    provider(secret=public).verify(whole)
    for refused in (theirs, replace(whole, body=b"[]")):
        with pytest.raises(CallbackRefused) as raised:
            provider(secret=public).verify(refused)
        assert raised.value.expected is None


def test_a_secret_may_be_a_text() -> None:
    provider(secret=KEY.decode()).verify(signed(b"{}"))


@each_case(
    "secret", ["k" * 32, base64.b64encode(KEY).decode(), "9b7c6f1e5d4a3b2c1d0e9f8a7b6c5d4e", "pT4/xN+0aLq8Rw2ZyKvE"]
)
def test_the_library_signs_with_the_same_string(secret: str) -> None:
    for ours in (secret, f"whsec_{secret}", f"{secret},{OLD_SECRET}"):
        provider(secret=ours).verify(signed(b"{}", secret))
        provider(secret=ours).verify(signed(b"{}", f"whsec_{secret}"))


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_old_call_is_refused_and_one_of_the_future(seconds: int) -> None:
    with pytest.raises(CallbackRefused, match="seconds old"):
        provider().verify(signed(b"{}", at=NOW + timedelta(seconds=seconds)))


@each_case("header", [ID, TIMESTAMP, SIGNATURE])
@each_case("value", [*ODD_VALUES, "v1,", "v1,!!!", "v1," + "A" * 43 + "=", "v2,x", "١٢", " ".join("a" * 99)])
def test_no_odd_header_is_let_in(header: str, value: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(with_header(signed(b"{}"), header, value))


def test_nothing_else_is_let_in() -> None:
    good = signed(b'{"a": 1}')
    bad = [Callback("POST", URL, good.headers, good.body + b" ", NOW), signed(good.body, f"whsec_{'A' * 32}")]
    bad += [
        change(good, name) for change in (without_header, with_header_twice) for name in (ID, TIMESTAMP, SIGNATURE)
    ]
    for each in bad:
        with pytest.raises(CallbackRefused):
            provider().verify(each)
    with pytest.raises(CallbackUnverifiable):
        provider(secret=None).verify(good)
    with pytest.raises(ValidationError, match="after whsec_ a secret is base64"):
        provider(secret="whsec_!!!")  # noqa: S106 - it is none


NOTHING_FOUND = Unread("the paths that are set find nothing in it")


def events_of(document: object, **values: Any) -> list[Any]:
    return list(provider(**values).parse(signed(json.dumps(document).encode())))


def test_a_receipt_is_read_by_its_paths() -> None:
    [receipt] = events_of({"id": 4711, "ref": REFERENCE, "state": "DELIVRD", "more": [1]})
    assert receipt == Receipt(
        event_id="msg_1:0",
        status=MessageStatus.DELIVERED,
        provider_message_id="4711",
        idempotency_key=REFERENCE,
        raw={"id": 4711, "ref": REFERENCE, "state": "DELIVRD", "more": [1]},
    )
    [unknown] = events_of({"id": "1", "state": "HELD"})
    assert (unknown.status, unknown.raw["state"]) == (None, "HELD")


def test_a_message_is_read_by_its_paths() -> None:
    inbound = {"message": {"id": "m1", "from": "+18045551234", "to": "+12016661234", "text": ""}}
    assert events_of(inbound) == [InboundMessage("m1", "sms", "sms", "+18045551234", "+12016661234", "")]
    [other] = events_of(inbound, channels="sms push", inbound_channel="push")
    assert other.channel == "push"


@each_case(
    ("numbers", "written", "read"),
    [
        ("detect", "6591234567", "+6591234567"),
        ("detect", "4798765432", "+4798765432"),
        ("detect", "447911123456", "+447911123456"),
        ("detect", "5215512345678", "+5215512345678"),
        ("detect", "+447911123456", "+447911123456"),
        ("detect", "2016661234", "2016661234"),
        ("detect", "07911 123456", "07911 123456"),
        ("detect", "12345", "12345"),
        ("detect", "Alerts", "Alerts"),
        ("msisdn", "2016661234", "+2016661234"),
        ("msisdn", "6591234567", "+6591234567"),
        ("msisdn", "12345", "12345"),
        ("msisdn", "07911123456", "07911123456"),
        ("national", "6591234567", "6591234567"),
        ("national", "+6591234567", "+6591234567"),
        ("detect", "65-9123-4567", "+6591234567"),
        ("detect", " 6591234567 ", "+6591234567"),
        ("detect", "0065 9123 4567", "+6591234567"),
        ("detect", "(415) 555-0123", "(415) 555-0123"),
        ("detect", "0044", "0044"),
        ("msisdn", "65 9123 4567", "+6591234567"),
        ("msisdn", "00447911123456", "+447911123456"),
        ("national", "0044 7911 123456", "0044 7911 123456"),
    ],
)
def test_a_setting_tells_how_the_gateway_writes_numbers(numbers: str, written: str, read: str) -> None:
    [inbound] = events_of({"message": {"id": "m1", "from": written, "to": written, "text": ""}}, numbers=numbers)
    assert (inbound.from_address, inbound.to_address) == (read, read)


def test_several_come_in_one_call_and_a_bad_one_costs_no_other() -> None:
    items: list[object] = [
        {"id": "1", "state": "DELIVRD"},
        5,
        {"message": {"id": "m1", "from": "1"}},
        {"id": "2", "state": "ENROUTE"},
    ]
    events = events_of(items)
    assert events[1:3] == [NOTHING_FOUND] * 2
    assert [(event.event_id, event.status) for event in events[::3]] == [
        ("msg_1:0", MessageStatus.DELIVERED),
        ("msg_1:3", MessageStatus.SENT),
    ]
    assert events_of({"results": items}, events_path="results") == events


@each_case("body", [b"", b"nonsense", b"\xff", b"[" * 5000])
def test_what_can_not_be_understood_is_said(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        provider().parse(call(URL, body, {ID: "msg_1"}))


@each_case("said", [None, {}, 5, {"id": "1"}])
def test_where_the_paths_find_nothing_that_is_said_too(said: object) -> None:
    assert events_of(said) == [NOTHING_FOUND]


def test_secrets_show_nowhere() -> None:
    hidden = settings(url="https://sms.example/?key=key-in-url", body={"password": "key-in-body"})
    shown = f"{hidden!r} {GenericProvider(hidden)!r} {vars(GenericProvider(hidden))!r}"
    assert not any(secret in shown for secret in ("vendor-key", SECRET, "key-in-url", "key-in-body"))


def test_it_is_there_where_its_address_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured() is None
    monkeypatch.setenv("HTTP_URL", "https://sms.example/send")
    monkeypatch.setenv("HTTP_CHANNELS", "push:device")
    monkeypatch.setenv("HTTP_HEADERS", '{"Authorization": "Bearer x"}')
    monkeypatch.setenv("HTTP_BODY", '{"to": "{to}"}')
    found = configured()
    assert found is not None
    assert found.channels == {"push": "device"}


def test_a_signature_is_judged_by_when_it_came() -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    kept = signed(b"{}", at=long_ago)
    provider().verify(Callback("POST", URL, kept.headers, kept.body, long_ago + timedelta(seconds=10)))


async def test_the_vendor_knows_nothing_of_our_kinds() -> None:
    push = {"channels": "push:device", "url": "https://push.example/{to}", "body": {"from": "{from}"}}
    payload = outbound("device:a/b", channel="push", from_address="device:us")
    request = await asked(payload, **push)
    assert (str(request.url), json.loads(request.content)) == ("https://push.example/a%2Fb", {"from": "us"})
    [inbound] = events_of({"message": {"id": "m1", "from": "a/b", "to": "device:us", "text": "Hi"}}, **push)
    assert (inbound.from_address, inbound.to_address) == ("device:a/b", "device:us")


@pytest.mark.parametrize("to", ["device:..", "device:."])
async def test_an_address_never_leads_elsewhere(to: str) -> None:
    vendor = Vendor(ACCEPTED)
    push = provider(vendor, channels="push:device", url="https://push.example/{to}/send")
    with pytest.raises(PermanentFailure):
        await hand_over(push, outbound(to, channel="push", from_address="device:us"))
    assert vendor.requests == []
