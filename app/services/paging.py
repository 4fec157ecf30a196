"""Pages by key: a cursor names the last row that was seen, so a page costs the same wherever it lies."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import FieldError, InvalidRequest

Row = TypeVar("Row")
_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows in the order of the list, and the cursors of the pages around them, where there are any."""

    rows: Sequence[Row]
    next: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class _Cursor:
    moment: datetime
    id: int
    backwards: bool

    def __str__(self) -> str:
        key = [self.moment.isoformat(), self.id, int(self.backwards)]
        return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, written: str) -> "_Cursor":
        try:
            padded = written.encode("ascii") + b"=" * (-len(written) % 4)
            moment, id, backwards = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            cursor = cls(datetime.fromisoformat(moment), id, bool(backwards))
            usable = type(id) is int and 0 < id <= _LARGEST_ID and cursor.moment.tzinfo == UTC
        except (ValueError, TypeError, RecursionError, binascii.Error):
            usable = False
        if not usable:
            error = FieldError("query.cursor", "take the cursor from the Link header of an earlier page")
            raise InvalidRequest("The cursor is not one that this service has given out.", errors=[error])
        return cursor


async def fetch_page(
    session: AsyncSession,
    statement: Select[Row],
    *,
    moment: InstrumentedAttribute[datetime],
    id: InstrumentedAttribute[int],
    newest_first: bool,
    limit: int,
    cursor: str | None,
) -> Page[Row]:
    """One page of `statement`, ordered by (`moment`, `id`). Raises `InvalidRequest` for a made-up cursor."""
    start = _Cursor.parse(cursor) if cursor is not None else None
    backwards = start is not None and start.backwards
    descending = newest_first != backwards
    key = tuple_(moment, id)
    if start is not None:
        edge: Any = tuple_(start.moment, start.id)
        statement = statement.where(key < edge if descending else key > edge)
    statement = statement.order_by(*(each.desc() if descending else each.asc() for each in (moment, id)))
    found: list[Row] = list((await session.scalars(statement.limit(limit + 1))).all())
    more = len(found) > limit
    rows = found[:limit]
    if backwards:
        rows.reverse()
    if not rows:
        return Page([], None, None)
    last, first = (
        str(_Cursor(getattr(row, moment.key), getattr(row, id.key), back))
        for row, back in ((rows[-1], False), (rows[0], True))
    )
    return Page(
        rows,
        next=last if more or backwards else None,
        previous=first if (more if backwards else start is not None) else None,
    )
