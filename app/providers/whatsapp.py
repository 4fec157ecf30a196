"""WhatsApp, by the Cloud API of Meta: texts, and one attachment each, given by its link.

Sending: https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages
What it calls back with: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview
Errors: https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
People without a number: https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids

Free text reaches somebody who wrote within the last 24 hours; otherwise it is refused with 131047.
"""

import hashlib
import hmac
import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import from_json
from pydantic_settings import NoDecode, SettingsConfigDict

from app.domain import MessageStatus
from app.providers.base import (
    BaseProvider,
    Callback,
    CallbackItem,
    CallbackRefused,
    CredentialsRefused,
    InboundMessage,
    OutboundMessage,
    ProviderFailure,
    ProviderResult,
    Receipt,
    Reply,
    TemporaryFailure,
    UnknownOutcome,
    Unread,
)
from app.providers.toolbox.http_client import HttpProvider, exchange, outcome_of, retry_after
from app.providers.toolbox.settings import VendorSettings
from app.providers.toolbox.verification import (
    must_be_secret,
    must_match,
    only_header,
    only_parameter,
    secrets_in,
    with_plus,
)

#: `deleted` has no counterpart. `played` is a voice message's `read`. `failed` is its one word for a message that it
#: took and could not bring, for whatever reason: what it doesn't take it refuses in its answer.
STATUSES = {
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "read": MessageStatus.READ,
    "played": MessageStatus.READ,
    "failed": MessageStatus.UNDELIVERED,
}
#: Too much was asked for: of the app, of the account, of the number, and of what a number with complaints may send.
THROTTLED = {4, 80007, 130429, 131048}
#: Of the moment: API unknown and service errors, too much to one person, something went wrong, service unavailable, a
#: medium that could not be fetched, maintenance, a number that was registered too often within a while.
TEMPORARY = {1, 2, 131000, 131016, 131053, 131056, 131057, 133016}
#: It refuses us, not the message: the token, its permissions, a blocked or unpaid account, a number not registered.
REFUSES_US = {0, 3, 10, 190, 368, 131005, 131031, 131042, 133010, *range(200, 300)}

#: The kind of address of somebody who shows no number, and what begins it.
_NUMBERLESS = "whatsapp:"
#: What can't carry a text beside it.
_WITHOUT_CAPTION = {"audio"}
_MILLISECONDS = 10**11  # no time in seconds has as many digits, and no time of WhatsApp's in milliseconds has fewer
_CHALLENGE = re.compile(r"[\x21-\x7e]{1,512}")

_Id = Annotated[str, Field(min_length=1, max_length=400)]


class WhatsappSettings(VendorSettings):
    """Each as WHATSAPP_ and its name."""

    model_config = SettingsConfigDict(env_prefix="WHATSAPP_")

    access_token: SecretStr | None = None
    #: Our numbers, each with its id: `+12016661234:106540352242922`, spaces between them.
    phone_number_ids: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    #: Of the app: what its calls are signed with; while it is changed two with a space between them.
    app_secret: SecretStr | None = None
    #: Made up by us, and entered at Meta beside the webhook's address.
    verify_token: SecretStr | None = None
    api_url: str = Field("https://graph.facebook.com/v23.0", pattern=r"^https?://[^/]+(/[^/]+)*$")
    timeout_seconds: float = Field(10, gt=0)

    @field_validator("phone_number_ids", mode="before")
    @classmethod
    def _number_and_id(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition(":") for part in value.split()]
        if not all(re.fullmatch(r"\+[0-9]{7,15}", number) and id_.isdigit() for number, _, id_ in pairs):
            raise ValueError("write each number with its id: +12016661234:106540352242922")
        return {number: id_ for number, _, id_ in pairs}


class _Model(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class _Taken(_Model):
    id: Annotated[str, Field(min_length=1, max_length=512)]


class _Accepted(_Model):
    messages: list[_Taken] = Field(min_length=1)


class _ErrorData(_Model):
    details: str | None = None


class _Error(_Model):
    code: int
    title: str | None = None
    message: str | None = None
    error_data: _ErrorData = _ErrorData()

    def __str__(self) -> str:
        said = self.error_data.details or self.title or self.message
        return f"{self.code} {said}".strip()[:300] if said else str(self.code)


class _Refused(_Model):
    error: _Error


class _Metadata(_Model):
    display_phone_number: str
    phone_number_id: str


class _Value(_Model):
    metadata: _Metadata
    messages: list[dict[str, Any]] = []
    statuses: list[dict[str, Any]] = []


class _Change(_Model):
    field: str
    value: dict[str, Any]


class _Entry(_Model):
    changes: list[_Change]


class _Call(_Model):
    object: str
    entry: list[_Entry]


class _Status(_Model):
    id: _Id
    status: Annotated[str, Field(min_length=1, max_length=63)]
    timestamp: str = Field(pattern=r"^[0-9]{1,14}$")
    recipient_id: str | None = None
    recipient_user_id: str | None = None
    biz_opaque_callback_data: str | None = None
    errors: list[_Error] = []


class _Text(_Model):
    body: str


class _Button(_Model):
    text: str


class _Choice(_Model):
    title: str


class _Form(_Model):
    body: str = ""


class _Interactive(_Model):
    button_reply: _Choice | None = None
    list_reply: _Choice | None = None
    nfm_reply: _Form | None = None


class _Medium(_Model):
    id: _Id
    caption: str = ""


class _Reaction(_Model):
    emoji: str = ""  # none where a reaction is taken back


class _Location(_Model):
    latitude: float
    longitude: float
    name: str | None = None
    address: str | None = None


class _Message(_Model):
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


class WhatsappProvider(HttpProvider):
    """The numbers of a WhatsApp business account."""

    channels: ClassVar = {"whatsapp": "phone"}
    receipts_carry_key: ClassVar = True
    largest_callback: ClassVar[int] = 3_000_000  # as Meta says

    def __init__(self, settings: WhatsappSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(timeout_seconds=settings.timeout_seconds, client=client)
        self._settings = settings
        self._numbers = {id_: number for number, id_ in settings.phone_number_ids.items()}

    def refusals(self, payload: OutboundMessage) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        if payload.from_address not in self._settings.phone_number_ids:
            refused["from"] = "The sender is none of WHATSAPP_PHONE_NUMBER_IDS."
        if len(payload.attachments) > 1:
            refused["attachments"] = "WhatsApp takes one attachment a message."
        return refused

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        sender = self._settings.phone_number_ids[payload.from_address]
        token = self._settings.access_token
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/{sender}/messages",
            json=_written(payload),
            headers={"Authorization": f"Bearer {token.get_secret_value() if token else ''}"},
        )
        response = await exchange(self.client, request)
        if failure := _failure_of(response):
            raise failure
        try:
            return ProviderResult(_Accepted.model_validate_json(response.content).messages[0].id)
        except ValidationError:
            raise UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.") from None

    def verify(self, callback: Callback) -> None:
        if callback.method == "GET":  # not signed: the token, which both sides know, stands in its address
            tokens = secrets_in(WHATSAPP_VERIFY_TOKEN=self._settings.verify_token)
            must_be_secret(only_parameter(callback, "hub.verify_token"), tokens, callback)
            return
        secrets = secrets_in(WHATSAPP_APP_SECRET=self._settings.app_secret)
        shown = only_header(callback, "x-hub-signature-256")
        expected = [hmac.new(secret, callback.body, hashlib.sha256).hexdigest() for secret in secrets]
        must_match([shown], [f"sha256={each}" for each in expected])

    async def handshake(self, callback: Callback) -> Reply | None:
        if callback.method != "GET":
            return None
        challenge = only_parameter(callback, "hub.challenge")
        if only_parameter(callback, "hub.mode") != "subscribe" or not _CHALLENGE.fullmatch(challenge):
            raise CallbackRefused("It asks for something else than to subscribe.")
        return Reply(challenge.encode(), "text/plain")

    def parse(self, callback: Callback) -> Sequence[CallbackItem | Unread]:
        """Messages and statuses, several of both in one call; other fields of an account are no concern of ours."""
        call = _Call.model_validate(from_json(callback.body, allow_inf_nan=False))
        if call.object != "whatsapp_business_account":
            raise ValueError("not a call about a WhatsApp business account")
        values = [change.value for entry in call.entry for change in entry.changes if change.field == "messages"]
        return [event for value in values for event in self._events(value)]

    def _events(self, raw_value: dict[str, Any]) -> Iterator[CallbackItem | Unread]:
        """What a change says."""
        try:
            value = _Value.model_validate(raw_value)
        except ValidationError as error:
            yield Unread(str(error))
            return
        number = self._numbers.get(value.metadata.phone_number_id)
        ours = number or f"+{re.sub(r'[^0-9]', '', value.metadata.display_phone_number)}"
        for raw in value.messages:
            try:
                if event := _inbound(_Message.model_validate(raw), ours):
                    yield event
            except ValueError as error:
                yield Unread(str(error))
        for raw in value.statuses:
            try:
                yield _receipt(_Status.model_validate(raw), raw)
            except ValueError as error:
                yield Unread(str(error))


def configured() -> BaseProvider | None:
    """The provider, where WHATSAPP_ACCESS_TOKEN and WHATSAPP_PHONE_NUMBER_IDS are set."""
    settings = WhatsappSettings()
    return WhatsappProvider(settings) if settings.access_token and settings.phone_number_ids else None


def _written(payload: OutboundMessage) -> dict[str, object]:
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
    """What a link leads to, going by its name; a document, which may be anything, where that doesn't tell."""
    kind = (mimetypes.guess_type(urlsplit(link).path)[0] or "").partition("/")[0]
    if kind not in {"image", "video", "audio"} or (has_text and kind in _WITHOUT_CAPTION):
        return "document"
    return kind


def _failure_of(response: httpx.Response) -> ProviderFailure | None:
    """What an answer means; Meta's own code has more to say than the status."""
    if response.is_success:
        return None
    try:
        error = _Refused.model_validate_json(response.content).error
    except ValidationError:
        return outcome_of(response)
    wait = retry_after(response.headers, datetime.now(UTC))
    if error.code in THROTTLED:
        return TemporaryFailure(str(error), retry_after=wait, throttled=True)
    if error.code in TEMPORARY:
        return TemporaryFailure(str(error), retry_after=wait)
    if error.code in REFUSES_US:
        return CredentialsRefused(str(error))
    return outcome_of(response, str(error))


def _moment(timestamp: str) -> datetime:
    """From seconds, or milliseconds, as some calls have them."""
    number = int(timestamp)
    return datetime.fromtimestamp(number / 1000 if number >= _MILLISECONDS else number, UTC)


def _inbound(message: _Message, ours: str) -> InboundMessage | None:
    """None for what nobody wrote: `system` tells that somebody has another number."""
    if message.type == "system":
        return None
    if not message.sender and not message.from_user_id:
        raise ValueError("a message is from somebody")
    media = [message.image, message.video, message.audio, message.document, message.sticker]
    medium = next((each for each in media if each is not None), None)
    return InboundMessage(
        provider_message_id=message.id,
        channel="whatsapp",
        type="whatsapp",
        from_address=with_plus(message.sender) if message.sender else f"{_NUMBERLESS}{message.from_user_id}",
        to_address=ours,
        body=medium.caption if medium else _words_of(message),
        attachments=[medium.id] if medium else [],
        sent_at=_moment(message.timestamp),
    )


def _words_of(message: _Message) -> str:
    """What was written or chosen; for what has no words, such as a contact, its name in brackets."""
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


def _receipt(status: _Status, raw: dict[str, Any]) -> Receipt:
    numberless = status.recipient_user_id and f"{_NUMBERLESS}{status.recipient_user_id}"
    return Receipt(
        event_id=f"{status.id}:{status.status}:{status.timestamp}",
        status=STATUSES.get(status.status),
        provider_message_id=status.id,
        idempotency_key=status.biz_opaque_callback_data or None,
        detail="; ".join(str(error) for error in status.errors) or None,
        occurred_at=_moment(status.timestamp),
        raw=raw,
        recipient=with_plus(status.recipient_id) if status.recipient_id else numberless,
    )
