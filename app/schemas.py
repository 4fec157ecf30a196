"""What goes over the wire, in and out. A field that is not named here is ignored, so providers may add theirs."""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from app.addresses import InvalidAddress, channel_address, email_address, phone_address
from app.config import Destination, RequestBurst, RequestRate, Settings
from app.domain import (
    Address,
    AttemptOutcome,
    CallVerdict,
    Channel,
    Direction,
    KeyScope,
    MessageStatus,
    MessageType,
    NewMessage,
)
from app.segments import Segments

_LOOKS_LIKE_A_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LEAP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]"
    r"(?P<hours>24|[01]\d|2[0-3]):(?P<minutes>[0-5]\d):(?P<seconds>60|[0-5]\d)(?P<zone>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OLDEST, _NEWEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)


def _text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("a text can't hold the character NUL")
    return value


def _line(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("a subject can't hold line breaks or control characters")
    return value


def _iso_8601(value: object) -> object:
    if not isinstance(value, str) or not _LOOKS_LIKE_A_DATE.match(value):
        raise ValueError("write it as ISO 8601, such as 2024-11-01T14:00:00Z")
    return value


def _any_second_of_a_day(value: object) -> object:
    """A leap second and the 24th hour, where we can't ask for another spelling: they become the next second."""
    match = _LEAP.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match["hours"] != "24" and match["seconds"] != "60"):
        return value
    whole = datetime.fromisoformat(f"{match[1]}T00:00:00{(match['zone'] or '').upper()}")
    hours, minutes, seconds = (int(match[part]) for part in ("hours", "minutes", "seconds"))
    return (whole + timedelta(hours=hours, minutes=minutes, seconds=seconds)).isoformat()


def _utc(value: datetime) -> datetime:
    try:
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not _OLDEST <= moment < _NEWEST:
        raise ValueError("a time lies between the years 1970 and 2100")
    return moment


def _http_url(value: str) -> str:
    _plain_reference(value)
    try:
        parts = urlsplit(value)
        usable = parts.scheme.lower() in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("an attachment is a URL that starts with http:// or https://")
    return value


def _media_reference(value: str) -> str:
    """A URL, or whatever name without a scheme a provider gives to media that it keeps."""
    _plain_reference(value)
    return _http_url(value) if _SCHEME.match(value) else value


def _plain_reference(value: str) -> None:
    if not value or any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError("an attachment is a URL without spaces or control characters")


def _list_or_null(value: object) -> object:
    return [] if value is None else value


def reading_context(settings: Settings) -> dict[str, Any]:
    """What reading a body needs to know besides it. Without it no setting bounds what is sent."""
    return settings.model_dump(include={"default_region", "max_text_length", "max_subject_length", "max_attachments"})


def _sent_text(value: str, info: ValidationInfo) -> str:
    if info.context is not None and len(value) > info.context["max_text_length"]:
        raise ValueError(f"a text has at most {info.context['max_text_length']} characters")
    return _text(value)


def _sent_subject(value: str, info: ValidationInfo) -> str:
    if info.context is not None and len(value) > info.context["max_subject_length"]:
        raise ValueError(f"a subject has at most {info.context['max_subject_length']} characters")
    return _line(value)


def _sent_list_or_null(value: object, info: ValidationInfo) -> object:
    if value is None:
        return []
    if info.context is not None and isinstance(value, list) and len(value) > info.context["max_attachments"]:
        raise ValueError(f"a message has at most {info.context['max_attachments']} attachments")
    return value


def _number(value: object) -> object:
    """Pydantic reads true as 1 and "5" as 5, and a strict one refuses 5.0, which JSON can't tell from 5."""
    if isinstance(value, bool | str):
        raise ValueError("this is a number, without quotes")
    return value


def _received_text(value: object) -> object:
    """Nothing is an empty text, and NUL, which PostgreSQL can't keep, is the sign for a character that was lost."""
    if value is None:
        return ""
    return value.replace("\x00", "\ufffd") if isinstance(value, str) else value


def _received_line(value: object) -> object:
    """A subject on one line, whatever breaks it: whoever hands it over can't mend it."""
    return _CONTROL.sub(" ", value) if isinstance(value, str) else value


def _received_reference(value: object) -> object:
    return value.replace("\x00", "") if isinstance(value, str) else value


def _read(parse: Callable[[str, ValidationInfo], Address]) -> PlainValidator:
    def validate(value: object, info: ValidationInfo) -> Address:
        if not isinstance(value, str):
            raise ValueError("an address is a string")
        try:
            return parse(value, info)
        except InvalidAddress as error:
            raise ValueError(str(error)) from None

    return PlainValidator(validate, json_schema_input_type=str)


def _shown(description: str, example: str, *, format: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "format": format, "description": description, "examples": [example]})


def _region(info: ValidationInfo) -> str:
    """The default region comes with the validation context; without one, numbers are read as American."""
    region: str = (info.context or {}).get("default_region", "US")
    return region


_PHONE = "A phone number, best with + and country code; without one it is read as of the default region."
SmsSender = Annotated[
    Address,
    _read(lambda value, info: phone_address(value, region=_region(info), may_be_alphanumeric=True)),
    _shown(_PHONE + " A short code or an alphanumeric sender is legal too.", "+12016661234", format="phone"),
]
SmsRecipient = Annotated[
    Address,
    _read(lambda value, info: phone_address(value, region=_region(info), may_be_alphanumeric=False)),
    _shown(_PHONE, "+18045551234", format="phone"),
]
EmailAddress = Annotated[
    Address,
    _read(lambda value, info: email_address(value)),
    _shown("An email address.", "user@example.com", format="idn-email"),
]
EmailParty = Annotated[
    Address,
    _read(lambda value, info: email_address(value, may_have_display_name=True)),
    _shown("An email address, with a display name or without.", "contact@example.com", format="mailbox"),
]


def _end_of_a_channel(value: str, info: ValidationInfo, *, may_be_alphanumeric: bool) -> Address:
    """`channel`, and the `kind` of its addresses, come with the validation context too."""
    assert info.context is not None
    return channel_address(
        value,
        channel=info.context["channel"],
        kind=info.context["kind"],
        region=_region(info),
        may_be_alphanumeric=may_be_alphanumeric,
    )


_END = "As the channel has them: a phone number, an email address, or `kind:value`."
ChannelSender = Annotated[
    Address,
    _read(partial(_end_of_a_channel, may_be_alphanumeric=True)),
    _shown(_END, "slack:A024BE7LH", format="channel-address"),
]
ChannelRecipient = Annotated[
    Address,
    _read(partial(_end_of_a_channel, may_be_alphanumeric=False)),
    _shown(_END, "slack:C024BE91L", format="channel-address"),
]

# Patterns are only shown: the functions beside them are faster, and have sentences.
_SHOWN_TEXT = {"pattern": r"^[^\x00]*$"}
_SHOWN_LINE = {"pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"}
Words = Annotated[str, Field(json_schema_extra=_SHOWN_TEXT), AfterValidator(_text)]
Text = Annotated[str, Field(json_schema_extra=_SHOWN_TEXT), AfterValidator(_sent_text)]
Subject = Annotated[str, Field(json_schema_extra=_SHOWN_LINE), AfterValidator(_sent_subject)]
_ReceivedSubject = Annotated[str, Field(max_length=998), BeforeValidator(_received_line, json_schema_input_type=str)]
ProviderMessageId = Annotated[
    str, Field(min_length=1, max_length=512, json_schema_extra=_SHOWN_TEXT), AfterValidator(_text)
]
Timestamp = Annotated[
    datetime,
    BeforeValidator(_iso_8601, json_schema_input_type=str),
    AfterValidator(_utc),
    Field(
        description="ISO 8601, from 1970 to 2100. Any offset is converted to UTC; without one it is read as UTC.",
        json_schema_extra={"format": "date-time"},
    ),
]
_ReceivedTimestamp = Annotated[
    Timestamp,
    BeforeValidator(_any_second_of_a_day, json_schema_input_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
_Url = Annotated[
    str,
    Field(max_length=2048, json_schema_extra={"format": "uri"}),
    AfterValidator(_text),
    AfterValidator(_http_url),
]
_Reference = Annotated[
    str,
    Field(max_length=2048, json_schema_extra={"format": "uri-reference"}),
    BeforeValidator(_received_reference, json_schema_input_type=str),
    AfterValidator(_media_reference),
]
_MostReferences = Annotated[list[_Reference], Field(max_length=10)]
_Urls = Annotated[list[_Url], BeforeValidator(_sent_list_or_null, json_schema_input_type=list[_Url] | None)]
_References = Annotated[
    _MostReferences, BeforeValidator(_list_or_null, json_schema_input_type=_MostReferences | None)
]
_ReceivedWords = Annotated[str, BeforeValidator(_received_text, json_schema_input_type=str | None)]


_LONGEST_AHEAD = timedelta(days=366)


class _Send(BaseModel):
    attachments: _Urls = []
    timestamp: Timestamp | None = Field(None, description="When it was written; now, if left out.")
    send_at: Timestamp | None = Field(None, description="When it is to leave, at most a year ahead.")
    expires_at: Timestamp | None = Field(None, description="After which it is not to leave any more.")
    body: Words

    @field_validator("send_at")
    @classmethod
    def _within_a_year(cls, moment: datetime | None) -> datetime | None:
        if moment is not None and moment > datetime.now(UTC) + _LONGEST_AHEAD:
            raise ValueError("a message is scheduled for at most a year ahead")
        return moment

    def is_over(self) -> dict[str, str]:
        """What is wrong with times that have passed, by field. A repeat of an earlier request may name them."""
        if self.send_at is None and self.expires_at is None:
            return {}
        sentences = {"send_at": "a message is scheduled for the future", "expires_at": "this time is over"}
        now = datetime.now(UTC)
        times = {"send_at": self.send_at, "expires_at": self.expires_at}
        return {name: sentences[name] for name, moment in times.items() if moment is not None and moment <= now}

    @model_validator(mode="after")
    def _leaves_before_it_expires(self) -> "_Send":
        if self.send_at is not None and self.expires_at is not None and self.send_at >= self.expires_at:
            raise ValueError("a message can't expire before it leaves")
        return self

    @model_validator(mode="after")
    def _says_something(self) -> "_Send":
        if not self.body.strip() and not self.attachments:
            raise ValueError("a message needs a body or an attachment")
        return self

    def _fingerprint(self) -> str:
        """The same for requests that mean the same, however their JSON is written, and whatever may be said besides
        in another version."""
        return hashlib.sha256(self.model_dump_json(warnings=False, exclude_defaults=True).encode()).hexdigest()


class SmsSend(_Send):
    """A text to send: `mms` where it carries media."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "from": "+12016661234",
                    "to": "+18045551234",
                    "type": "sms",
                    "body": "Hello!",
                    "attachments": None,
                    "timestamp": "2024-11-01T14:00:00Z",
                }
            ]
        }
    )
    from_: SmsSender = Field(alias="from")
    to: SmsRecipient
    type: Literal["sms", "mms"]
    body: Text

    def new_message(self, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.OUTBOUND,
            channel=Channel.SMS,
            type=self.type,
            sender=self.from_,
            recipient=self.to,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            send_at=self.send_at,
            expires_at=self.expires_at,
            idempotency_key=idempotency_key,
            fingerprint=self._fingerprint() if idempotency_key else None,
        )


class EmailSend(_Send):
    """A mail to send. The body may hold HTML."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "from": "user@example.com",
                    "to": "contact@example.com",
                    "subject": "Greetings",
                    "body": "<p>Hello!</p>",
                    "attachments": ["https://example.com/document.pdf"],
                    "timestamp": "2024-11-01T14:00:00Z",
                }
            ]
        }
    )
    from_: EmailAddress = Field(alias="from")
    to: EmailAddress
    subject: Subject | None = None

    def new_message(self, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.OUTBOUND,
            channel=Channel.EMAIL,
            type=MessageType.EMAIL,
            sender=self.from_,
            recipient=self.to,
            subject=self.subject,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            send_at=self.send_at,
            expires_at=self.expires_at,
            idempotency_key=idempotency_key,
            fingerprint=self._fingerprint() if idempotency_key else None,
        )


class ChannelSend(_Send):
    """A message to send on a channel that a provider brings."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"from": "slack:A024BE7LH", "to": "slack:C024BE91L", "body": "Hello!"}]}
    )
    from_: ChannelSender = Field(alias="from")
    to: ChannelRecipient
    subject: Subject | None = None

    def new_message(self, channel: str, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.OUTBOUND,
            channel=channel,
            type=channel,
            sender=self.from_,
            recipient=self.to,
            subject=self.subject,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            send_at=self.send_at,
            expires_at=self.expires_at,
            idempotency_key=idempotency_key,
            fingerprint=self._fingerprint() if idempotency_key else None,
        )


class Preview(BaseModel):
    """A message that is not to be sent: what a send on its channel takes, and `channel`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "channel": "sms",
                    "from": "+12016661234",
                    "to": "(804) 555-1234",
                    "type": "sms",
                    "body": "“Hello!”",
                }
            ]
        },
    )
    channel: Annotated[str, Field(max_length=63, json_schema_extra=_SHOWN_TEXT), AfterValidator(_text)]


class _Inbound(BaseModel):
    attachments: _References = []
    body: _ReceivedWords = ""
    timestamp: _ReceivedTimestamp | None = Field(None, description="When it was sent; now, if left out.")


class SmsInbound(_Inbound):
    """A text that a provider hands over."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "from": "+18045551234",
                    "to": "+12016661234",
                    "type": "sms",
                    "messaging_provider_id": "message-1",
                    "body": "text",
                    "attachments": None,
                    "timestamp": "2024-11-01T14:00:00Z",
                }
            ]
        }
    )
    from_: SmsSender = Field(alias="from")
    to: SmsRecipient
    type: Literal["sms", "mms"]
    messaging_provider_id: ProviderMessageId

    def new_message(self, tenant_id: int) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.INBOUND,
            channel=Channel.SMS,
            type=self.type,
            sender=self.from_,
            recipient=self.to,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            provider_type=Channel.SMS,
            provider_message_id=self.messaging_provider_id,
        )


class EmailInbound(_Inbound):
    """A mail that a provider hands over."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "from": "contact@example.com",
                    "to": "user@example.com",
                    "xillio_id": "message-3",
                    "subject": "Re: Greetings",
                    "body": "<p>Hello back!</p>",
                    "attachments": [],
                    "timestamp": "2024-11-01T14:00:00Z",
                }
            ]
        }
    )
    from_: EmailParty = Field(alias="from")
    to: EmailParty
    xillio_id: ProviderMessageId
    subject: _ReceivedSubject | None = None

    def new_message(self, tenant_id: int) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.INBOUND,
            channel=Channel.EMAIL,
            type=MessageType.EMAIL,
            sender=self.from_,
            recipient=self.to,
            subject=self.subject,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            provider_type=Channel.EMAIL,
            provider_message_id=self.xillio_id,
        )


class SendAccepted(BaseModel):
    """The message is stored, and will be delivered in the background."""

    message_id: str = Field(examples=["1"])
    provider_message_id: str | None = Field(description="Known once the provider has it; see `Prefer`.")
    conversation_id: int = Field(examples=[1])
    status: Literal["accepted"] = "accepted"


class SmsAccepted(SendAccepted):
    segments: Segments | None = Field(description="What a text is cut into; null for media messages, which are not.")


class WebhookAccepted(BaseModel):
    """The event is stored, or was before."""

    status: Literal["ok"] = "ok"


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class _View(BaseModel):
    """Read off a row of the database."""

    model_config = ConfigDict(from_attributes=True)


class ConversationView(_View):
    id: int
    last_updated: datetime = Field(validation_alias="last_activity_at", serialization_alias="last_updated")
    customer_address: str
    contact_address: str
    message_count: int


class MessageView(_View):
    id: int
    conversation_id: int
    direction: Direction
    channel: str
    type: str
    from_: str = Field(validation_alias="from_address", serialization_alias="from")
    to: str = Field(validation_alias="to_address", serialization_alias="to")
    subject: str | None
    body: str
    quoted: str | None = Field(description="What a mail repeats of those before it.")
    attachments: list[str]
    status: MessageStatus
    status_reason: str | None
    provider_type: str | None
    provider_message_id: str | None
    sent_at: datetime
    created_at: datetime


class AttemptView(_View):
    number: int
    provider_type: str
    routed_because: str | None = Field(description="Why this provider, where it was not the first of its route.")
    outcome: AttemptOutcome | None = Field(description="None while it is under way.")
    detail: str | None
    provider_message_id: str | None
    started_at: datetime
    finished_at: datetime | None


class MessageDetail(MessageView):
    attempt_count: int
    due_at: datetime | None = Field(description="When a worker looks at it next.")
    expires_at: datetime | None
    attempts: list[AttemptView]


class StepView(_View):
    """One step of a message, as a sentence."""

    at: datetime
    kind: str = Field(examples=["outcome"])
    sentence: str = Field(examples=["sms accepted it as sms-1."])
    provider_type: str | None
    attempt: int | None
    seconds: float | None = Field(description="How long the attempt took.")


class ProviderView(_View):
    name: str
    channels: list[str] = Field(description="The channels whose route names it.")
    trouble: str | None = Field(description="Why nothing is handed to it at the moment.", examples=["is paused"])
    reason: str | None = Field(description="What it said when it was paused.")


_NUMBER = BeforeValidator(_number)
_Name = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra=_SHOWN_LINE), AfterValidator(_line)]
TenantName = Annotated[
    _Name,
    Field(
        pattern="[^0-9]",
        description="Not only digits, which are ids.",
        json_schema_extra={"pattern": _SHOWN_LINE["pattern"].replace("^", "^(?![0-9]*$)", 1)},
    ),
]


class NewTenant(BaseModel):
    name: TenantName = Field(examples=["Acme"])


_DailyCaps = Annotated[
    dict[Destination, Annotated[int, Field(ge=0, lt=2**63), _NUMBER]],
    Field(json_schema_extra={"additionalProperties": False}),
]


class TenantChange(BaseModel):
    """Null leaves to the settings what it is about."""

    retention_days: Annotated[int, Field(ge=1, le=36500), _NUMBER] | None = Field(
        None, description="How long its messages are kept."
    )
    rate_limit_per_second: Annotated[RequestRate, _NUMBER] | None = Field(
        None, description="Requests of its keys a second; 0 is no limit."
    )
    rate_limit_burst: Annotated[RequestBurst, _NUMBER] | None = Field(None, description="Requests at once.")
    daily_caps: _DailyCaps | None = Field(
        None,
        description="What it may send in a day (UTC), texts by their segments: by country, by `email`, and by `*` "
        "for each that is not named.",
        examples=[{"*": 10_000, "US": 200_000, "KP": 0}],
    )

    @model_validator(mode="after")
    def _changes_something(self) -> "TenantChange":
        if not self.model_fields_set:
            raise ValueError("name what is to change")
        return self


class TenantView(_View):
    id: int
    name: str
    retention_days: int | None
    rate_limit_per_second: float | None
    rate_limit_burst: int | None
    daily_caps: dict[str, int] | None
    created_at: datetime


class NewKey(BaseModel):
    tenant_id: Annotated[int, Field(ge=1, lt=10**18), _NUMBER]
    name: _Name = Field(examples=["Billing, staging"])
    scopes: list[KeyScope] = Field(min_length=1)
    expires_in_days: Annotated[int, Field(ge=1, le=3650), _NUMBER] | None = Field(
        None, description="Without it, it doesn't expire."
    )


class KeyView(_View):
    tenant_id: int
    id: int
    prefix: str = Field(description="The part of the token that names the key.")
    name: str
    scopes: list[KeyScope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyCreated(KeyView):
    token: str = Field(description="Shown this once; only its hash is kept.")


class NewAddress(BaseModel):
    address: str = Field(
        description="An email address, or a number, short code or alphanumeric sender.",
        examples=["+12016661234"],
        json_schema_extra={"format": "address"},
    )


class AddressView(_View):
    id: int
    type: str = Field(validation_alias="address_type", serialization_alias="type")
    address: str
    created_at: datetime


class AuditView(_View):
    tenant_id: int
    id: int
    kind: str = Field(examples=["key_created"])
    actor: str | None = Field(description="The prefix of the key, or `command line`.")
    client: str | None = Field(description="The network that the request came from.")
    detail: dict[str, object]
    created_at: datetime


class WebhookCallView(_View):
    """A call of a provider."""

    tenant_id: int
    id: int
    provider: str = Field(validation_alias="provider_type", serialization_alias="provider")
    received_at: datetime
    method: str
    url: str
    verdict: CallVerdict
    reason: str | None = Field(description="Why it was not taken.")
    seen: str | None = Field(description="The beginning of the signature that was shown.")
    expected: str | None = Field(description="The beginning of the one that would have been right.")
    events: int = Field(description="How many it says that are stored.")
    replayed_at: datetime | None


class WebhookCallDetail(WebhookCallView):
    headers: list[tuple[str, str | None]] = Field(description="In their order; of what lets somebody in the hash.")
    body: str
    encoding: Literal["text", "base64"] = Field(description="How `body` is written: as it came, or as base64.")


class CallVerification(_View):
    genuine: bool
    reason: str | None = Field(description="Why it is not.")
    seen: str | None
    expected: str | None


class CallJudgement(_View):
    """What became of a call that was taken again."""

    verdict: CallVerdict
    reason: str | None
    seen: str | None
    expected: str | None
    events: int


class ContactView(_View):
    id: int
    type: str = Field(validation_alias="address_type", serialization_alias="type")
    address: str
    written: str = Field(description="As it was written the first time.")
    created_at: datetime


class ReceiptView(_View):
    """What a provider said about a message."""

    provider_type: str
    event_id: str
    provider_message_id: str | None
    status: MessageStatus | None
    detail: str | None
    raw: dict[str, object] = Field(description="As it came.")
    occurred_at: datetime | None
    received_at: datetime


class DeedView(_View):
    """What somebody did with a message besides delivering it."""

    kind: str = Field(examples=["canceled"])
    created_at: datetime


class FileView(_View):
    """A file that came with a message; its bytes are at the address that `attachments` has for it."""

    id: str
    name: str
    content_type: str = Field(description="As the sender called it.")
    size: int = Field(description="In bytes.")
    created_at: datetime


class ExportedMessage(MessageDetail):
    idempotency_key: str | None
    files: list[FileView] = []
    receipts: list[ReceiptView] = []
    history: list[DeedView] = []


class ExportedConversation(ConversationView):
    messages: list[ExportedMessage] = []


class ContactExport(BaseModel):
    """Everything that is stored about a contact. It is written piece by piece, so each list comes last."""

    contact: ContactView
    exported_at: datetime
    webhook_calls: int = Field(description="Calls of providers that name it, kept for a time as they came.")
    conversations: list[ExportedConversation] = []


class Erased(BaseModel):
    """How much was erased of what."""

    contacts: int = 0
    conversations: int = 0
    messages: int = 0
    attempts: int = 0
    receipts: int = 0
    events: int = 0
    files: int = 0
    webhook_calls: int = 0


class FieldProblem(BaseModel):
    location: str = Field(examples=["body.from"])
    message: str = Field(examples=["an address can't be empty"])


class PreviewView(BaseModel):
    """What would become of a message."""

    model_config = ConfigDict(serialize_by_alias=True)

    channel: str
    from_: str | None = Field(
        serialization_alias="from", description="As it would be sent; null if it can't be read."
    )
    to: str | None
    route: list[str] = Field(description="The providers that would be asked, in order.", examples=[["twilio"]])
    may_send_from: bool = Field(description="Whether the address is one of yours.")
    segments: Segments | None = Field(description="For texts.")
    hints: list[str] = Field(description="How a text could be sent in fewer parts.")
    refused: list[FieldProblem] = Field(
        description="Why it would be refused, here or by the first provider of its route; empty if it would not."
    )


class Problem(BaseModel):
    """RFC 9457, `application/problem+json`."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    request_id: str | None = Field(None, description="Where it is not the caller's doing: what the log calls it.")
    errors: list[FieldProblem] | None = Field(None, description="One entry per field of a malformed request.")
