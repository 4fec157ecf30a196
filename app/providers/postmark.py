"""Postmark, mail.

Sending: https://postmarkapp.com/developer/api/email-api
Errors: https://postmarkapp.com/developer/api/overview#error-codes
Events: https://postmarkapp.com/developer/webhooks/webhooks-overview
Inbound mail: https://postmarkapp.com/developer/webhooks/inbound-webhook

Postmark signs nothing. A callback has a shared secret instead: a password in the address, or a header of its own.
"""

import base64
from collections.abc import Sequence
from typing import Any, ClassVar

import httpx
from pydantic import Field, ValidationError

from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers import base
from app.providers.mail.events import CONSENT_OF, Notice, consent_of_bounce, is_program
from app.providers.mail.formats import postmark_inbound
from app.providers.mail.outbound import HttpMailProvider, Mail, all_written, written
from app.providers.toolbox.http_client import outcome_of, outcome_of_code
from app.providers.toolbox.models import ApiUrl, EventTime, HttpVendorSettings, RotatingSecret, VendorId, VendorModel
from app.providers.toolbox.verification import first_secret, must_be_secret, password_of, secrets_in

#: By `RecordType`. A bounce depends on its `Type`, an opening on its program.
STATUSES = {"Delivery": MessageStatus.DELIVERED, "Open": MessageStatus.READ}
NOTICES = {"Click": Notice.CLICK, "SpamComplaint": Notice.COMPLAINT}
#: A bounce by its `Type` (https://postmarkapp.com/developer/api/bounce-api#bounce-types): the address is wrong, or
#: the content was refused for good.
BOUNCES = {
    "HardBounce": MessageStatus.UNDELIVERED,
    "BadEmailAddress": MessageStatus.UNDELIVERED,
    "SpamNotification": MessageStatus.UNDELIVERED,
    "VirusNotification": MessageStatus.UNDELIVERED,
    "DMARCPolicy": MessageStatus.UNDELIVERED,
    "ManuallyDeactivated": MessageStatus.UNDELIVERED,
    "SMTPApiError": MessageStatus.FAILED,
    "TemplateRenderingFailed": MessageStatus.FAILED,
}
#: The same for those that change no status. `Subscribe` and `Unsubscribe` are requests that came by mail.
BOUNCE_NOTICES = {
    "Transient": Notice.DELAY,
    "DnsError": Notice.DELAY,
    "SoftBounce": Notice.SOFT_BOUNCE,
    "Blocked": Notice.SOFT_BOUNCE,
    "AutoResponder": Notice.AUTOMATIC_REPLY,
    "AddressChange": Notice.AUTOMATIC_REPLY,
    "ChallengeVerification": Notice.CHALLENGE,
    "SpamComplaint": Notice.COMPLAINT,
    "Unsubscribe": Notice.UNSUBSCRIBED,
    "Subscribe": Notice.SUBSCRIBED,
    "Unknown": Notice.UNCLEAR_BOUNCE,
    "OpenRelayTest": Notice.UNCLEAR_BOUNCE,
}
#: The meaning of a bounce for consent, by its `Type`. Other types are refusals of the content or of the sender.
BOUNCES_OF_ADDRESS = {
    "HardBounce": ReportedConsent.HARD_BOUNCE,
    "BadEmailAddress": ReportedConsent.HARD_BOUNCE,
    "SoftBounce": ReportedConsent.SOFT_BOUNCE,
}
#: By the `SuppressionReason` of a `SubscriptionChange`. Another one is an unsubscription, unless the team made it.
SUPPRESSIONS = {"HardBounce": ReportedConsent.HARD_BOUNCE, "SpamComplaint": ReportedConsent.COMPLAINT}

#: The header with the shared secret, where that isn't the password in the address.
TOKEN_HEADER = "x-webhook-token"  # noqa: S105 - a name

_THROTTLED, _MAINTENANCE = {429}, {100}
#: A planned outage. After a 500 the message is lost "in most cases".
_NOT_TAKEN = {503}
#: A bad token, an account that is out of credit, pending, or may not send.
_REFUSES_US = {10, 405, 412, 413}
#: A recipient who is inactive, after a bounce, a complaint or an unsubscription.
_OPTED_OUT = {406}
#: The name of our reference among a mail's metadata.
_REFERENCE = "reference"
_LONGEST_METADATA = 80


class PostmarkSettings(HttpVendorSettings, env_prefix="POSTMARK_"):
    server_token: RotatingSecret | None = None
    message_stream: str = "outbound"
    #: The shared secret of its webhooks; two with a comma between them during a rotation.
    webhook_token: RotatingSecret | None = None
    api_url: ApiUrl = "https://api.postmarkapp.com"


class _Answer(VendorModel):
    error_code: int = Field(alias="ErrorCode")
    message: str = Field("", alias="Message")

    def __str__(self) -> str:
        return f"{self.error_code} {self.message}"[:200]


class _Event(VendorModel):
    record_type: str = Field(alias="RecordType")
    message_id: VendorId | None = Field(None, alias="MessageID")
    bounce_id: int | None = Field(None, alias="ID")
    bounce_type: str | None = Field(None, alias="Type")
    recipient: str | None = Field(None, alias="Recipient")
    email: str | None = Field(None, alias="Email")
    description: str | None = Field(None, alias="Description")
    details: str | None = Field(None, alias="Details")
    delivered_at: EventTime = Field(None, alias="DeliveredAt")
    bounced_at: EventTime = Field(None, alias="BouncedAt")
    received_at: EventTime = Field(None, alias="ReceivedAt")
    changed_at: EventTime = Field(None, alias="ChangedAt")
    metadata: dict[str, str] = Field({}, alias="Metadata")
    user_agent: str | None = Field(None, alias="UserAgent")
    stops_sending: bool | None = Field(None, alias="SuppressSending")
    suppression_reason: str | None = Field(None, alias="SuppressionReason")
    origin: str | None = Field(None, alias="Origin")


class PostmarkProvider(HttpMailProvider[PostmarkSettings]):
    """A client of Postmark's API, for one server."""

    #: A mail of 35 MB, in base64.
    largest_callback: ClassVar = 50_000_000

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        mail = await self._composer.mail(payload)
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/email",
            json=_submission(mail, payload.idempotency_key, self._settings.message_stream),
            headers={
                "Accept": "application/json",
                "X-Postmark-Server-Token": first_secret(self._settings.server_token),
            },
        )
        return base.ProviderResult(await self.submit(request, "MessageID", failure=_failure_of))

    def verify(self, callback: base.Callback) -> None:
        secrets = secrets_in(POSTMARK_WEBHOOK_TOKEN=self._settings.webhook_token)
        must_be_secret(callback.header(TOKEN_HEADER) or password_of(callback), secrets, callback)

    def is_known_by_head(self, head: base.Callback) -> bool:
        self.verify(head)  # it needs the headers only
        return True

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem]:
        raw = callback.json()
        if not isinstance(raw, dict):
            raise ValueError("An event comes as an object.")
        return postmark_inbound(callback) if "FromFull" in raw else [_receipt(raw)]


def configured() -> PostmarkProvider | None:
    """The provider, if POSTMARK_SERVER_TOKEN is set."""
    settings = PostmarkSettings()
    return PostmarkProvider(settings) if settings.server_token else None


def _submission(mail: Mail, reference: str, stream: str) -> dict[str, Any]:
    # Postmark replaces a Message-ID by its own, unless the header X-PM-KeepID tells it not to.
    headers = {"Message-ID": mail.message_id, "X-PM-KeepID": "true", **mail.further_headers}
    submission: dict[str, Any] = {
        "From": written(mail.from_),
        "To": written(mail.to),
        "Subject": mail.subject,
        "TextBody": mail.text,
        "MessageStream": stream,
        "Headers": [{"Name": name, "Value": value} for name, value in headers.items()],
        "Metadata": {_REFERENCE: reference[:_LONGEST_METADATA]},
    }
    people = {"Cc": mail.cc, "Bcc": mail.bcc, "ReplyTo": mail.reply_to}
    submission |= {name: all_written(each) for name, each in people.items() if each}
    if mail.html is not None:
        submission["HtmlBody"] = mail.html
    if mail.files:
        submission["Attachments"] = [
            {
                "Name": file.name,
                "Content": base64.b64encode(file.content).decode("ascii"),
                "ContentType": file.content_type,
            }
            for file in mail.files
        ]
    return submission


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer by Postmark's own code, which says more than the status."""
    try:
        answer = _Answer.model_validate_json(response.content)
    except ValidationError:
        failure = outcome_of(response, not_taken=_NOT_TAKEN)
        return failure or base.UnknownOutcome(f"{response.status_code} without an id or a code.")
    failure = outcome_of_code(
        response,
        answer.error_code,
        str(answer),
        throttled=_THROTTLED,
        temporary=_MAINTENANCE,
        refuses_us=_REFUSES_US,
        opted_out=_OPTED_OUT,
        not_taken=_NOT_TAKEN,
    )
    if failure is None and answer.error_code != 0:
        return base.UnknownOutcome(f"{response.status_code} without an id: {answer}")
    return failure


def _receipt(raw: dict[str, Any]) -> base.Receipt:
    event = _Event.model_validate(raw)
    kind = event.record_type
    at = event.delivered_at or event.bounced_at or event.received_at or event.changed_at
    recipient = event.recipient or event.email
    notice = _notice(event)
    words = event.details or event.description
    return base.Receipt(
        event_id=f"{kind}:{event.bounce_id}" if event.bounce_id else f"{kind}:{event.message_id}:{at}:{recipient}",
        status=None if notice else (BOUNCES.get(event.bounce_type or "") if kind == "Bounce" else STATUSES.get(kind)),
        provider_message_id=event.message_id,
        idempotency_key=event.metadata.get(_REFERENCE),
        detail=notice.with_words_of(words) if notice else words,
        occurred_at=at,
        raw=raw,
        recipient=recipient,
        consent=_consent(event, notice, words),
    )


def _consent(event: _Event, notice: Notice | None, words: str | None) -> ReportedConsent | None:
    if event.record_type == "SubscriptionChange":
        return _changed_subscription(event)
    if event.record_type == "Bounce" and event.bounce_type == "ManuallyDeactivated":
        return ReportedConsent.OPTED_OUT
    if event.record_type == "Bounce" and event.bounce_type in BOUNCES_OF_ADDRESS:
        return consent_of_bounce(words, BOUNCES_OF_ADDRESS[event.bounce_type])
    return CONSENT_OF.get(notice) if notice else None


def _changed_subscription(event: _Event) -> ReportedConsent:
    """The recipient's own change, or that of Postmark's customer or staff."""
    is_by_person = event.origin in {None, "Recipient"}
    if event.stops_sending is False:
        return ReportedConsent.SUBSCRIBED if is_by_person else ReportedConsent.OPTED_IN
    by_reason = SUPPRESSIONS.get(event.suppression_reason or "")
    return by_reason or (ReportedConsent.UNSUBSCRIBED if is_by_person else ReportedConsent.OPTED_OUT)


def _notice(event: _Event) -> Notice | None:
    """The meaning of an event that changes no status."""
    if event.record_type == "Bounce":
        return BOUNCE_NOTICES.get(event.bounce_type or "")
    if event.record_type == "Open" and is_program(event.user_agent):
        return Notice.MACHINE_OPEN
    if event.record_type == "SubscriptionChange":
        return Notice.SUBSCRIBED if event.stops_sending is False else Notice.UNSUBSCRIBED
    return NOTICES.get(event.record_type)
