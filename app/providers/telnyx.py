"""Telnyx, texts and media messages.

Sending: https://developers.telnyx.com/api-reference/messages/send-a-message
Callbacks: https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks
Idempotency keys: https://developers.telnyx.com/docs/development/api-fundamentals/idempotency
Errors: https://developers.telnyx.com/docs/messaging/messages/error-codes

Telnyx waits two seconds for our reply to a callback, and delivers it three times at most.
"""

import base64
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AliasPath, Field, SecretStr, ValidationError, model_validator

from app.consent import ReportedConsent
from app.domain import STATUS_RANK, MessageStatus
from app.providers import base
from app.providers.toolbox.http_client import HttpProvider, bearer, outcome_of, outcome_of_code
from app.providers.toolbox.models import (
    ApiUrl,
    EventTime,
    HttpVendorSettings,
    RotatingPublicKey,
    VendorId,
    VendorModel,
)
from app.providers.toolbox.taken_files import TakenFiles
from app.providers.toolbox.texts import (
    RCS,
    handled_keyword,
    in_its_group,
    in_part,
    is_group,
    members_of,
    place,
    recipient_of,
    with_subject,
    without_rcs,
)
from app.providers.toolbox.verification import must_be_recent, only_header, reference_in, with_reference
from app.signing_keys import secrets_of

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

#: Temporary with any status: too many requests, a full queue, a sender that can't be used just now. The others come
#: in receipts: a spam filter that says it is temporary, the carrier's server away, the carrier's limit.
TEMPORARY_ERRORS = {"10011", "40002", "40006", "40011", "40318", "40320"}
#: An error of Telnyx's own, a timeout: the message stays with Telnyx, where our key makes the repeat safe.
IN_DOUBT = {"10007", "10008"}
THROTTLED = {"10011", "40011", "40318"}
#: Errors of the account. The secret of the profile is missing or wrong; the profile or the account is switched off;
#: the profile has reached its daily spending limit.
REFUSES_US = {"40311", "40312", "40313", "40314", "40333"}
#: The recipient has texted STOP to a number of the profile.
OPTED_OUT = {"40300"}

_FAILURES = {MessageStatus.UNDELIVERED, MessageStatus.FAILED, MessageStatus.EXPIRED}
#: Events of messages that we have sent. Others tell by their direction.
_OF_SENT_MESSAGES = {"message.sent", "message.finalized"}
#: By the documentation of group messages, without the sender.
_LARGEST_GROUP = 8
#: https://support.telnyx.com/en/articles/4450150-faqs-about-mms-at-telnyx
_LARGEST = 1_000_000
_TYPES = [
    "application/octet-stream",
    "image/gif",
    "image/jpeg",
    "image/png",
    "text/plain",
    "text/vcard",
    "video/3gpp",
    "video/mp4",
]
_TAKEN = TakenFiles("Telnyx", dict.fromkeys(_TYPES, _LARGEST), together=_LARGEST)


class TelnyxSettings(HttpVendorSettings, env_prefix="TELNYX_"):
    api_key: SecretStr | None = None
    #: The key that verifies callbacks, in base64; two with a comma between them during a rotation.
    public_key: RotatingPublicKey | None = None
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
    """One end of a message: a number, or an agent for RCS."""

    phone_number: str = ""
    agent_id: str = ""
    status: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, written: object) -> object:
        return {"phone_number": written} if isinstance(written, str) else written

    @property
    def address(self) -> str:
        return without_rcs(self.phone_number) or (self.agent_id and f"rcs:{self.agent_id}")


class _Medium(VendorModel):
    url: str
    content_type: str = ""


class _RcsBody(VendorModel):
    """The content of an RCS message.

    https://developers.telnyx.com/docs/messaging/messages/receiving-rcs-webhooks
    """

    text: str = ""
    chosen: str = Field("", validation_alias=AliasPath("suggestion_response", "text"))
    latitude: float | None = Field(None, validation_alias=AliasPath("location", "latitude"))
    longitude: float | None = Field(None, validation_alias=AliasPath("location", "longitude"))
    file: str = Field("", validation_alias=AliasPath("user_file", "payload", "file_uri"))

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, written: object) -> object:
        return {"text": written} if isinstance(written, str) else written

    def __str__(self) -> str:
        return self.text or self.chosen or place(self.latitude, self.longitude)


class _Message(VendorModel):
    id: VendorId
    type: str = "SMS"
    sender: _Party = Field(_Party(), alias="from")
    to: list[_Party] = Field(min_length=1)
    cc: list[_Party] = Field(default_factory=list)
    subject: str | None = None
    text: str = ""
    body: _RcsBody = _RcsBody()
    media: list[_Medium] = Field(default_factory=list)
    received_at: EventTime = None
    autoresponse_type: str | None = None

    @property
    def recipient(self) -> str:
        """Our number: the copies of a group's message name the other members, and sometimes `to` does too."""
        copied = {party.address for party in self.cc}
        ours = [party for party in self.to if party.address not in copied] or self.to
        return next((party for party in ours if party.status == "webhook_delivered"), ours[0]).address

    @property
    def kind(self) -> str:
        if self.type.lower() == RCS:
            return RCS
        return "mms" if self.type.lower() == "mms" or self.media else "sms"


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

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        return {**_TAKEN.refusals(payload), **self._refused_group(payload)}

    def _refused_group(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        if not is_group(payload.to_address):
            return {}
        members = members_of(payload.to_address)
        if 2 <= len(members) <= _LARGEST_GROUP and all(member.startswith("+") for member in members):
            return {}
        return {"to": f"Telnyx takes a group of 2 to {_LARGEST_GROUP} numbers, named as its messages name it."}

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        message: dict[str, object] = {"from": payload.from_address}
        if payload.body:
            message["text"] = payload.body
        if payload.attachments:
            message["media_urls"] = payload.attachments
        if payload.callback_url:
            message["webhook_url"] = with_reference(payload.callback_url, payload.idempotency_key)
        url = f"{self._settings.api_url}/v2/messages"
        if is_group(payload.to_address):
            url, message["to"] = f"{url}/group_mms", members_of(payload.to_address)
        else:
            message["to"] = payload.to_address
            message["type"] = "MMS" if payload.type == "mms" or payload.attachments else "SMS"
            if self._settings.messaging_profile_id:
                message["messaging_profile_id"] = self._settings.messaging_profile_id
        headers = {"Authorization": bearer(self._settings.api_key), "Idempotency-Key": payload.idempotency_key}
        request = self.client.build_request("POST", url, json=message, headers=headers)
        return base.ProviderResult(await self.submit(request, "data", "id", failure=_failure_of))

    async def fetch_file(self, reference: str, *, most_bytes: int) -> base.FetchedFile:
        """Fetch a file without credentials: Telnyx keeps them at public addresses, which expire."""
        return await self.vendor_files.fetch_public(reference, most_bytes=most_bytes)

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
        if event.event_type not in _OF_SENT_MESSAGES and event.payload.get("direction") != "outbound":
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
        response,
        error.code,
        str(error),
        throttled=THROTTLED,
        temporary=TEMPORARY_ERRORS,
        refuses_us=REFUSES_US,
        in_doubt=IN_DOUBT,
        opted_out=OPTED_OUT,
    )
    has_own_meaning = isinstance(failure, base.TemporaryFailure | base.UnknownOutcome | base.RecipientRefused)
    if has_own_meaning or error.code in REFUSES_US:
        return failure
    # Errors of the message, also with a 403.
    return base.PermanentFailure(str(error)) if error.code.startswith("40") else failure


def _keys(setting: str | None) -> list[Ed25519PublicKey]:
    written = secrets_of(setting or "")
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
    words = [party.status or "" for party in outcome.to]  # several for a group
    said = "; ".join(str(error) for error in outcome.errors)
    if "delivery_unconfirmed" in words:
        said = said or "the carrier doesn't say whether it arrived"
    status = _status(words)
    if status is None and (failed := [word for word in words if STATUSES.get(word) in _FAILURES]):
        status, said = MessageStatus.UNDELIVERED, in_part(said, f"{len(failed)} of {len(words)} did not get it")
    return base.Receipt(
        event_id=event.id,
        status=status,
        provider_message_id=outcome.id,
        # The signature covers the body, and not the address of the callback.
        idempotency_key=reference_in(outcome.webhook_url),
        detail=said or None,
        occurred_at=event.occurred_at,
        raw=event.model_dump(mode="json"),
        recipient=recipient_of([party.address for party in outcome.to]),
        consent=ReportedConsent.OPTED_OUT if any(error.code in OPTED_OUT for error in outcome.errors) else None,
    )


def _status(words: Sequence[str]) -> MessageStatus | None:
    """The status that all members of a group have reached; None if some have failed, or one has an unknown word."""
    statuses = {STATUSES.get(word) for word in words}
    if len(statuses) > 1 and (None in statuses or statuses & _FAILURES):
        return None
    return min(statuses, key=lambda status: STATUS_RANK[status] if status else 0)


def _inbound(message: _Message) -> base.InboundMessage:
    media = [*message.media, *([_Medium(url=message.body.file)] if message.body.file else [])]
    kept = {each.url: base.FileFacts(content_type=each.content_type) for each in media if each.url}
    received = base.InboundMessage(
        provider_message_id=message.id,
        channel="sms",
        type=message.kind,
        from_address=message.sender.address,
        to_address=message.recipient,
        body=with_subject(message.subject, message.text or str(message.body)),
        attachments=[each.url for each in media if each.url],
        kept=kept,
        sent_at=message.received_at,
        handled_keyword=handled_keyword(message.autoresponse_type),
    )
    return in_its_group(received, [party.address for party in (*message.to, *message.cc)])
