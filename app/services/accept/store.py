"""Stores a batch of messages with their contacts, conversations and participants, in one statement.

Two writers can't deadlock. Contacts are inserted in key order, then conversations. Then the conversations that exist
are locked in id order, and messages inserted in the order of their identities. Every transaction goes through that
sequence, or its last part alone. Existing rows are looked up first, so a repeat uses up no ids.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import given
from app.domain import NewMessage, StoredMessage
from app.services.accept.beginnings import BEGINNING_COLUMNS, correct_counts
from app.services.accept.conversations import conversation_key
from app.services.accept.loops import NO_LIMIT, LoopLimit
from app.services.accept.statements import MESSAGE_COLUMNS, STORE_FIRST, STORE_KNOWN, Outcome, message_values

#: Two messages with the same one are one: a provider's name and id, or the channel and the caller's idempotency key.
Identity = tuple[Literal["provider", "caller"], str, str]


class Place(NamedTuple):
    """The place of a stored message, and the fingerprint of the request that an idempotency key came with."""

    id: int
    conversation_id: int
    fingerprint: str | None


async def store_known(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage | None]:
    """Store the new messages of existing conversations in one statement; the answer is in the order of `messages`.

    A repeat gets the place of the message that was there. None stands for the first message of a conversation, and
    for one that another writer stores at this moment. What is to be sent in a paused conversation waits.
    """
    names = ("customer_address", "contact_address", *MESSAGE_COLUMNS)
    values = [(*conversation_key(message), *message_values(message)) for message in messages]
    return await _store(connection, STORE_KNOWN, tenant_id, messages, names, values, loops)


async def store_first(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage | None]:
    """Store messages in one statement, with the conversations that are missing; like `store_known` otherwise.

    None stands for a message whose conversation or contact another writer creates at this moment.
    """
    names = ("customer_address", "contact_address", *BEGINNING_COLUMNS, *MESSAGE_COLUMNS)
    values = [(*conversation_key(each), *_beginning(each), *message_values(each)) for each in messages]
    return await _store(connection, STORE_FIRST, tenant_id, messages, names, values, loops)


def _beginning(message: NewMessage) -> tuple[str | None, ...]:
    """The values of `BEGINNING_COLUMNS`."""
    customer, contact = message.customer, message.contact
    written = (each.written if each.written != each.value else None for each in (customer, contact))
    return customer.type, contact.type, *written


async def _store(
    connection: AsyncConnection,
    statement: Executable,
    tenant_id: int,
    messages: Sequence[NewMessage],
    names: Sequence[str],
    values: Sequence[tuple[Any, ...]],
    loops: LoopLimit,
) -> list[StoredMessage | None]:
    first: dict[Identity, int] = {}
    anonymous: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for position, message in enumerate(messages):
        if identity := identity_of(message):
            first.setdefault(identity, position)
        else:
            anonymous[message.channel, message.sender.spelling, message.recipient.spelling].append(position)
    # Messages without an identity in the order of arrival, then the others by identity: the same for every writer.
    order = sorted(position for positions in anonymous.values() for position in positions)
    order += [first[identity] for identity in sorted(first)]
    parameters = given(tenant_id, names, [values[position] for position in order])
    rows = (await connection.execute(statement, parameters | loops.parameters())).all()

    # Ids rise in the order of the rows: those of one channel, sender and recipient come back as they arrived.
    waiting = {key: iter(positions) for key, positions in anonymous.items()}
    places: list[StoredMessage | None] = [None] * len(messages)
    known: dict[Identity, Place] = {}
    begun = {row.conversation_id: row.id for row in rows if row.kind == Outcome.BEGUN}
    for row in sorted(rows, key=attrgetter("id")):
        if row.kind == Outcome.BEGUN:
            continue
        identity = identity_of(row)
        position = first[identity] if identity else next(waiting[row.channel, row.from_address, row.to_address])
        fingerprint = messages[position].fingerprint
        if row.kind == Outcome.STORED:
            places[position] = StoredMessage(row.id, row.conversation_id, begins=row.conversation_id in begun)
        else:
            fingerprint = row.fingerprint
        if identity:
            known[identity] = Place(row.id, row.conversation_id, fingerprint)
    await correct_counts(connection, tenant_id, begun, places)
    return [place or _repeated(message, known) for place, message in zip(places, messages, strict=True)]


def _repeated(message: NewMessage, known: Mapping[Identity, Place]) -> StoredMessage | None:
    identity = identity_of(message)
    return duplicate_of(message, known) if identity is not None and identity in known else None


def identity_of(message: Any) -> Identity | None:
    """The identity of a message, new or stored, if it has one."""
    if message.provider_message_id is not None:
        return "provider", message.provider_type, message.provider_message_id
    if message.idempotency_key is not None:
        return "caller", message.channel, message.idempotency_key
    return None


def duplicate_of(message: NewMessage, known: Mapping[Identity, Place]) -> StoredMessage:
    identity = identity_of(message)
    assert identity is not None
    place = known[identity]
    conflict = place.fingerprint != message.fingerprint
    return StoredMessage(place.id, place.conversation_id, duplicate=True, conflict=conflict)
