"""Twilio: what we ask of it beside what its own library asks, and its calls, signed by its own library."""

import hashlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from pydantic import SecretStr
from twilio.http import HttpClient
from twilio.http.response import Response
from twilio.request_validator import RequestValidator
from twilio.rest import Client

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
    Reply,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.twilio import (
    PERMANENT_ERRORS,
    STATUSES,
    TEMPORARY_ERRORS,
    TwilioProvider,
    TwilioSettings,
    configured,
)
from app.testing.vendor import ODD_VALUES, Vendor, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import basic, call, form, payload

pytestmark = pytest.mark.anyio

ACCOUNT = "AC00000000000000000000000000000001"
AUTH, OLD_AUTH = "f" * 32, "0" * 32
ACCEPTED = httpx.Response(201, json={"sid": "SM2b6d8ae6ade43cb3c0ce4525424e4001", "status": "queued"})
URL = "https://messages.example/api/webhooks/twilio?ref=1-17-1772366400000000"
SIGNATURE = "x-twilio-signature"


def provider(vendor: Vendor | None = None, **values: Any) -> TwilioProvider:
    given = {"account_sid": ACCOUNT, "auth_token": AUTH, **values}
    return TwilioProvider(TwilioSettings(_env_file=None, **given), vendor.client if vendor else None)


def signed(body: bytes, *, url: str = URL, auth: str = AUTH, signed_url: str | None = None) -> Callback:
    """A form as Twilio posts it, signed by its own library."""
    fields: dict[str, str] = dict(parse_qsl(body.decode(), keep_blank_values=True))
    signature = RequestValidator(auth).compute_signature(signed_url or url, fields)
    return call(url, body, {SIGNATURE: signature, "content-type": "application/x-www-form-urlencoded"})


class Recording(HttpClient):  # type: ignore[misc]
    """Keeps what the library asks for, and answers that it was accepted."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger(__name__), False)
        self.asked: dict[str, Any] = {}

    def request(self, method: str, url: str, **facts: Any) -> Response:
        self.asked = {"method": method, "url": url, **facts}
        return Response(201, ACCEPTED.text)


@each_case("callback_url", [None, "https://messages.example/api/webhooks/twilio"])
@each_case("service", [None, "MG0123456789abcdef0123456789abcdef"])
@each_case("media", [[], ["https://files.example/1.png", "https://files.example/2.png"]])
async def test_a_message_is_asked_for_as_its_own_library_asks(
    callback_url: str | None, service: str | None, media: list[str]
) -> None:
    vendor = Vendor(ACCEPTED)
    message = outbound(body="Grüße & 1+1", attachments=media, callback_url=callback_url, key="1-17-5")
    result = await provider(vendor, messaging_service_sid=service).send(message)
    assert result.provider_message_id == "SM2b6d8ae6ade43cb3c0ce4525424e4001"

    recording = Recording()
    asked: dict[str, Any] = {"from_": message.from_address, "to": message.to_address, "body": message.body}
    if service:
        asked["messaging_service_sid"] = service
    if media:
        asked["media_url"] = media
    if callback_url:
        asked["status_callback"] = f"{callback_url}?ref=1-17-5"
    Client(ACCOUNT, AUTH, http_client=recording).messages.create(**asked)
    library = httpx.Request("POST", recording.asked["url"], data=recording.asked["data"])

    request = vendor.request
    assert (request.method, request.url) == ("POST", library.url)
    assert sorted(parse_qsl(request.content.decode())) == sorted(parse_qsl(library.content.decode()))
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["authorization"] == basic(*recording.asked["auth"])


async def test_media_without_a_text_have_no_empty_text() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor).send(outbound(body="", attachments=["https://files.example/1.png"]))
    assert "Body" not in dict(parse_qsl(vendor.request.content.decode(), keep_blank_values=True))


@each_case(
    ("settings", "credentials"),
    [
        ({}, (ACCOUNT, AUTH)),
        ({"auth_token": f"{AUTH},{OLD_AUTH}"}, (ACCOUNT, AUTH)),
        ({"api_key": "SK1", "api_secret": "s3cret"}, ("SK1", "s3cret")),
        ({"api_key": "SK1", "api_secret": "s3cret", "auth_token": None}, ("SK1", "s3cret")),
    ],
)
async def test_it_is_asked_with_the_api_key_or_else_with_the_first_auth_token(
    settings: dict[str, Any], credentials: tuple[str, str]
) -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, **settings).send(outbound())
    assert vendor.request.headers["authorization"] == basic(*credentials)


async def test_another_host_can_be_put_in_its_place() -> None:
    vendor = Vendor(ACCEPTED)
    await provider(vendor, api_url="http://127.0.0.1:9100").send(outbound())
    assert str(vendor.request.url) == f"http://127.0.0.1:9100/2010-04-01/Accounts/{ACCOUNT}/Messages.json"


def refusal(status: int, code: int | None = None, **headers: str) -> httpx.Response:
    if code is None:
        return httpx.Response(status, headers=headers, text="<html>")
    body = {"code": code, "message": "It says why.", "more_info": "https://www.twilio.com/docs", "status": status}
    return httpx.Response(status, headers=headers, json=body)


@each_case(
    ("answer", "failure", "text"),
    [
        (refusal(400, 21211), PermanentFailure, "21211 It says why."),
        (refusal(400, 21610), RecipientRefused, "21610 It says why."),
        (refusal(403, 21610), RecipientRefused, "21610 It says why."),
        (refusal(400, 99999), PermanentFailure, "400 Bad Request - 99999 It says why."),
        (refusal(401, 20003), CredentialsRefused, "401 Unauthorized - 20003 It says why."),
        (refusal(403, 20005), CredentialsRefused, "403 Forbidden - 20005 It says why."),
        (refusal(403, 21408), PermanentFailure, "21408 It says why."),
        (refusal(404), PermanentFailure, "404 Not Found"),
        (refusal(429, 20429), TemporaryFailure, "20429 It says why."),
        (refusal(429), TemporaryFailure, "429 Too Many Requests"),
        (refusal(400, 21611), TemporaryFailure, "21611 It says why."),
        (refusal(400, 30022), TemporaryFailure, "30022 It says why."),
        (refusal(500, 20500), UnknownOutcome, "500 Internal Server Error - 20500 It says why."),
        (refusal(503, 20503), TemporaryFailure, "20503 It says why."),
        (refusal(503), UnknownOutcome, "503 Service Unavailable"),
        (refusal(302), UnknownOutcome, "302 Found"),
        (httpx.Response(201, text="<html>"), UnknownOutcome, "201 without an id"),
        (httpx.Response(201, json={"sid": None}), UnknownOutcome, "201 without an id"),
        (httpx.Response(201, json={"sid": ""}), UnknownOutcome, "201 without an id"),
        (httpx.Response(201, json={"sid": "x" * 513}), UnknownOutcome, "201 without an id"),
        (httpx.Response(200, json=[]), UnknownOutcome, "200 without an id"),
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


@each_case("code", sorted(TEMPORARY_ERRORS | PERMANENT_ERRORS))
@each_case("status", [400, 401, 403, 429])
async def test_its_own_code_outweighs_the_status(code: int, status: int) -> None:
    expected = TemporaryFailure if code in TEMPORARY_ERRORS else PermanentFailure
    with pytest.raises(expected):
        await provider(Vendor(refusal(status, code))).send(outbound())


async def test_a_throttled_account_is_left_alone_for_as_long_as_it_asks() -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await provider(Vendor(refusal(429, 20429, **{"Retry-After": "7"}))).send(outbound())
    assert (raised.value.throttled, raised.value.retry_after) == (True, 7)


async def test_one_sender_with_a_full_queue_does_not_hold_up_the_others() -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await provider(Vendor(refusal(400, 21611))).send(outbound())
    assert not raised.value.throttled


def test_a_call_that_its_own_library_signed_is_genuine() -> None:
    provider().verify(signed(payload("twilio", "inbound_sms.form")))


def test_the_documented_signature_is_genuine() -> None:
    """The example of https://www.twilio.com/docs/usage/security."""
    fields = [
        ("Digits", "1234"),
        ("CallSid", "CA1234567890ABCDE"),
        ("To", "+18005551212"),
        ("Caller", "+14158675309"),
        ("From", "+14158675309"),
    ]
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    callback = call(url, form(fields), {SIGNATURE: "RSOYDt4T1cUTdK1PDd93/VVr8B8="})
    provider(auth_token="12345").verify(callback)  # noqa: S106 - of the documentation
    with pytest.raises(CallbackRefused):
        provider().verify(callback)


def test_a_field_that_stands_there_twice_is_signed_with_each_of_its_values_once() -> None:
    body = form([("To", "+1"), ("MessageStatus", "sent"), ("To", "+2"), ("To", "+1")])
    signature = RequestValidator(AUTH).compute_signature(URL, Repeated(body))
    provider().verify(call(URL, body, {SIGNATURE: signature}))


class Repeated(dict[str, str]):
    """A form with repeated fields, as the library takes it from web frameworks."""

    def __init__(self, body: bytes) -> None:
        self._pairs = parse_qsl(body.decode(), keep_blank_values=True)
        super().__init__(self._pairs)

    def getall(self, name: str) -> list[str]:
        return [value for known, value in self._pairs if known == name]


@each_case(
    ("url", "signed_url"),
    [
        ("https://messages.example/a?b=1", "https://messages.example:443/a?b=1"),
        ("https://messages.example:443/a?b=1", "https://messages.example/a?b=1"),
        ("http://messages.example/a", "http://messages.example:80/a"),
        ("https://messages.example:8443/a", "https://messages.example/a"),
        ("https://messages.example:8443/a", "https://messages.example:8443/a"),
    ],
)
def test_the_address_is_signed_with_its_port_or_without(url: str, signed_url: str) -> None:
    callback = signed(payload("twilio", "delivered.form"), url=url, signed_url=signed_url)
    provider().verify(callback)
    assert RequestValidator(AUTH).validate(url, dict(callback.form()), callback.header(SIGNATURE))


def test_a_body_in_json_is_bound_by_its_hash_in_the_address() -> None:
    body = b'{"MessageSid": "SM1", "MessageStatus": "sent"}'
    url = f"https://messages.example/api/webhooks/twilio?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = RequestValidator(AUTH).compute_signature(url, {})
    provider().verify(call(url, body, {SIGNATURE: signature}))
    with pytest.raises(CallbackRefused, match="body"):
        provider().verify(call(url, body + b" ", {SIGNATURE: signature}))
    with pytest.raises(CallbackRefused):
        provider().verify(call(url.replace("bodySHA256", "other"), body, {SIGNATURE: signature}))


def test_a_call_by_get_is_signed_with_its_address_alone() -> None:
    url = f"{URL}&MessageSid=SM1&MessageStatus=sent"
    callback = call(url, b"", {SIGNATURE: RequestValidator(AUTH).compute_signature(url, {})}, method="GET")
    provider().verify(callback)
    [receipt] = provider().parse(callback)
    assert isinstance(receipt, Receipt)
    assert (receipt.provider_message_id, receipt.status) == ("SM1", MessageStatus.SENT)


def test_while_the_token_is_changed_both_are_good_and_a_third_is_not() -> None:
    both = provider(auth_token=f"{AUTH},{OLD_AUTH}")
    body = payload("twilio", "delivered.form")
    both.verify(signed(body))
    both.verify(signed(body, auth=OLD_AUTH))
    with pytest.raises(CallbackRefused):
        both.verify(signed(body, auth="1" * 32))


def test_a_shared_key_signs_with_sha256() -> None:
    body = payload("twilio", "delivered.form")
    fields = dict(parse_qsl(body.decode()))
    signature = RequestValidator("shared").compute_signature(URL, fields, "HMAC_SHA256")
    headers = {SIGNATURE: signature, "x-twilio-webhooks-signature-settings": "key=sk_1,algorithm=HMAC_SHA256"}
    provider(shared_keys="shared").verify(call(URL, body, headers))
    with pytest.raises(CallbackRefused):
        provider(shared_keys="another").verify(call(URL, body, headers))
    with pytest.raises(CallbackUnverifiable):  # the token is set, and can't tell
        provider().verify(call(URL, body, headers))
    for settings in ("key=sk_1,algorithm=HMAC_MD5", "algorithm=NONE", "algorithm=", ""):
        with pytest.raises(CallbackRefused):
            provider(shared_keys="shared").verify(
                with_header(call(URL, body, headers), "x-twilio-webhooks-signature-settings", settings)
            )


@each_case("value", ODD_VALUES)
def test_an_odd_signature_is_refused(value: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(with_header(signed(payload("twilio", "delivered.form")), SIGNATURE, value))


def test_a_missing_or_repeated_signature_is_refused() -> None:
    callback = signed(payload("twilio", "delivered.form"))
    for odd in (without_header(callback, SIGNATURE), with_header_twice(callback, SIGNATURE)):
        with pytest.raises(CallbackRefused, match="missing, empty, or there twice"):
            provider().verify(odd)


@each_case(
    ("url", "body"),
    [
        (URL, b"\xff\xfe"),
        (URL, b"no fields"),
        (URL, b'{"MessageSid": "SM1"}'),
        ("https://messages.example:99999999/a", b"a=b"),
        ("https://[::1/a", b"a=b"),
    ],
)
def test_what_can_t_be_read_is_refused(url: str, body: bytes) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(call(url, body, {SIGNATURE: "RSOYDt4T1cUTdK1PDd93/VVr8B8="}))


def test_a_changed_field_or_address_is_refused_with_a_hint_and_no_secret() -> None:
    callback = signed(payload("twilio", "delivered.form"))
    for forged in (
        call(URL, callback.body.replace(b"delivered", b"failed"), dict(callback.headers)),
        call(URL.replace("1-17", "1-18"), callback.body, dict(callback.headers)),
    ):
        with pytest.raises(CallbackRefused) as refused:
            provider().verify(forged)
        assert refused.value.seen != refused.value.expected
        assert all(len(hint or "") < 16 for hint in (refused.value.seen, refused.value.expected))


@pytest.mark.parametrize("settings", [{"auth_token": None}, {"auth_token": " "}])
def test_without_a_token_nothing_can_be_verified(settings: dict[str, Any]) -> None:
    without = provider(**settings)
    with pytest.raises(CallbackUnverifiable):
        without.verify(signed(payload("twilio", "delivered.form")))


def test_a_text_that_came_in() -> None:
    [message] = provider().parse(signed(payload("twilio", "inbound_sms.form")))
    assert message == InboundMessage(
        provider_message_id="SM1f0e8ae6ade43cb3c0ce4525424e404f",
        channel="sms",
        type="sms",
        from_address="+18045551234",
        to_address="+12016661234",
        body="Grüße & bis bald +1",
    )


def test_media_that_came_in_are_in_their_order() -> None:
    [message] = provider().parse(signed(payload("twilio", "inbound_mms.form")))
    assert isinstance(message, InboundMessage)
    assert (message.type, message.body) == ("mms", "")
    assert [url.rpartition("/")[2] for url in message.attachments] == ["ME1", "ME2"]


def test_a_receipt_names_its_message_by_id_and_by_reference() -> None:
    [receipt] = provider().parse(signed(payload("twilio", "delivered.form")))
    assert isinstance(receipt, Receipt)
    assert receipt.event_id == "SM2b6d8ae6ade43cb3c0ce4525424e4001:delivered:2603011159"
    assert receipt.status is MessageStatus.DELIVERED
    assert receipt.provider_message_id == "SM2b6d8ae6ade43cb3c0ce4525424e4001"
    assert receipt.idempotency_key == "1-17-1772366400000000"
    assert (receipt.recipient, receipt.detail) == ("+18045551234", None)
    assert receipt.raw["AccountSid"] == ACCOUNT


def test_a_failure_says_why() -> None:
    callback = signed(payload("twilio", "undelivered.form"), url="https://messages.example/api/webhooks/twilio")
    [receipt] = provider().parse(callback)
    assert isinstance(receipt, Receipt)
    assert (receipt.status, receipt.detail) == (MessageStatus.UNDELIVERED, "30005 Unknown destination handset")
    assert receipt.event_id == "SM2b6d8ae6ade43cb3c0ce4525424e4001:undelivered"
    assert receipt.idempotency_key is None


@each_case("word", [*STATUSES, "teleported"])
def test_each_of_its_words_has_its_status_and_a_new_one_is_kept(word: str) -> None:
    [receipt] = provider().parse(signed(form([("MessageSid", "SM1"), ("MessageStatus", word)])))
    assert isinstance(receipt, Receipt)
    assert receipt.status is STATUSES.get(word)
    assert receipt.raw["MessageStatus"] == word


@each_case(
    "body",
    [
        b"",
        b"no fields",
        b"\xff",
        form([("MessageStatus", "sent")]),
        form([("MessageSid", "SM1"), ("MessageStatus", "")]),
        form([("MessageSid", "x" * 513), ("MessageStatus", "sent")]),
        form([("MessageSid", "SM1"), ("From", "+18045551234")]),
        b'{"MessageSid": "SM1"}',
    ],
)
def test_what_is_not_understood_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(call(URL, body, {}))


def test_what_came_by_another_channel_is_no_text() -> None:
    with pytest.raises(ValueError, match="not a text"):
        provider().parse(signed(payload("twilio", "inbound_whatsapp.form")))


def test_it_is_answered_with_empty_twiml() -> None:
    assert provider().reply == Reply(b"<Response/>", "text/xml", 200)


def test_it_is_there_once_it_has_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert configured() is None
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", ACCOUNT)
    assert configured() is None
    monkeypatch.setenv("TWILIO_API_KEY", "SK1")
    assert configured() is None
    monkeypatch.setenv("TWILIO_API_SECRET", "s3cret")
    assert isinstance(configured(), TwilioProvider)
    monkeypatch.delenv("TWILIO_API_KEY")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", AUTH)
    assert isinstance(configured(), TwilioProvider)


def test_its_secrets_are_not_shown() -> None:
    settings = TwilioSettings(
        _env_file=None,
        account_sid=ACCOUNT,
        auth_token=SecretStr(AUTH),
        api_secret=SecretStr("s3cret"),
        shared_keys=SecretStr("shared"),
    )
    shown = repr(settings) + str(vars(TwilioProvider(settings))["_settings"])
    assert not any(secret in shown for secret in (AUTH, "s3cret", "shared="))


def listed(number: int, at: datetime, **values: Any) -> dict[str, Any]:
    message = {
        "sid": f"SM{number}",
        "direction": "inbound",
        "from": "+18045551234",
        "to": "+12016661234",
        "body": f"text {number}",
        "num_media": "0",
        "status": "received",
        "date_sent": at.strftime("%a, %d %b %Y %H:%M:%S +0000"),
    }
    return message | values


async def test_what_came_in_since_a_time_is_listed_day_by_day_and_page_by_page() -> None:
    today = datetime.now(UTC).replace(microsecond=0)
    yesterday = today - timedelta(days=1)
    since = yesterday - timedelta(seconds=1)
    second_page = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json?Page=1&PageToken=PASM2"
    media = {"media_list": [{"uri": f"/2010-04-01/Accounts/{ACCOUNT}/Messages/SM4/Media/ME1.json"}]}
    vendor = Vendor(
        httpx.Response(
            200,
            json={
                "messages": [
                    listed(1, yesterday),
                    listed(2, yesterday, direction="outbound-api"),
                    listed(3, since - timedelta(seconds=1)),
                    {"sid": "SM9"},
                    listed(10, yesterday, **{"from": "whatsapp:+18045551234"}),
                ],
                "next_page_uri": second_page,
            },
        ),
        httpx.Response(200, json={"messages": [listed(4, yesterday, num_media="1")], "next_page_uri": None}),
        httpx.Response(200, json=media),
        httpx.Response(200, json={"messages": [listed(5, today)], "next_page_uri": None}),
    )
    found = [message async for message in provider(vendor).inbound_since(since)]
    assert [message.provider_message_id for message in found] == ["SM1", "SM4", "SM5"]
    assert (found[0].type, found[0].body, found[0].sent_at) == ("sms", "text 1", yesterday)
    assert found[1].attachments == [f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages/SM4/Media/ME1"]
    [first, second, third, fourth] = [str(request.url) for request in vendor.requests]
    assert first.endswith(f"/Messages.json?DateSent={yesterday.date()}&PageSize=50")
    assert second.endswith(second_page)
    assert third.endswith("/Messages/SM4/Media.json")
    assert fourth.endswith(f"/Messages.json?DateSent={today.date()}&PageSize=50")
    assert {request.headers["authorization"] for request in vendor.requests} == {basic(ACCOUNT, AUTH)}


@each_case(
    ("answer", "failure"),
    [
        (httpx.Response(401, json={"code": 20003, "message": "no"}), CredentialsRefused),
        (httpx.Response(200, text="<html>"), TemporaryFailure),
        (httpx.Response(200, json={"messages": [], "next_page_uri": "https://elsewhere.example/"}), TemporaryFailure),
        (httpx.Response(200, json={"messages": [], "next_page_uri": "//elsewhere.example/"}), TemporaryFailure),
    ],
)
async def test_a_list_that_can_t_be_had_is_a_failure_and_credentials_go_nowhere_else(
    answer: httpx.Response, failure: type[ProviderFailure]
) -> None:
    vendor = Vendor(answer)
    with pytest.raises(failure):
        [message async for message in provider(vendor).inbound_since(datetime.now(UTC))]
    assert {request.url.host for request in vendor.requests} == {"api.twilio.com"}
