"""Vonage, texts and media messages by its Messages API, and what comes in by RCS.

Sending: https://developer.vonage.com/en/api/messages
Callbacks: https://developer.vonage.com/en/messages/concepts/messages-status-callbacks
Callbacks of version 0.1: https://developer.nexmo.com/api/messages-olympus
Groups: https://developer.vonage.com/en/messages/concepts/mms/mms-group-messaging
Signatures: https://developer.vonage.com/en/getting-started/concepts/webhooks#decoding-signed-webhooks

Both kinds of JWT are written here: RS256 for our requests, HS256 for callbacks. Each takes ten lines, and code that
knows one algorithm can't be tricked into another one, or into none.
"""

import base64
import hashlib
import hmac
import mimetypes
import re
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AliasChoices, AliasPath, BaseModel, Field, SecretStr, ValidationError
from pydantic_core import to_json

from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers import base
from app.providers.toolbox.http_client import HttpProvider, outcome_of, outcome_of_code
from app.providers.toolbox.models import ApiUrl, EventTime, HttpVendorSettings, RotatingSecret, VendorModel
from app.providers.toolbox.texts import RCS, in_its_group, in_part, place, refused_group, with_subject, without_rcs
from app.providers.toolbox.vendor_files import origin_of, vendors_target
from app.providers.toolbox.verification import (
    must_be_hash_of_body,
    must_be_recent,
    must_match,
    only_header,
    secrets_in,
    with_plus,
)

STATUSES = {
    "submitted": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "read": MessageStatus.READ,
    "undeliverable": MessageStatus.UNDELIVERED,
    "rejected": MessageStatus.FAILED,
}

#: Too many requests, with any status. Vonage does not say whether an error of its own (1030) took the message.
THROTTLED, IN_DOUBT = {"1000"}, {"1030"}
#: The recipient has texted STOP.
OPTED_OUT = {"1240"}

#: Vonage retries a callback for a day, and doesn't say whether it signs it again.
RETRIED_FOR = timedelta(hours=24)
#: Signing takes half a millisecond, so a token is used for many requests. It expires well after its last use.
_TOKEN_SECONDS = 300
_TOKEN_LIFETIME_SECONDS = 900
_MEDIA = ("image", "audio", "video", "file", "vcard")
#: Files are kept for two days, and protected where the application asks for it:
#: https://developer.vonage.com/en/messages/concepts/secure-inbound-media
_FILE_ORIGINS = [origin_of(f"https://{name}.nexmo.com") for name in ("api", "api-us", "api-eu", "api-ap")]
_FILE = re.compile(r"/v3/media/[A-Za-z0-9-]+")

_Id = Annotated[str, Field(min_length=1, max_length=256)]


class VonageSettings(HttpVendorSettings, env_prefix="VONAGE_"):
    application_id: str | None = None
    #: The application's private key as PEM, with line breaks or \\n, or the path of a file with it.
    private_key: SecretStr | None = None
    #: The secret that signs callbacks; two with a comma between them during a rotation.
    signature_secret: RotatingSecret | None = None
    api_url: ApiUrl = "https://api.nexmo.com"


class _Problem(VendorModel):
    type: str = ""
    title: str = ""
    detail: str = ""
    #: In version 0.1, where there is no `type`.
    number: str = Field("", alias="code")
    reason: str = ""

    @property
    def code(self) -> str:
        return self.type.rpartition("#")[2] or self.number

    def __str__(self) -> str:
        parts = dict.fromkeys(part for part in (self.code, self.title, self.detail, self.reason) if part)
        return " ".join(parts)[:300]


class _Signed(BaseModel, hide_input_in_errors=True):
    """A part of a JWT, which is read strictly."""


class _Header(_Signed):
    alg: str


class _Claims(_Signed):
    iat: int = Field(ge=0)
    payload_hash: str


class _ReceiptCallback(VendorModel):
    message_uuid: _Id
    status: str = Field(min_length=1, max_length=64)
    to: str | None = None
    timestamp: EventTime = None
    client_ref: str | None = None
    error: _Problem | None = None
    parts: int = Field(1, validation_alias=AliasPath("sms", "count_total"))


class _Medium(VendorModel):
    url: str = ""
    name: str = ""
    caption: str = ""
    text: str = ""


class _MessageCallback(VendorModel):
    message_uuid: _Id
    channel: str
    sender: str = Field("", alias="from")
    to: str
    timestamp: EventTime = None
    subject: str = Field("", validation_alias=AliasChoices("subject", AliasPath("mms", "subject")))
    text: str = ""
    image: _Medium | None = None
    audio: _Medium | None = None
    video: _Medium | None = None
    file: _Medium | None = None
    vcard: _Medium | None = None
    content: list[_Medium] = Field(default_factory=list)
    members: list[str] = Field([], validation_alias=AliasPath("mms", "participants"))
    #: By RCS: a suggestion that was chosen, and a place.
    reply: str = Field("", validation_alias=AliasChoices(AliasPath("reply", "title"), AliasPath("reply", "id")))
    button: str = Field(
        "", validation_alias=AliasChoices(AliasPath("button", "text"), AliasPath("button", "payload"))
    )
    latitude: float | None = Field(None, validation_alias=AliasPath("location", "lat"))
    longitude: float | None = Field(None, validation_alias=AliasPath("location", "long"))
    place_name: str = Field("", validation_alias=AliasPath("location", "name"))
    place_address: str = Field("", validation_alias=AliasPath("location", "address"))

    @property
    def media(self) -> list[_Medium]:
        return [medium for kind in _MEDIA if (medium := getattr(self, kind)) is not None] + self.content

    @property
    def words(self) -> str:
        """The text that was written, chosen or shared."""
        captions = "\n".join(words for medium in self.media if (words := medium.text or medium.caption))
        location = place(self.latitude, self.longitude, self.place_name, self.place_address)
        return with_subject(self.subject, self.text or captions or self.reply or self.button or location)


class VonageProvider(HttpProvider[VonageSettings]):
    """An application at Vonage.

    Vonage has no idempotency keys. A message in doubt is decided by its receipts, which carry our reference as
    `client_ref`, or by the settings.
    """

    channels: ClassVar = {"sms": "phone"}
    receipts_carry_key: ClassVar = True

    def __init__(self, settings: VonageSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(settings, client)
        self._token = ""
        self._token_until = 0.0

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        return refused_group(payload)

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        message: dict[str, object] = {
            "channel": "mms" if payload.type == "mms" or payload.attachments else "sms",
            "from": payload.from_address.removeprefix("+"),
            "to": payload.to_address.removeprefix("+"),
            "client_ref": payload.idempotency_key,
            **_content(payload),
        }
        if payload.callback_url:
            message["webhook_url"] = payload.callback_url
        url = f"{self._settings.api_url}/v1/messages"
        headers = {"Authorization": f"Bearer {self._jwt()}", "Accept": "application/json"}
        request = self.client.build_request("POST", url, json=message, headers=headers)
        return base.ProviderResult(await self.submit(request, "message_uuid", failure=_failure_of))

    async def fetch_file(self, reference: str, *, most_bytes: int) -> base.FetchedFile:
        target = vendors_target(reference, {*_FILE_ORIGINS, origin_of(self._settings.api_url)}, _FILE)
        headers = {"Authorization": f"Bearer {self._jwt()}"} if target else {}
        return await self.vendor_files.fetch(self.client, target, headers, most_bytes=most_bytes)

    def verify(self, callback: base.Callback) -> None:
        secrets = secrets_in(VONAGE_SIGNATURE_SECRET=self._settings.signature_secret)
        if not any(name == "authorization" for name, _ in callback.headers):
            raise base.CallbackUnverifiable(
                "It is not signed: Vonage may leave a signature out by an error of its own."
            )
        scheme, _, token = only_header(callback, "authorization").partition(" ")
        signed, _, signature = token.rpartition(".")
        if scheme.lower() != "bearer" or not signed:
            raise base.CallbackRefused("The header authorization holds no JWT.")
        digests = [hmac.digest(secret, signed.encode("utf-8", "replace"), hashlib.sha256) for secret in secrets]
        must_match([signature], [_base64url(digest) for digest in digests])
        header, _, claimed = signed.partition(".")
        try:
            algorithm = _Header.model_validate_json(_from_base64url(header)).alg
            claims = _Claims.model_validate_json(_from_base64url(claimed))
        except ValueError:
            raise base.CallbackRefused("The JWT says neither when it was made nor for which body.") from None
        if algorithm != "HS256":
            raise base.CallbackRefused("The JWT names an algorithm that is not accepted.")
        must_be_recent(str(claims.iat), callback, retried_for=RETRIED_FOR)
        must_be_hash_of_body(claims.payload_hash.lower(), callback)

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem]:
        content = callback.json()
        if not isinstance(content, dict):
            raise ValueError("A callback is an object.")
        written = _in_version_1(content)
        if "status" in written:
            return [_receipt(written, content)]
        return [_inbound(_MessageCallback.model_validate(written))]

    def _jwt(self) -> str:
        """A JWT for this application. Raises `CredentialsRefused` where its key can't be read."""
        now = time.time()
        if now >= self._token_until:
            claims = {
                "application_id": self._settings.application_id,
                "iat": int(now),
                "exp": int(now) + _TOKEN_LIFETIME_SECONDS,
                "jti": str(uuid4()),
            }
            signed = ".".join(_base64url(to_json(part)) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
            signature = _private_key(self._settings).sign(signed.encode(), PKCS1v15(), SHA256())
            self._token, self._token_until = f"{signed}.{_base64url(signature)}", now + _TOKEN_SECONDS
        return self._token


def configured() -> VonageProvider | None:
    """The provider, if VONAGE_APPLICATION_ID and VONAGE_PRIVATE_KEY are set."""
    settings = VonageSettings()
    return VonageProvider(settings) if settings.application_id and settings.private_key else None


def _private_key(settings: VonageSettings) -> RSAPrivateKey:
    written = settings.private_key.get_secret_value().strip() if settings.private_key else ""
    try:
        pem = written.replace("\\n", "\n").encode() if written.startswith("-----") else Path(written).read_bytes()
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, OSError):
        raise base.CredentialsRefused("VONAGE_PRIVATE_KEY can't be read.") from None
    if not isinstance(key, RSAPrivateKey):
        raise base.CredentialsRefused("VONAGE_PRIVATE_KEY is not an RSA key.")
    return key


def _content(payload: base.OutboundMessage) -> dict[str, object]:
    """A text, or media with the text below the first one. A type, or the ending of an address, tells the kind."""
    media: list[dict[str, str]] = [{"url": url} for url in payload.attachments]
    if not media:
        return {"message_type": "text", "text": payload.body}
    if payload.body:
        media[0]["caption"] = payload.body
    kinds = [_kind(url, payload.files.get(url)) for url in payload.attachments]
    if len(media) == 1:
        return {"message_type": kinds[0], kinds[0]: media[0]}
    content = [{"type": kind, **medium} for kind, medium in zip(kinds, media, strict=True)]
    return {"message_type": "content", "content": content}


def _kind(url: str, file: base.OutboundFile | None) -> str:
    media_type = file.content_type if file else mimetypes.guess_type(urlsplit(url).path)[0]
    if media_type in {"text/vcard", "text/x-vcard"}:
        return "vcard"
    kind = (media_type or "").partition("/")[0]
    return kind if kind in _MEDIA else "file"


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer by Vonage's own code, which says more than the status."""
    if response.is_success:
        return None
    try:
        problem = _Problem.model_validate_json(response.content)
    except ValidationError:
        return outcome_of(response)
    return outcome_of_code(
        response, problem.code, str(problem), throttled=THROTTLED, in_doubt=IN_DOUBT, opted_out=OPTED_OUT
    )


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _from_base64url(written: str) -> bytes:
    """Raises `ValueError`."""
    return base64.b64decode(written.encode("ascii") + b"=" * (-len(written) % 4), altchars=b"-_", validate=True)


def _in_version_1(callback: dict[str, Any]) -> dict[str, Any]:
    """A callback as version 1 writes it. In version 0.1 the ends and the content are objects."""
    ends = {end: each for end in ("from", "to") if isinstance(each := callback.get(end), dict)}
    if not ends:
        return callback
    numbers = {end: each.get("number") or each.get("id") for end, each in ends.items()}
    channel = next((kind for each in ends.values() if (kind := each.get("type"))), callback.get("channel"))
    message = callback.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return callback | (content if isinstance(content, dict) else {}) | numbers | {"channel": channel}


def _receipt(written: dict[str, Any], raw: dict[str, Any]) -> base.Receipt:
    receipt = _ReceiptCallback.model_validate(written)
    status = STATUSES.get(receipt.status)
    said = str(receipt.error) if receipt.error else ""
    if receipt.parts > 1 and status is MessageStatus.UNDELIVERED:
        said = in_part(said)
    return base.Receipt(
        event_id=f"{receipt.message_uuid}:{receipt.status}",
        status=status,
        provider_message_id=receipt.message_uuid,
        idempotency_key=receipt.client_ref,
        detail=said or None,
        occurred_at=receipt.timestamp,
        raw=raw,
        recipient=_number(receipt.to) if receipt.to else None,
        consent=ReportedConsent.OPTED_OUT if receipt.error and receipt.error.code in OPTED_OUT else None,
    )


def _inbound(message: _MessageCallback) -> base.InboundMessage:
    if message.channel not in {"sms", "mms", RCS}:
        raise ValueError("It is not a text.")
    received = base.InboundMessage(
        provider_message_id=message.message_uuid,
        channel="sms",
        type=message.channel,
        from_address=_number(message.sender),
        to_address=_number(message.to),
        body=message.words,
        attachments=[medium.url for medium in message.media if medium.url],
        kept={medium.url: base.FileFacts(medium.name) for medium in message.media if medium.url},
        sent_at=message.timestamp,
    )
    return in_its_group(received, map(_number, message.members))


def _number(written: str) -> str:
    return with_plus(without_rcs(written))
