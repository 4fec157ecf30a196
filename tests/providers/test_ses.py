"""SES: requests signed as botocore signs them, with the mail in them; and what SNS brings, signed as SNS does."""

import base64
import email
import email.policy
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import botocore.session
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as new_ec_key
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding

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
    Reply,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.base import send_through as hand_over
from app.providers.mail.events import Notice
from app.providers.mail.outbound import Composer, MailSettings, message_id_of
from app.providers.ses import STATUSES, SesProvider, SesSettings, configured
from app.providers.toolbox.aws_signature import AwsCredentials, signed_headers
from app.testing.vendor import Vendor, items_in
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.certificates import certificate_of
from tests.providers.mails import FILES, UNSUBSCRIBE, FileStore
from tests.providers.vendors import PAYLOADS, call, payload

pytestmark = pytest.mark.anyio

ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOPIC, OTHER_TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail", "arn:aws:sns:eu-west-1:999999999999:mail"
URL = "https://messages.example/api/webhooks/ses"
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
SUBSCRIBE_URL = f"https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37f"
NOW = datetime.now(UTC)
ID = "0102018f-0000-4000-8000-000000000001-000000"
ACCEPTED = httpx.Response(200, json={"MessageId": ID})
EVENTS = sorted(path.name for path in (PAYLOADS / "ses").glob("*.json") if path.name != "received.json")


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def pem(key: Any, **values: Any) -> httpx.Response:
    return httpx.Response(200, content=certificate_of(key, "sns.amazonaws.com", **values).public_bytes(Encoding.PEM))


def provider(vendor: Vendor | None = None, *, fetches: bool = False, **values: Any) -> SesProvider:
    given = {
        "region": "eu-west-1",
        "access_key_id": ACCESS_KEY,
        "secret_access_key": SECRET_KEY,
        "topic_arn": TOPIC,
        **values,
    }
    composer = Composer(MailSettings(_env_file=None, fetch_attachments=fetches), FileStore())
    return SesProvider(SesSettings(_env_file=None, **given), vendor.client if vendor else None, composer)


def mail(to: str = "jane@example.com", **values: Any) -> OutboundMessage:
    facts = {"from_address": "shop@example.com", "subject": "Grüße", "body": "<p>Hallo</p>", "key": "1-17-5"}
    return outbound(to, **{**facts, **values})


def notification(message: str | bytes = b"{}", **values: Any) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": message if isinstance(message, str) else message.decode(),
        "Timestamp": NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "SignatureVersion": "1",
        "SigningCertURL": CERTIFICATE_URL,
        "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        **values,
    }


def confirmation(**values: Any) -> dict[str, Any]:
    facts = {"Type": "SubscriptionConfirmation", "Token": "2336412f37f", "SubscribeURL": SUBSCRIBE_URL}
    return notification("You have chosen to subscribe.", **{**facts, **values})


#: In the order of the documentation, each name and value on a line of its own.
_OF_A_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_OF_A_SUBSCRIPTION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")


def signed(body: dict[str, Any], key: RSAPrivateKey) -> Callback:
    names = _OF_A_NOTIFICATION if body["Type"] == "Notification" else _OF_A_SUBSCRIPTION
    to_sign = "".join(f"{name}\n{body[name]}\n" for name in names if name in body).encode()
    algorithm = SHA1() if body["SignatureVersion"] == "1" else SHA256()  # noqa: S303 - as SNS does
    signature = base64.b64encode(key.sign(to_sign, PKCS1v15(), algorithm)).decode()
    return of({**body, "Signature": signature})


def of(body: Any) -> Callback:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return call(URL, content, {"content-type": "text/plain; charset=UTF-8"}, at=NOW)


async def reply_to(ses: SesProvider, callback: Callback) -> Reply:
    confirming = ses.parse(callback)
    assert isinstance(confirming, Awaitable)
    reply: Reply = await confirming
    return reply


def receipt_of(message: bytes) -> Receipt:
    [receipt] = items_in(provider(), of(notification(message, Signature="")))
    assert isinstance(receipt, Receipt)
    return receipt


@each_case("token", [None, "lent-for-a-while"])
@each_case("url", ["https://email.eu-west-1.amazonaws.com/v2/email/outbound-emails", "http://[::1]:81/x"])
@each_case("body", [b"", b'{"a": "\xc3\xa4"}'])
def test_requests_are_signed_as_botocore_signs_them(token: str | None, url: str, body: bytes) -> None:
    ours = signed_headers(
        AwsCredentials(ACCESS_KEY, SECRET_KEY, token), "eu-west-1", "ses", "POST", httpx.URL(url), body, NOW
    )
    request = AWSRequest(
        "POST", url, data=body, headers={name: ours[name] for name in ours if name != "authorization"}
    )
    request.context["timestamp"] = NOW.strftime("%Y%m%dT%H%M%SZ")
    theirs = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY, token), "ses", "eu-west-1")
    signature = theirs.signature(theirs.string_to_sign(request, theirs.canonical_request(request)), request)
    assert ours["authorization"].endswith(f"Signature={signature}")
    assert f"SignedHeaders={theirs.signed_headers(theirs.headers_to_sign(request))}," in ours["authorization"]
    assert f"Credential={theirs.scope(request)}," in ours["authorization"]


async def test_a_mail_is_asked_for_as_botocore_asks() -> None:
    vendor = Vendor(ACCEPTED)
    result = await provider(vendor, configuration_set="messages").send(mail())
    assert result.provider_message_id == ID
    request = vendor.request
    submission = json.loads(request.content)
    raw = base64.b64decode(submission["Content"]["Raw"]["Data"])

    client = botocore.session.get_session().create_client(
        "sesv2", "eu-west-1", aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY
    )
    asked: list[AWSRequest] = []

    def instead(request: AWSRequest, **_: Any) -> Any:
        asked.append(request)
        raise InterruptedError

    client.meta.events.register("before-send", instead)
    with pytest.raises(InterruptedError):
        client.send_email(
            FromEmailAddress="shop@example.com",
            Destination={"ToAddresses": ["jane@example.com"]},
            Content={"Raw": {"Data": raw}},
            EmailTags=[{"Name": "reference", "Value": "1-17-5"}],
            ConfigurationSetName="messages",
        )
    [theirs] = asked
    assert (request.method, str(request.url)) == (theirs.method, theirs.url)
    assert submission == json.loads(theirs.body)
    assert "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/" in request.headers["authorization"]


async def test_the_mail_in_it_is_whole() -> None:
    vendor = Vendor(ACCEPTED)
    message = mail(attachments=["https://files.example/1.pdf"], thread=["<a@example.com>"], headers=UNSUBSCRIBE)
    await provider(vendor, fetches=True, session_token="lent").send(message)  # noqa: S106
    assert vendor.request.headers["x-amz-security-token"] == "lent"
    submission = json.loads(vendor.request.content)
    assert "ConfigurationSetName" not in submission
    sent = email.message_from_bytes(
        base64.b64decode(submission["Content"]["Raw"]["Data"]), policy=email.policy.default
    )
    assert isinstance(sent, EmailMessage)
    assert (sent["subject"], sent["to"], sent["in-reply-to"]) == ("Grüße", "jane@example.com", "<a@example.com>")
    assert {name: sent[name] for name in UNSUBSCRIBE} == UNSUBSCRIBE
    assert [part.get_filename() for part in sent.iter_attachments()] == [file.name for file in FILES]


async def test_what_follows_a_mail_names_what_the_mail_itself_names_after_it_was_renamed() -> None:
    first, second = mail(key="1-17-5"), mail(key="1-18-6", thread=[message_id_of("1-17-5", "shop@example.com")])
    sent = []
    for message in (first, second):
        vendor = Vendor(ACCEPTED)
        await provider(vendor).send(message)
        raw = base64.b64decode(json.loads(vendor.request.content)["Content"]["Raw"]["Data"])
        sent.append(email.message_from_bytes(raw, policy=email.policy.default))
    assert sent[0]["in-reply-to"] is None
    assert sent[0]["references"].split() == ["<1-17-5@example.com>"]
    assert sent[1]["references"].split() == ["<1-17-5@example.com>", "<1-18-6@example.com>"]
    assert sent[1]["in-reply-to"] == "<1-17-5@example.com>"


async def test_an_address_outside_of_ascii_is_refused_before_it_is_asked_for() -> None:
    vendor = Vendor(ACCEPTED)
    with pytest.raises(PermanentFailure, match="ASCII"):
        await hand_over(provider(vendor), mail("jörg@example.com"))
    assert not vendor.requests
    assert provider(vendor).refusals(mail("jane@straße.example")) == {}


def refused(status: int, name: str, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, headers={"x-amzn-ErrorType": f"{name}:http://x", **headers}, json={"message": "So."}
    )


@each_case(
    ("answer", "failure", "text"),
    [
        (refused(400, "MessageRejected"), PermanentFailure, "MessageRejected So"),
        (refused(400, "BadRequestException"), PermanentFailure, "BadRequest"),
        (refused(400, "MailFromDomainNotVerifiedException"), PermanentFailure, "MailFrom"),
        (refused(400, "AccountSuspendedException"), CredentialsRefused, "Suspended"),
        (refused(400, "SendingPausedException"), CredentialsRefused, "Paused"),
        (refused(404, "NotFoundException"), CredentialsRefused, "NotFound"),
        (refused(403, "SignatureDoesNotMatch"), CredentialsRefused, "Signature"),
        (refused(400, "LimitExceededException"), TemporaryFailure, "LimitExceeded"),
        (refused(429, "TooManyRequestsException"), TemporaryFailure, "TooMany"),
        (refused(500, "InternalServiceErrorException"), TemporaryFailure, "InternalServiceError"),
        (refused(503, "ServiceUnavailable"), TemporaryFailure, "ServiceUnavailable"),
        (httpx.Response(500), UnknownOutcome, "500"),
        (httpx.Response(503, content=b"<html>"), UnknownOutcome, "503"),
        (httpx.Response(200, json={}), UnknownOutcome, "without an id"),
        (httpx.Response(200, content=b"OK"), UnknownOutcome, "without an id"),
        (httpx.ReadTimeout("slow"), UnknownOutcome, "no answer"),
        (httpx.ConnectError("away"), TemporaryFailure, "No connection"),
    ],
)
async def test_an_answer_means_what_its_error_says_and_then_its_status(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], text: str
) -> None:
    with pytest.raises(failure, match=text) as raised:
        await provider(Vendor(answer)).send(mail())
    assert raised.type is failure
    assert SECRET_KEY not in str(raised.value)
    is_throttled = isinstance(raised.value, TemporaryFailure) and raised.value.throttled
    assert is_throttled is (text in {"LimitExceeded", "TooMany"})


@each_case("version", ["1", "2"])
@each_case("make", [notification, confirmation])
@each_case("subject", [{}, {"Subject": "Amazon SES"}])
async def test_what_sns_has_signed_is_genuine_and_its_certificate_is_fetched_once(
    key: RSAPrivateKey, version: str, make: Callable[..., dict[str, Any]], subject: dict[str, str]
) -> None:
    vendor = Vendor(pem(key))
    ses = provider(vendor, topic_arn=f"{OTHER_TOPIC} {TOPIC}")
    callback = signed(make(SignatureVersion=version, **subject), key)
    for _ in range(3):
        await ses.verify(callback)
    assert str(vendor.request.url) == CERTIFICATE_URL
    body = json.loads(callback.body)
    for name, value in body.items():
        if name not in {"SigningCertURL", "UnsubscribeURL"} and not (make is confirmation and name == "Subject"):
            with pytest.raises(CallbackRefused):
                await ses.verify(of({**body, name: f"{value}x"}))


async def test_another_topic_is_refused_before_anything_is_fetched(key: RSAPrivateKey) -> None:
    vendor = Vendor(pem(key))
    for make in (notification, confirmation):
        with pytest.raises(CallbackRefused, match="another topic"):
            await provider(vendor).verify(signed(make(TopicArn=OTHER_TOPIC), key))
    with pytest.raises(CallbackUnverifiable, match="SES_TOPIC_ARN is not set"):
        await provider(vendor, topic_arn="").verify(signed(notification(), key))
    assert not vendor.requests


_ELSEWHERE = [
    "http://sns.eu-west-1.amazonaws.com/x.pem",
    "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem",
    "https://sns.eu-west-1.amazonaws.com@evil.example/x.pem",
    "https://evil.example/sns.eu-west-1.amazonaws.com/x.pem",
    "https://evil.example/?https://sns.eu-west-1.amazonaws.com/x.pem",
    "https://s3.eu-west-1.amazonaws.com/bucket/x.pem",
    "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
    "https://sns.eu-west-1.amazonaws.com/../x.pem",
    "https://sns.eu-west-1.amazonaws.com/x.pem?a=b",
    "https://sns.eu-west-1.amazonaws.com/x.pem\n",
    "https://sns..amazonaws.com/x",
    "",
]


@each_case("url", _ELSEWHERE)
async def test_nothing_is_fetched_from_anywhere_else(key: RSAPrivateKey, url: str) -> None:
    vendor = Vendor(pem(key))
    with pytest.raises(CallbackRefused, match="not one of SNS"):
        await provider(vendor).verify(signed(notification(SigningCertURL=url), key))
    with pytest.raises(CallbackRefused, match="not one of SNS"):
        await reply_to(provider(vendor), signed(confirmation(SubscribeURL=url), key))
    assert not vendor.requests


async def test_china_s_certificates_are_sns_s_too(key: RSAPrivateKey) -> None:
    url = "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-0123.pem"
    await provider(Vendor(pem(key))).verify(signed(notification(SigningCertURL=url), key))


async def test_a_subscription_to_our_topic_is_confirmed(key: RSAPrivateKey) -> None:
    vendor = Vendor(httpx.Response(200, content=b"<ConfirmSubscriptionResponse/>"))
    ses = provider(vendor)
    assert await reply_to(ses, signed(confirmation(), key)) == ses.reply
    assert (vendor.request.method, str(vendor.request.url)) == ("GET", SUBSCRIBE_URL)
    assert items_in(ses, signed(notification(payload("ses", "received.json")), key))
    assert len(vendor.requests) == 1


@each_case("answer", [httpx.Response(500), httpx.Response(302), httpx.ConnectError("away")])
async def test_a_subscription_that_can_not_be_confirmed_is_asked_for_again(
    key: RSAPrivateKey, answer: httpx.Response | Exception
) -> None:
    with pytest.raises(CallbackUnverifiable):
        await reply_to(provider(Vendor(answer)), signed(confirmation(), key))


@each_case(
    "answer",
    [httpx.Response(500), httpx.Response(302), httpx.Response(200, content=b"no"), httpx.ReadTimeout("slow")],
)
async def test_a_certificate_that_can_not_be_had_is_asked_for_again(
    key: RSAPrivateKey, answer: httpx.Response | Exception
) -> None:
    vendor = Vendor(answer, pem(key))
    ses = provider(vendor)
    with pytest.raises(CallbackUnverifiable):
        await ses.verify(signed(notification(), key))
    await ses.verify(signed(notification(), key))
    with pytest.raises(CallbackRefused, match="403"):
        await provider(Vendor(httpx.Response(403))).verify(signed(notification(), key))


async def test_a_certificate_must_be_of_rsa_and_of_this_time(key: RSAPrivateKey) -> None:
    with pytest.raises(CallbackRefused, match="not valid at this time"):
        await provider(Vendor(pem(key, days=(-3, -1)))).verify(signed(notification(), key))
    with pytest.raises(CallbackRefused, match="RSA"):
        await provider(Vendor(pem(new_ec_key(SECP256R1())))).verify(signed(notification(), key))
    with pytest.raises(CallbackRefused, match="signature"):
        await provider(Vendor(pem(generate_private_key(65537, 2048)))).verify(signed(notification(), key))


async def test_a_notification_is_good_for_as_long_as_sns_tries_again(key: RSAPrivateKey) -> None:
    ses = provider(Vendor(pem(key)))
    callback = signed(notification(), key)
    for seconds in (-299, 3600):
        await ses.verify(replace(callback, received_at=NOW + timedelta(seconds=seconds)))
    for seconds in (-302, 3902):
        with pytest.raises(CallbackRefused, match="seconds ago"):
            await ses.verify(replace(callback, received_at=NOW + timedelta(seconds=seconds)))


@each_case(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        {},
        notification(),
        notification(Signature=""),
        notification(Signature="é"),
        notification(Signature="a" * 65_536),
        notification(Signature=["x"]),
        notification(Signature="AAAA", SignatureVersion="3"),
        notification(Signature="AAAA", Type="Other"),
        notification(Signature="AAAA", Timestamp="soon"),
        notification(Signature="AAAA", Timestamp="0001-01-01T00:00:00+05:00"),
        notification(Signature="AAAA", Message="\ud800"),
    ],
)
async def test_what_is_no_notification_is_refused_and_nothing_else(key: RSAPrivateKey, body: Any) -> None:
    with pytest.raises(CallbackRefused):
        await provider(Vendor(pem(key))).verify(of(body))


def test_an_event_is_a_receipt_for_each_recipient_that_it_is_about() -> None:
    event = json.loads(payload("ses", "delivery.json"))
    people = ["jane@example.com", "copy@example.org", "hidden@example.org"]
    event["mail"]["destination"] = people
    event["delivery"]["recipients"] = people[1:]
    first, second = items_in(provider(), of(notification(json.dumps(event), Signature="AAAA")))
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (first.recipient, second.recipient) == ("copy@example.org", "hidden@example.org")
    assert first.event_id != second.event_id
    assert list(first.named) == list(second.named) == people


def test_every_event_is_a_receipt() -> None:
    found = {name.removesuffix(".json"): receipt_of(payload("ses", name)) for name in EVENTS}
    assert {name: receipt.status for name, receipt in found.items() if receipt.status} == {
        "send": MessageStatus.SENT,
        "delivery": MessageStatus.DELIVERED,
        "bounce": MessageStatus.UNDELIVERED,
        "reject": MessageStatus.FAILED,
        "rendering-failure": MessageStatus.FAILED,
        "open": MessageStatus.READ,
    }
    assert len(found) == 11
    assert {receipt.status for receipt in found.values()} - {None} == set(STATUSES.values())
    bounce = found["bounce"]
    assert bounce == Receipt(
        event_id="22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        status=MessageStatus.UNDELIVERED,
        provider_message_id=ID,
        idempotency_key="1-17-5",
        detail="smtp; 550 5.1.1 user unknown",
        occurred_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        raw=bounce.raw,
        recipient="jane@example.com",
        named=["jane@example.com"],
        consent=ReportedConsent.HARD_BOUNCE,
    )
    assert found["delivery-delay"].detail == f"{Notice.DELAY}: smtp; 421 4.4.1 Unable to connect to remote host"
    assert found["rendering-failure"].detail == "Attribute 'name' is not present in the rendering data."
    assert (found["identity-bounce"].idempotency_key, found["identity-bounce"].status) == (None, None)
    assert found["send"].occurred_at == NOW.replace(microsecond=0)


def test_a_mail_that_came_in_is_a_message() -> None:
    [message] = items_in(provider(), of(notification(payload("ses", "received.json"), Signature="")))
    assert isinstance(message, InboundMessage)
    assert (message.from_address, message.to_address) == ("jane@example.com", "shop@example.com")
    assert message.body.strip() == "Thank you!"


def test_what_only_says_that_it_works_is_no_event() -> None:
    works = "Successfully validated SNS topic for Amazon SES event publishing."
    assert provider().parse(of(notification(works, Signature=""))) == []
    assert provider().parse(of(confirmation(Type="UnsubscribeConfirmation", Signature=""))) == []


@each_case(
    "message",
    ["", "{", "[]", "null", "hello", "{}", '{"eventType":"Send"}', '{"mail":{"messageId":"x"}}', "[" * 100_000],
)
def test_what_is_no_event_is_not_understood(message: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
        provider().parse(of(notification(message, Signature="")))


def test_no_secret_is_shown() -> None:
    assert SECRET_KEY not in repr(provider()._settings)
    assert SECRET_KEY not in repr(AwsCredentials(ACCESS_KEY, SECRET_KEY))


def test_it_is_there_where_its_keys_and_region_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SES_REGION", raising=False)
    monkeypatch.setenv("SES_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("SES_SECRET_ACCESS_KEY", SECRET_KEY)
    assert configured() is None
    monkeypatch.setenv("SES_REGION", "eu-west-1")
    assert isinstance(configured(), SesProvider)
