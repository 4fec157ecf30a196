"""A batch of messages into contacts, conversations, participants and messages: one set-based statement, or a few.

Two writers can't deadlock. Contacts and conversations are inserted in key order; then one statement locks the
conversations in id order, and only then inserts messages, in the order of their identities. Every transaction goes
through that sequence, or its last step alone. What exists is looked up first: a repeat uses up no ids.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    DateTime,
    FromClause,
    Insert,
    Text,
    and_,
    case,
    cast,
    func,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from app.db.batches import TENANT, given, rows
from app.db.models import Conversation, Message
from app.domain import Direction, MessageStatus, NewMessage, StoredMessage
from app.services.accept.conversations import conversation_key, make_conversations

#: What makes two messages one: a provider's name and id, or the channel and the caller's idempotency key.
Identity = tuple[Literal["provider", "caller"], str, str]


async def store_messages(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage]
) -> list[StoredMessage]:
    """Store one tenant's messages in the transaction open on `connection`; the answer is in their order.

    Conversations and contacts are made where they are missing. A message whose provider id or idempotency key is
    stored already, or stands earlier in the batch, is a duplicate: nothing is stored for it, and its place is the
    first one's.
    """
    first: dict[Identity, int] = {}
    for position, message in enumerate(messages):
        if identity := _identity(message):
            first.setdefault(identity, position)
    known = await _find_stored(connection, tenant_id, first)

    fresh = [
        position
        for position, message in enumerate(messages)
        if (identity := _identity(message)) is None or (identity not in known and first[identity] == position)
    ]
    await make_conversations(connection, tenant_id, [messages[position] for position in fresh])
    stored = await store_known(connection, tenant_id, [messages[position] for position in fresh])
    places = dict(zip(fresh, stored, strict=True))
    for identity, position in first.items():
        if place := places.get(position):
            known[identity] = _Known(place.id, place.conversation_id, messages[position].fingerprint)
    if outrun := [identity for identity in first if identity not in known]:
        known |= await _find_stored(connection, tenant_id, outrun)  # another writer committed them meanwhile
    return [places.get(position) or _repeat(message, known) for position, message in enumerate(messages)]


def _repeat(message: NewMessage, known: Mapping[Identity, "_Known"]) -> StoredMessage:
    identity = _identity(message)
    assert identity is not None
    place = known[identity]
    conflict = place.fingerprint != message.fingerprint
    return StoredMessage(place.id, place.conversation_id, duplicate=True, conflict=conflict)


class _Known(NamedTuple):
    id: int
    conversation_id: int
    fingerprint: str | None


def _identity(message: Any) -> Identity | None:
    """Of a message that is to be stored, or of a row that was."""
    if message.provider_message_id is not None:
        return "provider", message.provider_type, message.provider_message_id
    if message.idempotency_key is not None:
        return "caller", message.channel, message.idempotency_key
    return None


_NOW = func.now()

_wanted_ids = rows(provider_type=Text(), provider_message_id=Text())
_FIND_STORED = select(Message.provider_type, Message.provider_message_id, Message.id, Message.conversation_id).join(
    _wanted_ids,
    and_(
        Message.tenant_id == TENANT,
        Message.provider_type == _wanted_ids.c.provider_type,
        Message.provider_message_id == _wanted_ids.c.provider_message_id,
        Message.provider_message_id.is_not(None),  # says that the partial index will do
    ),
)


_wanted_keys = rows(channel=Text(), idempotency_key=Text())
_FIND_BY_KEY = select(
    Message.channel, Message.idempotency_key, Message.id, Message.conversation_id, Message.request_fingerprint
).join(
    _wanted_keys,
    and_(
        Message.tenant_id == TENANT,
        Message.channel == _wanted_keys.c.channel,
        Message.idempotency_key == _wanted_keys.c.idempotency_key,
        Message.idempotency_key.is_not(None),
    ),
)


async def _find_stored(
    connection: AsyncConnection, tenant_id: int, identities: Iterable[Identity]
) -> dict[Identity, _Known]:
    found: dict[Identity, _Known] = {}
    by_provider = [(type_, id) for kind, type_, id in identities if kind == "provider"]
    if by_provider:
        parameters = given(tenant_id, ("provider_type", "provider_message_id"), by_provider)
        rows_found: Iterable[Any] = await connection.execute(_FIND_STORED, parameters)
        found |= {("provider", row[0], row[1]): _Known(row[2], row[3], None) for row in rows_found}
    by_caller = [(channel, key) for kind, channel, key in identities if kind == "caller"]
    if by_caller:
        parameters = given(tenant_id, ("channel", "idempotency_key"), by_caller)
        rows_found = await connection.execute(_FIND_BY_KEY, parameters)
        found |= {("caller", row[0], row[1]): _Known(row[2], row[3], row[4]) for row in rows_found}
    return found


_MESSAGE_TYPES: dict[str, TypeEngine[Any]] = {
    "direction": Text(),
    "channel": Text(),
    "type": Text(),
    "from_address": Text(),
    "to_address": Text(),
    "subject": Text(),
    "body": Text(),
    "attachments": Text(),
    "provider_type": Text(),
    "provider_message_id": Text(),
    "sent_at": DateTime(timezone=True),
    "send_at": DateTime(timezone=True),
    "expires_at": DateTime(timezone=True),
    "idempotency_key": Text(),
    "request_fingerprint": Text(),
    "quoted": Text(),
}


def _message_values(message: NewMessage) -> tuple[Any, ...]:
    """In the order of `_MESSAGE_TYPES`."""
    return (
        message.direction.value,
        message.channel,
        message.type,
        message.sender.value,
        message.recipient.value,
        message.subject,
        message.body,
        json.dumps(message.attachments) if message.attachments else "[]",
        message.provider_type,
        message.provider_message_id,
        message.sent_at,
        message.send_at,
        message.expires_at,
        message.idempotency_key,
        message.fingerprint,
        message.quoted,
    )


def _inserting(new: FromClause) -> Insert:
    """Inserts messages from rows that have the columns of `_MESSAGE_TYPES`, a `conversation_id` and a `position`."""
    columns = new.c
    is_outbound = columns.direction == Direction.OUTBOUND.value
    values: dict[Any, Any] = {
        Message.tenant_id: TENANT,
        Message.conversation_id: columns.conversation_id,
        Message.direction: columns.direction,
        Message.channel: columns.channel,
        Message.type: columns.type,
        Message.from_address: columns.from_address,
        Message.to_address: columns.to_address,
        Message.subject: columns.subject,
        Message.body: columns.body,
        Message.attachments: cast(columns.attachments, JSONB),
        Message.provider_type: columns.provider_type,
        Message.provider_message_id: columns.provider_message_id,
        Message.sent_at: func.coalesce(columns.sent_at, _NOW),
        Message.status: case(
            (~is_outbound, MessageStatus.RECEIVED.value),
            (columns.send_at.is_not(None), MessageStatus.SCHEDULED.value),
            else_=MessageStatus.QUEUED.value,
        ),
        Message.due_at: case(
            (is_outbound, func.least(func.coalesce(columns.send_at, _NOW), columns.expires_at)), else_=null()
        ),
        Message.expires_at: columns.expires_at,
        Message.idempotency_key: columns.idempotency_key,
        Message.request_fingerprint: columns.request_fingerprint,
        Message.quoted: columns.quoted,
    }
    return (
        insert(Message)
        .from_select(list(values), select(*values.values()).order_by(columns.position))
        .on_conflict_do_nothing()
    )


_STORED = (
    Message.id,
    Message.conversation_id,
    Message.channel,
    Message.from_address,
    Message.to_address,
    Message.provider_type,
    Message.provider_message_id,
    Message.idempotency_key,
    Message.sent_at,
)

_arriving = rows(customer_address=Text(), contact_address=Text(), **_MESSAGE_TYPES)
_pairs = select(_arriving.c.customer_address, _arriving.c.contact_address).distinct().subquery("pairs")
_open = (
    select(Conversation.id, Conversation.customer_address, Conversation.contact_address)
    .join(
        _pairs,
        and_(
            Conversation.tenant_id == TENANT,
            Conversation.customer_address == _pairs.c.customer_address,
            Conversation.contact_address == _pairs.c.contact_address,
        ),
    )
    .order_by(Conversation.id)
    .with_for_update(of=Conversation, key_share=True)
    .cte("open")
)
_is_repeat = or_(
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.provider_type == _arriving.c.provider_type,
        Message.provider_message_id == _arriving.c.provider_message_id,
        Message.provider_message_id.is_not(None),
    )
    .exists(),
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.channel == _arriving.c.channel,
        Message.idempotency_key == _arriving.c.idempotency_key,
        Message.idempotency_key.is_not(None),
    )
    .exists(),
)
_has_identity = or_(_arriving.c.provider_message_id.is_not(None), _arriving.c.idempotency_key.is_not(None))
_belonging = (
    select(*_arriving.c, _open.c.id.label("conversation_id"))
    .join(
        _open,
        and_(
            _open.c.customer_address == _arriving.c.customer_address,
            _open.c.contact_address == _arriving.c.contact_address,
        ),
    )
    .where(case((_has_identity, ~_is_repeat), else_=true()))
    .cte("belonging")
)
_stored = _inserting(_belonging).returning(*_STORED).cte("stored")
_added = (
    select(_stored.c.conversation_id, func.count().label("added"), func.max(_stored.c.sent_at).label("newest"))
    .group_by(_stored.c.conversation_id)
    .subquery("added")
)
_raised = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _added.c.conversation_id)
    .values(
        message_count=Conversation.message_count + _added.c.added,
        # A caller's clock that is ahead must not hold a conversation at the top of the list.
        last_activity_at=func.greatest(Conversation.last_activity_at, func.least(_added.c.newest, _NOW)),
    )
    .returning(Conversation.id)
    .cte("raised")
)
_STORE_KNOWN = select(_stored).add_cte(_raised)


async def store_known(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage]
) -> list[StoredMessage | None]:
    """Store, in one statement, what is new in conversations that exist; the answer is in the order of `messages`.

    None stands for what was not stored: a first message of a pair, or a repeat. `store_messages` takes those.
    """
    first: dict[Identity, int] = {}
    unnamed: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for position, message in enumerate(messages):
        if identity := _identity(message):
            first.setdefault(identity, position)
        else:
            unnamed[message.channel, message.sender.value, message.recipient.value].append(position)
    # Without an identity in the order of arrival, then by identity, the same order for every writer.
    order = sorted(position for positions in unnamed.values() for position in positions)
    order += [first[identity] for identity in sorted(first)]
    values = [(*conversation_key(messages[position]), *_message_values(messages[position])) for position in order]
    parameters = given(tenant_id, ("customer_address", "contact_address", *_MESSAGE_TYPES), values)
    stored = (await connection.execute(_STORE_KNOWN, parameters)).all()

    # Ids are drawn in the order of the rows, so those of one pair stand for its messages as they arrived.
    waiting = {key: iter(positions) for key, positions in unnamed.items()}
    places: list[StoredMessage | None] = [None] * len(messages)
    for row in sorted(stored, key=attrgetter("id")):
        identity = _identity(row)
        key = (row.channel, row.from_address, row.to_address)
        position = first[identity] if identity else next(waiting[key])
        places[position] = StoredMessage(row.id, row.conversation_id)
    return places
