"""Twilio, texts and media messages.

Sending and listing: https://www.twilio.com/docs/messaging/api/message-resource
Callbacks: https://www.twilio.com/docs/messaging/guides/webhook-request
Signatures: https://www.twilio.com/docs/usage/security#validating-requests
Errors: https://www.twilio.com/docs/api/errors
"""

import base64
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx
import structlog
from pydantic import AliasChoices, AwareDatetime, BeforeValidator, Field, ValidationError

from app.consent import ReportedConsent
from app.domain import Keyword, MessageStatus
from app.providers import base
from app.providers.toolbox.http_client import HttpProvider, basic, exchange, outcome_of, outcome_of_code
from app.providers.toolbox.models import ApiUrl, HttpVendorSettings, RotatingSecret, VendorId, VendorModel
from app.providers.toolbox.taken_files import TakenFiles
from app.providers.toolbox.texts import (
    RCS,
    handled_keyword,
    in_its_group,
    in_part,
    place,
    refused_group,
    with_subject,
    without_rcs,
)
from app.providers.toolbox.vendor_files import origin_of, vendors_target
from app.providers.toolbox.verification import (
    first_secret,
    must_be_hash_of_body,
    must_match,
    only_header,
    reference_in,
    secrets_in,
    with_reference,
)

log = structlog.get_logger(__name__)

STATUSES = {
    "accepted": MessageStatus.QUEUED,
    "scheduled": MessageStatus.QUEUED,
    "queued": MessageStatus.QUEUED,
    "sending": MessageStatus.SENDING,
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "partially_delivered": MessageStatus.UNDELIVERED,
    "read": MessageStatus.READ,
    "undelivered": MessageStatus.UNDELIVERED,
    "failed": MessageStatus.FAILED,
    "canceled": MessageStatus.CANCELED,
}

#: Temporary with any status: too many requests, the service is away, the sender's queue is full. The others come in
#: receipts: queue overflow, congestion, the limit of a 10DLC campaign or of a channel, no answer from the carrier.
#: Not among them is 20500: after it, Twilio says, a repeat may reach the person twice.
TEMPORARY_ERRORS = {20429, 20503, 21611, 30001, 30017, 30022, 30410, 63018}
#: Errors of one message or its addresses, also with a status that refuses our account.
PERMANENT_ERRORS = {
    *(21211, 21408, 21606, 21608, 21612, 21614, 21617, 21620, 21623),
    *(30003, 30004, 30005, 30006, 30007, 30008, 30019, 30032, 30034, 63016),
}
THROTTLED = {20429}
#: The recipient has texted STOP to this sender or its service.
OPTED_OUT = {21610}

#: A page of the list has fifty messages of up to 1,600 characters, each of which may be escaped.
_PAGE_SIZE = 50
_LARGEST_PAGE = 2_000_000
_MEDIA = re.compile(r"MediaUrl([0-9]{1,3})", re.ASCII)
#: Files: https://www.twilio.com/docs/messaging/api/media-resource
_API = "https://api.twilio.com"
_FILE = re.compile(r"/2010-04-01/Accounts/[A-Za-z0-9]+/Messages/[A-Za-z0-9]+/Media/[A-Za-z0-9]+")
#: The other members of a group that one of our numbers was added to.
_OTHERS = re.compile(r"OtherRecipients[0-9]{0,3}", re.ASCII)
#: Names the key and the algorithm of a callback that is signed with a shared key.
_SETTINGS_HEADER = "x-twilio-webhooks-signature-settings"
_ALGORITHMS = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}
_RCS_PREFIX = f"{RCS}:"
#: https://www.twilio.com/docs/messaging/guides/accepted-mime-types
_LARGEST = 5_000_000
_TYPES = [
    "application/pdf",
    "application/vcard",
    "application/vnd.apple.pkpass",
    "audio/3gpp",
    "audio/3gpp2",
    "audio/aac",
    "audio/ac3",
    "audio/amr",
    "audio/amr-nb",
    "audio/basic",
    "audio/l24",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/vnd.rn-realaudio",
    "audio/vnd.wave",
    "audio/vorbis",
    "audio/webm",
    "image/bmp",
    "image/gif",
    "image/heic",
    "image/heif",
    "image/jpeg",
    "image/jpg",
    "image/png",
    "image/tiff",
    "text/calendar",
    "text/csv",
    "text/directory",
    "text/richtext",
    "text/rtf",
    "text/vcard",
    "text/x-vcard",
    "video/3gpp",
    "video/3gpp-tt",
    "video/3gpp2",
    "video/h261",
    "video/h263",
    "video/h263-1998",
    "video/h263-2000",
    "video/h264",
    "video/mp4",
    "video/mpeg",
    "video/mpeg4",
    "video/quicktime",
    "video/webm",
]
_TAKEN = TakenFiles("Twilio", dict.fromkeys(_TYPES, _LARGEST), together=_LARGEST)
#: The last two are older names, which Twilio still sends, as it does SmsStatus.
_SID = AliasChoices("MessageSid", "SmsMessageSid", "SmsSid")
#: Of a message that came in, where it has a status.
_INBOUND_STATUSES = {"receiving", "received"}
_DEFAULT_PORTS = {"http": 80, "https": 443}

_Rfc2822 = Annotated[AwareDatetime, BeforeValidator(lambda written: parsedate_to_datetime(written))]


class TwilioSettings(HttpVendorSettings, env_prefix="TWILIO_"):
    """Requests use the API key if it is set. Callbacks are always signed with the auth token or a shared key."""

    account_sid: str | None = Field(None, pattern=r"^[A-Za-z0-9]+$")
    #: Two with a comma between them during a rotation, first the one to send with.
    auth_token: RotatingSecret | None = None
    api_key: str | None = None
    api_secret: RotatingSecret | None = None
    #: The secrets of webhook shared keys, for accounts that sign with those.
    shared_keys: RotatingSecret | None = None
    #: The service whose rules (opt-out, compliance, senders) apply to the messages.
    messaging_service_sid: str | None = None
    api_url: ApiUrl = _API


class _ReceiptCallback(VendorModel):
    sid: VendorId = Field(validation_alias=_SID)
    status: str = Field(validation_alias=AliasChoices("MessageStatus", "SmsStatus"), min_length=1, max_length=64)
    recipient: str | None = Field(None, alias="To")
    error_code: str = Field("", alias="ErrorCode")
    error_message: str = Field("", alias="ErrorMessage")
    done: str = Field("", alias="RawDlrDoneDate", max_length=64)


class _MessageCallback(VendorModel):
    sid: VendorId = Field(validation_alias=_SID)
    sender: str = Field("", alias="From")
    recipient: str = Field(alias="To")
    subject: str = Field("", alias="Subject")
    body: str = Field("", alias="Body")
    button: str = Field("", alias="ButtonText")
    latitude: str = Field("", alias="Latitude")
    longitude: str = Field("", alias="Longitude")
    label: str = Field("", alias="Label")
    address: str = Field("", alias="Address")
    opt_out_type: str = Field("", alias="OptOutType")

    @property
    def text(self) -> str:
        """The text that was written, chosen or shared. The last two come by RCS."""
        words = self.body or self.button or place(self.latitude, self.longitude, self.label, self.address)
        return with_subject(self.subject, words)


class _Refusal(VendorModel):
    code: int
    message: str = ""


class _Listed(VendorModel):
    """A message of the list, with the fields of an inbound one."""

    sid: VendorId
    direction: str
    sender: str | None = Field(None, alias="from")
    to: str | None = None
    body: str | None = None
    num_media: int = 0
    date_sent: _Rfc2822 | None = None


class _Page(VendorModel):
    messages: list[dict[str, Any]]
    next_page_uri: str | None = None


class _Medium(VendorModel):
    uri: str


class _Media(VendorModel):
    media_list: list[_Medium]


class TwilioProvider(HttpProvider[TwilioSettings]):
    """An account at Twilio.

    Twilio has no idempotency keys. A message in doubt is decided by its receipts, which carry our reference in their
    address, or by the settings.
    """

    channels: ClassVar = {"sms": "phone"}
    receipts_carry_key: ClassVar = True
    signs_address: ClassVar = True
    reply: ClassVar[base.Reply] = base.Reply(b"<Response/>", "text/xml")

    def __init__(self, settings: TwilioSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(settings, client)
        self._account = f"/2010-04-01/Accounts/{settings.account_sid}"
        self._headers = {"Authorization": _authorization(settings), "Accept": "application/json"}

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        return {**_TAKEN.refusals(payload), **refused_group(payload)}

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        # The sender is named with a service, too: answers have to come to the conversation's own number.
        form: dict[str, str | list[str]] = {"To": payload.to_address, "From": payload.from_address}
        if self._settings.messaging_service_sid:
            form["MessagingServiceSid"] = self._settings.messaging_service_sid
        if payload.body or not payload.attachments:
            form["Body"] = payload.body
        if payload.attachments:
            form["MediaUrl"] = payload.attachments
        if payload.callback_url:
            form["StatusCallback"] = with_reference(payload.callback_url, payload.idempotency_key)
        url = f"{self._settings.api_url}{self._account}/Messages.json"
        request = self.client.build_request("POST", url, data=form, headers=self._headers)
        return base.ProviderResult(await self.submit(request, "sid", failure=_failure_of))

    def verify(self, callback: base.Callback) -> None:
        if _is_by_shared_key(callback):
            secrets = secrets_in(TWILIO_SHARED_KEYS=self._settings.shared_keys)
        else:
            secrets = secrets_in(
                TWILIO_AUTH_TOKEN=self._settings.auth_token, TWILIO_SHARED_KEYS=self._settings.shared_keys
            )
        shown = only_header(callback, "x-twilio-signature")
        algorithm = _ALGORITHMS.get(_algorithm_named(callback))
        if algorithm is None:
            raise base.CallbackRefused(
                "X-Twilio-Webhooks-Signature-Settings names an algorithm that is not accepted."
            )
        try:
            urls, fields = _urls_signed(callback.url), _fields_signed(callback)
        except ValueError:
            raise base.CallbackRefused("The callback can't be read.") from None
        signed = [(url + fields).encode("utf-8", "replace") for url in urls]
        digests = [hmac.digest(secret, each, algorithm) for secret in secrets for each in signed]
        must_match([shown], [base64.b64encode(digest).decode() for digest in digests])

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem]:
        fields = dict(callback.query() if callback.method == "GET" else callback.form())
        status = fields.get("MessageStatus") or fields.get("SmsStatus")
        if status and status not in _INBOUND_STATUSES:
            return [_receipt(fields, reference_in(callback.url))]
        message = _MessageCallback.model_validate(fields)
        if not _is_text(message.sender, message.recipient):
            raise ValueError("It is not a text.")
        media = sorted((int(match[1]), fields[name]) for name in fields if (match := _MEDIA.fullmatch(name)))
        kinds = {url: fields.get(f"MediaContentType{number}", "") for number, url in media}
        others = [value.strip() for name, value in fields.items() if _OTHERS.fullmatch(name)]
        received = _inbound(
            message.sid,
            message.sender,
            message.recipient,
            message.text,
            {url: base.FileFacts(content_type=kind) for url, kind in kinds.items()},
            keyword=handled_keyword(message.opt_out_type),
        )
        return [in_its_group(received, others)]

    async def fetch_file(self, reference: str, *, most_bytes: int) -> base.FetchedFile:
        target = vendors_target(reference, {origin_of(_API), origin_of(self._settings.api_url)}, _FILE)
        headers = {"Authorization": self._headers["Authorization"]}
        return await self.vendor_files.fetch(self.client, target, headers, most_bytes=most_bytes)

    async def inbound_since(self, since: datetime) -> AsyncIterator[base.InboundMessage]:
        day = since.astimezone(UTC).date()
        while day <= datetime.now(UTC).date():
            query = f"?{httpx.QueryParams({'DateSent': day.isoformat(), 'PageSize': _PAGE_SIZE})}"
            page: str | None = f"{self._account}/Messages.json{query}"
            while page:
                listed = await self._page(page)
                for each in listed.messages:
                    message = await self._listed(each)
                    if message is not None and (message.sent_at is None or message.sent_at >= since):
                        yield message
                page = listed.next_page_uri
            day += timedelta(days=1)

    async def _listed(self, written: dict[str, Any]) -> base.InboundMessage | None:
        """The inbound text in an entry of the list; None for another entry."""
        try:
            listed = _Listed.model_validate(written)
        except ValidationError:
            log.warning("inbound_not_understood", provider="twilio", provider_message_id=str(written.get("sid"))[:64])
            return None
        if listed.direction != "inbound" or not listed.sender or not listed.to:
            return None
        if not _is_text(listed.sender, listed.to):
            return None
        media: list[str] = []
        if listed.num_media:
            found = _Media.from_json(await self._get(f"{self._account}/Messages/{listed.sid}/Media.json"))
            # As the callback writes them: they lead to the file itself.
            media = [f"{self._settings.api_url}{each.uri.removesuffix('.json')}" for each in found.media_list]
        kept = dict.fromkeys(media, base.FileFacts())
        return _inbound(listed.sid, listed.sender, listed.to, listed.body or "", kept, sent_at=listed.date_sent)

    async def _page(self, path: str) -> _Page:
        try:
            return _Page.from_json(await self._get(path))
        except ValueError:
            raise base.TemporaryFailure("The list of messages can't be read.") from None

    async def _get(self, path: str) -> bytes:
        if not path.startswith(f"{self._account}/"):  # our credentials go nowhere else
            raise base.TemporaryFailure("The list of messages leads to somewhere else.")
        request = self.client.build_request("GET", f"{self._settings.api_url}{path}", headers=self._headers)
        response = await exchange(self.client, request, largest=_LARGEST_PAGE)
        if failure := _failure_of(response):
            raise failure
        return response.content


def configured() -> TwilioProvider | None:
    """The provider, if TWILIO_ACCOUNT_SID is set with TWILIO_AUTH_TOKEN, or with an API key and its secret."""
    settings = TwilioSettings()
    can_log_in = settings.auth_token or (settings.api_key and settings.api_secret)
    return TwilioProvider(settings) if settings.account_sid and can_log_in else None


def _authorization(settings: TwilioSettings) -> str:
    if settings.api_key and settings.api_secret:
        return basic(settings.api_key, first_secret(settings.api_secret))
    return basic(str(settings.account_sid), first_secret(settings.auth_token))


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer by Twilio's own code, which says more than the status."""
    if response.is_success:
        return None
    try:
        refusal = _Refusal.model_validate_json(response.content)
    except ValidationError:
        return outcome_of(response)
    detail = f"{refusal.code} {refusal.message[:200]}".strip()
    return outcome_of_code(
        response,
        refusal.code,
        detail,
        throttled=THROTTLED,
        temporary=TEMPORARY_ERRORS,
        permanent=PERMANENT_ERRORS,
        opted_out=OPTED_OUT,
    )


def _is_by_shared_key(callback: base.Callback) -> bool:
    return any(name == _SETTINGS_HEADER for name, _ in callback.headers)


def _algorithm_named(callback: base.Callback) -> str:
    """The algorithm of a callback; only one that is signed with a shared key names it."""
    if not _is_by_shared_key(callback):
        return "HMAC_SHA1"
    for part in only_header(callback, _SETTINGS_HEADER).split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm":
            return value.strip().upper()
    return "HMAC_SHA1"


def _urls_signed(url: str) -> list[str]:
    """The address without its port and with it: Twilio signs either. Raises `ValueError`."""
    parts = urlsplit(url)
    host = parts.netloc.removesuffix(f":{parts.port}")
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    return [parts._replace(netloc=netloc).geturl() for netloc in (host, f"{host}:{port}")]


def _fields_signed(callback: base.Callback) -> str:
    """The part of the signed text after the address: the fields of a form by name, each value once.

    Nothing for a body whose hash is in the address. Raises `CallbackRefused` for another hash, and `ValueError`.
    """
    hashes = parse_qs(urlsplit(callback.url).query).get("bodySHA256")
    if hashes:
        must_be_hash_of_body(hashes[0], callback)
        return ""
    return "".join(name + value for name, value in sorted(set(callback.form())))


def _is_text(*addresses: str) -> bool:
    """False for addresses of other channels, which have a prefix: whatsapp:, messenger:. RCS replaces texts."""
    return not any(":" in address and not address.startswith(_RCS_PREFIX) for address in addresses)


def _receipt(fields: dict[str, str], reference: str | None) -> base.Receipt:
    receipt = _ReceiptCallback.model_validate(fields)
    said = f"{receipt.error_code} {receipt.error_message}".strip()
    if receipt.status == "partially_delivered":
        said = in_part(said)
    return base.Receipt(
        event_id=":".join(part for part in (receipt.sid, receipt.status, receipt.done) if part),
        status=STATUSES.get(receipt.status),
        provider_message_id=receipt.sid,
        idempotency_key=reference,
        detail=said or None,
        raw=fields,
        recipient=receipt.recipient and without_rcs(receipt.recipient),
        consent=ReportedConsent.OPTED_OUT if receipt.error_code in map(str, OPTED_OUT) else None,
    )


def _inbound(
    sid: str,
    sender: str,
    recipient: str,
    body: str,
    media: Mapping[str, base.FileFacts],
    *,
    sent_at: datetime | None = None,
    keyword: Keyword | None = None,
) -> base.InboundMessage:
    return base.InboundMessage(
        provider_message_id=sid,
        channel="sms",
        type=RCS if _RCS_PREFIX in {sender[:4], recipient[:4]} else "mms" if media else "sms",
        from_address=without_rcs(sender),
        to_address=without_rcs(recipient),
        body=body,
        attachments=list(media),
        kept=media,
        sent_at=sent_at,
        handled_keyword=keyword,
    )
