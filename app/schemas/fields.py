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
from pydantic.config import JsonDict

from app.addresses import (
    InvalidAddress,
    channel_address,
    channel_recipient,
    email_address,
    group_address,
    mail_recipient,
    mail_sender,
    phone_address,
    text_recipient,
    text_sender,
)
from app.config import Settings
from app.details import LONGEST_NAME
from app.domain import Address, is_possible_date
from app.files import file_id_in

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


def _sent_attachment(value: str) -> str:
    """A URL, or the path of a file that was uploaded here."""
    return value if file_id_in(value) is not None else _http_url(value)


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
    named = {"name": address.name} if address.name else {}
    return {"type": address.type, "value": address.spelling, "written": address.written, **named}


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
_MAILBOX = "An email address, also as `Jane Doe <jane@example.com>`."
EmailAddress = Annotated[
    _Address,
    _read(lambda value, info: mail_sender(value)),
    _shown(_MAILBOX, "user@example.com", format="mailbox"),
]
EmailRecipient = Annotated[
    _Address,
    _read(lambda value, info: mail_recipient(value)),
    _shown(_MAILBOX, "contact@example.com", format="mailbox"),
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
SHOWN_TEXT: JsonDict = {"pattern": r"^[^\x00]*$"}
SHOWN_LINE: JsonDict = {"pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"}
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
_Attachment = Annotated[
    str,
    Field(max_length=2048, json_schema_extra={"format": "attachment"}),
    AfterValidator(without_nul),
    AfterValidator(_sent_attachment),
]
_UriReference = Annotated[str, Field(max_length=2048, json_schema_extra={"format": "uri-reference"})]
_Reference = Annotated[
    _UriReference,
    BeforeValidator(_received_reference, json_schema_input_type=_UriReference),
    AfterValidator(_media_reference),
]
_MostReferences = Annotated[list[_Reference], Field(max_length=10)]
Attachments = Annotated[
    list[_Attachment],
    BeforeValidator(_sent_list_or_null, json_schema_input_type=list[_Attachment] | None),
]
References = Annotated[_MostReferences, BeforeValidator(_list_or_null, json_schema_input_type=_MostReferences | None)]
ReceivedWords = Annotated[str, BeforeValidator(_received_text, json_schema_input_type=str | None)]

_MOST_PAIRS, _LONGEST_VALUE = 20, 500
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def _usable_pairs(pairs: dict[str, Any]) -> dict[str, Any]:
    """Pairs in the order of their keys, so that equal ones have one fingerprint."""
    if len(pairs) > _MOST_PAIRS:
        raise ValueError(f"there are at most {_MOST_PAIRS} pairs")
    for key, value in pairs.items():
        if not _KEY.fullmatch(key):
            raise ValueError("a key has 1 to 40 letters and digits of ASCII, and `_`, `.` and `-`")
        if value is not None and len(value) > _LONGEST_VALUE:
            raise ValueError(f"a value has at most {_LONGEST_VALUE} characters")
        without_nul(value or "")
    return dict(sorted(pairs.items()))


def _pairs_or_null(value: object) -> object:
    return {} if value is None else value


_SHOWN_VALUE: JsonDict = {"type": "string", "maxLength": _LONGEST_VALUE, **SHOWN_TEXT}
_SHOWN_PAIRS: JsonDict = {
    "type": "object",
    "maxProperties": _MOST_PAIRS,
    "propertyNames": {"pattern": f"^{_KEY.pattern}$"},
}


def _shown_pairs(value: JsonDict) -> WithJsonSchema:
    """The schema of pairs of such values. Null is the same as none."""
    pairs: JsonDict = {**_SHOWN_PAIRS, "additionalProperties": value}
    return WithJsonSchema({"anyOf": [pairs, {"type": "null"}], "examples": [{"order": "17"}]})


#: Pairs of a client's own, by which it finds things again.
Metadata = Annotated[
    dict[str, str],
    BeforeValidator(_pairs_or_null),
    AfterValidator(_usable_pairs),
    _shown_pairs(_SHOWN_VALUE),
]
#: Changes of such pairs; null removes one.
MetadataChange = Annotated[
    dict[str, str | None],
    BeforeValidator(_pairs_or_null),
    AfterValidator(_usable_pairs),
    _shown_pairs({"anyOf": [_SHOWN_VALUE, {"type": "null"}]}),
]


def _name_of_person(name: str) -> str:
    if _CONTROL.search(name) or not (stripped := name.strip()):
        raise ValueError("a name is not blank, and has no line breaks or control characters")
    return stripped


PersonName = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_NAME, json_schema_extra={**SHOWN_LINE, "examples": ["Jane Doe"]}),
    AfterValidator(_name_of_person),
]

#: The most recipients of one mail, or of one request.
MOST_RECIPIENTS = 50


def _each_once(addresses: list[Address]) -> list[Address]:
    """The first of equal addresses. Raises `ValueError` if there are too many."""
    if len(addresses) > MOST_RECIPIENTS:
        raise ValueError(f"a mail has at most {MOST_RECIPIENTS} recipients")
    first: dict[str, Address] = {}
    for address in addresses:
        first.setdefault(address.value, address)
    return list(first.values())


def _listed(value: object) -> object:
    """A list also of one address, or of none."""
    return [] if value is None else [value] if isinstance(value, str) else value


_SHOWN_RECIPIENT: JsonDict = {
    "type": "string",
    "format": "mailbox",
    "description": _MAILBOX,
    "examples": ["contact@example.com"],
}
_SHOWN_RECIPIENTS: JsonDict = {"type": "array", "items": _SHOWN_RECIPIENT, "maxItems": MOST_RECIPIENTS}


def _one_or_several(value: object, info: ValidationInfo) -> Address | list[Address]:
    if not isinstance(value, list):
        return _recipient(value, info)
    if not 0 < len(value) <= MOST_RECIPIENTS:
        raise ValueError(f"name 1 to {MOST_RECIPIENTS} recipients")
    found = []
    for number, each in enumerate(value, start=1):
        try:
            found.append(_recipient(each, info))
        except ValueError as error:
            raise ValueError(f"recipient {number}: {error}") from None
    return _each_once(found)


def _recipient(value: object, info: ValidationInfo) -> Address:
    if not isinstance(value, str):
        raise ValueError("an address is a string")
    try:
        return mail_recipient(value)
    except InvalidAddress as error:
        raise ValueError(str(error)) from None


def _all_in_fingerprint(found: Address | list[Address]) -> object:
    return [_in_fingerprint(each) for each in found] if isinstance(found, list) else _in_fingerprint(found)


#: One recipient, or a list of several, each of whom gets a mail of their own.
EmailTo = Annotated[
    Address | list[Address],
    PlainSerializer(_all_in_fingerprint),
    PlainValidator(_one_or_several),
    WithJsonSchema({"anyOf": [_SHOWN_RECIPIENT, {**_SHOWN_RECIPIENTS, "minItems": 1}]}),
]
#: Recipients of copies; null for none.
EmailRecipients = Annotated[
    list[EmailRecipient],
    BeforeValidator(_list_or_null, json_schema_input_type=list[EmailRecipient] | None),
    AfterValidator(_each_once),
    WithJsonSchema({"anyOf": [_SHOWN_RECIPIENTS, {"type": "null"}]}),
]
#: One address or several; null for none.
EmailAddresses = Annotated[
    list[EmailAddress],
    BeforeValidator(_listed),
    AfterValidator(_each_once),
    WithJsonSchema({"anyOf": [_SHOWN_RECIPIENT, _SHOWN_RECIPIENTS, {"type": "null"}]}),
]

_MOST_HEADERS, _LONGEST_HEADER = 20, 500
_HEADER_NAME = re.compile(r"[Xx]-[A-Za-z0-9][A-Za-z0-9-]{0,59}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
#: Headers by which vendors take orders: other recipients, options, their own records.
_OF_VENDORS = re.compile(r"x-(?:smtpapi|sg-|mailgun-|pm-|ses-|msys-|mc-|mandrill-|postmark-|sendgrid-|amz).*")


def _usable_headers(headers: dict[str, str]) -> dict[str, str]:
    """Headers in the order of their names, so that equal ones have one fingerprint."""
    if len(headers) > _MOST_HEADERS:
        raise ValueError(f"a mail has at most {_MOST_HEADERS} headers of its own")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("a header stands here twice, in different cases")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("the name of a header begins with X- and has letters, digits and hyphens, at most 62")
        if _OF_VENDORS.fullmatch(name.lower()):
            raise ValueError(f"{name} is an order to a mail vendor, which only the service may give")
        if len(value) > _LONGEST_HEADER or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the value of a header is ASCII on one line, with 1 to {_LONGEST_HEADER} characters")
    return dict(sorted(headers.items()))


#: Further headers of a mail, `X-...` only.
MailHeaders = Annotated[
    dict[str, str],
    BeforeValidator(_pairs_or_null),
    AfterValidator(_usable_headers),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": _MOST_HEADERS,
            "propertyNames": {"pattern": f"^(?!{_OF_VENDORS.pattern}){_HEADER_NAME.pattern}$"},
            "additionalProperties": {
                "type": "string",
                "maxLength": _LONGEST_HEADER,
                "pattern": f"^{_HEADER_VALUE.pattern}$",
            },
            "examples": [{"X-Campaign": "spring"}],
        }
    ),
]
