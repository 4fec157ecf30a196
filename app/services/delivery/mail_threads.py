"""The earlier mails of an outgoing mail's conversation, by Message-ID, from which mail programs build threads.

Looked up after the claim and only for mail, so that other channels pay nothing for it.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.db.batches import TENANT, given, rows
from app.db.models import Message
from app.domain import Channel, Direction, MessageStatus, reference_of
from app.providers.mail.outbound import MOST_REFERENCES, message_id_of

_LEFT = [MessageStatus.SENT.value, MessageStatus.DELIVERED.value, MessageStatus.READ.value]
#: Without this limit, a mail dated into the future would be the latest of its conversation for years.
_AHEAD = timedelta(days=1)

_claimed = rows(message_id=BigInteger())
_mail = aliased(Message)
# Ordered by time and not by id, as the index on conversations is.
_before = (
    select(
        Message.id,
        Message.direction,
        Message.from_address,
        Message.provider_message_id,
        Message.created_at,
        Message.retry_count,
        Message.sent_at,
    )
    .where(
        Message.tenant_id == TENANT,
        Message.conversation_id == _mail.conversation_id,
        Message.channel == Channel.EMAIL.value,
        Message.id < _mail.id,
        Message.sent_at < Message.created_at + _AHEAD,
        or_(
            and_(Message.direction == Direction.INBOUND.value, Message.provider_message_id.startswith("<")),
            and_(Message.direction == Direction.OUTBOUND.value, Message.status.in_(_LEFT)),
        ),
    )
    .order_by(Message.sent_at.desc(), Message.id.desc())
    .limit(MOST_REFERENCES)
    .lateral("before")
)
_THREADS = (
    select(_claimed.c.message_id.label("following"), _before)
    .join(_mail, and_(_mail.tenant_id == TENANT, _mail.id == _claimed.c.message_id))
    .join(_before, _mail.id > _before.c.id)
    .order_by(_before.c.sent_at, _before.c.id)
)


async def threads_of(connection: AsyncConnection, tenant_id: int, message_ids: Sequence[int]) -> dict[int, list[str]]:
    """For each mail, the Message-IDs of the last ten before it in its conversation, oldest first.

    An inbound mail has the id that it came with, an outbound one the id that we gave it.
    """
    threads: defaultdict[int, list[str]] = defaultdict(list)
    parameters = given(tenant_id, ("message_id",), [(message_id,) for message_id in message_ids])
    for row in await connection.execute(_THREADS, parameters):
        if row.direction == Direction.INBOUND:
            threads[row.following].append(row.provider_message_id.partition(" ")[0])
        else:
            key = reference_of(tenant_id, row.id, row.created_at, row.retry_count)
            threads[row.following].append(message_id_of(key, row.from_address))
    return threads
