"""Amazon SES, mail.

Sending: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
Events: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html, and in the same form
without a configuration set https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
Mail that comes in: https://docs.aws.amazon.com/ses/latest/dg/receiving-email-notifications-contents.html

SES gives every mail a Message-ID of its own in place of ours, which the mail therefore names among its References.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError
from pydantic_core import from_json
from pydantic_settings import SettingsConfigDict

from app.domain import MessageStatus
from app.providers.base import (
    BaseProvider,
    Callback,
    CallbackItem,
    CredentialsRefused,
    OutboundMessage,
    ProviderFailure,
    ProviderResult,
    Receipt,
    Reply,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.mail.inbound import ses_inbound
from app.providers.mail.outbound import Composer
from app.providers.toolbox.aws_signature import AwsCredentials, signed_headers
from app.providers.toolbox.http_client import HttpProvider, exchange, outcome_of, retry_after
from app.providers.toolbox.settings import VendorSettings
from app.providers.toolbox.sns import Notification, SnsTopics, notification_in
from app.providers.toolbox.times import UtcTime

#: What is missing (Click, Complaint, DeliveryDelay, Subscription) says nothing about where the mail is. A bounce is
#: the end also where it is called transient: SES has tried again by then.
STATUSES = {
    "Send": MessageStatus.SENT,
    "Delivery": MessageStatus.DELIVERED,
    "Open": MessageStatus.READ,
    "Bounce": MessageStatus.UNDELIVERED,
    "Reject": MessageStatus.FAILED,
    "Rendering Failure": MessageStatus.FAILED,
}

#: Whatever the status is: the first two speak of the account, the others of the moment.
_ABOUT_US = {"AccountSuspendedException", "SendingPausedException", "ConfigurationSetDoesNotExistException"}
_TOO_MUCH = {"TooManyRequestsException", "LimitExceededException", "ThrottlingException", "Throttling"}
#: Where an event keeps what only its kind has.
_DETAILS = {"DeliveryDelay": "deliveryDelay", "Rendering Failure": "failure"}
#: Comes once, when events are first sent to a topic.
_TOPIC_WORKS = "Successfully validated SNS topic for Amazon SES event publishing."
#: Under which our reference travels among a mail's tags.
_REFERENCE = "reference"
_TAG = re.compile(r"[A-Za-z0-9_.@-]{1,256}")

_Id = Annotated[str, Field(min_length=1, max_length=512)]
_TIME: TypeAdapter[datetime] = TypeAdapter(UtcTime)


class SesSettings(VendorSettings):
    """Each as SES_ and its name."""

    model_config = SettingsConfigDict(env_prefix="SES_")

    region: str | None = Field(None, pattern=r"^[a-z0-9-]{3,32}$")
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    #: Events are published by configuration set.
    configuration_set: str | None = None
    #: The topics whose notifications are ours, with a space between them.
    topic_arn: str = ""
    #: Unset: https://email.<region>.amazonaws.com.
    api_url: str | None = Field(None, pattern=r"^https?://[^/]+$")
    timeout_seconds: float = Field(10, gt=0)


class _Model(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class _Accepted(_Model):
    id: _Id = Field(alias="MessageId")


class _Mail(_Model):
    id: _Id = Field(alias="messageId")
    destination: list[str] = []
    tags: dict[str, list[str]] = {}


class SesProvider(HttpProvider):
    """A client of the SES v2 API, in one region."""

    channels: ClassVar = {"email": "email"}
    receipts_carry_key: ClassVar = True

    def __init__(
        self,
        settings: SesSettings | None = None,
        client: httpx.AsyncClient | None = None,
        composer: Composer | None = None,
    ) -> None:
        self._settings = settings or SesSettings()
        super().__init__(timeout_seconds=self._settings.timeout_seconds, client=client)
        self._composer = composer or Composer()
        self._topics = SnsTopics(self._settings.topic_arn.split())

    def refusals(self, payload: OutboundMessage) -> Mapping[str, str]:
        ends = {"from": payload.from_address, "to": payload.to_address}
        sentence = "SES can't take an address whose part before the @ is outside of ASCII."
        return {end: sentence for end, address in ends.items() if not address.rpartition("@")[0].isascii()}

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        mail = replace(await self._composer.mail(payload), is_renamed=True)
        submission: dict[str, Any] = {
            "FromEmailAddress": mail.sender,
            "Destination": {"ToAddresses": [mail.recipient]},
            "Content": {"Raw": {"Data": base64.b64encode(await mail.encoded()).decode("ascii")}},
        }
        if _TAG.fullmatch(payload.idempotency_key):
            submission["EmailTags"] = [{"Name": _REFERENCE, "Value": payload.idempotency_key}]
        if self._settings.configuration_set:
            submission["ConfigurationSetName"] = self._settings.configuration_set
        response = await exchange(self.client, self._request(json.dumps(submission).encode()))
        if failure := _failure(response):
            raise failure
        try:
            return ProviderResult(_Accepted.model_validate_json(response.content).id)
        except ValidationError:
            raise UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.") from None

    async def verify(self, callback: Callback) -> None:
        await self._topics.verify(callback, self.client)

    async def handshake(self, callback: Callback) -> Reply | None:
        """Confirms the subscription of a topic that is set."""
        return self.reply if await self._topics.subscribe(callback, self.client) else None

    def parse(self, callback: Callback) -> Sequence[CallbackItem]:
        notification = notification_in(callback)
        if notification.type != "Notification" or notification.message.startswith(_TOPIC_WORKS):
            return []
        raw = from_json(notification.message, allow_inf_nan=False)
        if not isinstance(raw, dict):
            raise ValueError("An event comes as an object.")
        if raw.get("notificationType") == "Received":
            return ses_inbound(raw)
        return [_receipt(raw, notification)]

    def _request(self, body: bytes) -> httpx.Request:
        settings = self._settings
        assert settings.region is not None
        assert settings.access_key_id is not None
        assert settings.secret_access_key is not None
        credentials = AwsCredentials(
            settings.access_key_id,
            settings.secret_access_key.get_secret_value(),
            settings.session_token.get_secret_value() if settings.session_token else None,
        )
        url = httpx.URL(
            f"{settings.api_url or f'https://email.{settings.region}.amazonaws.com'}/v2/email/outbound-emails"
        )
        headers = signed_headers(credentials, settings.region, "ses", "POST", url, body, datetime.now(UTC))
        return self.client.build_request("POST", url, content=body, headers=headers)


def configured() -> BaseProvider | None:
    """The provider, where SES_REGION, SES_ACCESS_KEY_ID and SES_SECRET_ACCESS_KEY are set."""
    settings = SesSettings()
    return (
        SesProvider(settings) if settings.region and settings.access_key_id and settings.secret_access_key else None
    )


def _failure(response: httpx.Response) -> ProviderFailure | None:
    """What an answer means: the error's name first, then its status."""
    name = response.headers.get("x-amzn-errortype", "").partition(":")[0]
    failure = outcome_of(response, " ".join(part for part in (name, _reason(response)) if part))
    if failure is None:
        return None
    if name in _TOO_MUCH:
        wait = retry_after(response.headers, datetime.now(UTC))
        return TemporaryFailure(str(failure), retry_after=wait, throttled=True)
    if name in _ABOUT_US or response.status_code == HTTPStatus.NOT_FOUND:
        return CredentialsRefused(str(failure))
    return failure


def _reason(response: httpx.Response) -> str:
    try:
        return str(from_json(response.content)["message"])[:200]
    except (ValueError, TypeError, KeyError):
        return ""


def _receipt(raw: dict[str, Any], notification: Notification) -> Receipt:
    kind = raw.get("eventType") or raw.get("notificationType")
    mail = _Mail.model_validate(raw.get("mail"))
    if not isinstance(kind, str):
        raise ValueError("The event does not say what it is about.")
    details = raw.get(_DETAILS.get(kind, kind.lower()))
    details = details if isinstance(details, dict) else {}
    references = mail.tags.get(_REFERENCE, [])
    return Receipt(
        event_id=notification.message_id,
        status=STATUSES.get(kind),
        provider_message_id=mail.id,
        idempotency_key=references[0] if references else None,
        detail=_detail(details),
        occurred_at=_time(details.get("timestamp")) or notification.published_at,
        raw=raw,
        recipient=mail.destination[0] if mail.destination else None,
    )


def _detail(details: dict[str, Any]) -> str | None:
    """The other server's own words, or what SES calls it."""
    for list_name in ("bouncedRecipients", "delayedRecipients"):
        recipients = details.get(list_name)
        if isinstance(recipients, list) and recipients and isinstance(recipients[0], dict):
            words = recipients[0].get("diagnosticCode")
            if isinstance(words, str):
                return words
    names = ("smtpResponse", "reason", "errorMessage", "bounceSubType", "complaintFeedbackType", "delayType")
    return next((value for name in names if isinstance(value := details.get(name), str)), None)


def _time(written: object) -> datetime | None:
    try:
        return _TIME.validate_python(written) if isinstance(written, str) else None
    except ValidationError:
        return None
