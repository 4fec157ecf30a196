"""Plivo, texts and media messages.

Sending: https://www.plivo.com/docs/messaging/api/message/send-a-message
Receipts: https://www.plivo.com/docs/messaging/api/message/message-status-callbacks
What comes in: https://www.plivo.com/docs/messaging/api/message/handling-incoming
Signatures: https://www.plivo.com/docs/messaging/concepts/signature-validation

A long text may be reported part by part. The first part bears the id of the message, and its word counts: delivered
is what its first part is. The other parts can say that something went wrong, until the first one has arrived, but not
that all is well: receipts are judged one at a time, in whatever order they come.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from app.domain import MessageStatus
from app.providers.base import (
    BaseProvider,
    Callback,
    CallbackItem,
    CallbackRefused,
    InboundMessage,
    OutboundMessage,
    PermanentFailure,
    ProviderResult,
    Receipt,
    Reply,
    UnknownOutcome,
)
from app.providers.toolbox.http_client import HttpProvider, exchange, outcome_of
from app.providers.toolbox.settings import VendorSettings
from app.providers.toolbox.verification import (
    first_secret,
    must_match,
    only_header,
    reference_in,
    secrets_in,
    with_plus,
    with_reference,
)

STATUSES = {
    "queued": MessageStatus.QUEUED,
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "read": MessageStatus.READ,
    "undelivered": MessageStatus.UNDELIVERED,
    "failed": MessageStatus.FAILED,
    "rejected": MessageStatus.FAILED,
}

_NO_ERROR = {"", "0", "000"}
#: A header may hold the signatures of an old and of a new token.
_MOST_SIGNATURES = 8
_MEDIA = re.compile(r"Media([0-9]{1,3})", re.ASCII)

_Id = Annotated[str, Field(min_length=1, max_length=256)]


class PlivoSettings(VendorSettings):
    """Each as PLIVO_ and its name."""

    model_config = SettingsConfigDict(env_prefix="PLIVO_")

    auth_id: str | None = Field(None, pattern=r"^[A-Za-z0-9]+$")
    #: While it is changed two with a space between them, first the one to send with.
    auth_token: SecretStr | None = None
    api_url: str = Field("https://api.plivo.com", pattern=r"^https?://[^/]+$")
    timeout_seconds: float = Field(10, gt=0)


class _Model(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class _Accepted(_Model):
    message_uuid: list[_Id] = []
    invalid_number: list[str] = []


class _Refusal(_Model):
    error: str


class _ReceiptCall(_Model):
    uuid: _Id = Field(alias="MessageUUID")
    parent: str = Field("", alias="ParentMessageUUID", max_length=256)
    part: str = Field("", alias="PartInfo", max_length=64)
    status: str = Field(alias="Status", min_length=1, max_length=64)
    error_code: str = Field("", alias="ErrorCode", max_length=64)
    recipient: str | None = Field(None, alias="To")


class _MessageCall(_Model):
    uuid: _Id = Field(alias="MessageUUID")
    sender: str = Field(alias="From")
    recipient: str = Field(alias="To")
    type: str = Field("sms", alias="Type")
    text: str = Field("", alias="Text")
    body: str = Field("", alias="Body")


class PlivoProvider(HttpProvider):
    """An account at Plivo. It has no idempotency keys: what is in doubt is decided by its receipts, which carry our
    reference in their address, or by the settings."""

    channels: ClassVar = {"sms": "phone"}
    receipts_carry_key: ClassVar = True
    signs_address: ClassVar = True
    reply: ClassVar[Reply] = Reply(b"<Response/>", "application/xml")

    def __init__(self, settings: PlivoSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(timeout_seconds=settings.timeout_seconds, client=client)
        self._settings = settings
        self._url = f"{settings.api_url}/v1/Account/{settings.auth_id}/Message/"

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        message: dict[str, object] = {"src": payload.from_address, "dst": payload.to_address}
        message["type"] = "mms" if payload.type == "mms" or payload.attachments else "sms"
        if payload.body:
            message["text"] = payload.body
        if payload.attachments:
            message["media_urls"] = payload.attachments
        if payload.callback_url:
            message["url"] = with_reference(payload.callback_url, payload.idempotency_key)
            message["method"] = "POST"
        request = self.client.build_request("POST", self._url, json=message, headers=self._headers())
        response = await exchange(self.client, request)
        if response.status_code == HTTPStatus.FORBIDDEN:  # on this address: no permission for that country
            raise PermanentFailure(f"403 Forbidden - {_reason(response)}")
        if failure := outcome_of(response, _reason(response)):
            raise failure
        try:
            accepted = _Accepted.model_validate_json(response.content)
        except ValidationError:
            raise UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.") from None
        if accepted.message_uuid:
            return ProviderResult(accepted.message_uuid[0])
        if accepted.invalid_number:
            raise PermanentFailure(f"{response.status_code}, and nothing was sent: the number is invalid.")
        raise UnknownOutcome(f"{response.status_code} without an id.")

    def verify(self, callback: Callback) -> None:
        tokens = secrets_in(PLIVO_AUTH_TOKEN=self._settings.auth_token)
        shown = only_header(callback, "x-plivo-signature-v3").split(",", _MOST_SIGNATURES)[:_MOST_SIGNATURES]
        nonce = only_header(callback, "x-plivo-signature-v3-nonce")
        try:
            signed = f"{_signed(callback)}.{nonce}".encode("utf-8", "replace")
        except ValueError:
            raise CallbackRefused("The call can't be read.") from None
        digests = [hmac.digest(token, signed, hashlib.sha256) for token in tokens]
        must_match([each.strip() for each in shown], [base64.b64encode(digest).decode() for digest in digests])

    def parse(self, callback: Callback) -> Sequence[CallbackItem]:
        fields = dict(callback.query() if callback.method == "GET" else callback.form())
        if "Status" in fields:
            return [_receipt(fields, reference_in(callback.url))]
        call = _MessageCall.model_validate(fields)
        if call.type.lower() not in {"sms", "mms"}:
            raise ValueError("It is not a text.")
        media = sorted((int(match[1]), fields[name]) for name in fields if (match := _MEDIA.fullmatch(name)))
        return [
            InboundMessage(
                provider_message_id=call.uuid,
                channel="sms",
                type="mms" if media else call.type.lower(),
                from_address=with_plus(call.sender),
                to_address=with_plus(call.recipient),
                body=call.text or call.body,
                attachments=[url for _, url in media],
            )
        ]

    def _headers(self) -> dict[str, str]:
        credentials = f"{self._settings.auth_id}:{first_secret(self._settings.auth_token)}".encode()
        return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}", "Accept": "application/json"}


def configured() -> BaseProvider | None:
    """The provider, where PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN are set."""
    settings = PlivoSettings()
    if settings.auth_id is None or settings.auth_token is None:
        return None
    return PlivoProvider(settings)


def _reason(response: httpx.Response) -> str | None:
    try:
        return _Refusal.model_validate_json(response.content).error[:200]
    except ValidationError:
        return None


def _signed(callback: Callback) -> str:
    """What is signed before the nonce: the address with its parameters by name, and the fields of a form by name.
    Raises `ValueError`."""
    base = urlsplit(callback.url)._replace(query="", fragment="").geturl()
    query = "&".join(f"{name}={value}" for name, value in sorted(callback.query()))
    if callback.method == "GET":
        return f"{base}?{query}" if query else base
    fields = "".join(name + value for name, value in sorted(callback.form()))
    if query:
        return f"{base}?{query}.{fields}" if fields else f"{base}?{query}"
    return f"{base}?{fields}" if fields else base


def _receipt(fields: dict[str, str], reference: str | None) -> Receipt:
    call = _ReceiptCall.model_validate(fields)
    status = STATUSES.get(call.status.lower())
    is_later_part = bool(call.parent) and call.parent != call.uuid
    said = [] if call.error_code in _NO_ERROR else [f"error {call.error_code}"]
    if is_later_part:
        said.insert(0, f"part {call.part or 'of it'}: {call.status}")
        if status in {MessageStatus.DELIVERED, MessageStatus.READ}:
            status = MessageStatus.SENT
    return Receipt(
        event_id=f"{call.uuid}:{call.status}",
        status=status,
        provider_message_id=call.parent or call.uuid,
        idempotency_key=reference,
        detail=", ".join(said) or None,
        raw=fields,
        recipient=with_plus(call.recipient) if call.recipient else None,
    )
