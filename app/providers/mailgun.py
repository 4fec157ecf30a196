"""Mailgun (Sinch), mail.

Sending: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages
Events: https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads
Their signature: https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
Mail that comes in: https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/
"""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
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
    CallbackRefused,
    CredentialsRefused,
    OutboundMessage,
    ProviderResult,
    Receipt,
    UnknownOutcome,
)
from app.providers.mail.inbound import mailgun_inbound
from app.providers.mail.outbound import Composer, Mail
from app.providers.toolbox.http_client import HttpProvider, exchange, outcome_of
from app.providers.toolbox.multipart import parts_of
from app.providers.toolbox.settings import VendorSettings
from app.providers.toolbox.times import moment_of
from app.providers.toolbox.verification import must_be_recent, must_match, secrets_in

#: What is missing (clicked, complained, unsubscribed, stored) says nothing about where the mail is, and neither does
#: `failed` where it is temporary.
STATUSES = {
    "accepted": MessageStatus.QUEUED,
    "delivered": MessageStatus.DELIVERED,
    "failed": MessageStatus.UNDELIVERED,
    "rejected": MessageStatus.FAILED,
    "opened": MessageStatus.READ,
}

#: Mailgun calls again for 8 hours and 5 minutes, and shows the signature of its first call each time: with the five
#: minutes of others, what came while we were away would be refused for good.
RETRIED_FOR = timedelta(hours=8, minutes=5)
#: In bytes; a signature that has to be looked for in more takes long enough for others to notice.
_LARGE = 100_000
#: Under which our reference travels among a mail's variables.
_REFERENCE = "reference"

_Id = Annotated[str, Field(min_length=1, max_length=512)]


class MailgunSettings(VendorSettings):
    """Each as MAILGUN_ and its name."""

    model_config = SettingsConfigDict(env_prefix="MAILGUN_")

    api_key: SecretStr | None = None
    #: The domain that mails are sent through, as Mailgun lists it; the sandbox's serves too.
    domain: str | None = Field(None, pattern=r"^[A-Za-z0-9.-]+$")
    #: The HTTP webhook signing key; while it is changed two with a space between them.
    signing_key: SecretStr | None = None
    #: https://api.eu.mailgun.net for domains of that region.
    api_url: str = Field("https://api.mailgun.net", pattern=r"^https?://[^/]+$")
    timeout_seconds: float = Field(10, gt=0)


class _Model(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class _Accepted(_Model):
    id: _Id


class _Signature(_Model):
    timestamp: str
    token: Annotated[str, Field(min_length=1, max_length=512)]
    signature: str
    #: By the key of the account above, where a subaccount's domain calls.
    parent_signature: str = Field("", alias="parent-signature")


class _Signed(_Model):
    signature: _Signature


class _Headers(_Model):
    message_id: _Id | None = Field(None, alias="message-id")


class _Message(_Model):
    headers: _Headers = _Headers()


class _DeliveryStatus(_Model):
    message: str | None = None
    description: str | None = None


class _Rejection(_Model):
    reason: str | None = None


class _Event(_Model):
    id: _Id
    event: str
    timestamp: float
    severity: str | None = None
    reason: str | None = None
    recipient: str | None = None
    message: _Message = _Message()
    delivery_status: _DeliveryStatus = Field(_DeliveryStatus(), alias="delivery-status")
    reject: _Rejection = _Rejection()
    #: An empty list where a mail has none.
    user_variables: dict[str, Any] | list[Any] = Field({}, alias="user-variables")


class _Call(_Model):
    event_data: dict[str, Any] = Field(alias="event-data")


class MailgunProvider(HttpProvider):
    """A client of Mailgun's v3 API, for one domain."""

    channels: ClassVar = {"email": "email"}
    receipts_carry_key: ClassVar = True
    #: A mail of 25 MB, its files and its parts side by side, and the form around them.
    largest_callback: ClassVar = 35_000_000

    def __init__(
        self,
        settings: MailgunSettings | None = None,
        client: httpx.AsyncClient | None = None,
        composer: Composer | None = None,
    ) -> None:
        self._settings = settings or MailgunSettings()
        super().__init__(timeout_seconds=self._settings.timeout_seconds, client=client)
        self._composer = composer or Composer()

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        """As promised by `BaseProvider`; a domain that is not there refuses us, not the message."""
        mail = await self._composer.mail(payload)
        assert self._settings.api_key is not None
        credentials = base64.b64encode(f"api:{self._settings.api_key.get_secret_value()}".encode()).decode("ascii")
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/v3/{self._settings.domain}/messages",
            data=_fields(mail, payload.idempotency_key),
            files=[("attachment", (file.name, file.content, file.content_type)) for file in mail.files] or None,
            headers={"Authorization": f"Basic {credentials}"},
        )
        response = await exchange(self.client, request)
        if failure := outcome_of(response, _reason(response)):
            if response.status_code == HTTPStatus.NOT_FOUND:
                raise CredentialsRefused(f"{failure}: is MAILGUN_DOMAIN right, and MAILGUN_API_URL its region's?")
            raise failure
        try:
            return ProviderResult(_Accepted.model_validate_json(response.content).id.strip("<>"))
        except ValidationError:
            raise UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.") from None

    async def verify(self, callback: Callback) -> None:
        keys = secrets_in(MAILGUN_SIGNING_KEY=self._settings.signing_key)
        shown = await _signature_of(callback)
        must_be_recent(shown.timestamp, callback, retried_for=RETRIED_FOR)
        signed = (shown.timestamp + shown.token).encode("utf-8", "replace")
        signatures = [each for each in (shown.signature, shown.parent_signature) if each]
        must_match(signatures, [hmac.new(key, signed, hashlib.sha256).hexdigest() for key in keys])

    async def signed_token(self, callback: Callback) -> str | None:
        return (await _signature_of(callback)).token

    def parse(self, callback: Callback) -> Sequence[CallbackItem]:
        if not _is_json(callback):
            return mailgun_inbound(callback)
        raw = _Call.model_validate(from_json(callback.body, allow_inf_nan=False)).event_data
        return [_receipt(raw)]


def configured() -> BaseProvider | None:
    """The provider, where MAILGUN_API_KEY and MAILGUN_DOMAIN are set."""
    settings = MailgunSettings()
    return MailgunProvider(settings) if settings.api_key and settings.domain else None


def _fields(mail: Mail, reference: str) -> dict[str, str]:
    headers = {"Message-Id": mail.message_id, **mail.thread_headers}
    fields = {
        "from": mail.sender,
        "to": mail.recipient,
        "subject": mail.subject,
        "text": mail.text,
        **{f"h:{name}": value for name, value in headers.items()},
        f"v:{_REFERENCE}": reference,
    }
    return fields if mail.html is None else {**fields, "html": mail.html}


def _is_json(callback: Callback) -> bool:
    return (callback.header("content-type") or "").partition(";")[0].strip().lower() == "application/json"


async def _signature_of(callback: Callback) -> _Signature:
    if len(callback.body) > _LARGE:
        return await asyncio.to_thread(_signature_in, callback)
    return _signature_in(callback)


def _signature_in(callback: Callback) -> _Signature:
    """The three values that vouch for a call: in the body, where a route's form has them among a mail's fields."""
    try:
        if _is_json(callback):
            return _Signed.model_validate(from_json(callback.body, allow_inf_nan=False)).signature
        names = ("timestamp", "token", "signature")
        found = [(part.name, part.content.decode()) for part in parts_of(callback) if part.name in names]
        if len(found) != len(names):
            raise CallbackRefused("Its signature is missing, or there twice.")
        return _Signature.model_validate(dict(found))
    except ValueError:
        raise CallbackRefused("No signature can be read from it.") from None


def _receipt(raw: dict[str, Any]) -> Receipt:
    event = _Event.model_validate(raw)
    variables = event.user_variables if isinstance(event.user_variables, dict) else {}
    reference, reply = variables.get(_REFERENCE), event.delivery_status
    is_temporary = event.event == "failed" and event.severity == "temporary"
    id = event.message.headers.message_id
    return Receipt(
        event_id=f"{event.id}:{event.timestamp}",  # its ids are only different within a day
        status=None if is_temporary else STATUSES.get(event.event),
        provider_message_id=id.strip("<>") if id else None,
        idempotency_key=reference if isinstance(reference, str) else None,
        detail=reply.description or reply.message or event.reject.reason or event.reason,
        occurred_at=moment_of(event.timestamp),
        raw=raw,
        recipient=event.recipient,
    )


def _reason(response: httpx.Response) -> str | None:
    try:
        return str(from_json(response.content)["message"])[:200]
    except (ValueError, TypeError, KeyError):
        return None
