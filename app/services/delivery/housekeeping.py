"""What comes with time: messages that expire, idempotency keys that are forgotten, tables that outgrow what
PostgreSQL knows of them."""

from sqlalchemy import Float, bindparam, func, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.batches import CHANNEL, SECOND, TENANT
from app.db.models import Message
from app.domain import MessageStatus
from app.services.delivery.message_events import note

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
