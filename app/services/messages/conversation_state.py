"""The state of a conversation that a team works with: its status, assignee, tags and unread messages; and replies.

Storing messages keeps the number of unread ones, and opens what was put away (`app.services.accept.statements`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    RowMapping,
    Select,
    Text,
    any_,
    bindparam,
    delete,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.models import Conversation, ConversationTag, Message
from app.db.statements.batches import TENANT
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS
from app.domain import ConversationStatus, Direction, EventType
from app.errors import ConversationNotFound, FieldError, InvalidRequest
from app.services.event_log.entries import NewEvent, write_entries
from app.services.messages.metadata import change_pairs

_OPEN, _SNOOZED = ConversationStatus.OPEN, ConversationStatus.SNOOZED
#: Conversations that wake up in one transaction.
_BATCH = 200


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """A change of a conversation. What is None stays.

    A time in `snoozed_until` snoozes the conversation. `sets_assignee` and `sets_time` tell that their field counts,
    also where it is None.
    """

    status: ConversationStatus | None = None
    snoozed_until: datetime | None = None
    sets_time: bool = False
    assignee: str | None = None
    sets_assignee: bool = False
    tags: Sequence[str] | None = None
    metadata: Mapping[str, str | None] = field(default_factory=dict)


class ReplyPlace(NamedTuple):
    """The channel of a reply, and both of its ends as they are spelled."""

    channel: str
    from_address: str
    to_address: str


_CONVERSATION = bindparam("conversation", type_=BigInteger())
_is_it = (Conversation.tenant_id == TENANT, Conversation.id == _CONVERSATION)
_STATE = (
    Conversation.status,
    Conversation.snoozed_until,
    Conversation.assignee,
    Conversation.tags,
    Conversation.unread_count,
)
_LOCK = select(*_STATE).where(*_is_it).with_for_update(key_share=True)
#: Removes that by which the tags of conversations of these ids are found.
REMOVE_TAGS = delete(ConversationTag).where(
    ConversationTag.tenant_id == TENANT,
    ConversationTag.conversation_id == any_(bindparam("ids", type_=ARRAY(BigInteger()))),
)
_ADD_TAGS = insert(ConversationTag).from_select(
    ["tenant_id", "tag", "conversation_id"],
    select(TENANT, func.unnest(bindparam("tags", type_=ARRAY(Text()))), _CONVERSATION),
)
_is_inbound = Message.direction == Direction.INBOUND.value
_of_it = (Message.tenant_id == TENANT, Message.conversation_id == _CONVERSATION)
_LATER = select(func.count()).select_from(
    select(Message.id)
    .where(*_of_it, _is_inbound, Message.id > bindparam("up_to", type_=BigInteger()))
    .limit(bindparam("most", type_=BigInteger()))
    .subquery()
)


async def change_state(
    connection: AsyncConnection, tenant_id: int, conversation_id: int, change: ConversationChange, *, by: str | None
) -> None:
    """Change a conversation in the open transaction; an event tells what has changed.

    Raises `ConversationNotFound`, and `InvalidRequest` where the change makes no sense.
    """
    about = {"tenant": tenant_id, "conversation": conversation_id}
    state = await _locked(connection, about)
    if change.metadata:
        await change_pairs(connection, tenant_id, Conversation, conversation_id, change.metadata)
    wanted = _wanted(change)
    changed = {name: value for name, value in wanted.items() if value != state[name]}
    if changed:
        await connection.execute(update(Conversation).where(*_is_it).values(changed), about)
        if "tags" in changed:
            await connection.execute(REMOVE_TAGS, {"tenant": tenant_id, "ids": [conversation_id]})
            await connection.execute(_ADD_TAGS, about | {"tags": changed["tags"]})
        await _tell(connection, about, changed, by)


async def mark_read(
    connection: AsyncConnection, tenant_id: int, conversation_id: int, *, up_to: int | None, by: str | None
) -> None:
    """Mark messages as read in the open transaction: all, or those with an id up to `up_to`.

    Raises `ConversationNotFound`.
    """
    about = {"tenant": tenant_id, "conversation": conversation_id}
    unread = (await _locked(connection, about))["unread_count"]
    left = 0
    if up_to is not None and unread:
        left = (await connection.execute(_LATER, about | {"up_to": up_to, "most": unread})).scalar_one()
    if left != unread:
        await connection.execute(update(Conversation).where(*_is_it).values(unread_count=left), about)
        await _tell(connection, about, {"unread_count": left}, by)


async def _locked(connection: AsyncConnection, about: Mapping[str, Any]) -> RowMapping:
    found = (await connection.execute(_LOCK, about)).mappings().one_or_none()
    if found is None:
        raise ConversationNotFound("There is no conversation with this id.")
    return found


def _wanted(change: ConversationChange) -> dict[str, Any]:
    """The new values of the columns that a change names. Raises `InvalidRequest`."""
    wanted: dict[str, Any] = {}
    if change.sets_assignee:
        wanted["assignee"] = change.assignee
    if change.tags is not None:
        wanted["tags"] = list(change.tags)
    status = change.status
    if change.snoozed_until is not None:
        status = status or _SNOOZED
        if status is not _SNOOZED:
            error = FieldError("body.snoozed_until", "only a snoozed conversation opens at a time")
            raise InvalidRequest("This time makes no sense here.", errors=[error])
        if change.snoozed_until <= datetime.now(UTC):
            error = FieldError("body.snoozed_until", "this time has passed")
            raise InvalidRequest("A conversation is snoozed until a later time.", errors=[error])
    if status is not None:
        wanted |= {"status": status.value, "snoozed_until": change.snoozed_until}
    elif change.sets_time:
        wanted["snoozed_until"] = None
    return wanted


async def _tell(
    connection: AsyncConnection, about: Mapping[str, int], changed: Mapping[str, Any], by: str | None
) -> None:
    written = {
        name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
        for name, value in changed.items()
    }
    await write_entries(connection, about["tenant"], [_updated(about["conversation"], written, by)])


def _updated(conversation_id: int, changed: Mapping[str, Any], by: str | None) -> NewEvent:
    facts = {"by": by, "changed": dict(changed)}
    return NewEvent(EventType.CONVERSATION_UPDATED, conversation_id=conversation_id, facts=facts)


def _last(*conditions: ColumnElement[bool]) -> Select[Any]:
    columns: list[Any] = [
        Message.channel,
        Message.direction,
        Message.from_address,
        Message.to_address,
    ]
    return select(*columns).where(*_of_it, *conditions).order_by(Message.sent_at.desc(), Message.id.desc()).limit(1)


_on_channel = Message.channel == bindparam("on_channel", type_=Text())
_EXISTS = select(Conversation.id).where(*_is_it)


#: The earlier message of a reply that is repeated. The channels of its conversation let PostgreSQL use the index.
_REPEATED = (
    select(Message.channel, Message.from_address, Message.to_address)
    .join(Conversation, Conversation.id == Message.conversation_id)
    .where(
        *_is_it,
        *_of_it,
        Message.channel == any_(Conversation.channels),
        Message.idempotency_key == bindparam("key", type_=Text()),
    )
    .limit(1)
)


async def place_of_reply(
    connection: AsyncConnection, tenant_id: int, conversation_id: int, channel: str | None, key: str | None
) -> ReplyPlace:
    """The place of a reply, as `MessageService.place_of_reply` tells it."""
    about: dict[str, Any] = {"tenant": tenant_id, "conversation": conversation_id}
    if (await connection.execute(_EXISTS, about)).scalar() is None:
        raise ConversationNotFound("There is no conversation with this id.")
    on_channel = () if channel is None else (_on_channel,)
    if channel is not None:
        about["on_channel"] = channel
    if key is not None:
        repeated = (await connection.execute(_REPEATED.where(*on_channel), about | {"key": key})).one_or_none()
        if repeated is not None:
            return ReplyPlace(*repeated)
    for conditions in ((_is_inbound, *on_channel), on_channel):
        found = (await connection.execute(_last(*conditions), about)).one_or_none()
        if found is not None:
            ends = found.to_address, found.from_address
            if found.direction == Direction.OUTBOUND:
                ends = ends[1], ends[0]
            return ReplyPlace(found.channel, *ends)
    error = FieldError("body.channel", "this conversation has no message on this channel; name `to` in a send")
    raise InvalidRequest("There is nothing to reply to.", errors=[error])


_TENANTS_TO_WAKE = (
    select(EACH_TENANT)
    .where(first(Conversation.snoozed_until) <= func.now())
    .execution_options(**{ALL_TENANTS: "a worker wakes the conversations of all tenants"})
)
_due = (
    select(Conversation.id)
    .where(Conversation.tenant_id == TENANT, Conversation.snoozed_until <= func.now())
    .order_by(Conversation.id)
    .limit(_BATCH)
    .with_for_update(skip_locked=True, key_share=True)
    .cte("due")
)
_WAKE = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _due.c.id)
    .values(status=_OPEN.value, snoozed_until=null())
    .returning(Conversation.id)
)


async def wake_conversations(engine: AsyncEngine, *, on_logged: Callable[[int], None]) -> None:
    """Open the snoozed conversations of all tenants whose time has come."""
    async with engine.connect() as connection:
        tenants = list((await connection.execute(_TENANTS_TO_WAKE)).scalars())
    for tenant_id in tenants:
        woken = _BATCH
        while woken == _BATCH:
            async with engine.begin() as connection:
                ids = list((await connection.execute(_WAKE, {"tenant": tenant_id})).scalars())
                changed = {"status": _OPEN.value, "snoozed_until": None}
                await write_entries(connection, tenant_id, [_updated(id, changed, None) for id in ids])
            woken = len(ids)
            on_logged(tenant_id)
