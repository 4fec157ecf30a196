"""Reading the event log in order, without missing an entry.

A transaction that began earlier can commit later, and its entries then come before those that a reader has seen. So a
reader gets only entries of transactions below the oldest one that is still running (`pg_snapshot_xmin`). Everything
there is decided, and nothing can appear behind a cursor any more. A transaction that stays open delays readers.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Integer,
    Row,
    Select,
    SQLColumnExpression,
    Text,
    and_,
    any_,
    bindparam,
    exists,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import LateralFromClause

from app.db.connectivity.event_generation import OLDEST_RUNNING
from app.db.models import Event, EventLog, Tenant
from app.db.statements.batches import TENANT, given, rows, same
from app.errors import EventsGone, FieldError, InvalidRequest
from app.services.events.cursors import BEGINNING, Position, cursor_at

#: Entries that one page looks through at most, so that a rare type or conversation costs no more than others.
_MOST_SCANNED = 2000


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a tenant's log. A later version of the service may have written a `type` that is unknown here."""

    tenant_id: int
    position: Position
    type: str
    message_id: int | None
    conversation_id: int | None
    contact_id: int | None
    facts: dict[str, Any]
    created_at: datetime

    @property
    def id(self) -> str:
        return cursor_at(self.tenant_id, self.position)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The entries that a reader wants; None stands for all."""

    types: Collection[str] | None = None
    conversation_id: int | None = None

    def wants(self, entry: Entry) -> bool:
        is_type = self.types is None or entry.type in self.types
        return is_type and self.conversation_id in (None, entry.conversation_id)


EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class EventPage:
    """Entries in order, and the position up to which the log is read with them."""

    entries: list[Entry]
    position: Position
    more: bool  #: there may be more to read at once


class Start(Enum):
    """A place to start reading at, in place of a position."""

    OLDEST = "the first entry that the log still has"
    NOW = "the first entry from now on"


class LogState(NamedTuple):
    """A log at a moment. Entries below the generation and the transaction are decided; none can appear there."""

    generation: int
    bound: int  #: a transaction id
    trimmed_to: Position
    head: Position  #: the newest entry, which may not be decided yet

    @property
    def decided(self) -> Position:
        """The position that a reader has who has seen everything up to now."""
        return min(self.head, Position(self.generation, self.bound, 0))

    def position_at(self, place: Position | Start) -> Position:
        """The position that a reader starts after."""
        if isinstance(place, Position):
            return place
        return self.decided if place is Start.NOW else self.trimmed_to


#: The order of a log.
KEY = (Event.generation, Event.transaction_id, Event.id)


def newest_of(tenant_id: SQLColumnExpression[int]) -> LateralFromClause:
    """The place of the newest entry in the log of a tenant, or of each one in `event_logs`, to be joined."""
    newest = select(*KEY).where(Event.tenant_id == tenant_id).order_by(*(column.desc() for column in KEY)).limit(1)
    return newest.correlate(EventLog).lateral("newest")


def place(name: str, size: int = len(KEY)) -> list[BindParameter[int]]:
    """The parameters for a place in a log, or for the beginning of one; `placed` gives their values."""
    return [bindparam(f"{name}_{number}", type_=BigInteger()) for number in range(size)]


def placed(name: str, values: Iterable[int]) -> dict[str, int]:
    """The values of the parameters of `place`."""
    return {f"{name}_{number}": value for number, value in enumerate(values)}


def _state_of(tenant_id: SQLColumnExpression[int]) -> Select[Any]:
    newest = newest_of(tenant_id)
    return select(
        EventLog.tenant_id,
        EventLog.generation,
        OLDEST_RUNNING.label("bound"),
        EventLog.trimmed_to_generation,
        EventLog.trimmed_to_transaction,
        EventLog.trimmed_to_id,
        *newest.c,
    ).select_from(EventLog.__table__.outerjoin(newest, and_(True)))


_STATE = _state_of(TENANT).where(EventLog.tenant_id == TENANT)
_TENANTS = bindparam("tenants", type_=ARRAY(BigInteger()))
_STATES = _state_of(EventLog.tenant_id).where(EventLog.tenant_id == Tenant.id, Tenant.id == any_(_TENANTS))


async def log_state(connection: AsyncConnection, tenant_id: int) -> LogState:
    """The state of a tenant's log now."""
    row = (await connection.execute(_STATE, {"tenant": tenant_id})).one_or_none()
    # A tenant that is being created has no log yet.
    return LogState(0, 0, BEGINNING, BEGINNING) if row is None else _state(row)


async def log_states(connection: AsyncConnection, tenant_ids: Collection[int]) -> dict[int, LogState]:
    """The states of several tenants' logs now, by tenant."""
    rows = await connection.execute(_STATES, {"tenants": list(tenant_ids)})
    return {row.tenant_id: _state(row) for row in rows}


def _state(row: Row[Any]) -> LogState:
    _, generation, bound, *positions = tuple(row)
    trimmed_to, head = Position(*positions[:3]), BEGINNING if positions[3] is None else Position(*positions[3:])
    return LogState(generation, bound, trimmed_to, max(trimmed_to, head))


_TYPES = bindparam("types", type_=ARRAY(Text()))
_CONVERSATION = bindparam("conversation", type_=BigInteger())
_AFTER = place("after")


#: The log may have been trimmed since its state was taken; the next page says so.
_is_not_trimmed = (
    exists()
    .where(EventLog.tenant_id == TENANT)
    .where(
        tuple_(EventLog.trimmed_to_generation, EventLog.trimmed_to_transaction, EventLog.trimmed_to_id)
        <= tuple_(*_AFTER)
    )
)
#: The next entries that are decided.
_scanned = (
    select(
        *KEY,
        Event.type,
        Event.message_id,
        Event.conversation_id,
        Event.contact_id,
        Event.facts,
        Event.created_at,
        func.row_number().over(order_by=KEY).label("number"),
    )
    .where(
        Event.tenant_id == TENANT,
        tuple_(*KEY) > tuple_(*_AFTER),
        tuple_(*KEY[:2]) < tuple_(*place("bound", 2)),
        _is_not_trimmed,
    )
    .order_by(*KEY)
    .limit(bindparam("scan", type_=Integer()))
    .cte("scanned")
)
_is_wanted = and_(
    or_(_TYPES.is_(None), _scanned.c.type == any_(_TYPES)),
    or_(_CONVERSATION.is_(None), _scanned.c.conversation_id == _CONVERSATION),
)
_is_last = _scanned.c.number == select(func.max(_scanned.c.number)).scalar_subquery()
#: Those that are wanted, and the last one, which tells how far the log is read.
_PAGE = select(_scanned, _is_wanted.label("is_wanted")).where(or_(_is_wanted, _is_last)).order_by(_scanned.c.number)


async def read_page(
    connection: AsyncConnection,
    tenant_id: int,
    after: Position,
    state: LogState,
    *,
    wanted: EventFilter = EVERYTHING,
    limit: int,
) -> EventPage:
    """The next entries after a position, as of a `state` that was taken before.

    One page looks through a bounded part of the log. So it can be empty though `more` is true.

    Raises:
        EventsGone: Entries after the position have been removed.
        InvalidRequest: The position is of a generation that the log does not have yet.
    """
    must_be_readable(tenant_id, after, state)
    if after >= state.decided:
        return EventPage([], after, more=False)
    scan = limit if wanted == EVERYTHING else max(limit, _MOST_SCANNED)
    parameters = {
        "tenant": tenant_id,
        "scan": scan,
        "types": None if wanted.types is None else list(wanted.types),
        "conversation": wanted.conversation_id,
        **placed("after", after),
        **placed("bound", (state.generation, state.bound)),
    }
    rows = (await connection.execute(_PAGE, parameters)).all()
    if not rows:
        return EventPage([], after, more=False)
    chosen = [row for row in rows if row.is_wanted]
    if len(chosen) > limit:
        entries = [_entry(tenant_id, row) for row in chosen[:limit]]
        return EventPage(entries, entries[-1].position, more=True)
    entries = [_entry(tenant_id, row) for row in chosen]
    return EventPage(entries, Position(*rows[-1][:3]), more=rows[-1].number == scan)


_places = rows(generation=BigInteger(), transaction_id=BigInteger(), id=BigInteger())
_AT = select(Event.__table__).where(same(Event, _places, "generation", "transaction_id", "id"))


async def read_entries(
    connection: AsyncConnection, tenant_id: int, positions: Iterable[Position]
) -> dict[Position, Entry]:
    """The entries at these positions, without those that have been removed."""
    values = given(tenant_id, ("generation", "transaction_id", "id"), positions)
    found = [_entry(tenant_id, row) for row in await connection.execute(_AT, values)]
    return {entry.position: entry for entry in found}


def must_be_readable(tenant_id: int, after: Position, state: LogState, *, location: str = "query.after") -> None:
    """Raises what `read_page` raises, with the `location` of the cursor in the request."""
    if after < state.trimmed_to:
        raise EventsGone(cursor_at(tenant_id, state.trimmed_to))
    if after.generation > state.generation:
        error = FieldError(location, "take it from `cursor` of an earlier page, or the `id` of an event")
        raise InvalidRequest("The cursor is not one that this log has given out.", errors=[error])


def _entry(tenant_id: int, row: Row[Any]) -> Entry:
    return Entry(
        tenant_id,
        Position(row.generation, row.transaction_id, row.id),
        row.type,
        row.message_id,
        row.conversation_id,
        row.contact_id,
        row.facts or {},
        row.created_at,
    )
