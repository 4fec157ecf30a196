"""The generation of the event logs, which keeps their order over restores and failovers.

The key of an entry starts with a generation and the id of its transaction. Transaction ids go back when a server is
restored, or promoted without the last of the WAL. So the generation rises with each start of a server, before
anything is written there: on each new connection of the pool. A pooler can hide a start. Then entries of the earlier
generation are refused, and the pool replaces its connections: the first new one raises the generation.
"""

import time

import asyncpg
from sqlalchemy import BigInteger, ColumnElement, ExceptionContext, Text, case, cast, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.batches import TENANT
from app.db.models import Event, EventLog

_IS_STALE = "SELECT 1 FROM event_logs WHERE server_started_at IS DISTINCT FROM pg_postmaster_start_time() LIMIT 1"
_MISSES_A_TENANT = "SELECT 1 FROM tenants WHERE id NOT IN (SELECT tenant_id FROM event_logs) LIMIT 1"
_ADD_MISSING = "INSERT INTO event_logs (tenant_id) SELECT id FROM tenants ON CONFLICT DO NOTHING"
#: By the clock, so that a restored backup gets a generation that no cursor has seen yet.
_RAISE = """
UPDATE event_logs SET generation = greatest(generation + 1, $1), server_started_at = pg_postmaster_start_time()
WHERE server_started_at IS DISTINCT FROM pg_postmaster_start_time()
"""

_started_for = select(
    case((EventLog.server_started_at == func.pg_postmaster_start_time(), EventLog.generation))
).where(EventLog.tenant_id == TENANT)
#: The generation of new entries; null, which the table refuses, if it has not been raised for this server yet.
CURRENT_GENERATION: ColumnElement[int] = _started_for.scalar_subquery()
#: The id of the transaction that executes the statement, also within a savepoint.
CURRENT_TRANSACTION: ColumnElement[int] = select(
    cast(cast(func.pg_current_xact_id(), Text()), BigInteger())
).scalar_subquery()
#: The id of the oldest transaction that is running and may have written. What older ones wrote is decided.
OLDEST_RUNNING: ColumnElement[int] = select(
    cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text()), BigInteger())
).scalar_subquery()


async def raise_generation(connection: asyncpg.Connection) -> None:
    """Raise the generation of all logs if the server has started since; add the logs of new tenants.

    A server that is read-only, or has no such tables, is left as it is: nothing is written there.
    """
    try:
        is_current = await connection.fetchval(_IS_STALE) is None
        if is_current and await connection.fetchval(_MISSES_A_TENANT) is None:
            return
        await connection.execute(_ADD_MISSING)
        await connection.execute(_RAISE, int(time.time()))
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.UndefinedTableError):
        pass


def give_up_stale_connections(engine: AsyncEngine) -> None:
    """Have all connections replaced when an entry is refused, because the generation has to be raised first."""
    event.listen(engine.sync_engine, "handle_error", _give_up_if_stale)


def _give_up_if_stale(context: ExceptionContext) -> None:
    cause = context.original_exception.__cause__
    if (
        isinstance(cause, asyncpg.NotNullViolationError)
        and cause.table_name == Event.__tablename__
        and cause.column_name == Event.generation.key
    ):
        context.is_disconnect = True
