"""Telnyx: what we ask of it beside what its own library asks, and its calls, which that library finds genuine too."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import telnyx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain import MessageStatus
from app.providers.base import (
    Callback,
    CallbackRefused,
    CallbackUnverifiable,
    CredentialsRefused,
    FileFacts,
    InboundMessage,
    PermanentFailure,
    ProviderFailure,
    Receipt,
    RecipientRefused,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.telnyx import STATUSES, TelnyxProvider, TelnyxSettings, configured
from app.testing.vendor import ODD_VALUES, Vendor, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import NOW, call, payload

pytestmark = pytest.mark.anyio

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OLD_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
API_KEY = "KEY0123456789"
URL = "https://messages.example/api/webhooks/telnyx"
TIMESTAMP, SIGNATURE = "telnyx-timestamp", "telnyx-signature-ed25519"
ACCEPTED = httpx.Response(
    200, json={"data": {"id": "834f3d53-8a3c-4aa0-a733-7f2d682a72df", "record_type": "message"}}
)


def public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def provider(vendor: Vendor | None = None, **values: Any) -> TelnyxProvider:
    given = {"api_key": API_KEY, "public_key": public(KEY), **values}
    return TelnyxProvider(TelnyxSettings(_env_file=None, **given), vendor.client if vendor else None)


def signed(
    body: bytes, *, key: Ed25519PrivateKey = KEY, at: datetime = NOW, timestamp: str | None = None
) -> Callback:
    timestamp = timestamp or str(int(at.timestamp()))
    signature = base64.b64encode(key.sign(timestamp.encode() + b"|" + body)).decode()
    return call(URL, body, {SIGNATURE: signature, TIMESTAMP: timestamp, "content-type": "application/json"}, at=at)


@pytest.mark.slow
@each_case("callback_url", [None, URL])
@each_case("profile", [None, "740572b6-099c-44a1-89b9-6c92163bc68d"])
@each_case("media", [[], ["https://files.example/1.png", "https://files.example/2.png"]])
async def test_a_message_is_asked_for_as_its_own_library_asks(
    callback_url: str | None, profile: str | None, media: list[str]
) -> None:
    vendor = Vendor(ACCEPTED)
    message = outbound(body="Grüße", attachments=media, callback_url=callback_url, key="1-17-5")
    result = await provider(vendor, messaging_profile_id=profile).send(message)
    assert result.provider_message_id == "834f3d53-8a3c-4aa0-a733-7f2d682a72df"

    asked: dict[str, Any] = {"type": "MMS" if media else "SMS"}
    if media:
        asked["media_urls"] = media
    if profile:
        asked["messaging_profile_id"] = profile
    if callback_url:
        asked["webhook_url"] = f"{callback_url}?ref=1-17-5"
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=ACCEPTED.json())

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as http,
        telnyx.Telnyx(api_key=API_KEY, http_client=http) as library,
    ):
        library.messages.send(
            from_=message.from_address, to=message.to_address, text="Grüße", idempotency_key="1-17-5", **asked
        )
    [expected] = requests
    request = vendor.request
    assert (request.method, request.url) == ("POST", expected.url)
    assert json.loads(request.content) == json.loads(expected.content)
    for name in ("authorization", "idempotency-key", "content-type"):
        assert request.headers[name] == expected.headers[name]


async def test_every_attempt_of_a_message_is_the_same_request_or_its_key_would_be_refused() -> None:
    vendor = Vendor(ACCEPTED)
    message = outbound(attachments=["https://files.example/1.png"], callback_url=URL)
    await provider(vendor).send(message)
    await provider(vendor).send(message)
    first, second = vendor.requests
    assert first.content == second.content
    assert provider().honours_idempotency_key


async def test_another_host_can_be_put_in_its_place() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, api_url="http://127.0.0.1:9100").send(outbound())
    assert str(vendor.request.url) == "http://127.0.0.1:9100/v2/messages"


def refusal(status: int, code: str | int | None = None, title: str = "Why", **headers: str) -> httpx.Response:
    if code is None:
        return httpx.Response(status, headers=headers, text="<html>")
    return httpx.Response(status, headers=headers, json={"errors": [{"code": code, "title": title, "detail": "So."}]})


@each_case(
    ("answer", "failure", "text"),
    [
        (refusal(400, "10002"), PermanentFailure, "400 Bad Request - 10002 Why - So."),
        (refusal(422, 10002), PermanentFailure, "422 Unprocessable Entity - 10002 Why - So."),
        (refusal(422, "10015", "Idempotency-Key was used with another body"), UnknownOutcome, "another body"),
        (refusal(409, "10015", "Idempotent request in progress"), UnknownOutcome, "in progress"),
        (refusal(401, "10009"), CredentialsRefused, "401 Unauthorized - 10009"),
        (refusal(402, "20100"), CredentialsRefused, "402 Payment Required - 20100"),
        (refusal(403, "10010"), CredentialsRefused, "403 Forbidden - 10010"),
        (refusal(403, "40300"), RecipientRefused, "40300 Why - So."),
        (refusal(400, "40300"), RecipientRefused, "40300 Why - So."),
        *[
            (refusal(400, code), TemporaryFailure, f"{code} Why - So.")
            for code in ("40002", "40006", "40318", "40320")
        ],
        *[(refusal(400, code), UnknownOutcome, f"{code} Why - So.") for code in ("10007", "10008")],
        (refusal(403, "40320"), TemporaryFailure, "40320 Why - So."),
        *[
            (refusal(400, code), CredentialsRefused, f"{code} Why - So.")
            for code in ("40311", "40312", "40313", "40314", "40333")
        ],
        (refusal(429, "40333"), CredentialsRefused, "40333 Why - So."),
        (refusal(400, "40315"), PermanentFailure, "40315 Why - So."),
        (refusal(429, "10011"), TemporaryFailure, "10011 Why - So."),
        (refusal(429), TemporaryFailure, "429 Too Many Requests"),
        (refusal(500, "10007"), UnknownOutcome, "10007 Why - So."),
        (refusal(503, "40999"), UnknownOutcome, "503 Service Unavailable - 40999"),
        (refusal(503), UnknownOutcome, "503 Service Unavailable"),
        (httpx.Response(400, json={"errors": []}), PermanentFailure, "400 Bad Request"),
        (httpx.Response(302), UnknownOutcome, "302 Found"),
        (httpx.Response(200, text="<html>"), UnknownOutcome, "200 without an id"),
        (httpx.Response(200, json={"data": None}), UnknownOutcome, "200 without an id"),
        (httpx.Response(200, json={"data": {"id": ""}}), UnknownOutcome, "200 without an id"),
        (httpx.ConnectError("refused"), TemporaryFailure, "No connection was made"),
        (httpx.ReadTimeout("silent"), UnknownOutcome, "no answer came"),
    ],
)
async def test_what_goes_wrong_becomes_the_right_failure(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], text: str
) -> None:
    with pytest.raises(failure, match=text) as raised:
        await provider(Vendor(answer)).send(outbound())
    assert API_KEY not in str(raised.value)


@pytest.mark.parametrize("code", ["10011", "40318"])
async def test_a_throttled_account_is_left_alone_for_as_long_as_it_asks(code: str) -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await provider(Vendor(refusal(400, code, **{"Retry-After": "7"}))).send(outbound())
    assert (raised.value.throttled, raised.value.retry_after) == (True, 7)


def test_a_call_is_genuine_to_us_as_it_is_to_its_own_library() -> None:
    callback = signed(payload("telnyx", "inbound_mms.json"), at=datetime.now(UTC))
    provider().verify(callback)
    with telnyx.Telnyx(api_key=API_KEY, public_key=public(KEY)) as library:
        library.webhooks.unwrap(callback.body.decode(), headers=dict(callback.headers))


def test_while_the_key_is_changed_both_are_good_and_a_third_is_not() -> None:
    both = provider(public_key=f"{public(KEY)},{public(OLD_KEY)}")
    body = payload("telnyx", "finalized.json")
    both.verify(signed(body))
    both.verify(signed(body, key=OLD_KEY))
    with pytest.raises(CallbackRefused):
        both.verify(signed(body, key=Ed25519PrivateKey.generate()))


@each_case(("seconds", "is_good"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_a_signature_is_good_for_five_minutes_either_way(seconds: int, is_good: bool) -> None:
    callback = replace(signed(payload("telnyx", "finalized.json")), received_at=NOW + timedelta(seconds=seconds))
    if is_good:
        provider().verify(callback)
    else:
        with pytest.raises(CallbackRefused, match="seconds old"):
            provider().verify(callback)


@each_case("timestamp", ["+1772366400", " 1772366400", "1772366400.0", "1_772_366_400", "١٧٧٢٣٦٦٤٠٠", "now"])
def test_a_time_that_is_written_oddly_is_refused_even_where_it_is_signed(timestamp: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(signed(payload("telnyx", "finalized.json"), timestamp=timestamp))


@each_case("name", [SIGNATURE, TIMESTAMP])
@each_case("value", ODD_VALUES)
def test_an_odd_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(with_header(signed(payload("telnyx", "finalized.json")), name, value))


@pytest.mark.parametrize("name", [SIGNATURE, TIMESTAMP])
def test_a_missing_or_repeated_header_is_refused(name: str) -> None:
    callback = signed(payload("telnyx", "finalized.json"))
    for odd in (without_header(callback, name), with_header_twice(callback, name)):
        with pytest.raises(CallbackRefused, match="missing, empty, or there twice"):
            provider().verify(odd)


def test_a_changed_body_is_refused() -> None:
    callback = signed(payload("telnyx", "finalized.json"))
    with pytest.raises(CallbackRefused):
        provider().verify(replace(callback, body=callback.body.replace(b"delivered", b"sent")))


@each_case("key", [None, "  ", "nonsense", base64.b64encode(b"short").decode(), "é"])
def test_without_a_key_that_can_be_read_nothing_can_be_verified(key: str | None) -> None:
    with pytest.raises(CallbackUnverifiable):
        provider(public_key=key).verify(signed(payload("telnyx", "finalized.json")))


def test_a_media_message_that_came_in() -> None:
    [message] = provider().parse(signed(payload("telnyx", "inbound_mms.json")))
    assert message == InboundMessage(
        provider_message_id="84cca175-9755-4859-b67f-4730d7f58aa3",
        channel="sms",
        type="mms",
        from_address="+18045551234",
        to_address="+12016661234",
        body="Hello from Telnyx 🎉",
        attachments=["https://media.telnyx.example/1.jpg"],
        kept={"https://media.telnyx.example/1.jpg": FileFacts(content_type="image/jpeg")},
        sent_at=datetime(2026, 3, 1, 11, 59, 59, 743000, UTC),
    )


def test_a_receipt_names_its_message_by_id_and_by_the_reference_that_is_signed() -> None:
    callback = replace(signed(payload("telnyx", "finalized.json")), url=f"{URL}?ref=9-9-9")
    [receipt] = provider().parse(callback)
    assert isinstance(receipt, Receipt)
    assert receipt.event_id == "4ee8c3a6-4995-4309-a3c6-38e3db9ea4be"
    assert receipt.status is MessageStatus.DELIVERED
    assert receipt.provider_message_id == "834f3d53-8a3c-4aa0-a733-7f2d682a72df"
    assert receipt.idempotency_key == "1-17-1772366400000000"
    assert receipt.occurred_at == datetime(2026, 3, 1, 12, 0, 1, 500000, UTC)
    assert (receipt.recipient, receipt.detail) == ("+18045551234", None)


def test_a_failure_says_why() -> None:
    [receipt] = provider().parse(signed(payload("telnyx", "failed.json")))
    assert isinstance(receipt, Receipt)
    assert receipt.status is MessageStatus.UNDELIVERED
    assert receipt.detail == "40001 Not routable - The destination number is a landline."
    assert receipt.idempotency_key is None


def with_status(word: str | None) -> bytes:
    written = json.loads(payload("telnyx", "finalized.json"))
    written["data"]["payload"]["to"][0]["status"] = word
    return json.dumps(written).encode()


@each_case("word", [*STATUSES, "teleported", None])
def test_each_of_its_words_has_its_status_and_a_new_one_is_kept(word: str | None) -> None:
    [receipt] = provider().parse(signed(with_status(word)))
    assert isinstance(receipt, Receipt)
    assert receipt.status is STATUSES.get(word or "")
    assert (f'"{word}"' if word else "null") in json.dumps(receipt.raw)


def test_the_silence_of_a_carrier_says_that_it_is_one() -> None:
    [receipt] = provider().parse(signed(with_status("delivery_unconfirmed")))
    assert isinstance(receipt, Receipt)
    assert receipt.status is MessageStatus.UNDELIVERED
    assert receipt.detail == "the carrier doesn't say whether it arrived"


def test_an_event_of_another_product_is_no_concern_of_ours() -> None:
    event = {"data": {"id": "1", "event_type": "call.initiated", "payload": {"direction": "incoming"}}}
    assert provider().parse(signed(json.dumps(event).encode())) == []


@each_case(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"data": NaN}',
        b'{"data": {"id": "1", "event_type": "message.received", "payload": {}}}',
        b'{"data": {"id": "", "event_type": "message.sent", "payload": {"direction": "outbound"}}}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_understood_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(call(URL, body, {}))


def test_it_is_there_once_it_has_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert configured() is None
    monkeypatch.setenv("TELNYX_API_KEY", API_KEY)
    assert isinstance(configured(), TelnyxProvider)
    assert API_KEY not in repr(TelnyxSettings())
