"""Telnyx, texts and media messages.

Sending: https://developers.telnyx.com/api-reference/messages/send-a-message
What it calls back with: https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks
Idempotency keys: https://developers.telnyx.com/docs/development/api-fundamentals/idempotency
Errors: https://developers.telnyx.com/docs/messaging/messages/error-codes

It waits two seconds for the answer to a call, and calls three times at most.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import from_json
from pydantic_settings import SettingsConfigDict

from app.domain import MessageStatus
from app.providers.base import (
    BaseProvider,
    Callback,
    CallbackItem,
    CallbackRefused,
    CallbackUnverifiable,
    CredentialsRefused,
    InboundMessage,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    ProviderResult,
    Receipt,
    TemporaryFailure,
    UnknownOutcome,
    hint,
)
from app.providers.toolbox.http_client import HttpProvider, exchange, outcome_of, retry_after
from app.providers.toolbox.settings import VendorSettings
from app.providers.toolbox.times import EventTime
from app.providers.toolbox.verification import must_be_recent, only_header, reference_in, with_reference

STATUSES = {
    "queued": MessageStatus.QUEUED,
    "sending": MessageStatus.SENDING,
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "read": MessageStatus.READ,
    "delivery_failed": MessageStatus.UNDELIVERED,
    "delivery_unconfirmed": MessageStatus.UNDELIVERED,  # the carrier's silence, which its detail says
    "sending_failed": MessageStatus.FAILED,
    "expired": MessageStatus.EXPIRED,
}

#: Of the moment, whatever the status of the answer is: an error of theirs, a request that took too long, too many
#: requests, a full queue, a sender that can't be used just now, and what Telnyx rather tells in a receipt, once it
#: has the message: a spam filter that says it is temporary, the carrier's server away, the carrier's limit.
TEMPORARY_ERRORS = {"10007", "10008", "10011", "40002", "40006", "40011", "40318", "40320"}
_TOO_MANY_REQUESTS = {"10011", "40011", "40318"}
#: Of the account, not of the message: the secret of the profile is missing or wrong, the profile or the account is
#: switched off, the profile has spent what it may in a day.
REFUSES_US = {"40311", "40312", "40313", "40314", "40333"}
#: The errors that speak of one message, such as a recipient who has said STOP, also where the status refuses us.
_OF_THE_MESSAGE = "40"

_Id = Annotated[str, Field(min_length=1, max_length=512)]


class TelnyxSettings(VendorSettings):
    """Each as TELNYX_ and its name."""

    model_config = SettingsConfigDict(env_prefix="TELNYX_")

    api_key: SecretStr | None = None
    #: What its calls are verified with, in base64; while it is changed two with a space between them.
    public_key: str | None = None
    #: For alphanumeric senders and number pools, which belong to a profile.
    messaging_profile_id: str | None = None
    api_url: str = Field("https://api.telnyx.com", pattern=r"^https?://[^/]+$")
    timeout_seconds: float = Field(10, gt=0)


class _Model(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class _Error(_Model):
    model_config = ConfigDict(hide_input_in_errors=True, coerce_numbers_to_str=True)

    code: str = ""
    title: str = ""
    detail: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.code, self.title, self.detail and f"- {self.detail}") if part)[:300]


class _Errors(_Model):
    errors: list[_Error] = Field(min_length=1)


class _Sent(_Model):
    id: _Id


class _Accepted(_Model):
    data: _Sent


class _Party(_Model):
    phone_number: str
    status: str | None = None


class _Medium(_Model):
    url: str


class _Message(_Model):
    id: _Id
    type: str = "SMS"
    sender: _Party = Field(alias="from")
    to: list[_Party] = Field(min_length=1)
    text: str | None = None
    media: list[_Medium] = []
    received_at: EventTime = None


class _Outcome(_Model):
    id: _Id
    to: list[_Party] = Field(min_length=1)
    errors: list[_Error] = []
    webhook_url: str | None = None


class _Event(_Model):
    id: _Id
    event_type: str
    occurred_at: EventTime = None
    payload: dict[str, Any]


class _Call(_Model):
    data: _Event


class TelnyxProvider(HttpProvider):
    """An account at Telnyx. A key is remembered for a day, and only where the message was accepted; the same key with
    another body is refused, so the body of a message is the same for each attempt."""

    channels: ClassVar = {"sms": "phone"}
    honours_idempotency_key = True
    receipts_carry_key: ClassVar = True

    def __init__(self, settings: TelnyxSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(timeout_seconds=settings.timeout_seconds, client=client)
        self._settings = settings
        self._url = f"{settings.api_url}/v2/messages"

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        message: dict[str, object] = {"from": payload.from_address, "to": payload.to_address}
        message["type"] = "MMS" if payload.type == "mms" or payload.attachments else "SMS"
        if payload.body:
            message["text"] = payload.body
        if payload.attachments:
            message["media_urls"] = payload.attachments
        if self._settings.messaging_profile_id:
            message["messaging_profile_id"] = self._settings.messaging_profile_id
        if payload.callback_url:
            message["webhook_url"] = with_reference(payload.callback_url, payload.idempotency_key)
        key = self._settings.api_key
        headers = {
            "Authorization": f"Bearer {key.get_secret_value() if key else ''}",
            "Idempotency-Key": payload.idempotency_key,
        }
        request = self.client.build_request("POST", self._url, json=message, headers=headers)
        response = await exchange(self.client, request)
        if failure := _failure_of(response):
            raise failure
        try:
            return ProviderResult(_Accepted.model_validate_json(response.content).data.id)
        except ValidationError:
            raise UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.") from None

    def verify(self, callback: Callback) -> None:
        keys = _keys(self._settings.public_key)
        timestamp = only_header(callback, "telnyx-timestamp")
        shown = only_header(callback, "telnyx-signature-ed25519")
        must_be_recent(timestamp, callback)
        try:
            signature = base64.b64decode(shown.encode("ascii"), validate=True)
        except ValueError:
            raise CallbackRefused("The signature is not base64.", seen=hint(shown)) from None
        if not any(_is_signed(key, signature, timestamp.encode() + b"|" + callback.body) for key in keys):
            raise CallbackRefused("The signature is not one of the key TELNYX_PUBLIC_KEY.", seen=hint(shown))

    def parse(self, callback: Callback) -> Sequence[CallbackItem]:
        event = _Call.model_validate(from_json(callback.body, allow_inf_nan=False)).data
        if event.event_type == "message.received":
            return [_inbound(_Message.model_validate(event.payload))]
        if event.payload.get("direction") != "outbound":
            return []  # a call of another product of the account
        return [_receipt(event, _Outcome.model_validate(event.payload))]


def configured() -> BaseProvider | None:
    """The provider, where TELNYX_API_KEY is set."""
    settings = TelnyxSettings()
    return None if settings.api_key is None else TelnyxProvider(settings)


def _failure_of(response: httpx.Response) -> ProviderFailure | None:
    """What an answer means; Telnyx's own code has more to say than the status."""
    if response.is_success:
        return None
    try:
        error = _Errors.model_validate_json(response.content).errors[0]
    except ValidationError:
        return outcome_of(response)
    # An earlier request with this key was accepted with another body, or is still being looked at.
    if response.status_code in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY} and "dempoten" in str(error):
        return UnknownOutcome(str(error))
    if error.code in TEMPORARY_ERRORS:
        wait = retry_after(response.headers, datetime.now(UTC))
        return TemporaryFailure(str(error), retry_after=wait, throttled=error.code in _TOO_MANY_REQUESTS)
    if error.code in REFUSES_US:
        return CredentialsRefused(str(error))
    failure = outcome_of(response, str(error))
    if isinstance(failure, TemporaryFailure) or not error.code.startswith(_OF_THE_MESSAGE):
        return failure
    return PermanentFailure(str(error))


def _keys(setting: str | None) -> list[Ed25519PublicKey]:
    written = (setting or "").split()
    if not written:
        raise CallbackUnverifiable("TELNYX_PUBLIC_KEY is not set.")
    try:
        return [Ed25519PublicKey.from_public_bytes(base64.b64decode(each, validate=True)) for each in written]
    except ValueError:
        raise CallbackUnverifiable("TELNYX_PUBLIC_KEY can't be read: it is 32 bytes in base64.") from None


def _is_signed(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _receipt(event: _Event, outcome: _Outcome) -> Receipt:
    recipient = outcome.to[0]  # a message of ours has one
    said = "; ".join(str(error) for error in outcome.errors)
    if recipient.status == "delivery_unconfirmed":
        said = said or "the carrier doesn't say whether it arrived"
    return Receipt(
        event_id=event.id,
        status=STATUSES.get(recipient.status or ""),
        provider_message_id=outcome.id,
        # From what is signed, which the address of the call is not.
        idempotency_key=reference_in(outcome.webhook_url),
        detail=said or None,
        occurred_at=event.occurred_at,
        raw=event.model_dump(mode="json"),
        recipient=recipient.phone_number,
    )


def _inbound(message: _Message) -> InboundMessage:
    return InboundMessage(
        provider_message_id=message.id,
        channel="sms",
        type="mms" if message.type.lower() == "mms" or message.media else "sms",
        from_address=message.sender.phone_number,
        to_address=message.to[0].phone_number,
        body=message.text or "",
        attachments=[medium.url for medium in message.media],
        sent_at=message.received_at,
    )
