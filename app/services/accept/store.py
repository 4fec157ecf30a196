"""Stores a batch of messages with their contacts, conversations and participants, in one statement.

Two writers can't deadlock. Contacts are inserted in key order, then conversations. Then the conversations that exist
are locked in id order, and messages inserted in the order of their identities. Every transaction goes through that
sequence, or its last part alone. Existing rows are looked up first, so a repeat uses up no ids.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.schema.distribution import is_distributed
from app.db.statements.batches import given
from app.details import NO_DETAILS
from app.domain import NewMessage, StoredMessage
from app.services.accept.beginnings import BEGINNING_COLUMNS, correct_counts
from app.services.accept.loops import NO_LIMIT, LoopLimit
from app.services.accept.statements import COLUMNS, STORE_FIRST, STORE_KNOWN, Outcome, values_of
from app.services.accept.steps import Identity, Place, identity_of, store_in_steps


async def store_known(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage | None]:
    """Store the new messages of existing conversations; the answer is in the order of `messages`.

    It takes one statement, or several where the database is distributed (`steps.py`). A repeat gets the place of the
    message that was there. None stands for the first message of a conversation, and for one that another writer
    stores at this moment. What is to be sent in a paused conversation waits.
    """
    if is_distributed(connection):

        async def in_steps(order: Sequence[int]) -> Sequence[Any]:
            return await store_in_steps(connection, tenant_id, [messages[position] for position in order], loops)

        return await _store(connection, tenant_id, messages, in_steps)
    statement = STORE_KNOWN[_have_details(messages)]
    values = [values_of(message) for message in messages]

    async def at_once(order: Sequence[int]) -> Sequence[Any]:
        parameters = given(tenant_id, [*COLUMNS], [values[position] for position in order])
        return (await connection.execute(statement, parameters | loops.parameters())).all()

    return await _store(connection, tenant_id, messages, at_once)


async def store_first(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage | None]:
    """Store messages in one statement, with the conversations that are missing; like `store_known` otherwise.

    None stands for a message whose conversation or contact another writer creates at this moment.
    """
    names = (*COLUMNS, *BEGINNING_COLUMNS)
    values = [(*values_of(each), *_beginning(each)) for each in messages]
    statement = STORE_FIRST[_have_details(messages)]

    async def at_once(order: Sequence[int]) -> Sequence[Any]:
        parameters = given(tenant_id, names, [values[position] for position in order])
        return (await connection.execute(statement, parameters | loops.parameters())).all()

    return await _store(connection, tenant_id, messages, at_once)


def _have_details(messages: Sequence[NewMessage]) -> bool:
    return any(message.details is not NO_DETAILS for message in messages)


def _beginning(message: NewMessage) -> tuple[str | None, ...]:
    """The values of `BEGINNING_COLUMNS`."""
    customer, contact = message.customer, message.contact
    written = (each.written if each.written != each.value else None for each in (customer, contact))
    return customer.type, contact.type, *written


async def _store(
    connection: AsyncConnection,
    tenant_id: int,
    messages: Sequence[NewMessage],
    execute: Callable[[Sequence[int]], Awaitable[Sequence[Any]]],
) -> list[StoredMessage | None]:
    """Store messages: `execute` gets the positions of those to store, in order, and returns rows of `Outcome`."""
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
    rows = await execute(order)

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


def duplicate_of(message: NewMessage, known: Mapping[Identity, Place]) -> StoredMessage:
    identity = identity_of(message)
    assert identity is not None
    place = known[identity]
    conflict = place.fingerprint != message.fingerprint
    return StoredMessage(place.id, place.conversation_id, duplicate=True, conflict=conflict)
