"""Amazon SES, mail.

Sending: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
Events: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html, and in the same form
without a configuration set https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
Inbound mail: https://docs.aws.amazon.com/ses/latest/dg/receiving-email-notifications-contents.html

SES replaces our Message-ID by one of its own, so the mail names ours among its References.
"""

import base64
import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import Field, TypeAdapter, ValidationError

from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers import base
from app.providers.mail.events import CONSENT_OF, Notice, consent_of_bounce, is_program, notice_of_feedback
from app.providers.mail.formats import ses_inbound
from app.providers.mail.outbound import HttpMailProvider, Mail
from app.providers.toolbox.aws_signature import AwsCredentials, signed_headers
from app.providers.toolbox.http_client import outcome_of, reason_in, temporary_failure
from app.providers.toolbox.json_documents import read_json
from app.providers.toolbox.models import ApiUrl, HttpVendorSettings, RotatingSecret, UtcTime, VendorId, VendorModel
from app.providers.toolbox.sns import Notification, SnsTopics, confirm_subscription
from app.providers.toolbox.verification import first_secret

#: Of a bounce, only a permanent one; of a complaint, only an earlier one, for which SES has not sent the mail.
STATUSES = {
    "Send": MessageStatus.SENT,
    "Delivery": MessageStatus.DELIVERED,
    "Open": MessageStatus.READ,
    "Bounce": MessageStatus.UNDELIVERED,
    "Complaint": MessageStatus.UNDELIVERED,
    "Reject": MessageStatus.FAILED,
    "Rendering Failure": MessageStatus.FAILED,
}
NOTICES = {
    "Click": Notice.CLICK,
    "DeliveryDelay": Notice.DELAY,
}
#: By `bounceType`.
BOUNCE_NOTICES = {"Transient": Notice.SOFT_BOUNCE, "Undetermined": Notice.UNCLEAR_BOUNCE}
_NOT_SENT = "OnAccountSuppressionList"
#: The meaning of a permanent bounce of these kinds (`bounceSubType`) for consent. Others go by the server's words.
SUPPRESSED = {
    "Suppressed": ReportedConsent.HARD_BOUNCE,  # it has bounced lately, for any customer of SES
    "NoEmail": ReportedConsent.HARD_BOUNCE,
    "OnAccountSuppressionList": ReportedConsent.OPTED_OUT,
    "UnsubscribedRecipient": ReportedConsent.UNSUBSCRIBED,
}
#: The fields with SES's words, of which an event has one or two.
_WORDS = (
    "smtpResponse",
    "reason",
    "errorMessage",
    "bounceSubType",
    "complaintSubType",
    "complaintFeedbackType",
    "delayType",
)

#: Errors of the account, with any status.
_REFUSES_US = {"AccountSuspendedException", "SendingPausedException", "ConfigurationSetDoesNotExistException"}
#: Too many requests, with any status.
_THROTTLED = {"TooManyRequestsException", "LimitExceededException", "ThrottlingException", "Throttling"}
#: Amazon: a call that fails returns an error and sends no mail.
_ANY_ERROR = range(500, 600)
#: The field with the details of an event, where it isn't the name of the kind in lower case.
_DETAILS = {"DeliveryDelay": "deliveryDelay", "Rendering Failure": "failure"}
#: A test message, which comes once for a new topic.
_TOPIC_WORKS = "Successfully validated SNS topic for Amazon SES event publishing."
#: The name of our reference among a mail's tags.
_REFERENCE = "reference"
_TAG = re.compile(r"[A-Za-z0-9_.@-]{1,256}")

_TIME: TypeAdapter[datetime] = TypeAdapter(UtcTime)


class SesSettings(HttpVendorSettings, env_prefix="SES_"):
    region: str | None = Field(None, pattern=r"^[a-z0-9-]{3,32}$")
    access_key_id: str | None = None
    secret_access_key: RotatingSecret | None = None
    session_token: RotatingSecret | None = None
    #: SES publishes the events of the mails in a configuration set.
    configuration_set: str | None = None
    #: Our topics, with a space between them.
    topic_arn: str = ""
    #: Unset: https://email.<region>.amazonaws.com.
    api_url: ApiUrl | None = None


class _Mail(VendorModel):
    id: VendorId = Field(alias="messageId")
    destination: list[str] = Field(default_factory=list)
    tags: dict[str, list[str]] = Field(default_factory=dict)


class SesProvider(HttpMailProvider[SesSettings]):
    """A client of the SES v2 API, in one region."""

    @cached_property
    def _topics(self) -> SnsTopics:
        return SnsTopics(self._settings.topic_arn.split())

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        fields = payload.mail
        people = {"cc": fields.cc, "bcc": fields.bcc, "reply_to": fields.reply_to}
        people |= {"from": [payload.from_address], "to": [payload.to_address]}
        sentence = "SES can't take an address whose part before the @ is outside of ASCII."
        refused = {name: sentence for name, each in people.items() if not all(map(_is_ascii, each))}
        return {**super().refusals(payload), **refused}

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        mail = replace(await self._composer.mail(payload), is_renamed=True)
        submission: dict[str, Any] = {
            "FromEmailAddress": mail.sender,
            "Destination": _destination(mail),
            "Content": {"Raw": {"Data": base64.b64encode(await mail.encoded()).decode("ascii")}},
        }
        if _TAG.fullmatch(payload.idempotency_key):
            submission["EmailTags"] = [{"Name": _REFERENCE, "Value": payload.idempotency_key}]
        if self._settings.configuration_set:
            submission["ConfigurationSetName"] = self._settings.configuration_set
        request = self._request(json.dumps(submission).encode())
        return base.ProviderResult(await self.submit(request, "MessageId", failure=_failure_of))

    async def verify(self, callback: base.Callback) -> None:
        await self._topics.verify(callback, self.client)

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem] | Awaitable[base.Reply]:
        """An event or a mail. The subscription of a topic that is set is confirmed, which takes a request to SNS."""
        notification = Notification.from_json(callback.body)
        if notification.type == "SubscriptionConfirmation":
            return self._confirmed(notification)
        if notification.type != "Notification" or notification.message.startswith(_TOPIC_WORKS):
            return []
        raw = read_json(notification.message)
        if not isinstance(raw, dict):
            raise ValueError("An event comes as an object.")
        if raw.get("notificationType") == "Received":
            return ses_inbound(raw, callback.received_at)
        return _receipts(raw, notification)

    async def _confirmed(self, notification: Notification) -> base.Reply:
        await confirm_subscription(notification, self.client)
        return self.reply

    def _request(self, body: bytes) -> httpx.Request:
        settings = self._settings
        credentials = AwsCredentials(
            str(settings.access_key_id),
            first_secret(settings.secret_access_key),
            first_secret(settings.session_token) or None,
        )
        api_url = settings.api_url or f"https://email.{settings.region}.amazonaws.com"
        url = httpx.URL(f"{api_url}/v2/email/outbound-emails")
        headers = signed_headers(credentials, str(settings.region), "ses", "POST", url, body, datetime.now(UTC))
        return self.client.build_request("POST", url, content=body, headers=headers)


def _is_ascii(address: str) -> bool:
    """True for an address that SES takes, whose domain is encoded."""
    return address.rpartition("@")[0].isascii()


def _destination(mail: Mail) -> dict[str, list[str]]:
    """The recipients, of whom the raw mail names no `bcc`."""
    copies = {"CcAddresses": mail.cc, "BccAddresses": mail.bcc}
    return {"ToAddresses": [mail.recipient]} | {
        name: [each.address for each in people] for name, people in copies.items() if people
    }


def configured() -> SesProvider | None:
    """The provider, if SES_REGION, SES_ACCESS_KEY_ID and SES_SECRET_ACCESS_KEY are set."""
    settings = SesSettings()
    is_complete = settings.region and settings.access_key_id and settings.secret_access_key
    return SesProvider(settings) if is_complete else None


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer by the error's name, which says more than the status."""
    name = response.headers.get("x-amzn-errortype", "").partition(":")[0]
    said = " ".join(part for part in (name, reason_in(response, "message")) if part)
    # An error that SES names has sent nothing. One without a name comes from something before it.
    failure = outcome_of(response, said, not_taken=_ANY_ERROR if name else ())
    if failure is None:
        return None
    if name in _THROTTLED:
        return temporary_failure(response, str(failure), throttled=True)
    if name in _REFUSES_US or response.status_code == HTTPStatus.NOT_FOUND:
        return base.CredentialsRefused(str(failure))
    return failure


def _receipts(raw: dict[str, Any], notification: Notification) -> list[base.Receipt]:
    """A receipt for each recipient that the event is about, or one where it does not tell."""
    kind = raw.get("eventType") or raw.get("notificationType")
    mail = _Mail.model_validate(raw.get("mail"))
    if not isinstance(kind, str):
        raise ValueError("The event does not say what it is about.")
    details = raw.get(_DETAILS.get(kind, kind.lower()))
    details = details if isinstance(details, dict) else {}
    references = mail.tags.get(_REFERENCE, [])
    notice = _notice(kind, details)
    words = _detail(details)
    recipients = _recipients(details) or mail.destination[:1]
    first = base.Receipt(
        event_id=notification.message_id,
        status=None if notice else STATUSES.get(kind),
        provider_message_id=mail.id,
        idempotency_key=references[0] if references else None,
        detail=notice.with_words_of(words) if notice else words,
        occurred_at=_time(details.get("timestamp")) or notification.published_at,
        raw=raw,
        recipient=recipients[0] if recipients else None,
        named=mail.destination,
        consent=_consent(kind, details, notice, words),
    )
    others = enumerate(recipients[1:], start=2)
    return [first, *(replace(first, event_id=f"{first.event_id}:{n}", recipient=each) for n, each in others)]


def _recipients(details: dict[str, Any]) -> list[str]:
    """The recipients that an event is about, where it tells them apart from the others of its mail."""
    found = [each for each in _listed(details, "recipients") if isinstance(each, str)]
    for name in ("bouncedRecipients", "complainedRecipients", "delayedRecipients"):
        each_one = (each.get("emailAddress") for each in _listed(details, name) if isinstance(each, dict))
        found += [each for each in each_one if isinstance(each, str)]
    return found


def _listed(details: dict[str, Any], name: str) -> list[Any]:
    return value if isinstance(value := details.get(name), list) else []


def _consent(kind: str, details: dict[str, Any], notice: Notice | None, words: str | None) -> ReportedConsent | None:
    sub_type = _text(details, "bounceSubType") or ""
    if kind == "Bounce" and details.get("bounceType") == "Permanent":
        return SUPPRESSED.get(sub_type) or consent_of_bounce(words, ReportedConsent.HARD_BOUNCE)
    if kind == "Bounce":  # others that may pass are out-of-office notices, and refusals of the content
        return ReportedConsent.SOFT_BOUNCE if sub_type == "MailboxFull" else None
    if kind == "Complaint" and notice is None:  # SES has not sent the mail, because of an earlier complaint
        return ReportedConsent.COMPLAINT
    if kind == "Subscription":
        return _changed_subscription(details)
    return CONSENT_OF.get(notice) if notice else None


def _changed_subscription(details: dict[str, Any]) -> ReportedConsent:
    """A change of all topics of a contact list, or of some. One without details is an unsubscription."""
    now = details.get("newTopicPreferences")
    now = now if isinstance(now, dict) else {}
    topics = now.get("topicSubscriptionStatus")
    if now.get("unsubscribeAll") is not False or not isinstance(topics, list):
        return ReportedConsent.UNSUBSCRIBED
    has_left = any(isinstance(each, dict) and each.get("subscriptionStatus") == "OptOut" for each in topics)
    return ReportedConsent.LEFT_GROUP if has_left else ReportedConsent.JOINED_GROUP


def _notice(kind: str, details: dict[str, Any]) -> Notice | None:
    """The meaning of an event that changes no status."""
    if kind == "Open" and is_program(_text(details, "userAgent")):
        return Notice.MACHINE_OPEN
    if kind == "Complaint":
        if details.get("complaintSubType") == _NOT_SENT:
            return None
        return notice_of_feedback(_text(details, "complaintFeedbackType"))
    if kind == "Bounce" and details.get("bounceType") == "Transient" and details.get("bounceSubType") == "General":
        return Notice.BOUNCE_OR_REPLY  # SES tells the two apart no further
    if kind == "Bounce":
        return BOUNCE_NOTICES.get(_text(details, "bounceType") or "")
    if kind == "Subscription":
        has_joined = _changed_subscription(details) is ReportedConsent.JOINED_GROUP
        return Notice.SUBSCRIBED if has_joined else Notice.UNSUBSCRIBED
    return NOTICES.get(kind)


def _text(details: dict[str, Any], name: str) -> str | None:
    return value if isinstance(value := details.get(name), str) else None


def _detail(details: dict[str, Any]) -> str | None:
    """The text of the recipient's mail server, or else SES's own."""
    for list_name in ("bouncedRecipients", "delayedRecipients"):
        recipients = details.get(list_name)
        if isinstance(recipients, list) and recipients and isinstance(recipients[0], dict):
            text = recipients[0].get("diagnosticCode")
            if isinstance(text, str):
                return text
    return next((value for name in _WORDS if isinstance(value := details.get(name), str)), None)


def _time(written: object) -> datetime | None:
    try:
        return _TIME.validate_python(written) if isinstance(written, str) else None
    except ValidationError:
        return None
