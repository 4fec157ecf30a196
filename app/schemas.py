"""What goes over the wire, in and out. A field that is not named here is ignored, so providers may add theirs."""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
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

from app.addresses import InvalidAddress, email_address, phone_address
from app.domain import Address, AttemptOutcome, Channel, Direction, MessageStatus, MessageType, NewMessage

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


def _received_text(value: object) -> object:
    """Nothing is an empty text, and NUL, which PostgreSQL can't keep, is the sign for a character that was lost."""
    if value is None:
        return ""
    return value.replace("\x00", "\ufffd") if isinstance(value, str) else value


def _read(parse: Callable[[str, ValidationInfo], Address]) -> PlainValidator:
    def validate(value: object, info: ValidationInfo) -> Address:
        if not isinstance(value, str):
            raise ValueError("an address is a string")
        try:
            return parse(value, info)
        except InvalidAddress as error:
            raise ValueError(str(error)) from None

    return PlainValidator(validate, json_schema_input_type=str)


def _shown(description: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": [example]})


def _region(info: ValidationInfo) -> str:
    """The default region comes with the validation context; without one, numbers are read as American."""
    region: str = (info.context or {}).get("default_region", "US")
    return region


_PHONE = "A phone number, best with + and country code; without one it is read as of the default region."
SmsSender = Annotated[
    Address,
    _read(lambda value, info: phone_address(value, region=_region(info), may_be_alphanumeric=True)),
    _shown(_PHONE + " A short code or an alphanumeric sender is legal too.", "+12016661234"),
]
SmsRecipient = Annotated[
    Address,
    _read(lambda value, info: phone_address(value, region=_region(info), may_be_alphanumeric=False)),
    _shown(_PHONE, "+18045551234"),
]
EmailAddress = Annotated[
    Address,
    _read(lambda value, info: email_address(value)),
    _shown("An email address.", "user@example.com"),
]
EmailParty = Annotated[
    Address,
    _read(lambda value, info: email_address(value, may_have_display_name=True)),
    _shown("An email address, with a display name or without.", "contact@example.com"),
]

Words = Annotated[str, AfterValidator(_text)]
Subject = Annotated[str, Field(max_length=998), AfterValidator(_line)]
ProviderMessageId = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_text)]
Timestamp = Annotated[
    datetime,
    BeforeValidator(_iso_8601, json_schema_input_type=str),
    AfterValidator(_utc),
    Field(description="ISO 8601. Any offset is converted to UTC; without one it is read as UTC."),
]
_ReceivedTimestamp = Annotated[Timestamp, BeforeValidator(_any_second_of_a_day, json_schema_input_type=str)]
_Url = Annotated[str, Field(max_length=2048), AfterValidator(_text), AfterValidator(_http_url)]
_Reference = Annotated[str, Field(max_length=2048), AfterValidator(_text), AfterValidator(_media_reference)]
_Urls = Annotated[
    list[_Url], Field(max_length=10), BeforeValidator(_list_or_null, json_schema_input_type=list[_Url] | None)
]
_References = Annotated[
    list[_Reference],
    Field(max_length=10),
    BeforeValidator(_list_or_null, json_schema_input_type=list[_Reference] | None),
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
        """The same for requests that mean the same, however their JSON is written."""
        return hashlib.sha256(self.model_dump_json(warnings=False).encode()).hexdigest()


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
    body: Words = Field(max_length=1600)

    def new_message(self, idempotency_key: str | None = None) -> NewMessage:
        return NewMessage(
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

    def new_message(self, idempotency_key: str | None = None) -> NewMessage:
        return NewMessage(
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

    def new_message(self) -> NewMessage:
        return NewMessage(
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
    subject: Subject | None = None

    def new_message(self) -> NewMessage:
        return NewMessage(
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


class FieldProblem(BaseModel):
    location: str = Field(examples=["body.from"])
    message: str = Field(examples=["an address can't be empty"])


class Problem(BaseModel):
    """RFC 9457, `application/problem+json`."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = Field(None, description="One entry per field of a malformed request.")
