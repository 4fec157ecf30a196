"""Plivo, texts and media messages.

Sending: https://www.plivo.com/docs/messaging/api/message/send-a-message
Receipts: https://www.plivo.com/docs/messaging/api/message/message-status-callbacks
Inbound messages: https://www.plivo.com/docs/messaging/api/message/handling-incoming
Signatures: https://www.plivo.com/docs/messaging/concepts/signature-validation

Messaging callbacks are signed as V2 or V3. A header with `Ma` holds signatures by the token of the main account. V2
covers the nonce and the address without its query, V3 the parameters too.

A long text may be reported part by part. The first part has the id of the message, and its success is that of the
message. The failure of any part is one of the message, even if others arrive.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

import httpx
from pydantic import Field

from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers import base
from app.providers.toolbox.http_client import HttpProvider, basic, outcome_of, reason_in
from app.providers.toolbox.models import ApiUrl, HttpVendorSettings, RotatingSecret, VendorModel
from app.providers.toolbox.taken_files import TakenFiles
from app.providers.toolbox.texts import in_part, refused_group, with_subject
from app.providers.toolbox.vendor_files import origin_of, vendors_target
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

_FAILURES = {MessageStatus.UNDELIVERED, MessageStatus.FAILED}
#: The recipient has texted STOP to this sender. Plivo tells it in receipts only.
OPTED_OUT = "200"
_NO_ERROR = {"", "0", "000"}
#: A header may hold the signatures of an old and of a new token.
_MOST_SIGNATURES = 8
#: https://support.plivo.com/hc/en-us/sections/360008302871-MMS
_LARGEST = 5_000_000
_TAKEN = TakenFiles("Plivo", others=_LARGEST, together=_LARGEST)
#: The headers with signatures of a version: by the account's or subaccount's token, and by the main account's.
_V3 = ("x-plivo-signature-v3", "x-plivo-signature-ma-v3")
_V2 = ("x-plivo-signature-v2", "x-plivo-signature-ma-v2")
_MEDIA = re.compile(r"Media([0-9]{1,3})", re.ASCII)
_FILE = re.compile(r"/v1/Account/[A-Za-z0-9]+/Message/[A-Za-z0-9-]+/Media/[A-Za-z0-9-]+/?")

_Id = Annotated[str, Field(min_length=1, max_length=256)]


class PlivoSettings(HttpVendorSettings, env_prefix="PLIVO_"):
    auth_id: str | None = Field(None, pattern=r"^[A-Za-z0-9]+$")
    #: Two with a comma between them during a rotation, first the one to send with.
    auth_token: RotatingSecret | None = None
    api_url: ApiUrl = "https://api.plivo.com"


class _ReceiptCallback(VendorModel):
    uuid: _Id = Field(alias="MessageUUID")
    parent: str = Field("", alias="ParentMessageUUID", max_length=256)
    part: str = Field("", alias="PartInfo", max_length=64)
    status: str = Field(alias="Status", min_length=1, max_length=64)
    error_code: str = Field("", alias="ErrorCode", max_length=64)
    recipient: str | None = Field(None, alias="To")


class _MessageCallback(VendorModel):
    uuid: _Id = Field(alias="MessageUUID")
    sender: str = Field("", alias="From")
    recipient: str = Field(alias="To")
    type: str = Field("sms", alias="Type")
    subject: str = Field("", alias="Subject")
    text: str = Field("", alias="Text")
    body: str = Field("", alias="Body")


class PlivoProvider(HttpProvider[PlivoSettings]):
    """An account at Plivo.

    Plivo has no idempotency keys. A message in doubt is decided by its receipts, which carry our reference in their
    address, or by the settings.
    """

    channels: ClassVar = {"sms": "phone"}
    receipts_carry_key: ClassVar = True
    signs_address: ClassVar = True
    token_days: ClassVar = 365  # V2 signs no time
    reply: ClassVar[base.Reply] = base.Reply(b"<Response/>", "application/xml")

    @property
    def _authorization(self) -> str:
        return basic(str(self._settings.auth_id), first_secret(self._settings.auth_token))

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        message: dict[str, object] = {"src": payload.from_address, "dst": payload.to_address}
        message["type"] = "mms" if payload.type == "mms" or payload.attachments else "sms"
        if payload.body:
            message["text"] = payload.body
        if payload.attachments:
            message["media_urls"] = payload.attachments
        if payload.callback_url:
            message["url"] = with_reference(payload.callback_url, payload.idempotency_key)
            message["method"] = "POST"
        settings = self._settings
        url = f"{settings.api_url}/v1/Account/{settings.auth_id}/Message/"
        headers = {"Authorization": self._authorization, "Accept": "application/json"}
        request = self.client.build_request("POST", url, json=message, headers=headers)
        return base.ProviderResult(await self.submit(request, "message_uuid", 0, failure=_failure_of))

    async def fetch_file(self, reference: str, *, most_bytes: int) -> base.FetchedFile:
        """Fetch a file from the API with our credentials, and from any other public address without them.

        Plivo does not say at which hosts it keeps files.
        """
        target = vendors_target(reference, {origin_of(self._settings.api_url)}, _FILE)
        if target is None:
            return await self.vendor_files.fetch_public(reference, most_bytes=most_bytes)
        headers = {"Authorization": self._authorization}
        return await self.vendor_files.fetch(self.client, target, headers, most_bytes=most_bytes)

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        return {**_TAKEN.refusals(payload), **refused_group(payload)}

    def verify(self, callback: base.Callback) -> str | None:
        """One right signature is enough; those of other tokens may stand beside it.

        The result is the nonce where only a V2 signature is right, which does not cover the body.
        """
        tokens = secrets_in(PLIVO_AUTH_TOKEN=self._settings.auth_token)
        by_v3, by_v2 = _shown(callback, _V3), _shown(callback, _V2)
        try:
            if by_v3:
                nonce = only_header(callback, "x-plivo-signature-v3-nonce")
                _must_be_signed(by_v3, f"{_signed(callback)}.{nonce}", tokens)
                return None
        except base.CallbackRefused:
            if not by_v2:
                raise
        nonce = only_header(callback, "x-plivo-signature-v2-nonce")
        _must_be_signed(by_v2, f"{_address(callback)}{nonce}", tokens)
        return nonce

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem]:
        fields = dict(callback.query() if callback.method == "GET" else callback.form())
        if "Status" in fields:
            return [_receipt(fields, reference_in(callback.url))]
        message = _MessageCallback.model_validate(fields)
        if message.type.lower() not in {"sms", "mms"}:
            raise ValueError("It is not a text.")
        media = sorted((int(match[1]), fields[name]) for name in fields if (match := _MEDIA.fullmatch(name)))
        return [
            base.InboundMessage(
                provider_message_id=message.uuid,
                channel="sms",
                type="mms" if media else message.type.lower(),
                from_address=with_plus(message.sender),
                to_address=with_plus(message.recipient),
                body=with_subject(message.subject, message.text or message.body),
                attachments=[url for _, url in media],
                kept={url: base.FileFacts() for _, url in media},
            )
        ]


def configured() -> PlivoProvider | None:
    """The provider, if PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN are set."""
    settings = PlivoSettings()
    return PlivoProvider(settings) if settings.auth_id and settings.auth_token else None


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    reason = reason_in(response, "error")
    if response.status_code == HTTPStatus.FORBIDDEN:  # at this address: no permission for the recipient's country
        return base.PermanentFailure(f"403 Forbidden - {reason}")
    if failure := outcome_of(response, reason):
        return failure
    if reason_in(response, "invalid_number", 0) and not reason_in(response, "message_uuid", 0):
        return base.PermanentFailure(f"{response.status_code}, and nothing was sent: the number is invalid.")
    return None


def _shown(callback: base.Callback, headers: Iterable[str]) -> list[str]:
    """The signatures in the headers that occur once."""
    written = ",".join(filter(None, map(callback.header, headers)))
    return [each.strip() for each in written.split(",", _MOST_SIGNATURES)[:_MOST_SIGNATURES] if each.strip()]


def _must_be_signed(shown: Sequence[str], signed: str, tokens: Iterable[bytes]) -> None:
    digests = [hmac.digest(token, signed.encode("utf-8", "replace"), hashlib.sha256) for token in tokens]
    must_match(shown, [base64.b64encode(digest).decode() for digest in digests])


def _address(callback: base.Callback) -> str:
    """The address without its query."""
    try:
        return urlsplit(callback.url)._replace(query="", fragment="").geturl()
    except ValueError:
        raise base.CallbackRefused("The address can't be read.") from None


def _signed(callback: base.Callback) -> str:
    """The text of a V3 signature before the nonce: the address with its parameters by name, and a form's fields."""
    address = _address(callback)
    try:
        query = "&".join(f"{name}={value}" for name, value in sorted(callback.query()))
        fields = "".join(name + value for name, value in sorted(callback.form())) if callback.method != "GET" else ""
    except ValueError:
        raise base.CallbackRefused("The callback can't be read.") from None
    if callback.method == "GET":
        return f"{address}?{query}" if query else address
    if query:
        return f"{address}?{query}.{fields}" if fields else f"{address}?{query}"
    return f"{address}?{fields}" if fields else address


def _receipt(fields: dict[str, str], reference: str | None) -> base.Receipt:
    receipt = _ReceiptCallback.model_validate(fields)
    status = STATUSES.get(receipt.status.lower())
    is_later_part = bool(receipt.parent) and receipt.parent != receipt.uuid
    detail = None if receipt.error_code in _NO_ERROR else f"error {receipt.error_code}"
    part = f"part {receipt.part or 'of it'}"
    is_of_several = is_later_part or receipt.part.rpartition(" ")[2] not in {"", "1"}  # such as `2 of 3`
    if is_of_several and status in _FAILURES:
        status, detail = MessageStatus.UNDELIVERED, in_part(detail, f"{part} {receipt.status}")
    elif is_later_part:
        detail = f"{part}: {receipt.status}"
        if status in {MessageStatus.DELIVERED, MessageStatus.READ}:
            status = MessageStatus.SENT
    return base.Receipt(
        event_id=f"{receipt.uuid}:{receipt.status}",
        status=status,
        provider_message_id=receipt.parent or receipt.uuid,
        idempotency_key=reference,
        detail=detail,
        raw=fields,
        recipient=with_plus(receipt.recipient) if receipt.recipient else None,
        consent=ReportedConsent.OPTED_OUT if receipt.error_code == OPTED_OUT else None,
    )
