"""Stores a batch of messages with their contacts, conversations and participants, in one statement or a few.

Two writers can't deadlock. Contacts and conversations are inserted in key order. Then one statement locks the
conversations in id order, and inserts messages in the order of their identities. Every transaction goes through that
sequence, or its last step alone. Existing rows are looked up first, so a repeat uses up no ids.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import given
from app.domain import NewMessage, StoredMessage
from app.services.accept.conversations import conversation_key, make_conversations
from app.services.accept.loops import NO_LIMIT, LoopLimit
from app.services.accept.statements import (
    FIND_BY_KEY,
    FIND_BY_PROVIDER_ID,
    MESSAGE_COLUMNS,
    STORE_KNOWN,
    message_values,
)

#: Two messages with the same one are one: a provider's name and id, or the channel and the caller's idempotency key.
Identity = tuple[Literal["provider", "caller"], str, str]


class _Place(NamedTuple):
    """The place of a stored message, and the fingerprint of the request that an idempotency key came with."""

    id: int
    conversation_id: int
    fingerprint: str | None


async def store_messages(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage]:
    """Store one tenant's messages in the transaction open on `connection`; the answer is in their order.

    Missing conversations and contacts are created. A message is a duplicate if its provider id or idempotency key is
    stored already, or stands earlier in the batch. A duplicate is not stored; its place is that of the first one.
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
    stored = await store_known(connection, tenant_id, [messages[position] for position in fresh], loops)
    places = dict(zip(fresh, stored, strict=True))
    for identity, position in first.items():
        if place := places.get(position):
            known[identity] = _Place(place.id, place.conversation_id, messages[position].fingerprint)
    # Another writer may have committed some of them meanwhile.
    if missing := [identity for identity in first if identity not in known]:
        known |= await _find_stored(connection, tenant_id, missing)
    return [places.get(position) or _duplicate(message, known) for position, message in enumerate(messages)]


async def store_known(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage | None]:
    """Store the new messages of existing conversations in one statement; the answer is in the order of `messages`.

    `MessageWriter` tries this first. None stands for a message that was not stored, the first of a conversation or a
    repeat: it goes on to `store_messages`. What is to be sent in a paused conversation waits.
    """
    first: dict[Identity, int] = {}
    anonymous: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for position, message in enumerate(messages):
        if identity := _identity(message):
            first.setdefault(identity, position)
        else:
            anonymous[message.channel, message.sender.spelling, message.recipient.spelling].append(position)
    # Messages without an identity in the order of arrival, then the others by identity: the same for every writer.
    order = sorted(position for positions in anonymous.values() for position in positions)
    order += [first[identity] for identity in sorted(first)]
    values = [(*conversation_key(messages[position]), *message_values(messages[position])) for position in order]
    parameters = given(tenant_id, ("customer_address", "contact_address", *MESSAGE_COLUMNS), values)
    stored = (await connection.execute(STORE_KNOWN, parameters | loops.parameters())).all()

    # Ids rise in the order of the rows: those of one channel, sender and recipient come back as they arrived.
    waiting = {key: iter(positions) for key, positions in anonymous.items()}
    places: list[StoredMessage | None] = [None] * len(messages)
    for row in sorted(stored, key=attrgetter("id")):
        identity = _identity(row)
        key = (row.channel, row.from_address, row.to_address)
        position = first[identity] if identity else next(waiting[key])
        places[position] = StoredMessage(row.id, row.conversation_id)
    return places


def _identity(message: Any) -> Identity | None:
    """The identity of a message, new or stored, if it has one."""
    if message.provider_message_id is not None:
        return "provider", message.provider_type, message.provider_message_id
    if message.idempotency_key is not None:
        return "caller", message.channel, message.idempotency_key
    return None


async def _find_stored(
    connection: AsyncConnection, tenant_id: int, identities: Iterable[Identity]
) -> dict[Identity, _Place]:
    """The places of the messages that have one of these identities."""
    ids = [(type_, id) for kind, type_, id in identities if kind == "provider"]
    keys = [(channel, key) for kind, channel, key in identities if kind == "caller"]
    found: dict[Identity, _Place] = {}
    if ids:
        parameters = given(tenant_id, ("provider_type", "provider_message_id"), ids)
        for row in await connection.execute(FIND_BY_PROVIDER_ID, parameters):
            found["provider", row[0], row[1]] = _Place(row.id, row.conversation_id, None)
    if keys:
        parameters = given(tenant_id, ("channel", "idempotency_key"), keys)
        for row in await connection.execute(FIND_BY_KEY, parameters):
            found["caller", row[0], row[1]] = _Place(row.id, row.conversation_id, row.request_fingerprint)
    return found


def _duplicate(message: NewMessage, known: Mapping[Identity, _Place]) -> StoredMessage:
    identity = _identity(message)
    assert identity is not None
    place = known[identity]
    conflict = place.fingerprint != message.fingerprint
    return StoredMessage(place.id, place.conversation_id, duplicate=True, conflict=conflict)
