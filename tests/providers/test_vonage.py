"""Vonage: what we ask of it beside what its own library asks, and its calls, signed as it signs them."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import requests
import vonage
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from vonage_jwt import verify_signature
from vonage_messages.models import MmsContent, MmsImage, MmsText, Sms

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
    RecipientRefused,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.vonage import STATUSES, VonageProvider, VonageSettings, configured
from app.testing.vendor import ODD_VALUES, Vendor, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import NOW, call, payload

pytestmark = pytest.mark.anyio

APPLICATION = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"
SIGNING, OLD_SIGNING = "s" * 40, "o" * 40
URL = "https://messages.example/api/webhooks/vonage"
ACCEPTED = httpx.Response(202, json={"message_uuid": "cccccccc-bbbb-4ccc-8ddd-0123456789ab"})


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def pem(key: RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def provider(vendor: Vendor | None = None, **values: Any) -> VonageProvider:
    given = {"application_id": APPLICATION, "signature_secret": SIGNING, **values}
    return VonageProvider(VonageSettings(_env_file=None, **given), vendor.client if vendor else None)


def claims_of(body: bytes, at: datetime = NOW, **values: Any) -> dict[str, Any]:
    """As the documentation shows them."""
    return {
        "iat": int(at.timestamp()),
        "jti": "c5ba8f24-1a14-4c10-bfdf-3fbe8ce511b5",
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
        "api_key": "a1b2c3d",
        "application_id": APPLICATION,
        **values,
    }


def signed(body: bytes, *, signing: str = SIGNING, at: datetime = NOW, **values: Any) -> Callback:
    token = jwt.encode(claims_of(body, at, **values), signing, algorithm="HS256")
    return bearing(token, body, at)


def bearing(token: str, body: bytes, at: datetime = NOW) -> Callback:
    return call(URL, body, {"authorization": f"Bearer {token}", "content-type": "application/json"}, at=at)


class Recording(requests.adapters.BaseAdapter):
    """Keeps what the library asks for, and answers that it was accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        self.asked.append(request)
        response = requests.Response()
        response.status_code, response._content, response.request = 202, ACCEPTED.content, request
        return response

    def close(self) -> None:
        pass


IMAGE, FILM = "https://files.example/1.png", "https://files.example/2.mp4"


@each_case("callback_url", [None, URL])
@each_case("kind", ["sms", "mms", "image", "several"])
async def test_a_message_is_asked_for_as_its_own_library_asks(
    pem: str, key: RSAPrivateKey, callback_url: str | None, kind: str
) -> None:
    media = {"image": [IMAGE], "several": [IMAGE, FILM]}.get(kind, [])
    vendor = Vendor(ACCEPTED)
    message = outbound(
        type="sms" if kind == "sms" else "mms",
        body="Grüße",
        attachments=media,
        callback_url=callback_url,
        key="1-17-5",
    )
    result = await provider(vendor, private_key=pem).send(message)
    assert result.provider_message_id == "cccccccc-bbbb-4ccc-8ddd-0123456789ab"

    ends: dict[str, Any] = {"to": "18045551234", "from_": "12016661234", "client_ref": "1-17-5"}
    if callback_url:
        ends["webhook_url"] = callback_url
    asked = {
        "sms": lambda: Sms(text="Grüße", **ends),
        "mms": lambda: MmsText(text="Grüße", **ends),
        "image": lambda: MmsImage(image={"url": IMAGE, "caption": "Grüße"}, **ends),
        "several": lambda: MmsContent(
            content=[{"type_": "image", "url": IMAGE, "caption": "Grüße"}, {"type_": "video", "url": FILM}], **ends
        ),
    }[kind]()
    library = vonage.Vonage(vonage.Auth(application_id=APPLICATION, private_key=pem))
    recording = Recording()
    library.http_client._session.mount("https://", recording)
    library.messages.send(asked)
    expected: Any = recording.asked[0]

    request = vendor.request
    assert (request.method, str(request.url)) == ("POST", expected.url)
    assert json.loads(request.content) == json.loads(expected.body)
    ours, theirs = (
        jwt.decode(written.removeprefix(b"Bearer "), key.public_key(), algorithms=["RS256"])
        for written in (request.headers["authorization"].encode(), expected.headers["Authorization"])
    )
    assert set(ours) == set(theirs)
    assert ours["application_id"] == theirs["application_id"] == APPLICATION
    assert ours["exp"] - ours["iat"] == theirs["exp"] - theirs["iat"] == 900


@each_case(
    ("url", "kind"),
    [
        ("https://files.example/a.JPG?size=1", "image"),
        ("https://files.example/a.mp3", "audio"),
        ("https://files.example/a.mp4", "video"),
        ("https://files.example/a.vcf", "vcard"),
        ("https://files.example/a.pdf", "file"),
        ("https://files.example/a", "file"),
        ("https://files.example/a.txt", "file"),
    ],
)
async def test_the_ending_of_its_address_tells_what_a_medium_is(pem: str, url: str, kind: str) -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, private_key=pem).send(outbound(body="", attachments=[url]))
    sent = json.loads(vendor.request.content)
    assert (sent["channel"], sent["message_type"], sent[kind]) == ("mms", kind, {"url": url})


async def test_a_short_code_or_a_name_stays_as_it_is(pem: str) -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, private_key=pem).send(outbound(from_address="ACME"))
    assert json.loads(vendor.request.content)["from"] == "ACME"


async def test_a_token_serves_many_requests(pem: str) -> None:
    vendor = Vendor(ACCEPTED)
    vonage_provider = provider(vendor, private_key=pem)
    await vonage_provider.send(outbound())
    await vonage_provider.send(outbound())
    assert len({request.headers["authorization"] for request in vendor.requests}) == 1


async def test_the_key_may_be_written_on_one_line_or_lie_in_a_file(pem: str, tmp_path: Path) -> None:
    path = tmp_path / "private.key"
    path.write_text(pem)
    for written in (pem.replace("\n", "\\n"), str(path)):
        await provider(Vendor(ACCEPTED), private_key=written).send(outbound())


async def test_a_key_that_can_t_be_read_pauses_the_provider_and_is_not_shown(tmp_path: Path) -> None:
    curve = generate_ec_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for written in ("-----BEGIN PRIVATE KEY-----\nnonsense", str(tmp_path / "missing"), "\x00", curve, "x" * 5000):
        vendor = Vendor(ACCEPTED)
        with pytest.raises(CredentialsRefused, match="VONAGE_PRIVATE_KEY") as raised:
            await provider(vendor, private_key=written).send(outbound())
        assert written not in str(raised.value)
        assert vendor.requests == []


async def test_another_host_can_be_put_in_its_place(pem: str) -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, private_key=pem, api_url="http://127.0.0.1:9100").send(outbound())
    assert str(vendor.request.url) == "http://127.0.0.1:9100/v1/messages"


def refusal(status: int, code: str | None = None, **headers: str) -> httpx.Response:
    if code is None:
        return httpx.Response(status, headers=headers, text="<html>")
    problem = {"type": f"https://developer.vonage.com/api-errors/messages#{code}", "title": code, "detail": "So."}
    return httpx.Response(status, headers=headers, json=problem)


@each_case(
    ("answer", "failure", "text"),
    [
        (refusal(422, "1240"), RecipientRefused, "1240 So."),
        (refusal(422, "1120"), PermanentFailure, "422 Unprocessable Entity - 1120 So."),
        (refusal(401, "unauthorized"), CredentialsRefused, "401 Unauthorized - unauthorized So."),
        (refusal(402, "low-balance"), CredentialsRefused, "402 Payment Required - low-balance So."),
        (refusal(403, "forbidden"), CredentialsRefused, "403 Forbidden - forbidden So."),
        (refusal(422, "1000"), TemporaryFailure, "1000 So."),
        (refusal(422, "1030"), UnknownOutcome, "1030 So."),
        (refusal(429, "throttled"), TemporaryFailure, "429 Too Many Requests - throttled So."),
        (refusal(404), PermanentFailure, "404 Not Found"),
        (refusal(500, "internal"), UnknownOutcome, "500 Internal Server Error - internal So."),
        (refusal(503), UnknownOutcome, "503 Service Unavailable"),
        (httpx.Response(400, json=[]), PermanentFailure, "400 Bad Request"),
        (httpx.Response(307), UnknownOutcome, "307 Temporary Redirect"),
        (httpx.Response(202, text="<html>"), UnknownOutcome, "202 without an id"),
        (httpx.Response(202, json={}), UnknownOutcome, "202 without an id"),
        (httpx.Response(202, json={"message_uuid": ""}), UnknownOutcome, "202 without an id"),
        (httpx.ConnectError("refused"), TemporaryFailure, "No connection was made"),
        (httpx.ReadTimeout("silent"), UnknownOutcome, "no answer came"),
    ],
)
async def test_what_goes_wrong_becomes_the_right_failure(
    pem: str, answer: httpx.Response | Exception, failure: type[ProviderFailure], text: str
) -> None:
    with pytest.raises(failure, match=text):
        await provider(Vendor(answer), private_key=pem).send(outbound())


@pytest.mark.parametrize("code", ["1000", "throttled"])
async def test_a_throttled_account_is_left_alone_for_as_long_as_it_asks(pem: str, code: str) -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await provider(Vendor(refusal(429, code, **{"Retry-After": "7"})), private_key=pem).send(outbound())
    assert (raised.value.throttled, raised.value.retry_after) == (True, 7)


def test_a_call_is_genuine_to_us_as_it_is_to_its_own_library() -> None:
    callback = signed(payload("vonage", "inbound_sms.json"), at=datetime.now(UTC))
    provider().verify(callback)
    assert verify_signature((callback.header("authorization") or "").removeprefix("Bearer "), SIGNING)


def test_while_the_secret_is_changed_both_are_good_and_a_third_is_not() -> None:
    both = provider(signature_secret=f"{SIGNING},{OLD_SIGNING}")
    body = payload("vonage", "delivered.json")
    both.verify(signed(body))
    both.verify(signed(body, signing=OLD_SIGNING))
    with pytest.raises(CallbackRefused):
        both.verify(signed(body, signing="x" * 40))


@each_case(("seconds", "is_good"), [(-301, False), (-300, True), (0, True), (86_700, True), (86_701, False)])
def test_a_signature_is_good_for_the_day_on_which_vonage_calls_again(seconds: int, is_good: bool) -> None:
    callback = replace(signed(payload("vonage", "delivered.json")), received_at=NOW + timedelta(seconds=seconds))
    if is_good:
        provider().verify(callback)
    else:
        with pytest.raises(CallbackRefused, match="seconds old"):
            provider().verify(callback)


def test_a_changed_body_is_refused() -> None:
    callback = signed(payload("vonage", "delivered.json"))
    with pytest.raises(CallbackRefused, match="body"):
        provider().verify(replace(callback, body=callback.body.replace(b"delivered", b"read")))


def unencoded(written: object) -> str:
    content = written if isinstance(written, bytes) else json.dumps(written).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed_by_hand(header: object, claims: object, signing: bytes = SIGNING.encode(), digest: str = "sha256") -> str:
    parts = f"{unencoded(header)}.{unencoded(claims)}"
    return f"{parts}.{unencoded(hmac.digest(signing, parts.encode(), digest))}"


def test_no_other_algorithm_is_talked_into_it(key: RSAPrivateKey, pem: str) -> None:
    body = payload("vonage", "delivered.json")
    claims = claims_of(body)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    provider().verify(bearing(signed_by_hand({"alg": "HS256", "typ": "JWT"}, claims), body))
    for token in (
        jwt.encode(claims, "", algorithm="none"),
        f"{unencoded({'alg': 'none'})}.{unencoded(claims)}.",
        signed_by_hand({"alg": "none"}, claims),
        signed_by_hand({"alg": "HS256"}, claims, signing=public),
        signed_by_hand({"alg": "HS256"}, claims, signing=b""),
        signed_by_hand({"alg": "RS256"}, claims),
        signed_by_hand({"alg": "HS512"}, claims, digest="sha512"),
        jwt.encode(claims, pem, algorithm="RS256"),
        jwt.encode(claims, SIGNING * 2, algorithm="HS512"),
    ):
        with pytest.raises(CallbackRefused):
            provider().verify(bearing(token, body))


@each_case(
    ("header", "claims"),
    [
        ({}, {}),
        ({"alg": "HS256"}, {}),
        ({"alg": "HS256"}, []),
        ({"alg": "HS256"}, b"\xff"),
        ({"alg": "HS256"}, {"iat": "soon", "payload_hash": "00"}),
        ({"alg": "HS256"}, {"iat": -1, "payload_hash": "00"}),
        ({"alg": "HS256"}, {"iat": 10**400, "payload_hash": "00"}),
        ({"alg": "HS256"}, {"iat": int(NOW.timestamp())}),
        ({"alg": "HS256"}, {"iat": int(NOW.timestamp()), "payload_hash": "é"}),
        ({"alg": "HS256"}, b"[" * 50_000),
        (b"{", {"iat": int(NOW.timestamp()), "payload_hash": hashlib.sha256(b"{}").hexdigest()}),
        ({"alg": ["HS256"]}, {"iat": int(NOW.timestamp()), "payload_hash": hashlib.sha256(b"{}").hexdigest()}),
    ],
)
def test_a_token_that_does_not_say_when_and_for_what_is_refused(header: object, claims: object) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(bearing(signed_by_hand(header, claims), b"{}"))


@each_case("value", [*ODD_VALUES, *(f"Bearer {value}" for value in ODD_VALUES), "Basic YTpi", "Bearer"])
def test_an_odd_header_is_refused(value: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(with_header(signed(payload("vonage", "delivered.json")), "authorization", value))


def test_an_empty_or_repeated_header_is_refused_and_without_any_it_is_to_call_again() -> None:
    callback = signed(payload("vonage", "delivered.json"))
    for odd in (with_header(callback, "authorization", ""), with_header_twice(callback, "authorization")):
        with pytest.raises(CallbackRefused, match="missing, empty, or there twice"):
            provider().verify(odd)
    with pytest.raises(CallbackUnverifiable, match="not signed"):
        provider().verify(without_header(callback, "authorization"))


def test_without_a_secret_nothing_can_be_verified() -> None:
    with pytest.raises(CallbackUnverifiable):
        provider(signature_secret=None).verify(signed(payload("vonage", "delivered.json")))


def test_a_text_that_came_in() -> None:
    [message] = provider().parse(signed(payload("vonage", "inbound_sms.json")))
    assert message == InboundMessage(
        provider_message_id="aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab",
        channel="sms",
        type="sms",
        from_address="+18045551234",
        to_address="+12016661234",
        body="Hello From Vonage!",
        sent_at=NOW,
    )


def test_a_picture_that_came_in() -> None:
    [message] = provider().parse(signed(payload("vonage", "inbound_mms.json")))
    assert isinstance(message, InboundMessage)
    assert (message.channel, message.type, message.body, message.sent_at) == ("sms", "mms", "Look!", NOW)
    assert message.attachments == ["https://api-us.nexmo.com/v3/media/1b456509-974c-458b-aafa-45fc48a4d976"]


@each_case("sender", ["12345", "ACME", "+18045551234"])
def test_what_is_no_number_without_its_plus_stays_as_it_is(sender: str) -> None:
    written = json.loads(payload("vonage", "inbound_sms.json")) | {"from": sender}
    [message] = provider().parse(signed(json.dumps(written).encode()))
    assert isinstance(message, InboundMessage)
    assert message.from_address == sender


def test_a_receipt_names_its_message_by_id_and_by_reference() -> None:
    [receipt] = provider().parse(signed(payload("vonage", "delivered.json")))
    assert isinstance(receipt, Receipt)
    assert receipt.event_id == "cccccccc-bbbb-4ccc-8ddd-0123456789ab:delivered"
    assert receipt.status is MessageStatus.DELIVERED
    assert receipt.provider_message_id == "cccccccc-bbbb-4ccc-8ddd-0123456789ab"
    assert receipt.idempotency_key == "1-17-1772366400000000"
    assert receipt.occurred_at == NOW + timedelta(seconds=2)
    assert (receipt.recipient, receipt.detail) == ("+18045551234", None)


def test_a_failure_says_why() -> None:
    [receipt] = provider().parse(signed(payload("vonage", "rejected.json")))
    assert isinstance(receipt, Receipt)
    assert receipt.status is MessageStatus.FAILED
    assert (receipt.detail or "").startswith("1260 Destination unreachable")


@each_case("word", [*STATUSES, "teleported"])
def test_each_of_its_words_has_its_status_and_a_new_one_is_kept(word: str) -> None:
    written = json.loads(payload("vonage", "delivered.json")) | {"status": word}
    [receipt] = provider().parse(signed(json.dumps(written).encode()))
    assert isinstance(receipt, Receipt)
    assert receipt.status is STATUSES.get(word)
    assert receipt.raw["status"] == word


@each_case(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"status": "delivered"}',
        b'{"status": "", "message_uuid": "1"}',
        b'{"status": "read", "message_uuid": NaN}',
        payload("vonage", "inbound_sms.json").replace(b'"channel": "sms"', b'"channel": "whatsapp"'),
        payload("vonage", "inbound_sms.json").replace(b'"12016661234"', b"null"),
        b"[" * 100_000,
    ],
)
def test_what_is_not_understood_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(call(URL, body, {}))


def test_it_is_there_once_it_has_an_application_and_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert configured() is None
    monkeypatch.setenv("VONAGE_APPLICATION_ID", APPLICATION)
    assert configured() is None
    monkeypatch.setenv("VONAGE_PRIVATE_KEY", "-----BEGIN")
    monkeypatch.setenv("VONAGE_SIGNATURE_SECRET", SIGNING)
    assert isinstance(configured(), VonageProvider)
    assert SIGNING not in repr(VonageSettings())
    assert "-----BEGIN" not in repr(VonageSettings())
