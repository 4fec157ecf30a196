"""What comes with time: messages that expire, idempotency keys that are forgotten, tables that outgrow what
PostgreSQL knows of them."""

from sqlalchemy import ARRAY, Float, Text, bindparam, func, null, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain import MessageStatus
from app.guard import ALL_TENANTS
from app.models import Base, Message
from app.services.message_events import note
from app.services.statements import CHANNEL, SECOND, TENANT

_overdue = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.channel == CHANNEL,
        Message.due_at.is_not(None),
        Message.expires_at <= func.now(),
        Message.status.in_([MessageStatus.QUEUED.value, MessageStatus.SCHEDULED.value]),
    )
    .order_by(Message.id)
    .limit(500)
    .with_for_update(skip_locked=True, key_share=True)
    .cte("overdue")
)
_EXPIRE = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _overdue.c.id)
    .values(status=MessageStatus.EXPIRED.value, due_at=null())
    .returning(Message.id)
)


async def expire_overdue(connection: AsyncConnection, tenant_id: int, channel: str) -> int:
    """End messages whose `expires_at` came before they left; returns how many."""
    ids = (await connection.execute(_EXPIRE, {"tenant": tenant_id, "on_channel": channel})).scalars().all()
    if ids:
        await note(connection, tenant_id, MessageStatus.EXPIRED, ids)
    return len(ids)


_KEYS_AT_ONCE = 1000
_forgotten = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.idempotency_key.is_not(None),
        Message.created_at < func.now() - bindparam("age", type_=Float()) * SECOND,
    )
    .limit(_KEYS_AT_ONCE)
    .with_for_update(skip_locked=True, key_share=True)
    .cte("forgotten")
)
_FORGET_KEYS = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _forgotten.c.id)
    .values(idempotency_key=null(), request_fingerprint=null())
    .returning(Message.id)
)


async def forget_idempotency_keys(engine: AsyncEngine, tenant_id: int, age_seconds: float) -> int:
    """Free the keys that are older than that, a thousand in a transaction; returns how many."""
    freed = 0
    while True:
        async with engine.begin() as connection:
            found = (await connection.execute(_FORGET_KEYS, {"tenant": tenant_id, "age": age_seconds})).all()
        freed += len(found)
        if len(found) < _KEYS_AT_ONCE:
            return freed


#: Tables that are twice the size that their last ANALYZE saw: large enough for plans to matter, and so small that
#: autovacuum may not have come by yet. Where they belong to somebody else it has to do, a minute later.
_OUTGROWN = text(
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname = ANY (:tables) AND pg_table_is_visible(oid)"
    " AND pg_relation_size(oid) BETWEEN 16 * 8192 AND 8192 * 8192"
    " AND pg_relation_size(oid) >= 2 * relpages::bigint * current_setting('block_size')::int"
    " AND pg_has_role(relowner, 'USAGE')"
).bindparams(bindparam("tables", type_=ARRAY(Text())))


async def learn_sizes(engine: AsyncEngine) -> list[str]:
    """Have PostgreSQL look again at young tables that have doubled; returns which.

    A plan that was made for an empty table reads the whole of it for as long as it is kept, and that is until the
    next ANALYZE: what a new installation takes in its first minute would make each batch slower than the one before.
    """
    async with engine.begin() as connection:
        found = await connection.execute(_OUTGROWN, {"tables": list(Base.metadata.tables)})
        names = list(found.scalars())
        if names:
            # A tenth of the usual sample: soon autovacuum takes its own.
            await connection.exec_driver_sql("SET LOCAL default_statistics_target = 10")
            tables = ", ".join(names)
            await connection.exec_driver_sql(
                f"ANALYZE (SKIP_LOCKED) {tables}", execution_options={ALL_TENANTS: "sizes are nobody's secret"}
            )
    return names
