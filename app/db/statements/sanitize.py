"""Make input storable in PostgreSQL: texts without NUL, documents without NaN, times of this age."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from app.domain import is_possible_date

Written = TypeVar("Written", str, str | None)

#: Characters that no text in PostgreSQL can hold: NUL, and halves of surrogate pairs.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable_text(written: Written) -> Written:
    """The text, with U+FFFD in place of each character that can't be stored."""
    return written if written is None else _UNSTORABLE.sub("\ufffd", written)


def storable_document(value: Any) -> Any:
    """A document that JSONB can hold; values that JSON does not know become texts. Raises `RecursionError`."""
    match value:
        case str():
            return storable_text(value)
        case Mapping():
            return {storable_text(str(name)): storable_document(inner) for name, inner in value.items()}
        case list() | tuple():
            return [storable_document(inner) for inner in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float():
            return value
    return storable_text(str(value))


def storable_moment(moment: datetime | None) -> datetime | None:
    """The time, or None for an impossible one, because a message must not be lost over its date."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware if is_possible_date(aware) else None
