"""The pause of a conversation in which two programs answer each other, and its end.

It begins when a message is accepted (`app.services.accept.loops`), and ends by itself or by `resume`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from sqlalchemy import BigInteger, Integer, and_, bindparam, func, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.batches import HELD
from app.db.models import Conversation, Message
from app.db.statements.batches import AT_HELD, TENANT
from app.domain import EventType, MessageStatus
from app.services.event_log.entries import NewEvent, write_entries

#: Messages of one transaction: some tens of milliseconds.
_BATCH = 200

_CONVERSATION = bindparam("conversation", type_=BigInteger())
_is_paused = Conversation.paused_until > func.now()
_END = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _CONVERSATION, _is_paused)
    .values(paused_until=null(), answer_count=0, answers_since=null())
    .returning(Conversation.id)
)
_is_held = and_(
    Message.status.in_([MessageStatus.QUEUED.value, MessageStatus.SCHEDULED.value]),
    Message.attempt_count == 0,  # others wait for their next attempt
    Message.due_at > func.greatest(func.now(), Message.send_at),
    Message.due_at < AT_HELD,  # its batch is paused, too
)
_held = (
    select(Message.id)
    .where(Message.tenant_id == TENANT, Message.conversation_id == _CONVERSATION, _is_held)
    .order_by(Message.id)
    .limit(bindparam("limit", type_=Integer()))
    # A transaction that holds a conversation waits for no message.
    .with_for_update(skip_locked=True, key_share=True)
    .cte("held")
)
_RELEASE = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _held.c.id)
    .values(due_at=func.least(func.greatest(func.now(), Message.send_at), Message.expires_at))
)
_HELD_UNTIL = (
    select(Conversation.paused_until)
    .join(Message, and_(Message.tenant_id == TENANT, Message.conversation_id == Conversation.id, _is_held))
    .where(Conversation.tenant_id == TENANT, Message.id == bindparam("message", type_=BigInteger()), _is_paused)
)


async def resume(
    begin: Callable[[], AbstractAsyncContextManager[AsyncConnection]], tenant_id: int, conversation_id: int
) -> None:
    """End the pause of a conversation, and have the messages leave that it held. Scheduled ones keep their time.

    `begin` opens a transaction. One that is interrupted is completed by asking again.
    """
    parameters = {"tenant": tenant_id, "conversation": conversation_id}
    released = _BATCH
    while released == _BATCH:
        async with begin() as connection:
            if (await connection.execute(_END, parameters)).scalar() is not None:
                entry = NewEvent(EventType.CONVERSATION_RESUMED, conversation_id=conversation_id)
                await write_entries(connection, tenant_id, [entry])
            released = (await connection.execute(_RELEASE, parameters | {"limit": _BATCH})).rowcount


async def pause_of(connection: AsyncConnection, message: Message) -> str | None:
    """The reason why a message waits for the end of a pause, as part of a sentence; None if it does not."""
    if message.due_at is not None and message.due_at >= HELD:
        return f"its batch is paused; POST /api/batches/{message.batch_id}/resume ends that"
    parameters = {"tenant": message.tenant_id, "message": message.id}
    until: datetime | None = (await connection.execute(_HELD_UNTIL, parameters)).scalar()
    if until is None:
        return None
    ending = f"POST /api/conversations/{message.conversation_id}/resume ends that"
    return f"its conversation is paused until {until:%H:%M:%S} UTC, since two programs answer each other; {ending}"
