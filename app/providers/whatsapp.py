"""WhatsApp, by the Cloud API of Meta: texts, each with at most one attachment, by its link.

Sending: https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages
Callbacks: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview
Errors: https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
People without a number: https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids

Free text reaches a person who wrote within the last 24 hours; WhatsApp refuses others with 131047.
"""

import hashlib
import hmac
import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

import httpx
from pydantic import AliasPath, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import NoDecode

from app.domain import MessageStatus
from app.providers import base
from app.providers.toolbox.http_client import HttpProvider, bearer, outcome_of, outcome_of_code
from app.providers.toolbox.models import HttpVendorSettings, VendorModel, moment_of
from app.providers.toolbox.verification import (
    must_be_secret,
    must_match,
    only_header,
    only_parameter,
    secrets_in,
    with_plus,
)

#: `deleted` has no counterpart. `played` is a voice message's `read`. `failed` is WhatsApp's only status for an
#: accepted message that it could not deliver; it refuses others in its answer.
STATUSES = {
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "read": MessageStatus.READ,
    "played": MessageStatus.READ,
    "failed": MessageStatus.UNDELIVERED,
}
#: Too many requests: of the app, of the account, of the number, or for a number that gets complaints.
THROTTLED = {4, 80007, 130429, 131048}
#: Errors of the service or maintenance. Too many messages to one person. A medium that could not be fetched. A number
#: that was registered too often within a while.
TEMPORARY = {1, 2, 131000, 131016, 131053, 131056, 131057, 133016}
#: Errors of the account: the token, its permissions, a blocked or unpaid account, a number that is not registered.
REFUSES_US = {0, 3, 10, 190, 368, 131005, 131031, 131042, 133010, *range(200, 300)}

#: The kind and the prefix of the address of a person without a visible number.
_NUMBERLESS = "whatsapp:"
_MILLISECONDS = 10**11  # times in seconds have fewer digits, times in milliseconds have more
_CHALLENGE = re.compile(r"[\x21-\x7e]{1,512}")

_Id = Annotated[str, Field(min_length=1, max_length=400)]


class WhatsappSettings(HttpVendorSettings, env_prefix="WHATSAPP_"):
    access_token: SecretStr | None = None
    #: Our numbers with their ids: `+12016661234:106540352242922`, spaces between them.
    phone_number_ids: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    #: The secret of the app, which signs callbacks; two with a space between them during a rotation.
    app_secret: SecretStr | None = None
    #: A secret of our choice, entered at Meta with the webhook's address.
    verify_token: SecretStr | None = None
    api_url: str = Field("https://graph.facebook.com/v23.0", pattern=r"^https?://[^/]+(/[^/]+)*$")

    @field_validator("phone_number_ids", mode="before")
    @classmethod
    def _number_and_id(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition(":") for part in value.split()]
        if not all(re.fullmatch(r"\+[0-9]{7,15}", number) and id_.isdigit() for number, _, id_ in pairs):
            raise ValueError("write each number with its id: +12016661234:106540352242922")
        return {number: id_ for number, _, id_ in pairs}


class _Error(VendorModel):
    code: int
    title: str | None = None
    message: str | None = None
    details: str | None = Field(None, validation_alias=AliasPath("error_data", "details"))

    def __str__(self) -> str:
        said = self.details or self.title or self.message
        return f"{self.code} {said}".strip()[:300] if said else str(self.code)


class _Refused(VendorModel):
    error: _Error


class _Value(VendorModel):
    phone_number: str = Field(validation_alias=AliasPath("metadata", "display_phone_number"))
    phone_number_id: str = Field(validation_alias=AliasPath("metadata", "phone_number_id"))
    messages: list[dict[str, Any]] = Field(default_factory=list)
    statuses: list[dict[str, Any]] = Field(default_factory=list)


class _Change(VendorModel):
    field: str
    value: dict[str, Any]


class _Entry(VendorModel):
    changes: list[_Change]


class _Callback(VendorModel):
    object: str
    entry: list[_Entry]


class _Status(VendorModel):
    id: _Id
    status: Annotated[str, Field(min_length=1, max_length=63)]
    timestamp: str = Field(pattern=r"^[0-9]{1,14}$")
    recipient_id: str | None = None
    recipient_user_id: str | None = None
    biz_opaque_callback_data: str | None = None
    errors: list[_Error] = Field(default_factory=list)


class _Text(VendorModel):
    body: str


class _Button(VendorModel):
    text: str


class _Choice(VendorModel):
    title: str


class _Form(VendorModel):
    body: str = ""


class _Interactive(VendorModel):
    button_reply: _Choice | None = None
    list_reply: _Choice | None = None
    nfm_reply: _Form | None = None


class _Medium(VendorModel):
    id: _Id
    caption: str = ""


class _Reaction(VendorModel):
    emoji: str = ""  # empty if a reaction is removed


class _Location(VendorModel):
    latitude: float
    longitude: float
    name: str | None = None
    address: str | None = None


class _Message(VendorModel):
    id: _Id
    timestamp: str = Field(pattern=r"^[0-9]{1,14}$")
    type: str
    sender: str | None = Field(None, alias="from")
    from_user_id: str | None = None
    text: _Text | None = None
    button: _Button | None = None
    interactive: _Interactive | None = None
    reaction: _Reaction | None = None
    location: _Location | None = None
    image: _Medium | None = None
    video: _Medium | None = None
    audio: _Medium | None = None
    document: _Medium | None = None
    sticker: _Medium | None = None


class WhatsappProvider(HttpProvider[WhatsappSettings]):
    """The numbers of a WhatsApp business account."""

    channels: ClassVar = {"whatsapp": "phone"}
    receipts_carry_key: ClassVar = True
    largest_callback: ClassVar[int] = 3_000_000  # by Meta's documentation

    def __init__(self, settings: WhatsappSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(settings, client)
        self._numbers = {id_: number for number, id_ in settings.phone_number_ids.items()}

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        if payload.from_address not in self._settings.phone_number_ids:
            refused["from"] = "The sender is none of WHATSAPP_PHONE_NUMBER_IDS."
        if len(payload.attachments) > 1:
            refused["attachments"] = "WhatsApp takes one attachment a message."
        return refused

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        sender = self._settings.phone_number_ids[payload.from_address]
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/{sender}/messages",
            json=_written(payload),
            headers={"Authorization": bearer(self._settings.access_token)},
        )
        return base.ProviderResult(await self.submit(request, "messages", 0, "id", failure=_failure_of))

    def verify(self, callback: base.Callback) -> None:
        if callback.method == "GET":  # a handshake is not signed: its address has a token
            tokens = secrets_in(WHATSAPP_VERIFY_TOKEN=self._settings.verify_token)
            must_be_secret(only_parameter(callback, "hub.verify_token"), tokens, callback)
            return
        secrets = secrets_in(WHATSAPP_APP_SECRET=self._settings.app_secret)
        shown = only_header(callback, "x-hub-signature-256")
        expected = [hmac.new(secret, callback.body, hashlib.sha256).hexdigest() for secret in secrets]
        must_match([shown], [f"sha256={each}" for each in expected])

    def parse(self, callback: base.Callback) -> base.Reply | Sequence[base.CallbackItem | base.Unread]:
        """Messages and statuses, several of both in one callback, or a handshake. Other changes do not concern us."""
        if callback.method == "GET":
            return _subscription(callback)
        content = _Callback.model_validate(callback.json())
        if content.object != "whatsapp_business_account":
            raise ValueError("not a callback about a WhatsApp business account")
        values = [change.value for entry in content.entry for change in entry.changes if change.field == "messages"]
        return [item for value in values for item in self._items(value)]

    def _items(self, raw_value: dict[str, Any]) -> Iterator[base.CallbackItem | base.Unread]:
        """The items of one change."""
        try:
            value = _Value.model_validate(raw_value)
        except ValidationError as error:
            yield base.Unread(str(error))
            return
        number = self._numbers.get(value.phone_number_id)
        ours = number or f"+{re.sub(r'[^0-9]', '', value.phone_number)}"
        for raw in value.messages:
            try:
                if message := _inbound(_Message.model_validate(raw), ours):
                    yield message
            except ValueError as error:
                yield base.Unread(str(error))
        for raw in value.statuses:
            try:
                yield _receipt(_Status.model_validate(raw), raw)
            except ValueError as error:
                yield base.Unread(str(error))


def configured() -> WhatsappProvider | None:
    """The provider, if WHATSAPP_ACCESS_TOKEN and WHATSAPP_PHONE_NUMBER_IDS are set."""
    settings = WhatsappSettings()
    return WhatsappProvider(settings) if settings.access_token and settings.phone_number_ids else None


def _subscription(callback: base.Callback) -> base.Reply:
    challenge = only_parameter(callback, "hub.challenge")
    if only_parameter(callback, "hub.mode") != "subscribe" or not _CHALLENGE.fullmatch(challenge):
        raise base.CallbackRefused("It asks for something else than to subscribe.")
    return base.Reply(challenge.encode(), "text/plain")


def _written(payload: base.OutboundMessage) -> dict[str, object]:
    """The body of a request."""
    to = payload.to_address
    addressed = {"recipient": to.removeprefix(_NUMBERLESS)} if to.startswith(_NUMBERLESS) else {"to": to.lstrip("+")}
    message: dict[str, object] = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        **addressed,
        "biz_opaque_callback_data": payload.idempotency_key,
    }
    if not payload.attachments:
        return message | {"type": "text", "text": {"preview_url": False, "body": payload.body}}
    [link] = payload.attachments
    kind = _kind_of(link, has_text=bool(payload.body))
    medium = {"link": link} | ({"caption": payload.body} if payload.body else {})
    if kind == "document" and (name := urlsplit(link).path.rpartition("/")[2]):
        medium["filename"] = name
    return message | {"type": kind, kind: medium}


def _kind_of(link: str, *, has_text: bool) -> str:
    """The kind of the file behind a link, going by its name; `document` may be any file."""
    kind = (mimetypes.guess_type(urlsplit(link).path)[0] or "").partition("/")[0]
    may_be = {"image", "video"} if has_text else {"image", "video", "audio"}  # audio can't have a caption
    return kind if kind in may_be else "document"


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer by Meta's own code, which says more than the status."""
    if response.is_success:
        return None
    try:
        error = _Refused.model_validate_json(response.content).error
    except ValidationError:
        return outcome_of(response)
    return outcome_of_code(
        response, error.code, str(error), throttled=THROTTLED, temporary=TEMPORARY, refuses_us=REFUSES_US
    )


def _moment(timestamp: str) -> datetime | None:
    """The time of a timestamp in seconds or, in some callbacks, milliseconds."""
    number = int(timestamp)
    return moment_of(number / 1000 if number >= _MILLISECONDS else number)


def _inbound(message: _Message, ours: str) -> base.InboundMessage | None:
    """None for a `system` message, which reports a changed number."""
    if message.type == "system":
        return None
    if not message.sender and not message.from_user_id:
        raise ValueError("a message has a sender")
    media = [message.image, message.video, message.audio, message.document, message.sticker]
    medium = next((each for each in media if each is not None), None)
    return base.InboundMessage(
        provider_message_id=message.id,
        channel="whatsapp",
        type="whatsapp",
        from_address=with_plus(message.sender) if message.sender else f"{_NUMBERLESS}{message.from_user_id}",
        to_address=ours,
        body=medium.caption if medium else _text_of(message),
        attachments=[medium.id] if medium else [],
        sent_at=_moment(message.timestamp),
    )


def _text_of(message: _Message) -> str:
    """The text that was written or chosen; for a kind without words, such as a contact, its name in brackets."""
    if message.text:
        return message.text.body
    if message.button:
        return message.button.text
    if message.interactive:
        chosen = message.interactive.button_reply or message.interactive.list_reply
        return chosen.title if chosen else (message.interactive.nfm_reply or _Form()).body
    if message.reaction:
        return message.reaction.emoji
    if message.location:
        place = message.location
        named = [place.name, place.address, f"{place.latitude}, {place.longitude}"]
        return "\n".join(part for part in named if part)
    return f"[{message.type}]"


def _receipt(status: _Status, raw: dict[str, Any]) -> base.Receipt:
    numberless = status.recipient_user_id and f"{_NUMBERLESS}{status.recipient_user_id}"
    return base.Receipt(
        event_id=f"{status.id}:{status.status}:{status.timestamp}",
        status=STATUSES.get(status.status),
        provider_message_id=status.id,
        idempotency_key=status.biz_opaque_callback_data or None,
        detail="; ".join(str(error) for error in status.errors) or None,
        occurred_at=_moment(status.timestamp),
        raw=raw,
        recipient=with_plus(status.recipient_id) if status.recipient_id else numberless,
    )
