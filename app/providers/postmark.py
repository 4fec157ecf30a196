"""Postmark, mail.

Sending: https://postmarkapp.com/developer/api/email-api
Errors: https://postmarkapp.com/developer/api/overview#error-codes
Events: https://postmarkapp.com/developer/webhooks/webhooks-overview
Mail that comes in: https://postmarkapp.com/developer/webhooks/inbound-webhook

It signs nothing. It shows what it was told to: a user and a password in the address, or a header of its webhooks.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
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
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.mail.inbound import postmark_inbound
from app.providers.mail.outbound import Composer, Mail
from app.providers.toolbox.http_client import HttpProvider, exchange, outcome_of
from app.providers.toolbox.settings import VendorSettings
from app.providers.toolbox.times import EventTime
from app.providers.toolbox.verification import must_be_secret, password_of, secrets_in

#: By `RecordType`. What is missing (Click, SpamComplaint, SubscriptionChange) says nothing about where the mail is.
STATUSES = {"Delivery": MessageStatus.DELIVERED, "Open": MessageStatus.READ}
#: A bounce by its `Type`. What is missing is tried again, or is a machine's answer.
BOUNCES = {
    "HardBounce": MessageStatus.UNDELIVERED,
    "SoftBounce": MessageStatus.UNDELIVERED,
    "BadEmailAddress": MessageStatus.UNDELIVERED,
    "Blocked": MessageStatus.UNDELIVERED,
    "SpamNotification": MessageStatus.UNDELIVERED,
    "VirusNotification": MessageStatus.UNDELIVERED,
    "DMARCPolicy": MessageStatus.UNDELIVERED,
    "ManuallyDeactivated": MessageStatus.UNDELIVERED,
    "SMTPApiError": MessageStatus.FAILED,
    "TemplateRenderingFailed": MessageStatus.FAILED,
}

#: In this header a webhook may carry the secret, where it isn't the password of the address.
TOKEN_HEADER = "x-webhook-token"  # noqa: S105 - a name

_OK = 0
_MAINTENANCE = 100
_TOO_MANY_REQUESTS = 429
#: A bad token, an account that is out of credit, pending, or may not send.
_ABOUT_US = {10, 405, 412, 413}
#: Under which our reference travels among a mail's metadata.
_REFERENCE = "reference"
_LONGEST_METADATA = 80

_Id = Annotated[str, Field(min_length=1, max_length=512)]


class PostmarkSettings(VendorSettings):
    """Each as POSTMARK_ and its name."""

    model_config = SettingsConfigDict(env_prefix="POSTMARK_")

    server_token: SecretStr | None = None
    message_stream: str = "outbound"
    #: What its webhooks show; while it is changed two with a space between them.
    webhook_token: SecretStr | None = None
    api_url: str = Field("https://api.postmarkapp.com", pattern=r"^https?://[^/]+$")
    timeout_seconds: float = Field(10, gt=0)


class _Model(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class _Answer(_Model):
    error_code: int = Field(alias="ErrorCode")
    message: str = Field("", alias="Message")
    message_id: _Id | None = Field(None, alias="MessageID")


class _Event(_Model):
    record_type: str = Field(alias="RecordType")
    message_id: _Id | None = Field(None, alias="MessageID")
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


class PostmarkProvider(HttpProvider):
    """A client of Postmark's API, for one server."""

    channels: ClassVar = {"email": "email"}
    receipts_carry_key: ClassVar = True
    #: A mail of 35 MB, in base64.
    largest_callback: ClassVar = 50_000_000

    def __init__(
        self,
        settings: PostmarkSettings | None = None,
        client: httpx.AsyncClient | None = None,
        composer: Composer | None = None,
    ) -> None:
        self._settings = settings or PostmarkSettings()
        super().__init__(timeout_seconds=self._settings.timeout_seconds, client=client)
        self._composer = composer or Composer()

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        mail = await self._composer.mail(payload)
        assert self._settings.server_token is not None
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/email",
            json=_submission(mail, payload.idempotency_key, self._settings.message_stream),
            headers={
                "Accept": "application/json",
                "X-Postmark-Server-Token": self._settings.server_token.get_secret_value(),
            },
        )
        response = await exchange(self.client, request)
        answer = _answer(response)
        if answer and (failure := _failure(answer)):
            raise failure
        if failure := outcome_of(response, _said(answer) if answer else None):
            raise failure
        if answer is None or answer.error_code != _OK or answer.message_id is None:
            raise UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.")
        return ProviderResult(answer.message_id)

    def verify(self, callback: Callback) -> None:
        secrets = secrets_in(POSTMARK_WEBHOOK_TOKEN=self._settings.webhook_token)
        must_be_secret(callback.header(TOKEN_HEADER) or password_of(callback), secrets, callback)

    def is_known_by_head(self, head: Callback) -> bool:
        self.verify(head)  # which looks at headers alone
        return True

    def parse(self, callback: Callback) -> Sequence[CallbackItem]:
        raw = from_json(callback.body, allow_inf_nan=False)
        if not isinstance(raw, dict):
            raise ValueError("An event comes as an object.")
        if "FromFull" in raw:
            return postmark_inbound(raw)
        return [_receipt(raw)]


def configured() -> BaseProvider | None:
    """The provider, where POSTMARK_SERVER_TOKEN is set."""
    settings = PostmarkSettings()
    return PostmarkProvider(settings) if settings.server_token else None


def _submission(mail: Mail, reference: str, stream: str) -> dict[str, Any]:
    # It replaces a Message-ID by its own, unless it is told not to.
    headers = {"Message-ID": mail.message_id, "X-PM-KeepID": "true", **mail.thread_headers}
    submission: dict[str, Any] = {
        "From": mail.sender,
        "To": mail.recipient,
        "Subject": mail.subject,
        "TextBody": mail.text,
        "MessageStream": stream,
        "Headers": [{"Name": name, "Value": value} for name, value in headers.items()],
        "Metadata": {_REFERENCE: reference[:_LONGEST_METADATA]},
    }
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


def _answer(response: httpx.Response) -> _Answer | None:
    try:
        return _Answer.model_validate_json(response.content)
    except ValidationError:
        return None


def _failure(answer: _Answer) -> ProviderFailure | None:
    """What its own code means, whatever the status is; None where the status says it, too."""
    text = _said(answer)
    if answer.error_code in _ABOUT_US:
        return CredentialsRefused(text)
    if answer.error_code == _MAINTENANCE:
        return TemporaryFailure(text)
    if answer.error_code == _TOO_MANY_REQUESTS:
        return TemporaryFailure(text, throttled=True)
    return None


def _said(answer: _Answer) -> str:
    return f"{answer.error_code} {answer.message}"[:200]


def _receipt(raw: dict[str, Any]) -> Receipt:
    event = _Event.model_validate(raw)
    kind = event.record_type
    at = event.delivered_at or event.bounced_at or event.received_at or event.changed_at
    recipient = event.recipient or event.email
    return Receipt(
        event_id=f"{kind}:{event.bounce_id}" if event.bounce_id else f"{kind}:{event.message_id}:{at}:{recipient}",
        status=BOUNCES.get(event.bounce_type or "") if kind == "Bounce" else STATUSES.get(kind),
        provider_message_id=event.message_id,
        idempotency_key=event.metadata.get(_REFERENCE),
        detail=event.details or event.description,
        occurred_at=at,
        raw=raw,
        recipient=recipient,
    )
