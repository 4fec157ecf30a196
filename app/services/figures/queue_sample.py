"""The depth and the age of the delivery queue, by channel."""

from collections import Counter, defaultdict
from collections.abc import Collection

from sqlalchemy import literal
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import func, select

from app.db.models import Message
from app.db.tenant_guard import ALL_TENANTS
from app.services.delivery.claiming.queues import Queues

#: Messages that are counted at most. That takes some tens of milliseconds.
MOST_COUNTED = 100_000

#: In the order of the index of due messages, by which alone they are read.
_due = (
    select(Message.channel)
    .where(Message.due_at.is_not(None), Message.due_at <= func.now())
    .order_by(Message.tenant_id, Message.channel, Message.priority, Message.due_at)
    .limit(literal(MOST_COUNTED))
    .subquery("due")
)
DEPTH = (
    select(_due.c.channel, func.count().label("messages"))
    .group_by(_due.c.channel)
    .execution_options(**{ALL_TENANTS: "the operator sees the queues of all tenants together"})
)


async def sample_queue(connection: AsyncConnection, channels: Collection[str]) -> dict[str, tuple[int, float]]:
    """By channel, the messages that are due, and the seconds for which the first of them has been."""
    ages: defaultdict[str, float] = defaultdict(float)
    for item in await Queues(ahead_seconds=0).look(connection, channels):
        ages[item.channel] = max(ages[item.channel], -item.wait_seconds)
    depth = Counter({row.channel: row.messages for row in await connection.execute(DEPTH)})
    return {channel: (depth[channel], ages[channel]) for channel in {*channels, *depth}}
