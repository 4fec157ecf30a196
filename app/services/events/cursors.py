"""Positions in the event log, and the opaque cursors that clients hold."""

import base64
import binascii
import zlib
from typing import NamedTuple

from app.errors import FieldError, InvalidRequest

_PREFIX = "evt_"
_CHECK_BYTES = 4
_LARGEST = 2**63 - 1


class Position(NamedTuple):
    """A place in a tenant's log, in the order of the log."""

    generation: int
    transaction_id: int
    id: int


#: The place before all entries.
BEGINNING = Position(0, 0, 0)


def before(position: Position) -> Position:
    """The position right before an entry."""
    return position._replace(id=position.id - 1)


def cursor_at(tenant_id: int, position: Position) -> str:
    """The cursor of a position; also the id of the entry there."""
    content = b"".join(_number(value) for value in (tenant_id, *position))
    return _PREFIX + base64.urlsafe_b64encode(content + _check(content)).decode().rstrip("=")


def position_of(tenant_id: int, cursor: str, *, location: str) -> Position:
    """The position of a cursor. Raises `InvalidRequest` with `location` for one that this tenant was not given."""
    try:
        owner, *position = _numbers(cursor)
        if owner != tenant_id or cursor != cursor_at(tenant_id, found := Position(*position)):
            raise ValueError
        return found
    except (ValueError, TypeError, binascii.Error):
        error = FieldError(location, "take it from `cursor` of an earlier page, or the `id` of an event")
        raise InvalidRequest("The cursor is not one that this log has given out.", errors=[error]) from None


def _number(value: int) -> bytes:
    """A number as its length, in one byte, and its bytes."""
    written = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(written)]) + written


def _numbers(cursor: str) -> list[int]:
    if not cursor.startswith(_PREFIX):
        raise ValueError
    written = cursor.removeprefix(_PREFIX).encode("ascii")
    content = base64.b64decode(written + b"=" * (-len(written) % 4), altchars=b"-_", validate=True)
    content = content[:-_CHECK_BYTES]
    values = []
    while content:
        size = content[0] + 1
        values.append(int.from_bytes(content[1:size], "big"))
        content = content[size:]
    if any(value > _LARGEST for value in values):
        raise ValueError
    return values


def _check(content: bytes) -> bytes:
    """Tells a cursor of ours from one that was mistyped or cut off; it is no secret."""
    return zlib.crc32(content).to_bytes(_CHECK_BYTES, "big")
