"""Telnyx, texts and media messages.

Sending: https://developers.telnyx.com/api-reference/messages/send-a-message
Callbacks: https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks
Idempotency keys: https://developers.telnyx.com/docs/development/api-fundamentals/idempotency
Errors: https://developers.telnyx.com/docs/messaging/messages/error-codes

Telnyx waits two seconds for our reply to a callback, and delivers it three times at most.
"""

import base64
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, SecretStr, ValidationError

from app.domain import MessageStatus
from app.providers import base
from app.providers.toolbox.http_client import HttpProvider, bearer, outcome_of, outcome_of_code
from app.providers.toolbox.models import ApiUrl, EventTime, HttpVendorSettings, VendorId, VendorModel
from app.providers.toolbox.verification import must_be_recent, only_header, reference_in, with_reference

STATUSES = {
    "queued": MessageStatus.QUEUED,
    "sending": MessageStatus.SENDING,
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "read": MessageStatus.READ,
    "delivery_failed": MessageStatus.UNDELIVERED,
    "delivery_unconfirmed": MessageStatus.UNDELIVERED,  # the carrier did not report; the detail says so
    "sending_failed": MessageStatus.FAILED,
    "expired": MessageStatus.EXPIRED,
}

#: Temporary with any status: an error of Telnyx's own, a timeout, too many requests, a full queue, a sender that
#: can't be used just now. The others come in receipts: a spam filter that says it is temporary, the carrier's server
#: away, the carrier's limit.
TEMPORARY_ERRORS = {"10007", "10008", "10011", "40002", "40006", "40011", "40318", "40320"}
THROTTLED = {"10011", "40011", "40318"}
#: Errors of the account. The secret of the profile is missing or wrong; the profile or the account is switched off;
#: the profile has reached its daily spending limit.
REFUSES_US = {"40311", "40312", "40313", "40314", "40333"}


class TelnyxSettings(HttpVendorSettings, env_prefix="TELNYX_"):
    api_key: SecretStr | None = None
    #: The key that verifies callbacks, in base64; two with a space between them during a rotation.
    public_key: str | None = None
    #: For alphanumeric senders and number pools, which belong to a profile.
    messaging_profile_id: str | None = None
    api_url: ApiUrl = "https://api.telnyx.com"


class _Error(VendorModel):
    code: str = ""
    title: str = ""
    detail: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.code, self.title, self.detail and f"- {self.detail}") if part)[:300]


class _Errors(VendorModel):
    errors: list[_Error] = Field(min_length=1)


class _Party(VendorModel):
    phone_number: str
    status: str | None = None


class _Medium(VendorModel):
    url: str


class _Message(VendorModel):
    id: VendorId
    type: str = "SMS"
    sender: _Party = Field(alias="from")
    to: list[_Party] = Field(min_length=1)
    text: str | None = None
    media: list[_Medium] = Field(default_factory=list)
    received_at: EventTime = None


class _Outcome(VendorModel):
    id: VendorId
    to: list[_Party] = Field(min_length=1)
    errors: list[_Error] = Field(default_factory=list)
    webhook_url: str | None = None


class _Event(VendorModel):
    id: VendorId
    event_type: str
    occurred_at: EventTime = None
    payload: dict[str, Any]


class _Callback(VendorModel):
    data: _Event


class TelnyxProvider(HttpProvider[TelnyxSettings]):
    """An account at Telnyx.

    Telnyx remembers an idempotency key for a day, and only that of an accepted message. It refuses the same key with
    another body, so the body of a message is the same for each attempt.
    """

    channels: ClassVar = {"sms": "phone"}
    honours_idempotency_key = True
    receipts_carry_key: ClassVar = True

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
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
        url = f"{self._settings.api_url}/v2/messages"
        headers = {"Authorization": bearer(self._settings.api_key), "Idempotency-Key": payload.idempotency_key}
        request = self.client.build_request("POST", url, json=message, headers=headers)
        return base.ProviderResult(await self.submit(request, "data", "id", failure=_failure_of))

    def verify(self, callback: base.Callback) -> None:
        keys = _keys(self._settings.public_key)
        timestamp = only_header(callback, "telnyx-timestamp")
        shown = only_header(callback, "telnyx-signature-ed25519")
        must_be_recent(timestamp, callback)
        try:
            signature = base64.b64decode(shown.encode("ascii"), validate=True)
        except ValueError:
            raise base.CallbackRefused("The signature is not base64.", seen=base.hint(shown)) from None
        if not any(_is_signed(key, signature, timestamp.encode() + b"|" + callback.body) for key in keys):
            raise base.CallbackRefused(
                "The signature is not one of the key TELNYX_PUBLIC_KEY.", seen=base.hint(shown)
            )

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem]:
        event = _Callback.model_validate(callback.json()).data
        if event.event_type == "message.received":
            return [_inbound(_Message.model_validate(event.payload))]
        if event.payload.get("direction") != "outbound":
            return []  # of another product of the account
        return [_receipt(event, _Outcome.model_validate(event.payload))]


def configured() -> TelnyxProvider | None:
    """The provider, if TELNYX_API_KEY is set."""
    settings = TelnyxSettings()
    return None if settings.api_key is None else TelnyxProvider(settings)


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer by Telnyx's own code, which says more than the status."""
    if response.is_success:
        return None
    try:
        error = _Errors.model_validate_json(response.content).errors[0]
    except ValidationError:
        return outcome_of(response)
    # An earlier request with this key was accepted with another body, or is still in progress.
    if response.status_code in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY} and "dempoten" in str(error):
        return base.UnknownOutcome(str(error))
    failure = outcome_of_code(
        response, error.code, str(error), throttled=THROTTLED, temporary=TEMPORARY_ERRORS, refuses_us=REFUSES_US
    )
    if isinstance(failure, base.TemporaryFailure) or error.code in REFUSES_US or not error.code.startswith("40"):
        return failure
    return base.PermanentFailure(str(error))  # such as a recipient who has said STOP, also with a 403


def _keys(setting: str | None) -> list[Ed25519PublicKey]:
    written = (setting or "").split()
    if not written:
        raise base.CallbackUnverifiable("TELNYX_PUBLIC_KEY is not set.")
    try:
        return [Ed25519PublicKey.from_public_bytes(base64.b64decode(each, validate=True)) for each in written]
    except ValueError:
        raise base.CallbackUnverifiable("TELNYX_PUBLIC_KEY can't be read: it is 32 bytes in base64.") from None


def _is_signed(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _receipt(event: _Event, outcome: _Outcome) -> base.Receipt:
    recipient = outcome.to[0]  # our messages have one
    said = "; ".join(str(error) for error in outcome.errors)
    if recipient.status == "delivery_unconfirmed":
        said = said or "the carrier doesn't say whether it arrived"
    return base.Receipt(
        event_id=event.id,
        status=STATUSES.get(recipient.status or ""),
        provider_message_id=outcome.id,
        # The signature covers the body, and not the address of the callback.
        idempotency_key=reference_in(outcome.webhook_url),
        detail=said or None,
        occurred_at=event.occurred_at,
        raw=event.model_dump(mode="json"),
        recipient=recipient.phone_number,
    )


def _inbound(message: _Message) -> base.InboundMessage:
    return base.InboundMessage(
        provider_message_id=message.id,
        channel="sms",
        type="mms" if message.type.lower() == "mms" or message.media else "sms",
        from_address=message.sender.phone_number,
        to_address=message.to[0].phone_number,
        body=message.text or "",
        attachments=[medium.url for medium in message.media],
        sent_at=message.received_at,
    )
