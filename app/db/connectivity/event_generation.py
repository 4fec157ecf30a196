"""The generation of the event logs, which keeps their order over restores and failovers.

The key of an entry starts with a generation and the id of its transaction. Transaction ids go back when a server is
restored, or promoted without the last of the WAL. So the generation rises with each start of a server, before
anything is written there: on each new connection of the pool. A pooler can hide a start. Then entries of the earlier
generation are refused, and the pool replaces its connections: the first new one raises the generation.
"""

import re
import time
from collections import defaultdict
from datetime import datetime

import asyncpg
from sqlalchemy import BigInteger, ColumnElement, ExceptionContext, Text, case, cast, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.models import Event, EventLog
from app.db.statements.batches import TENANT

#: A statement about a tenant asks the server that has its rows: in a distributed database they have several.
_STALE = """
SELECT tenant_id, pg_postmaster_start_time() AS started FROM event_logs
WHERE server_started_at IS DISTINCT FROM pg_postmaster_start_time()
"""
_MISSES_A_TENANT = "SELECT 1 FROM tenants WHERE id NOT IN (SELECT tenant_id FROM event_logs) LIMIT 1"
_ADD_MISSING = "INSERT INTO event_logs (tenant_id) SELECT id FROM tenants ON CONFLICT DO NOTHING"
#: By the clock, so that a restored backup gets a generation that no cursor has seen yet.
_RAISE = """
UPDATE event_logs SET generation = greatest(generation + 1, $1), server_started_at = $2
WHERE tenant_id = ANY ($3) AND server_started_at IS DISTINCT FROM $2
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
#: No subquery of its own: about several tenants, a distributed database would ask the coordinator.
OLDEST_RUNNING: ColumnElement[int] = cast(
    cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text()), BigInteger()
)


async def raise_generation(connection: asyncpg.Connection) -> None:
    """Raise the generation of all logs if the server has started since; add the logs of new tenants.

    A server that is read-only, or has no such tables, is left as it is: nothing is written there.
    """
    try:
        if await connection.fetchval(_MISSES_A_TENANT) is not None:
            await connection.execute(_ADD_MISSING)
        if await connection.fetchval(f"{_STALE} LIMIT 1") is None:
            return
        tenants: defaultdict[datetime, list[int]] = defaultdict(list)
        for tenant_id, started in await connection.fetch(_STALE):
            tenants[started].append(tenant_id)
        for started, of_server in tenants.items():
            await connection.execute(_RAISE, int(time.time()), started, of_server)
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.UndefinedTableError):
        pass
    except asyncpg.PostgresConnectionError:
        # A node of a cluster is away. When it is back, it refuses entries until a new connection raises their logs.
        if connection.is_closed():
            raise


def give_up_stale_connections(engine: AsyncEngine) -> None:
    """Have all connections replaced when an entry is refused, because the generation has to be raised first."""
    event.listen(engine.sync_engine, "handle_error", _give_up_if_stale)


def _give_up_if_stale(context: ExceptionContext) -> None:
    cause = context.original_exception.__cause__
    if isinstance(cause, asyncpg.NotNullViolationError):
        is_stale = (cause.table_name, cause.column_name) == _GENERATION or _is_on_another_node(cause)
    else:
        is_stale = isinstance(cause, asyncpg.InternalServerError) and _is_on_another_node(cause)
    if is_stale:
        context.is_disconnect = True


_GENERATION = Event.__tablename__, Event.generation.key
#: The error of another node of a distributed database names a part of the table, and says so only in words.
_NO_GENERATION = re.compile(r'null value in column "{1}" of relation "{0}_\d+"'.format(*_GENERATION))


def _is_on_another_node(error: asyncpg.PostgresError) -> bool:
    return _NO_GENERATION.match(str(error)) is not None
