"""SendGrid (Twilio), mail.

Sending: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send
Events: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
Their signature: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
Inbound Parse: https://www.twilio.com/docs/sendgrid/for-developers/parsing-email/setting-up-the-inbound-parse-webhook
Its signature: https://www.twilio.com/docs/sendgrid/for-developers/parsing-email/securing-your-parse-webhooks

Inbound Parse signs where it has a security policy; without one its address has a secret, `?token=`. Events are JSON
and mails are forms. Each kind is verified by its own secrets, so that one secret can't forge the other kind.
"""

import asyncio
import base64
import re
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, ClassVar

import httpx
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import SecretStr, ValidationError

from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers import base
from app.providers.mail.events import CONSENT_OF, Notice, consent_of_bounce, is_program
from app.providers.mail.formats import sendgrid_inbound
from app.providers.mail.mime.mailboxes import Mailbox
from app.providers.mail.outbound import HttpMailProvider, Mail, quoted
from app.providers.toolbox.http_client import bearer, outcome_of, reason_in
from app.providers.toolbox.models import (
    LONGEST_ID,
    ApiUrl,
    HttpVendorSettings,
    RotatingPublicKey,
    RotatingSecret,
    VendorId,
    VendorModel,
    moment_of,
)
from app.providers.toolbox.verification import must_be_recent, must_be_secret, only_header, only_parameter, secrets_in
from app.signing_keys import secrets_of

#: An event that is in neither table is not about a mail.
STATUSES = {
    "processed": MessageStatus.QUEUED,
    "delivered": MessageStatus.DELIVERED,
    "bounce": MessageStatus.UNDELIVERED,
    "dropped": MessageStatus.FAILED,
    "open": MessageStatus.READ,
}
NOTICES = {
    "deferred": Notice.DELAY,
    "click": Notice.CLICK,
    "spamreport": Notice.COMPLAINT,
    "unsubscribe": Notice.UNSUBSCRIBED,
    "group_unsubscribe": Notice.UNSUBSCRIBED,
    "group_resubscribe": Notice.SUBSCRIBED,
}
#: The types of a bounce after which the address stays in use at SendGrid: refused for now, or tried for 72 hours.
SOFT_BOUNCES = {"blocked", "expired"}
#: The meaning of a mail that SendGrid has dropped, by its `reason`. Other reasons are about the mail or the account.
DROPPED = {
    "bounced address": ReportedConsent.HARD_BOUNCE,
    "invalid": ReportedConsent.HARD_BOUNCE,
    "unsubscribed address": ReportedConsent.UNSUBSCRIBED,
    "spam reporting address": ReportedConsent.COMPLAINT,
}
#: Choices for one group of unsubscriptions.
GROUPS = {"group_unsubscribe": ReportedConsent.LEFT_GROUP, "group_resubscribe": ReportedConsent.JOINED_GROUP}
#: The values of `bounce_classification` that say something about the address, in lower case.
_OF_ADDRESS = {"invalid address", "mailbox unavailable"}
_UNCLASSIFIED = {"", "unclassified"}

#: SendGrid retries events for a day and mails for three, and doesn't say whether it signs them again.
RETRIED_FOR, MAIL_RETRIED_FOR = timedelta(hours=24), timedelta(hours=72)
SIGNATURE_HEADER = "x-twilio-email-event-webhook-signature"
TIMESTAMP_HEADER = "x-twilio-email-event-webhook-timestamp"
#: The API is not available. Of a 500 SendGrid says only that an error occurred.
_NOT_TAKEN = {503}
#: The name of our reference among a mail's custom arguments; events have it at their top level.
_REFERENCE = "reference"
#: Begins the part of an event's `sg_message_id` that the id in the answer to `send` doesn't have.
_AFTER_THE_ID = re.compile(r"\.(filter|recvd)")


class SendgridSettings(HttpVendorSettings, env_prefix="SENDGRID_"):
    api_key: SecretStr | None = None
    #: The public key of the Signed Event Webhook, in base64; two with a comma between them during a rotation.
    webhook_key: RotatingPublicKey | None = None
    #: The public key of the security policy of Inbound Parse, likewise.
    inbound_key: RotatingPublicKey | None = None
    #: The secret in the address of Inbound Parse, where it has no such policy, likewise.
    inbound_token: RotatingSecret | None = None
    #: https://api.eu.sendgrid.com for accounts of that region.
    api_url: ApiUrl = "https://api.sendgrid.com"


class _Event(VendorModel):
    event: str
    sg_event_id: VendorId | None = None
    sg_message_id: VendorId | None = None
    reference: VendorId | None = None
    email: str | None = None
    timestamp: int
    reason: str | None = None
    response: str | None = None
    type: str | None = None
    status: str | None = None
    bounce_classification: str | None = None
    useragent: str | None = None
    sg_machine_open: bool | None = None


class SendgridProvider(HttpMailProvider[SendgridSettings]):
    """A client of SendGrid's v3 API."""

    #: A mail of 30 MB, and the form around it.
    largest_callback: ClassVar = 35_000_000

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        mail = await self._composer.mail(payload)
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/v3/mail/send",
            json=_submission(mail, payload.idempotency_key),
            headers={"Authorization": bearer(self._settings.api_key)},
        )
        response = await self.answer(request, _failure_of)
        id = response.headers.get("x-message-id", "")
        if not 0 < len(id) <= LONGEST_ID:
            raise base.UnknownOutcome(f"{response.status_code} without an id.")
        return base.ProviderResult(id)

    async def verify(self, callback: base.Callback) -> None:
        if not _is_mail(callback):
            keys = _public_keys("SENDGRID_WEBHOOK_KEY", self._settings.webhook_key)
            await _must_be_signed(callback, keys, RETRIED_FOR)
        elif not self.is_known_by_head(callback):
            keys = _public_keys("SENDGRID_INBOUND_KEY", self._settings.inbound_key)
            await _must_be_signed(callback, keys, MAIL_RETRIED_FOR)

    def is_known_by_head(self, head: base.Callback) -> bool:
        """True for a mail with the token in its address. Signatures cover the body."""
        settings = self._settings
        if not _is_mail(head) or (settings.inbound_key and not settings.inbound_token):
            return False
        try:
            secrets = secrets_in(SENDGRID_INBOUND_TOKEN=settings.inbound_token)
            must_be_secret(only_parameter(head, "token"), secrets, head)
        except base.CallbackRefused:
            if settings.inbound_key is None:
                raise
            return False
        return True

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem | base.Unread]:
        if _is_mail(callback):
            return sendgrid_inbound(callback)
        items = callback.json()
        if not isinstance(items, list):
            raise ValueError("Events come as a list.")
        return [_item(item) for item in items]


def configured() -> SendgridProvider | None:
    """The provider, if SENDGRID_API_KEY is set."""
    settings = SendgridSettings()
    return SendgridProvider(settings) if settings.api_key else None


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    reason = reason_in(response, "errors", 0, "message")
    if response.status_code == HTTPStatus.FORBIDDEN and reason_in(response, "errors", 0, "field") == "from":
        return base.PermanentFailure(f"403 {reason}")  # this sender is not verified; others are
    return outcome_of(response, reason, not_taken=_NOT_TAKEN)


def _submission(mail: Mail, reference: str) -> dict[str, Any]:
    content = [{"type": "text/plain", "value": mail.text}]
    if mail.html is not None:
        content.append({"type": "text/html", "value": mail.html})
    submission: dict[str, Any] = {
        "personalizations": [{**_recipients(mail), "custom_args": {_REFERENCE: reference}}],
        "from": _person(mail.from_),
        "subject": mail.subject or "(no subject)",  # SendGrid refuses a mail without one (400)
        "content": content,
        "headers": {"Message-ID": mail.message_id, **mail.further_headers},
    }
    if len(mail.reply_to) == 1:
        submission["reply_to"] = _person(mail.reply_to[0])
    elif mail.reply_to:
        submission["reply_to_list"] = [_person(each) for each in mail.reply_to]
    if mail.files:
        submission["attachments"] = [
            {
                "content": base64.b64encode(file.content).decode("ascii"),
                "type": file.content_type,
                "filename": file.name,
                "disposition": "attachment",
            }
            for file in mail.files
        ]
    return submission


def _recipients(mail: Mail) -> dict[str, list[dict[str, str]]]:
    people = {"to": [mail.to], "cc": mail.cc, "bcc": mail.bcc}
    return {name: [_person(each) for each in found] for name, found in people.items() if found}


def _person(mailbox: Mailbox) -> dict[str, str]:
    """An address with its name, in quotes where SendGrid would take a part of it for another address."""
    name = quoted(mailbox.name) if "," in mailbox.name or ";" in mailbox.name else mailbox.name
    return {"email": mailbox.address, **({"name": name} if name else {})}


def _is_mail(callback: base.Callback) -> bool:
    return callback.media_type == "multipart/form-data"


def _public_keys(name: str, setting: str | None) -> list[EllipticCurvePublicKey]:
    """The keys in the setting `name`. Raises `CallbackUnverifiable` where it has none, or one can't be read."""
    keys = []
    for written in secrets_of(setting or ""):
        try:
            key = load_der_public_key(base64.b64decode(written, validate=True))
        except (ValueError, UnsupportedAlgorithm):
            raise base.CallbackUnverifiable(f"{name} is not a public key in base64.") from None
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise base.CallbackUnverifiable(f"{name} is not a key of the curve P-256.")
        keys.append(key)
    if not keys:
        raise base.CallbackUnverifiable(f"{name} is not set.")
    return keys


async def _must_be_signed(
    callback: base.Callback, keys: list[EllipticCurvePublicKey], retried_for: timedelta
) -> None:
    """Raises `CallbackRefused` unless one of the keys has signed the time and the body."""
    written, timestamp = only_header(callback, SIGNATURE_HEADER), only_header(callback, TIMESTAMP_HEADER)
    must_be_recent(timestamp, callback, retried_for=retried_for)
    try:
        signature = base64.b64decode(written, validate=True)
    except ValueError:
        raise base.CallbackRefused("The signature is not base64.", seen=base.hint(written)) from None

    def is_genuine() -> bool:
        signed = timestamp.encode() + callback.body
        return any(_is_signed_by(key, signature, signed) for key in keys)

    if not (await asyncio.to_thread(is_genuine) if callback.is_large else is_genuine()):
        raise base.CallbackRefused("The signature is not one of the key that is set.", seen=base.hint(written))


def _is_signed_by(key: EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _item(raw: Any) -> base.Receipt | base.Unread:
    try:
        return _receipt(_Event.model_validate(raw), raw)
    except ValidationError as error:
        return base.Unread(str(error))


def _receipt(event: _Event, raw: dict[str, Any]) -> base.Receipt:
    notice = _notice(event)
    words = event.reason or event.response
    return base.Receipt(
        event_id=event.sg_event_id or f"{event.sg_message_id}:{event.event}:{event.timestamp}",
        status=None if notice else STATUSES.get(event.event),
        provider_message_id=_AFTER_THE_ID.split(event.sg_message_id)[0] if event.sg_message_id else None,
        idempotency_key=event.reference,
        detail=notice.with_words_of(words) if notice else words,
        occurred_at=moment_of(event.timestamp),
        raw=raw,
        recipient=event.email,
        consent=_consent(event, notice),
    )


def _consent(event: _Event, notice: Notice | None) -> ReportedConsent | None:
    if event.event == "dropped":
        return DROPPED.get((event.reason or "").strip().lower())
    if event.event == "bounce":
        return _bounced(event)
    return GROUPS.get(event.event) or (CONSENT_OF.get(notice) if notice else None)


def _bounced(event: _Event) -> ReportedConsent | None:
    kind, classified = (event.type or "").lower(), (event.bounce_classification or "").lower()
    if classified not in _OF_ADDRESS | _UNCLASSIFIED:
        return None
    verdict = ReportedConsent.SOFT_BOUNCE if kind in SOFT_BOUNCES else ReportedConsent.HARD_BOUNCE
    words = " ".join(filter(None, (event.status, event.reason, event.response)))
    if kind == "blocked" and classified not in _OF_ADDRESS and consent_of_bounce(words, None) is None:
        return None  # by the sender's reputation or the content
    return consent_of_bounce(words, verdict)


def _notice(event: _Event) -> Notice | None:
    """The meaning of an event that changes no status."""
    is_machine = is_program(event.useragent) if event.sg_machine_open is None else event.sg_machine_open
    if event.event == "open" and is_machine:
        return Notice.MACHINE_OPEN
    if event.event == "bounce" and (event.type or "").lower() in SOFT_BOUNCES:
        return Notice.SOFT_BOUNCE
    return NOTICES.get(event.event)
