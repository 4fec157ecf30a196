"""Base models of vendors: their settings, the documents that they write, and the ids and times in these."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_settings import BaseSettings

from app.domain import is_possible_date
from app.providers.toolbox.json_documents import read_json
from app.secret_files import SecretsInFiles
from app.signing_keys import secrets_of

#: As a Unix time in seconds, the year 5138. A larger number has smaller units.
_LATEST_SECONDS, _LATEST_NANOSECONDS = 1e11, 1e20
_LONGEST_TIME = 64
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,12})?", re.ASCII)
#: ` +0000`, ` UTC` and ` +0000 UTC` after a time: the space, and the name of the zone.
_ZONE = re.compile(r"(?<=[0-9]) ([+-][0-9]{2}:?[0-9]{2})?(?: ?(?:UTC|GMT|Z))?$")


class VendorSettings(
    SecretsInFiles, BaseSettings, env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
):
    """A vendor's settings, from the environment and `.env`: each by the prefix of its class and its name.

    `class TwilioSettings(HttpVendorSettings, env_prefix="TWILIO_")` reads `api_key` from TWILIO_API_KEY.
    """


def _secrets(setting: SecretStr) -> SecretStr:
    secrets_of(setting.get_secret_value())
    return setting


def _public_keys(setting: str) -> str:
    secrets_of(setting)
    return setting


#: A secret that may be two during a rotation, separated by a comma; one with a space in it is refused.
RotatingSecret = Annotated[SecretStr, AfterValidator(_secrets)]
RotatingPublicKey = Annotated[str, AfterValidator(_public_keys)]


class HttpVendorSettings(VendorSettings):
    """The settings of a vendor with an HTTP API."""

    #: The wait for the next piece of an answer.
    timeout_seconds: float = Field(10, gt=0)


class VendorModel(BaseModel, hide_input_in_errors=True):
    """A part of a vendor's document, read leniently.

    A value of another type is converted where that is possible: a number becomes text, and one value a list of it.
    Otherwise an optional field has its default, and a list loses the entries that can't be read. Only a required
    field raises. Errors do not quote the document, which may hold a message or a secret.
    """

    @classmethod
    def from_json(cls, content: bytes | str) -> Self:
        """Read a JSON document as `read_json` does. Raises `ValueError`."""
        return cls.model_validate(read_json(content))

    @field_validator("*", mode="wrap")
    @classmethod
    def _read_leniently(cls, value: object, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        try:
            return read(value)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            for other in _other_readings(value, {each["loc"][0] for each in errors if each["loc"]}):
                try:
                    return read(other)
                except ValidationError:
                    continue
            field = cls.model_fields[str(info.field_name)]
            if field.is_required():
                raise
            return field.get_default(call_default_factory=True)


def _other_readings(value: Any, faulty: Collection[int | str]) -> Iterator[object]:
    """The forms that another writer would give a value; `faulty` are its indexes or names that can't be read."""
    match value:
        case bool():
            yield str(value).lower()
        case int() | float():
            yield text_of_number(value)
        case list():
            if kept := [each for _, each in _readable(enumerate(value), faulty)]:
                yield kept
            if len(value) == 1:
                yield value[0]
        case Mapping():
            yield dict(_readable(value.items(), faulty))
    if value is not None and not isinstance(value, list):
        yield [value]


def _readable(items: Iterable[tuple[Any, Any]], faulty: Collection[int | str]) -> Iterator[tuple[Any, Any]]:
    """The items without the faulty ones; a faulty number becomes text."""
    for at, each in items:
        if at not in faulty:
            yield at, each
        elif isinstance(each, int | float):
            yield at, text_of_number(each)


def text_of_number(number: float) -> str:
    """A number as its digits. Writers that know only floating point write an id or a phone number as `1.5e10`."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def moment_of(written: object) -> datetime | None:
    """The time that a vendor writes, in UTC; None for none, or one that can't be stored.

    A number is a Unix timestamp in seconds, milliseconds or smaller units, by its size. A text is such a number, or
    a time of ISO 8601 or RFC 5322. A time without an offset is in UTC.
    """
    try:
        time = _moment(written)
        aware = time if time is None or time.tzinfo else time.replace(tzinfo=UTC)
        return aware.astimezone(UTC) if aware is not None and is_possible_date(aware) else None
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _moment(written: object) -> datetime | None:
    match written:
        case datetime():
            return written
        case bool():
            return None
        case int() | float():
            seconds = float(written)
            while _LATEST_SECONDS < seconds < _LATEST_NANOSECONDS:
                seconds /= 1000
            return datetime.fromtimestamp(seconds, UTC)
        case str() if len(text := written.strip()) <= _LONGEST_TIME:
            if _NUMBER.fullmatch(text):
                return _moment(float(text))
            text = _ZONE.sub(r"\1", text)
            return datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
    return None


def _moment_or_error(written: object) -> datetime:
    if (moment := moment_of(written)) is None:
        raise ValueError("a time lies between the years 1970 and 2100, and is written as in ISO 8601")
    return moment


#: In characters.
LONGEST_ID = 512
#: A vendor's id of a message or an event.
VendorId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
#: The origin of an API, `https://api.acme.example`.
ApiUrl = Annotated[str, Field(pattern=r"^https?://[^/]+$")]
#: A time that is required, in UTC.
UtcTime = Annotated[AwareDatetime, BeforeValidator(_moment_or_error)]
#: The time of an event, which must not be lost over its date: None for one that can't be read or stored.
EventTime = Annotated[AwareDatetime | None, BeforeValidator(moment_of)]
