"""The order of the messages of a conversation, and what waits behind others."""

from datetime import timedelta

from sqlalchemy import BigInteger, ColumnElement, SQLColumnExpression
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlalchemy.sql import and_, bindparam, extract, func, or_, select

from app.batches import Priority
from app.db.models import Message
from app.db.statements.batches import AT_HELD, TENANT
from app.domain import MessageStatus

_earlier = aliased(Message, name="earlier")


def goes_before(tenant: SQLColumnExpression[int]) -> ColumnElement[bool]:
    """The SQL condition that the row `_earlier` has to leave before the row `Message`.

    In a conversation messages leave in the order in which they were accepted; a scheduled one counts once it is due.
    One of lower priority, and one that its paused batch holds, do not hold up others.
    """
    return and_(
        _earlier.tenant_id == tenant,
        _earlier.conversation_id == Message.conversation_id,
        _earlier.channel == Message.channel,
        _earlier.id < Message.id,
        _earlier.priority <= Message.priority,
        _earlier.due_at < AT_HELD,
        or_(_earlier.status != MessageStatus.SCHEDULED.value, _earlier.due_at <= func.now()),
    )


def is_next(tenant: SQLColumnExpression[int]) -> ColumnElement[bool]:
    return ~select(_earlier.id).where(goes_before(tenant)).exists()


_age = func.now() - Message.due_at
#: Over all tenants: how many messages should have left a minute ago, and for how many seconds the oldest due one
#: waits. Bulk messages, and those behind an earlier message of their conversation, are not counted.
QUEUE_AGE = select(
    func.count().filter(_age > timedelta(minutes=1)).label("overdue"),
    extract("epoch", func.max(_age)).label("oldest"),
).where(Message.due_at <= func.now(), Message.priority < Priority.BULK.value, is_next(Message.tenant_id))

_FIRST_BEFORE = (
    select(_earlier.id)
    .join(Message, goes_before(TENANT))
    .where(Message.tenant_id == TENANT, Message.id == bindparam("message", type_=BigInteger()))
    .order_by(_earlier.id)
    .limit(1)
)


async def first_before(connection: AsyncConnection, tenant_id: int, message_id: int) -> int | None:
    """The earliest message that has to leave before this one; None if it is next."""
    found = await connection.execute(_FIRST_BEFORE, {"tenant": tenant_id, "message": message_id})
    return found.scalar_one_or_none()
