"""Query parameters in which a plus sign may stand as it is.

A query is read like a form, in which a plus sign is a space (WHATWG URL, `application/x-www-form-urlencoded`). The
plus of a time zone, of a phone number or of a mail address is therefore put back where a space can't be meant.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from app.schemas.fields import Timestamp

_TIME_WITHOUT_PLUS = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt ]\d\d:?\d\d(?::?\d\d(?:[.,]\d+)?)?) (\d\d(?::?\d\d)?)", re.ASCII
)
#: At the beginning, or after the kind of the address: `rcs:+1...`.
_NUMBER_WITHOUT_PLUS = re.compile(r"(^|:) (?=[0-9(])", re.ASCII)


def time_with_plus(written: object) -> object:
    """A time whose zone has its plus sign again; anything else as it is."""
    match = _TIME_WITHOUT_PLUS.fullmatch(written) if isinstance(written, str) else None
    return written if match is None else f"{match[1]}+{match[2]}"


def address_with_plus(written: str) -> str:
    """A phone number with its plus sign again, and a mail address with each of them."""
    if "@" in written and '"' not in written:
        return written.strip().replace(" ", "+")
    return _NUMBER_WITHOUT_PLUS.sub(r"\1+", written).strip()


QueryTime = Annotated[
    Timestamp,
    BeforeValidator(time_with_plus, json_schema_input_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
