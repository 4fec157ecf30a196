"""Base models of vendors: their settings, the documents that they write, and the ids and times in these."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field
from pydantic_settings import BaseSettings

from app.domain import is_possible_date


class VendorSettings(BaseSettings, env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True):
    """A vendor's settings, from the environment and `.env`: each by the prefix of its class and its name.

    `class TwilioSettings(HttpVendorSettings, env_prefix="TWILIO_")` reads `api_key` from TWILIO_API_KEY.
    """


class HttpVendorSettings(VendorSettings):
    """The settings of a vendor with an HTTP API."""

    #: The wait for the next piece of an answer.
    timeout_seconds: float = Field(10, gt=0)


class VendorModel(BaseModel, hide_input_in_errors=True):
    """A part of a vendor's document. Its errors do not quote the document, which may hold a message or a secret."""


def _in_utc(time: datetime) -> datetime:
    if not is_possible_date(time):
        raise ValueError("a time lies between the years 1970 and 2100")
    return time.astimezone(UTC)


def _in_utc_if_possible(time: datetime | None) -> datetime | None:
    return time.astimezone(UTC) if time is not None and is_possible_date(time) else None


def moment_of(seconds: float) -> datetime | None:
    """The time of a Unix timestamp, in UTC; None for a date that can't be stored."""
    try:
        return _in_utc_if_possible(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return None


#: In characters.
LONGEST_ID = 512
#: A vendor's id of a message or an event.
VendorId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
#: The origin of an API, `https://api.acme.example`.
ApiUrl = Annotated[str, Field(pattern=r"^https?://[^/]+$")]
#: A time with its offset, in UTC.
UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]
#: The same for an event, which must not be lost over its date: None for a date that can't be stored.
EventTime = Annotated[AwareDatetime | None, AfterValidator(_in_utc_if_possible)]
