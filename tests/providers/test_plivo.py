"""Plivo: what we ask of it beside what its own library asks, and its calls, signed by its own library."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx
import plivo
import pytest
import requests
from plivo.utils import validate_signature
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3, validate_v3_signature

from app.addresses import any_address
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
    Reply,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.plivo import STATUSES, PlivoProvider, PlivoSettings, configured
from app.testing.vendor import ODD_VALUES, Vendor, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import basic, call, form, payload

pytestmark = pytest.mark.anyio

ACCOUNT = "MA" + "0" * 18
AUTH, OLD_AUTH = "f" * 40, "0" * 40
NONCE = "05429567804466091622"
URL = "https://messages.example/api/webhooks/plivo?ref=1-17-1772366400000000"
SIGNATURE = "x-plivo-signature-v3"
ACCEPTED = httpx.Response(
    202,
    json={
        "message": "message(s) queued",
        "message_uuid": ["8c5ba8f2-0000-4000-8000-000000000001"],
        "api_id": "db342550-7e9d-11e1-8ea7-1231380bc196",
    },
)


def provider(vendor: Vendor | None = None, **values: Any) -> PlivoProvider:
    given = {"auth_id": ACCOUNT, "auth_token": AUTH, **values}
    return PlivoProvider(PlivoSettings(_env_file=None, **given), vendor.client if vendor else None)


def signature_of(url: str, fields: dict[str, Any], *, auth: str = AUTH, method: str = "POST") -> str:
    """The signature by its own library."""
    make = construct_get_url if method == "GET" else construct_post_url
    signature: bytes = get_signature_v3(auth, make(url, dict(fields)).decode(), NONCE)
    return signature.decode()


def fields_of(body: bytes) -> dict[str, Any]:
    read = parse_qs(body.decode(), keep_blank_values=True)
    return {name: values if len(values) > 1 else values[0] for name, values in read.items()}


def signed(body: bytes, *, url: str = URL, auth: str = AUTH) -> Callback:
    return bearing(signature_of(url, fields_of(body), auth=auth), body, url=url)


def bearing(signature: str, body: bytes, *, url: str = URL, method: str = "POST") -> Callback:
    return call(url, body, {SIGNATURE: signature, f"{SIGNATURE}-nonce": NONCE}, method=method)


@each_case("callback_url", [None, "https://messages.example/api/webhooks/plivo"])
@each_case("media", [[], ["https://files.example/1.png", "https://files.example/2.png"]])
async def test_a_message_is_asked_for_as_its_own_library_asks(callback_url: str | None, media: list[str]) -> None:
    vendor = Vendor(ACCEPTED)
    message = outbound(body="Grüße", attachments=media, callback_url=callback_url, key="1-17-5")
    result = await provider(vendor).send(message)
    assert result.provider_message_id == "8c5ba8f2-0000-4000-8000-000000000001"

    library = plivo.RestClient(ACCOUNT, AUTH)
    asked: list[requests.PreparedRequest] = []

    def keep(request: requests.PreparedRequest, **_: Any) -> requests.Response:
        asked.append(request)
        response = requests.Response()
        response.status_code, response._content = 202, ACCEPTED.content
        return response

    library.send_request = keep
    library.messages.create(
        src=message.from_address,
        dst=message.to_address,
        text="Grüße",
        type_="mms" if media else "sms",
        url=f"{callback_url}?ref=1-17-5" if callback_url else None,
        media_urls=media or None,
    )
    expected: Any = asked[0]
    request = vendor.request
    assert (request.method, str(request.url)) == ("POST", expected.url)
    # The library writes its own defaults too.
    defaults = {"log": "true", "trackable": False, "method": "POST"}
    assert defaults | json.loads(request.content) == json.loads(expected.body)
    assert request.headers["authorization"] == expected.headers["Authorization"]
    assert request.headers["content-type"] == "application/json"


async def test_it_is_asked_with_the_first_token() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, auth_token=f"{AUTH},{OLD_AUTH}").send(outbound())
    assert vendor.request.headers["authorization"] == basic(ACCOUNT, AUTH)


async def test_another_host_can_be_put_in_its_place() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, api_url="http://127.0.0.1:9100").send(outbound())
    assert str(vendor.request.url) == f"http://127.0.0.1:9100/v1/Account/{ACCOUNT}/Message/"


def refusal(status: int, error: object = None, **headers: str) -> httpx.Response:
    if error is None:
        return httpx.Response(status, headers=headers, text="<html>")
    return httpx.Response(status, headers=headers, json={"api_id": "1", "error": error})


@each_case(
    ("answer", "failure", "text"),
    [
        (refusal(400, "dst is not valid"), PermanentFailure, "400 Bad Request - dst is not valid"),
        (refusal(400, {"dst": "invalid"}), PermanentFailure, "400 Bad Request"),
        (refusal(401, "no such account"), CredentialsRefused, "401 Unauthorized - no such account"),
        (refusal(402, "no credit"), CredentialsRefused, "402 Payment Required - no credit"),
        (refusal(403, "not enabled for DE"), PermanentFailure, "403 Forbidden - not enabled for DE"),
        (refusal(404), PermanentFailure, "404 Not Found"),
        (refusal(429, "slow down"), TemporaryFailure, "429 Too Many Requests - slow down"),
        (refusal(500, "sorry"), UnknownOutcome, "500 Internal Server Error - sorry"),
        (refusal(503), UnknownOutcome, "503 Service Unavailable"),
        (httpx.Response(302), UnknownOutcome, "302 Found"),
        (httpx.Response(202, text="<html>"), UnknownOutcome, "202 without an id"),
        (httpx.Response(202, json={"message_uuid": []}), UnknownOutcome, "202 without an id"),
        (httpx.Response(202, json={"message_uuid": [""]}), UnknownOutcome, "202 without an id"),
        (
            httpx.Response(202, json={"message_uuid": [], "invalid_number": ["12"]}),
            PermanentFailure,
            "the number is invalid",
        ),
        (httpx.ConnectError("refused"), TemporaryFailure, "No connection was made"),
        (httpx.ReadTimeout("silent"), UnknownOutcome, "no answer came"),
    ],
)
async def test_what_goes_wrong_becomes_the_right_failure(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], text: str
) -> None:
    with pytest.raises(failure, match=text) as raised:
        await provider(Vendor(answer)).send(outbound())
    assert AUTH not in str(raised.value)


async def test_a_throttled_account_is_left_alone_for_as_long_as_it_asks() -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await provider(Vendor(refusal(429, "slow down", **{"Retry-After": "7"}))).send(outbound())
    assert (raised.value.throttled, raised.value.retry_after) == (True, 7)


@each_case(
    "url",
    [
        URL,
        "https://messages.example/api/webhooks/plivo",
        "https://messages.example:8443/api/webhooks/plivo?b=2&a=%2B3&a=1&empty=",
    ],
)
@each_case("body", [payload("plivo", "inbound_sms.form"), b"", form([("b", "2"), ("a", "2"), ("a", "1"), ("c", "")])])
def test_a_call_that_its_own_library_signed_is_genuine(url: str, body: bytes) -> None:
    callback = signed(body, url=url)
    provider().verify(callback)
    assert validate_v3_signature(
        method="POST",
        uri=url,
        nonce=NONCE,
        auth_token=AUTH,
        v3_signature=callback.header(SIGNATURE),
        params=fields_of(body),
    )


def test_a_call_by_get_is_signed_with_its_sorted_query() -> None:
    url = f"{URL}&{urlencode({'Status': 'sent', 'MessageUUID': '1', 'To': '18045551234'})}"
    callback = bearing(signature_of(url, {}, method="GET"), b"", url=url, method="GET")
    provider().verify(callback)
    [receipt] = provider().parse(callback)
    assert isinstance(receipt, Receipt)
    assert (receipt.provider_message_id, receipt.status) == ("1", MessageStatus.SENT)


def test_one_of_several_signatures_is_enough() -> None:
    body = payload("plivo", "delivered.form")
    right, other = signature_of(URL, fields_of(body)), signature_of(URL, fields_of(body), auth=OLD_AUTH)
    for shown in (f"{other},{right}", f"{right},{other}", f"{other}, {right}"):
        provider().verify(bearing(shown, body))
    with pytest.raises(CallbackRefused):
        provider().verify(bearing(f"{other},{other}", body))


def v2_of(nonce: str, auth: str = AUTH, url: str = URL) -> str:
    signed = f"{url.partition('?')[0]}{nonce}".encode()
    signature = base64.b64encode(hmac.digest(auth.encode(), signed, hashlib.sha256)).decode()
    assert validate_signature(url, nonce, signature, auth)
    return signature


OF_V3 = "x-plivo-signature-v3-nonce"
OF_V2 = "x-plivo-signature-v2-nonce"
ANOTHER = base64.b64encode(b"by the token of a subaccount....").decode()


@each_case(
    "headers, token",
    [
        ({"x-plivo-signature-v2": "@2", OF_V2: "17"}, "17"),
        ({"x-plivo-signature-ma-v2": "@2", OF_V2: "17"}, "17"),
        ({"x-plivo-signature-v2": ANOTHER, "x-plivo-signature-ma-v2": "@2", OF_V2: "17"}, "17"),
        ({"x-plivo-signature-v2": f"{ANOTHER}, @2", OF_V2: "17"}, "17"),
        ({"x-plivo-signature-ma-v3": "@3", OF_V3: NONCE}, None),
        ({"x-plivo-signature-v3": ANOTHER, "x-plivo-signature-ma-v3": "@3", OF_V3: NONCE}, None),
        ({"x-plivo-signature-v3": "@3", "x-plivo-signature-ma-v3": ANOTHER, OF_V3: NONCE}, None),
        ({"x-plivo-signature-v3": "@3", OF_V3: NONCE, "x-plivo-signature-v2": "@2", OF_V2: "17"}, None),
        ({"x-plivo-signature-v3": ANOTHER, OF_V3: NONCE, "x-plivo-signature-ma-v2": "@2", OF_V2: "17"}, "17"),
        ({"x-plivo-signature-v3": "@3", OF_V3: NONCE, "x-plivo-signature-v2": ANOTHER, OF_V2: "17"}, None),
    ],
)
def test_any_right_signature_is_enough_and_one_without_the_body_is_good_once(
    headers: dict[str, str], token: str | None
) -> None:
    body = payload("plivo", "inbound_sms.form")
    by_v3, by_v2 = signature_of(URL, fields_of(body)), v2_of("17")
    signed = {name: value.replace("@3", by_v3).replace("@2", by_v2) for name, value in headers.items()}
    assert provider().verify(call(URL, body, signed)) == token


@each_case(
    "headers",
    [
        {},
        {"x-plivo-signature-v2": "@2"},
        {"x-plivo-signature-v2": "@2", OF_V3: "17"},
        {"x-plivo-signature-v2": "@2", OF_V2: "18"},
        {"x-plivo-signature-v2": ANOTHER, "x-plivo-signature-ma-v2": ANOTHER, OF_V2: "17"},
        {"x-plivo-signature-v2": "", OF_V2: "17"},
        {"x-plivo-signature-v2": "@3", OF_V2: "17", OF_V3: NONCE},
        {"x-plivo-signature-v3": "@2", OF_V2: "17", OF_V3: "17"},
        {"x-plivo-signature": "@2", OF_V2: "17"},
        {OF_V2: "17"},
    ],
)
def test_without_a_right_signature_it_is_refused(headers: dict[str, str]) -> None:
    body = payload("plivo", "inbound_sms.form")
    by_v3, by_v2 = signature_of(URL, fields_of(body)), v2_of("17")
    signed = {name: value.replace("@3", by_v3).replace("@2", by_v2) for name, value in headers.items()}
    with pytest.raises(CallbackRefused):
        provider().verify(call(URL, body, signed))


@each_case("url", ["https://messages.example/api/webhooks/twilio", "https://other.example/api/webhooks/plivo"])
def test_a_v2_signature_of_another_address_is_refused(url: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(call(URL, b"", {"x-plivo-signature-v2": v2_of("17", url=url), OF_V2: "17"}))


def test_while_the_token_is_changed_both_are_good_and_a_third_is_not() -> None:
    both = provider(auth_token=f"{AUTH},{OLD_AUTH}")
    body = payload("plivo", "delivered.form")
    both.verify(signed(body))
    both.verify(signed(body, auth=OLD_AUTH))
    with pytest.raises(CallbackRefused):
        both.verify(signed(body, auth="1" * 40))


@each_case("name", [SIGNATURE, f"{SIGNATURE}-nonce"])
@each_case("value", [*ODD_VALUES, "," * 60_000])
def test_an_odd_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(with_header(signed(payload("plivo", "delivered.form")), name, value))


@pytest.mark.parametrize("name", [SIGNATURE, f"{SIGNATURE}-nonce"])
def test_a_missing_or_repeated_header_is_refused(name: str) -> None:
    callback = signed(payload("plivo", "delivered.form"))
    for odd in (without_header(callback, name), with_header_twice(callback, name)):
        with pytest.raises(CallbackRefused, match="missing, empty, or there twice"):
            provider().verify(odd)


@each_case(("url", "body"), [(URL, b"\xff\xfe"), (URL, b"no fields"), ("https://[::1/a", b"a=b"), (URL, b'{"a": 1}')])
def test_what_can_t_be_read_is_refused(url: str, body: bytes) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(bearing("RSOYDt4T1cUTdK1PDd93/VVr8B8=", body, url=url))


def test_a_changed_field_or_address_is_refused() -> None:
    callback = signed(payload("plivo", "delivered.form"))
    for forged in (
        replace(callback, body=callback.body.replace(b"delivered", b"failed")),
        replace(callback, url=URL.replace("1-17", "1-18")),
    ):
        with pytest.raises(CallbackRefused):
            provider().verify(forged)


def test_without_a_token_nothing_can_be_verified() -> None:
    without = provider(auth_token=" ")  # noqa: S106 - it is blank
    with pytest.raises(CallbackUnverifiable):
        without.verify(signed(payload("plivo", "delivered.form")))


def test_a_text_that_came_in() -> None:
    [message] = provider().parse(signed(payload("plivo", "inbound_sms.form")))
    assert message == InboundMessage(
        provider_message_id="7c5ba8f2-0000-4000-8000-000000000001",
        channel="sms",
        type="sms",
        from_address="+18045551234",
        to_address="+12016661234",
        body="Grüße & 1+1",
    )


@each_case(
    ("written", "sender"),
    [
        ("18045551234", "+18045551234"),
        ("+18045551234", "+18045551234"),
        ("6834002", "+6834002"),  # of Niue
        ("50021000", "+50021000"),  # of the Falkland Islands
        ("2239500", "2239500"),
        ("22395000", "22395000"),
        ("22395", "22395"),
        ("ALERTS", "ALERTS"),
    ],
)
def test_a_sender_is_a_number_or_a_short_code_and_can_be_read(written: str, sender: str) -> None:
    body = form([("MessageUUID", "1"), ("From", written), ("To", "12016661234"), ("Text", "Hi")])
    [message] = provider().parse(signed(body))
    assert isinstance(message, InboundMessage)
    assert message.from_address == sender
    assert any_address(message.from_address, region="US").value == sender


def test_media_that_came_in_are_in_their_order() -> None:
    [message] = provider().parse(signed(payload("plivo", "inbound_mms.form")))
    assert isinstance(message, InboundMessage)
    assert (message.type, message.body) == ("mms", "Look!")
    assert message.attachments == ["https://media.plivo.example/0.jpg", "https://media.plivo.example/1.jpg"]


def test_a_receipt_names_its_message_by_id_and_by_reference() -> None:
    [receipt] = provider().parse(signed(payload("plivo", "delivered.form")))
    assert isinstance(receipt, Receipt)
    assert receipt.event_id == "8c5ba8f2-0000-4000-8000-000000000001:delivered"
    assert receipt.status is MessageStatus.DELIVERED
    assert receipt.provider_message_id == "8c5ba8f2-0000-4000-8000-000000000001"
    assert receipt.idempotency_key == "1-17-1772366400000000"
    assert (receipt.recipient, receipt.detail) == ("+18045551234", None)


def test_a_failure_says_why() -> None:
    [receipt] = provider().parse(signed(payload("plivo", "undelivered.form")))
    assert isinstance(receipt, Receipt)
    assert (receipt.status, receipt.detail) == (MessageStatus.UNDELIVERED, "error 40")


@each_case(
    ("word", "status", "detail"),
    [
        ("delivered", MessageStatus.SENT, "part 2 of 3: delivered"),
        ("sent", MessageStatus.SENT, "part 2 of 3: sent"),
        ("undelivered", MessageStatus.UNDELIVERED, "In part: part 2 of 3 undelivered"),
        ("failed", MessageStatus.UNDELIVERED, "In part: part 2 of 3 failed"),
    ],
)
def test_a_later_part_can_spoil_a_message_but_not_deliver_it(word: str, status: MessageStatus, detail: str) -> None:
    body = payload("plivo", "second_part.form").replace(b"Status=delivered", f"Status={word}".encode())
    [receipt] = provider().parse(signed(body))
    assert isinstance(receipt, Receipt)
    assert receipt.provider_message_id == "8c5ba8f2-0000-4000-8000-000000000001"
    assert receipt.event_id == f"8c5ba8f2-0000-4000-8000-000000000002:{word}"
    assert (receipt.status, receipt.detail) == (status, detail)


@each_case("word", [*STATUSES, "teleported"])
def test_each_of_its_words_has_its_status_and_a_new_one_is_kept(word: str) -> None:
    [receipt] = provider().parse(signed(form([("MessageUUID", "1"), ("Status", word)])))
    assert isinstance(receipt, Receipt)
    assert receipt.status is STATUSES.get(word)
    assert receipt.raw["Status"] == word


@each_case(
    "body",
    [
        b"",
        b"no fields",
        b"\xff",
        form([("Status", "sent")]),
        form([("MessageUUID", "1"), ("Status", "")]),
        form([("MessageUUID", "x" * 257), ("Status", "sent")]),
        form([("MessageUUID", "1"), ("From", "18045551234")]),
        form([("MessageUUID", "1"), ("From", "18045551234"), ("To", "12016661234"), ("Type", "whatsapp")]),
        b'{"MessageUUID": "1"}',
    ],
)
def test_what_is_not_understood_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(call(URL, body, {}))


def test_it_is_answered_with_an_empty_response() -> None:
    assert provider().reply == Reply(b"<Response/>", "application/xml", 200)


def test_it_is_there_once_it_has_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert configured() is None
    monkeypatch.setenv("PLIVO_AUTH_ID", ACCOUNT)
    assert configured() is None
    monkeypatch.setenv("PLIVO_AUTH_TOKEN", AUTH)
    assert isinstance(configured(), PlivoProvider)
    assert AUTH not in repr(PlivoSettings())
