"""Trimming the event log: its oldest entries are removed in order, and a cursor from before them gets 410."""

from typing import Any

from sqlalchemy import BigInteger, Float, Integer, bindparam, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.connectivity.event_generation import OLDEST_RUNNING
from app.db.models import Event, EventLog, Tenant
from app.db.statements.batches import SECOND, TENANT
from app.services.events.reading import KEY, place, placed

#: Entries of one transaction: some tens of milliseconds, since a longer one would delay the readers of all logs.
BATCH = 2000
#: Of one log in one run, so that a long one does not hold up the others.
_BATCHES = 200

_TRIMMED_TO = (EventLog.trimmed_to_generation, EventLog.trimmed_to_transaction, EventLog.trimmed_to_id)
_is_old = Event.created_at < func.now() - bindparam("age", type_=Float()) * SECOND

_oldest = (
    select(_is_old.label("is_old"))
    .where(Event.tenant_id == EventLog.tenant_id, tuple_(*KEY) > tuple_(*_TRIMMED_TO))
    .order_by(*KEY)
    .limit(1)
    .correlate(EventLog)
    .lateral("oldest")
)
_TO_TRIM = (
    select(EventLog.tenant_id)
    .join(Tenant, Tenant.id == EventLog.tenant_id)
    .join(_oldest, _oldest.c.is_old)
    .where(EventLog.tenant_id == Tenant.id)
)
_STATE = select(EventLog.generation, *_TRIMMED_TO).where(EventLog.tenant_id == TENANT)


_AFTER, _UP_TO = place("after"), place("up_to")
#: Starts where the last batch ended, or every batch would pass over the dead rows of those before.
_follows = tuple_(*KEY) > tuple_(*_AFTER)
#: Where a transaction is still running, an entry may yet appear before the others.
_is_decided = tuple_(*KEY[:2]) < tuple_(bindparam("generation", type_=BigInteger()), OLDEST_RUNNING)
_first = (
    select(*KEY, _is_old.label("is_old"))
    .where(Event.tenant_id == TENANT, _follows, _is_decided)
    .order_by(*KEY)
    .limit(bindparam("limit", type_=Integer()))
    .subquery("first")
)
_in_order = [_first.c[column.key] for column in KEY]
#: Up to the first one that is not old, so that what is left begins at one place.
_over = select(*_in_order, func.bool_and(_first.c.is_old).over(order_by=_in_order).label("is_over")).subquery("over")
_positions = [_over.c[column.key] for column in KEY]
_END = select(*_positions).where(_over.c.is_over).order_by(*(column.desc() for column in _positions)).limit(1)
_NOTE = (
    update(EventLog)
    .where(EventLog.tenant_id == TENANT, tuple_(*_TRIMMED_TO) == tuple_(*_AFTER))
    .values({column.key: value for column, value in zip(_TRIMMED_TO, _UP_TO, strict=True)})
)
_REMOVE = delete(Event).where(Event.tenant_id == TENANT, _follows, tuple_(*KEY) <= tuple_(*_UP_TO))


async def trim_logs(engine: AsyncEngine, age_seconds: float) -> int:
    """Remove the entries of all logs that are older; returns how many. Some may be left for the next run."""
    async with engine.connect() as connection:
        tenants = (await connection.execute(_TO_TRIM, {"age": age_seconds})).scalars().all()
    removed = 0
    for tenant_id in tenants:
        for _ in range(_BATCHES):
            async with engine.begin() as connection:
                batch = await trim(connection, tenant_id, age_seconds)
            removed += batch
            if batch < BATCH:
                break
    return removed


async def trim(connection: AsyncConnection, tenant_id: int, age_seconds: float, *, limit: int = BATCH) -> int:
    """Remove the oldest entries of a log that are older and decided, and note the last one; returns how many.

    Of two that do so at once, one removes nothing.
    """
    parameters: dict[str, Any] = {"tenant": tenant_id}
    generation, *trimmed_to = (await connection.execute(_STATE, parameters)).one()
    parameters |= placed("after", trimmed_to)
    about = {"generation": generation, "age": age_seconds, "limit": limit}
    end = (await connection.execute(_END, parameters | about)).one_or_none()
    if end is None:
        return 0
    parameters |= placed("up_to", end)
    if not (await connection.execute(_NOTE, parameters)).rowcount:
        return 0
    return (await connection.execute(_REMOVE, parameters)).rowcount
