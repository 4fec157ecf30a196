"""Keyset pagination: a cursor names the last row of a page, so that every page costs the same."""

import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import ColumnElement, Integer, Select, bindparam, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.db.statements.reads import Read, Reads
from app.errors import FieldError, InvalidRequest

Row = TypeVar("Row")
_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows in the order of the list, and the cursors of the next and the previous page, if any."""

    rows: Sequence[Row]
    next: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class _Cursor:
    key: list[datetime | int]
    backwards: bool

    def __str__(self) -> str:
        values = [value.isoformat() if isinstance(value, datetime) else value for value in self.key]
        content = json.dumps([*values, int(self.backwards)], separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, written: str, kinds: Sequence[type]) -> "_Cursor":
        try:
            padded = written.encode("ascii") + b"=" * (-len(written) % 4)
            *values, backwards = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            return cls([_read(value, kind) for value, kind in zip(values, kinds, strict=True)], bool(backwards))
        except (ValueError, TypeError, RecursionError, binascii.Error):
            error = FieldError("query.cursor", "take the cursor from the Link header of an earlier page")
            raise InvalidRequest("The cursor is not one that this service has given out.", errors=[error]) from None


def _read(value: Any, kind: type) -> datetime | int:
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo == UTC:
            return moment
    elif type(value) is int and 0 < value <= _LARGEST_ID:
        return value
    raise ValueError("not one of our cursors")


def cursor_at(id: int) -> str | None:
    """The cursor of a page that ends with a row and has those before it, in a list by id alone, the newest first.

    None for the first id, before which there is no row.
    """
    return str(_Cursor([id - 1], backwards=True)) if id > 1 else None


async def rows_of_all(page_at: Callable[[str | None], Awaitable[Page[Row]]]) -> AsyncIterator[Row]:
    """The rows of all pages, one page after another; `page_at` fetches the page at a cursor."""
    cursor: str | None = None
    while True:
        page = await page_at(cursor)
        for row in page.rows:
            yield row
        cursor = page.next
        if cursor is None:
            return


@dataclass(frozen=True, slots=True)
class Source:
    """A part of the rows of a list, with an index of its own.

    Of a list that is ordered by id alone, the index is on the negated id, or on the id in another table. PostgreSQL
    would take the primary key for the order of the id, and walk past millions of rows to a few rare ones.
    """

    id: ColumnElement[Any] | InstrumentedAttribute[Any] | None = None  #: None: ordered as the list is
    conditions: Sequence[ColumnElement[bool]] = ()
    is_plain: bool = False  #: `id` is not negated


class JsonPages:
    """Pages of a list whose rows are JSON made by PostgreSQL, each page read by one statement.

    The list is ordered by columns that are unique together: times, and an id at the end. `conditions` name its
    parameters. A list of `sources` has the rows of each, of which no row may be in two.
    """

    def __init__(
        self,
        row: ColumnElement[str],
        *conditions: ColumnElement[bool],
        order: Sequence[InstrumentedAttribute[Any]],
        newest_first: bool,
        sources: Sequence[Source] = (),
    ) -> None:
        self._kinds = [each.type.python_type for each in order]
        self._newest_first = newest_first
        self._reads: dict[tuple[bool, bool], Read] = {}  # by: with a start, descending
        self._statement = select(row.label("json"), *order).where(*conditions)
        self._sources = sources
        self._order = order

    async def fetch(
        self, reads: Reads, parameters: Mapping[str, Any], *, limit: int, cursor: str | None
    ) -> Page[str]:
        """The JSON of each row of a page. Raises `InvalidRequest` for an invalid cursor."""
        start = _Cursor.parse(cursor, self._kinds) if cursor is not None else None
        backwards = start is not None and start.backwards
        descending = self._newest_first != backwards
        key = (start is not None, descending)
        read = self._reads.get(key)
        if read is None:
            read = self._reads[key] = self._read(*key)
        places = {f"start_{number}": value for number, value in enumerate(start.key if start is not None else ())}
        found = list(await reads.fetch(read, {**parameters, **places, "most": limit + 1}))
        page = _page_of(found, start, limit=limit, key_of=lambda row: list(row[1 : read.width]))
        return Page([row[0] for row in page.rows], page.next, page.previous)

    def _read(self, has_start: bool, descending: bool) -> Read:
        start = [bindparam(f"start_{number}", type_=each.type) for number, each in enumerate(self._order)]
        most = bindparam("most", type_=Integer())
        if not self._sources:
            statement = _in_order(self._statement, self._order, start if has_start else None, descending=descending)
            return Read(statement.limit(most))
        parts = []
        for source in self._sources:
            part = self._statement.where(*source.conditions)
            if source.id is None:
                part = _in_order(part, self._order, start if has_start else None, descending=descending)
            else:
                after = [each if source.is_plain else -each for each in start] if has_start else None
                part = _in_order(part, [source.id], after, descending=descending == source.is_plain)
            parts.append(select(part.limit(most).subquery()))
        found = union_all(*parts).subquery()
        keys = [found.c[each.key] for each in self._order]
        return Read(_in_order(select(found), keys, None, descending=descending).limit(most))


async def fetch_page(
    session: AsyncSession,
    statement: Select[Row],
    *,
    order: Sequence[InstrumentedAttribute[Any]],
    newest_first: bool,
    limit: int,
    cursor: str | None,
) -> Page[Row]:
    """One page of `statement`, ordered by columns that are unique together: times, and an id at the end.

    Raises `InvalidRequest` for an invalid cursor.
    """
    start = _Cursor.parse(cursor, [each.type.python_type for each in order]) if cursor is not None else None
    backwards = start is not None and start.backwards
    descending = newest_first != backwards
    statement = _in_order(statement, order, None if start is None else start.key, descending=descending)
    found: list[Row] = list((await session.scalars(statement.limit(limit + 1))).all())
    return _page_of(found, start, limit=limit, key_of=lambda row: [getattr(row, each.key) for each in order])


def _in_order(
    statement: Select[Row],
    order: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]],
    start: Sequence[Any] | None,
    *,
    descending: bool,
) -> Select[Row]:
    """The rows after a start, in the direction that they are read in."""
    if start is not None:
        key, last_seen = tuple_(*order), cast(Any, tuple_(*start))
        statement = statement.where(key < last_seen if descending else key > last_seen)
    return statement.order_by(*(each.desc() if descending else each.asc() for each in order))


def _page_of(
    found: list[Row], start: _Cursor | None, *, limit: int, key_of: Callable[[Row], list[datetime | int]]
) -> Page[Row]:
    """The page of rows that were read from a start, of which there may be one more than `limit`."""
    backwards = start is not None and start.backwards
    more = len(found) > limit
    rows = found[:limit]
    if backwards:
        rows.reverse()
    if not rows:
        return Page([], None, None)
    last = _Cursor(key_of(rows[-1]), backwards=False)
    first = _Cursor(key_of(rows[0]), backwards=True)
    return Page(
        rows,
        next=str(last) if more or backwards else None,
        previous=str(first) if (more if backwards else start is not None) else None,
    )
