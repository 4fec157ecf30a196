"""A batch of messages into contacts, conversations, participants and messages: a few set-based statements.

Two writers can't deadlock: contacts and conversations are inserted in key order, then messages in the order of
their provider ids, then conversations are locked in id order; every transaction goes through that same sequence.
What exists is looked up first, so that a repeat doesn't use up ids.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    BigInteger,
    DateTime,
    Integer,
    Text,
    and_,
    case,
    cast,
    func,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import Direction, MessageStatus, NewMessage, ParticipantRole, StoredMessage
from app.models import Contact, Conversation, ConversationParticipant, Message
from app.services.statements import TENANT, given, rows

#: What makes two messages one: a provider's name and id, or the channel and the caller's idempotency key.
Identity = tuple[Literal["provider", "caller"], str, str]
ConversationKey = tuple[str, str]  #: customer address, contact address
ContactKey = tuple[str, str]  #: address, address type


async def store_messages(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage]
) -> list[StoredMessage]:
    """Store one tenant's messages in the transaction open on `connection`; the answer is in their order.

    A message whose provider id or idempotency key is stored already, or stands earlier in the batch, is a duplicate:
    nothing is stored for it, and its place is the first one's.
    """
    first: dict[Identity, int] = {}
    for position, message in enumerate(messages):
        if identity := _identity(message):
            first.setdefault(identity, position)
    known = await _find_stored(connection, tenant_id, first)

    fresh = [message for message in messages if _identity(message) is None]
    fresh += [messages[first[identity]] for identity in sorted(first) if identity not in known]
    inserted = await _insert_messages(connection, tenant_id, fresh) if fresh else []

    # Ids are drawn in the order of the rows: sorted, they stand for messages without an identity as these arrived.
    unnamed = iter(sorted((row.id, row.conversation_id) for row in inserted if _identity(row) is None))
    new: dict[Identity, _Known] = {}
    for row in inserted:
        if identity := _identity(row):
            new[identity] = _Known(row.id, row.conversation_id, messages[first[identity]].fingerprint)
    if outrun := [identity for identity in first if identity not in known and identity not in new]:
        known |= await _find_stored(connection, tenant_id, outrun)  # another writer committed them meanwhile

    places = []
    for position, message in enumerate(messages):
        identity = _identity(message)
        if identity is None:
            places.append(StoredMessage(*next(unnamed)))
            continue
        place = new.get(identity) or known[identity]
        duplicate = identity not in new or first[identity] != position
        conflict = duplicate and place.fingerprint != message.fingerprint
        places.append(StoredMessage(place.id, place.conversation_id, duplicate, conflict))
    return places


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


_new_messages = rows(
    conversation_id=BigInteger(),
    direction=Text(),
    channel=Text(),
    type=Text(),
    from_address=Text(),
    to_address=Text(),
    subject=Text(),
    body=Text(),
    attachments=Text(),
    provider_type=Text(),
    provider_message_id=Text(),
    sent_at=DateTime(timezone=True),
    send_at=DateTime(timezone=True),
    expires_at=DateTime(timezone=True),
    idempotency_key=Text(),
    request_fingerprint=Text(),
)
_MESSAGE_COLUMNS = [column.name for column in _new_messages.c][:-1]
_is_outbound = _new_messages.c.direction == Direction.OUTBOUND.value
_MESSAGE_VALUES = {
    Message.tenant_id: TENANT,
    Message.conversation_id: _new_messages.c.conversation_id,
    Message.direction: _new_messages.c.direction,
    Message.channel: _new_messages.c.channel,
    Message.type: _new_messages.c.type,
    Message.from_address: _new_messages.c.from_address,
    Message.to_address: _new_messages.c.to_address,
    Message.subject: _new_messages.c.subject,
    Message.body: _new_messages.c.body,
    Message.attachments: cast(_new_messages.c.attachments, JSONB),
    Message.provider_type: _new_messages.c.provider_type,
    Message.provider_message_id: _new_messages.c.provider_message_id,
    Message.sent_at: func.coalesce(_new_messages.c.sent_at, _NOW),
    Message.status: case(
        (~_is_outbound, MessageStatus.RECEIVED.value),
        (_new_messages.c.send_at.is_not(None), MessageStatus.SCHEDULED.value),
        else_=MessageStatus.QUEUED.value,
    ),
    Message.due_at: case(
        (_is_outbound, func.least(func.coalesce(_new_messages.c.send_at, _NOW), _new_messages.c.expires_at)),
        else_=null(),
    ),
    Message.expires_at: _new_messages.c.expires_at,
    Message.idempotency_key: _new_messages.c.idempotency_key,
    Message.request_fingerprint: _new_messages.c.request_fingerprint,
}
_INSERT_MESSAGES = (
    insert(Message)
    .from_select(list(_MESSAGE_VALUES), select(*_MESSAGE_VALUES.values()).order_by(_new_messages.c.position))
    .on_conflict_do_nothing()
    .returning(
        Message.id,
        Message.conversation_id,
        Message.channel,
        Message.provider_type,
        Message.provider_message_id,
        Message.idempotency_key,
        Message.sent_at,
    )
)


async def _insert_messages(connection: AsyncConnection, tenant_id: int, messages: list[NewMessage]) -> Sequence[Any]:
    conversations = await _conversation_ids(connection, tenant_id, messages)
    values = [
        (
            conversations[_conversation_key(message)],
            message.direction.value,
            message.channel,
            message.type,
            message.sender.value,
            message.recipient.value,
            message.subject,
            message.body,
            json.dumps(message.attachments),
            message.provider_type,
            message.provider_message_id,
            message.sent_at,
            message.send_at,
            message.expires_at,
            message.idempotency_key,
            message.fingerprint,
        )
        for message in messages
    ]
    parameters = given(tenant_id, _MESSAGE_COLUMNS, values)
    inserted = (await connection.execute(_INSERT_MESSAGES, parameters)).all()
    if inserted:
        await _record_activity(connection, tenant_id, [(row.conversation_id, row.sent_at) for row in inserted])
    return inserted


_additions = rows(conversation_id=BigInteger(), added=Integer(), newest=DateTime(timezone=True))
_locked = (
    select(Conversation.id, _additions.c.added, _additions.c.newest)
    .join(_additions, and_(Conversation.tenant_id == TENANT, Conversation.id == _additions.c.conversation_id))
    .order_by(Conversation.id)
    .with_for_update(of=Conversation, key_share=True)
    .cte("locked")
)
_RECORD_ACTIVITY = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _locked.c.id)
    .values(
        message_count=Conversation.message_count + _locked.c.added,
        # A caller's clock that is ahead must not hold a conversation at the top of the list.
        last_activity_at=func.greatest(Conversation.last_activity_at, func.least(_locked.c.newest, _NOW)),
    )
)


async def _record_activity(
    connection: AsyncConnection, tenant_id: int, additions: list[tuple[int, datetime]]
) -> None:
    times: defaultdict[int, list[datetime]] = defaultdict(list)
    for conversation_id, sent_at in additions:
        times[conversation_id].append(sent_at)
    values = [(conversation_id, len(sent), max(sent)) for conversation_id, sent in times.items()]
    parameters = given(tenant_id, ("conversation_id", "added", "newest"), values)
    await connection.execute(_RECORD_ACTIVITY, parameters)


def _conversation_key(message: NewMessage) -> ConversationKey:
    return message.customer.value, message.contact.value


_wanted_pairs = rows(customer_address=Text(), contact_address=Text())
_FIND_CONVERSATIONS = select(Conversation.customer_address, Conversation.contact_address, Conversation.id).join(
    _wanted_pairs,
    and_(
        Conversation.tenant_id == TENANT,
        Conversation.customer_address == _wanted_pairs.c.customer_address,
        Conversation.contact_address == _wanted_pairs.c.contact_address,
    ),
)

_new_pairs = rows(customer_address=Text(), contact_address=Text(), sent_at=DateTime(timezone=True))
_INSERT_CONVERSATIONS = (
    insert(Conversation)
    .from_select(
        ["tenant_id", "customer_address", "contact_address", "last_activity_at"],
        select(
            TENANT,
            _new_pairs.c.customer_address,
            _new_pairs.c.contact_address,
            func.least(_new_pairs.c.sent_at, _NOW),
        ).order_by(_new_pairs.c.position),
    )
    .on_conflict_do_nothing()
    .returning(Conversation.customer_address, Conversation.contact_address, Conversation.id)
)

_new_participants = rows(conversation_id=BigInteger(), role=Text(), contact_id=BigInteger())
_INSERT_PARTICIPANTS = insert(ConversationParticipant).from_select(
    ["tenant_id", "conversation_id", "role", "contact_id"],
    select(TENANT, _new_participants.c.conversation_id, _new_participants.c.role, _new_participants.c.contact_id),
)


async def _conversation_ids(
    connection: AsyncConnection, tenant_id: int, messages: Iterable[NewMessage]
) -> dict[ConversationKey, int]:
    """The conversation of every message; those that are missing are made, with their contacts."""
    by_key = {_conversation_key(message): message for message in messages}
    found = await _find_conversations(connection, tenant_id, by_key)
    missing = sorted(key for key in by_key if key not in found)
    if not missing:
        return found
    contacts = await _contact_ids(connection, tenant_id, [by_key[key] for key in missing])
    new = [(*key, by_key[key].sent_at) for key in missing]
    parameters = given(tenant_id, ("customer_address", "contact_address", "sent_at"), new)
    inserted = await connection.execute(_INSERT_CONVERSATIONS, parameters)
    made = {(customer, contact): id for customer, contact, id in inserted}
    participants = [
        (id, role.value, contacts[address.value, address.type.value])
        for key, id in made.items()
        for role, address in (
            (ParticipantRole.CUSTOMER, by_key[key].customer),
            (ParticipantRole.CONTACT, by_key[key].contact),
        )
    ]
    parameters = given(tenant_id, ("conversation_id", "role", "contact_id"), participants)
    await connection.execute(_INSERT_PARTICIPANTS, parameters)
    outrun = [key for key in missing if key not in made]  # another writer committed them meanwhile
    return found | made | (await _find_conversations(connection, tenant_id, outrun) if outrun else {})


async def _find_conversations(
    connection: AsyncConnection, tenant_id: int, keys: Iterable[ConversationKey]
) -> dict[ConversationKey, int]:
    parameters = given(tenant_id, ("customer_address", "contact_address"), keys)
    found = await connection.execute(_FIND_CONVERSATIONS, parameters)
    return {(customer, contact): id for customer, contact, id in found}


_wanted_contacts = rows(address=Text(), address_type=Text())
_FIND_CONTACTS = select(Contact.address, Contact.address_type, Contact.id).join(
    _wanted_contacts,
    and_(
        Contact.tenant_id == TENANT,
        Contact.address == _wanted_contacts.c.address,
        Contact.address_type == _wanted_contacts.c.address_type,
    ),
)

_new_contacts = rows(address=Text(), address_type=Text(), written=Text())
_INSERT_CONTACTS = (
    insert(Contact)
    .from_select(
        ["tenant_id", "address", "address_type", "written"],
        select(TENANT, _new_contacts.c.address, _new_contacts.c.address_type, _new_contacts.c.written).order_by(
            _new_contacts.c.position
        ),
    )
    .on_conflict_do_nothing()
    .returning(Contact.address, Contact.address_type, Contact.id)
)


async def _contact_ids(
    connection: AsyncConnection, tenant_id: int, messages: Iterable[NewMessage]
) -> dict[ContactKey, int]:
    """The contact behind both ends of every message; those that are missing are made, as they were written."""
    written = {
        (address.value, address.type.value): address.written
        for message in messages
        for address in (message.customer, message.contact)
    }
    found = await _find_contacts(connection, tenant_id, written)
    missing = sorted(key for key in written if key not in found)
    new = [(*key, written[key]) for key in missing]
    inserted = await connection.execute(
        _INSERT_CONTACTS, given(tenant_id, ("address", "address_type", "written"), new)
    )
    made = {(address, address_type): id for address, address_type, id in inserted}
    outrun = [key for key in missing if key not in made]  # another writer committed them meanwhile
    return found | made | (await _find_contacts(connection, tenant_id, outrun) if outrun else {})


async def _find_contacts(
    connection: AsyncConnection, tenant_id: int, keys: Iterable[ContactKey]
) -> dict[ContactKey, int]:
    found = await connection.execute(_FIND_CONTACTS, given(tenant_id, ("address", "address_type"), keys))
    return {(address, address_type): id for address, address_type, id in found}
