"""The kinds of values that go over the wire: addresses, texts, times, references."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from app.addresses import (
    InvalidAddress,
    channel_address,
    channel_recipient,
    email_address,
    group_address,
    mail_recipient,
    phone_address,
    text_recipient,
    text_sender,
)
from app.config import Settings
from app.domain import Address, is_possible_date

_LOOKS_LIKE_A_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LEAP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]"
    r"(?P<hours>24|[01]\d|2[0-3]):(?P<minutes>[0-5]\d):(?P<seconds>60|[0-5]\d)(?P<zone>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("a text can't hold the character NUL")
    return value


def one_line(value: str) -> str:
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
    if moment is None or not is_possible_date(moment):
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
    """A URL, or a name without a scheme that a provider gives to media that it stores."""
    _plain_reference(value)
    return _http_url(value) if _SCHEME.match(value) else value


def _plain_reference(value: str) -> None:
    if not value or any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError("an attachment is a URL without spaces or control characters")


def _list_or_null(value: object) -> object:
    return [] if value is None else value


def reading_context(settings: Settings) -> dict[str, Any]:
    """The settings that validation of a body depends on. Without them no limit is applied."""
    return settings.model_dump(include={"default_region", "max_text_length", "max_subject_length", "max_attachments"})


def _sent_text(value: str, info: ValidationInfo) -> str:
    if info.context is not None and len(value) > info.context["max_text_length"]:
        raise ValueError(f"a text has at most {info.context['max_text_length']} characters")
    return without_nul(value)


def _sent_subject(value: str, info: ValidationInfo) -> str:
    if info.context is not None and len(value) > info.context["max_subject_length"]:
        raise ValueError(f"a subject has at most {info.context['max_subject_length']} characters")
    return one_line(value)


def _sent_list_or_null(value: object, info: ValidationInfo) -> object:
    if value is None:
        return []
    if info.context is not None and isinstance(value, list) and len(value) > info.context["max_attachments"]:
        raise ValueError(f"a message has at most {info.context['max_attachments']} attachments")
    return value


def number(value: object) -> object:
    """Refuse true and "5", which Pydantic reads as 1 and 5. A strict type would refuse 5.0, the same as 5 in JSON."""
    if isinstance(value, bool | str):
        raise ValueError("this is a number, without quotes")
    return value


def _received_text(value: object) -> object:
    """Null becomes an empty text; NUL, which PostgreSQL can't store, becomes the replacement character."""
    if value is None:
        return ""
    return value.replace("\x00", "\ufffd") if isinstance(value, str) else value


def _received_line(value: object) -> object:
    """A subject on one line. Line breaks become spaces, because the provider that hands it over can't fix them."""
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


def _in_fingerprint(address: Address) -> dict[str, str]:
    return {"type": address.type, "value": address.spelling, "written": address.written}


#: An address with the fields that a fingerprint of a request has always had, so that it outlives an upgrade.
_Address = Annotated[Address, PlainSerializer(_in_fingerprint)]


def _region(info: ValidationInfo) -> str:
    """The default region comes with the validation context; without one, numbers are read as American."""
    region: str = (info.context or {}).get("default_region", "US")
    return region


_PHONE = "A phone number, best with + and country code; without one it is read as of the default region."
SmsSender = Annotated[
    _Address,
    _read(lambda value, info: phone_address(value, region=_region(info), may_be_alphanumeric=True)),
    _shown(_PHONE + " A short code or an alphanumeric sender is legal too.", "+12016661234", format="phone"),
]


SmsRecipient = Annotated[
    _Address,
    _read(lambda value, info: group_address(value) or text_recipient(value, region=_region(info))),
    _shown(_PHONE + " A group is written as in its messages.", "+18045551234", format="phone"),
]
SmsParty = Annotated[
    _Address,
    _read(lambda value, info: text_sender(value, region=_region(info))),
    _shown(
        _PHONE + " A short code and a name are legal too.",
        "+18045551234",
        format="phone",
    ),
]
EmailAddress = Annotated[
    _Address,
    _read(lambda value, info: email_address(value)),
    _shown("An email address.", "user@example.com", format="idn-email"),
]
EmailRecipient = Annotated[
    _Address,
    _read(lambda value, info: mail_recipient(value)),
    _shown("An email address.", "contact@example.com", format="idn-email"),
]
EmailParty = Annotated[
    _Address,
    _read(lambda value, info: email_address(value, may_have_display_name=True)),
    _shown("An email address, with a display name or without.", "contact@example.com", format="mailbox"),
]


def _sender_on_a_channel(value: str, info: ValidationInfo) -> Address:
    """`channel`, and the `kind` of its addresses, come with the validation context too."""
    return channel_address(value, **_place(info), may_be_alphanumeric=True)


def _recipient_on_a_channel(value: str, info: ValidationInfo) -> Address:
    return channel_recipient(value, **_place(info))


def _place(info: ValidationInfo) -> dict[str, Any]:
    assert info.context is not None
    return {"channel": info.context["channel"], "kind": info.context["kind"], "region": _region(info)}


_END = "As the channel has them: a phone number, an email address, or `kind:value`."
ChannelSender = Annotated[
    _Address, _read(_sender_on_a_channel), _shown(_END, "slack:A024BE7LH", format="channel-address")
]
ChannelRecipient = Annotated[
    _Address, _read(_recipient_on_a_channel), _shown(_END, "slack:C024BE91L", format="channel-address")
]

# Patterns are only shown: the functions beside them are faster, and have sentences.
SHOWN_TEXT = {"pattern": r"^[^\x00]*$"}
SHOWN_LINE = {"pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"}
Words = Annotated[str, Field(json_schema_extra=SHOWN_TEXT), AfterValidator(without_nul)]
Text = Annotated[str, Field(json_schema_extra=SHOWN_TEXT), AfterValidator(_sent_text)]
Subject = Annotated[str, Field(json_schema_extra=SHOWN_LINE), AfterValidator(_sent_subject)]
_Subject = Annotated[str, Field(max_length=998)]
ReceivedSubject = Annotated[_Subject, BeforeValidator(_received_line, json_schema_input_type=_Subject)]
ProviderMessageId = Annotated[
    str, Field(min_length=1, max_length=512, json_schema_extra=SHOWN_TEXT), AfterValidator(without_nul)
]
#: The name of a mailing, such as `newsletter`.
Topic = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Timestamp = Annotated[
    datetime,
    BeforeValidator(_iso_8601, json_schema_input_type=str),
    AfterValidator(_utc),
    Field(
        description="ISO 8601, from 1970 to 2100. Any offset is converted to UTC; without one it is read as UTC.",
        json_schema_extra={"format": "date-time"},
    ),
]
ReceivedTimestamp = Annotated[
    Timestamp,
    BeforeValidator(_any_second_of_a_day, json_schema_input_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
_Url = Annotated[
    str,
    Field(max_length=2048, json_schema_extra={"format": "uri"}),
    AfterValidator(without_nul),
    AfterValidator(_http_url),
]
_UriReference = Annotated[str, Field(max_length=2048, json_schema_extra={"format": "uri-reference"})]
_Reference = Annotated[
    _UriReference,
    BeforeValidator(_received_reference, json_schema_input_type=_UriReference),
    AfterValidator(_media_reference),
]
_MostReferences = Annotated[list[_Reference], Field(max_length=10)]
Urls = Annotated[list[_Url], BeforeValidator(_sent_list_or_null, json_schema_input_type=list[_Url] | None)]
References = Annotated[_MostReferences, BeforeValidator(_list_or_null, json_schema_input_type=_MostReferences | None)]
ReceivedWords = Annotated[str, BeforeValidator(_received_text, json_schema_input_type=str | None)]
