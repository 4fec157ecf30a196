"""Stores the messages of existing conversations in several statements, as a distributed database takes them.

Such a database refuses a statement that writes to several tables at once, or computes times where it sets columns.
It would also draw ids on another node while it reads a tenant's rows. So rows are locked and read first, together
with the times, and each table is then written from parameters.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import ARRAY, BigInteger, Boolean, DateTime, Integer, Row, Text, any_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from app.batches import HOLDING
from app.db.models import Batch, Conversation
from app.db.statements.batches import TENANT, given, rows
from app.domain import EventType, MessageStatus, NewMessage
from app.services.accept.details import write_details
from app.services.accept.loops import COMPUTED, GIVEN, LoopLimit, given_moments, is_paused_now
from app.services.accept.statements import (
    FIND_BY_KEY,
    FIND_BY_LINE,
    FIND_BY_PROVIDER_ID,
    MESSAGE_COLUMNS,
    SHOWN,
    Outcome,
    contact_name_of,
    count_messages,
    lock_conversations,
    message_insert,
    message_values,
)
from app.services.event_log.entries import ENTRY_OF_STORED, OPENED, NewEvent, write_entries
from app.services.search.queue import queue_messages

#: Two messages with the same one are one: by provider and its id, channel and caller's key, or batch and line.
Identity = tuple[Literal["provider", "caller", "batch"], str, str]


class Place(NamedTuple):
    """The place of a stored message, and the fingerprint of the request that an idempotency key came with."""

    id: int
    conversation_id: int
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """A message that is stored now, or that was there, in the form of a row of the single statement."""

    kind: Outcome
    id: int
    conversation_id: int
    fingerprint: str | None
    channel: str | None = None
    from_address: str | None = None
    to_address: str | None = None
    provider_type: str | None = None
    provider_message_id: str | None = None
    idempotency_key: str | None = None
    batch_id: int | None = None
    batch_line: int | None = None


_LOCK = lock_conversations(
    rows(customer_address=Text(), contact_address=Text()),
    *(moment.label(name) for name, moment in COMPUTED._asdict().items()),
)
_HOLDING_BATCHES = select(Batch.id).where(
    Batch.tenant_id == TENANT,
    Batch.id == any_(bindparam("batches", type_=ARRAY(BigInteger()))),
    Batch.state.in_([each.value for each in HOLDING]),
)
_fresh = rows(**MESSAGE_COLUMNS, conversation_id=BigInteger(), held_until=DateTime(timezone=True), is_held=Boolean())
_FRESH = [column.name for column in _fresh.c][:-1]
_INSERT = message_insert(_fresh, _fresh.c.is_held)
_ADDED: dict[str, TypeEngine[Any]] = {
    "conversation_id": BigInteger(),
    "added": Integer(),
    "newest": DateTime(timezone=True),
    "received": Integer(),
    "sends": Boolean(),
    "channels_told": Text(),
}
_given_counts = rows(**_ADDED)
#: An array of arrays would have to be a rectangle. Names of channels have no comma.
_added = select(
    *(column for column in _given_counts.c if column.name != "channels_told"),
    func.string_to_array(_given_counts.c.channels_told, ",", type_=ARRAY(Text())).label("channels"),
).subquery("added")
_COUNT = count_messages(_added, GIVEN).returning(Conversation.id, is_paused_now(GIVEN).label("is_paused_now"))
_SENDS = {MessageStatus.QUEUED, MessageStatus.SCHEDULED}


async def store_in_steps(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit
) -> list[Found]:
    """Store messages, no two with the same identity, in the order given; like `STORE_KNOWN` otherwise."""
    known = await find_stored(connection, tenant_id, filter(None, map(identity_of, messages)))
    repeats: list[Found] = []
    fresh: list[NewMessage] = []
    for message in messages:
        identity = identity_of(message)
        if identity is not None and identity in known:
            repeats.append(_repeat(message, known[identity]))
        else:
            fresh.append(message)
    if not fresh:
        return repeats
    pairs = sorted({(message.customer.value, message.contact.value) for message in fresh})
    wanted = given(tenant_id, ("customer_address", "contact_address"), pairs)
    locked = (await connection.execute(_LOCK, wanted | loops.parameters())).all()
    places = {(row.customer_address, row.contact_address): row for row in locked}
    placed = [
        (message, place)
        for message in fresh
        if (place := places.get((message.customer.value, message.contact.value))) is not None
    ]
    if not placed:
        return repeats
    holding = await _holding_batches(connection, tenant_id, [message for message, _ in placed])
    values = [
        (*message_values(message), place.id, place.held_until, message.batch_id in holding)
        for message, place in placed
    ]
    stored = (await connection.execute(_INSERT, given(tenant_id, _FRESH, values))).all()
    stored = sorted(stored, key=lambda row: row.id)
    await _count(connection, tenant_id, stored, locked, loops)
    await queue_messages(connection, tenant_id, [row.id for row in stored])
    await write_details(connection, tenant_id, stored, [message for message, _ in placed], contact_name_of)
    return repeats + [
        Found(Outcome.STORED, row.id, row.conversation_id, None, *(getattr(row, name) for name in SHOWN))
        for row in stored
    ]


async def _holding_batches(connection: AsyncConnection, tenant_id: int, messages: Iterable[NewMessage]) -> set[int]:
    """The batches of messages whose messages do not leave."""
    batches = {message.batch_id for message in messages if message.batch_id is not None}
    if not batches:
        return set()
    asked = {"tenant": tenant_id, "batches": sorted(batches)}
    return set((await connection.execute(_HOLDING_BATCHES, asked)).scalars())


async def _count(
    connection: AsyncConnection,
    tenant_id: int,
    stored: Sequence[Row[Any]],
    locked: Sequence[Row[Any]],
    loops: LoopLimit,
) -> None:
    """Count stored messages in their conversations, and write the entries of both."""
    if not stored:
        return
    groups: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in stored:
        groups[row.conversation_id].append(row)
    received = {id: sum(each.status == MessageStatus.RECEIVED for each in own) for id, own in groups.items()}
    added = [
        (
            id,
            len(own),
            max(each.sent_at for each in own),
            received[id],
            any(each.status in _SENDS for each in own),
            ",".join(sorted({each.channel for each in own})),
        )
        for id, own in sorted(groups.items())
    ]
    told = loops.parameters()
    counted = await connection.execute(
        _COUNT, given(tenant_id, list(_ADDED), added) | told | given_moments(locked[0])
    )
    paused = sorted(row.id for row in counted if row.is_paused_now)
    opened = sorted(row.id for row in locked if row.is_put_away and received.get(row.id))
    entries = [NewEvent(ENTRY_OF_STORED[MessageStatus(row.status)], row.id, row.conversation_id) for row in stored]
    entries += [NewEvent(EventType.CONVERSATION_PAUSED, conversation_id=id, facts=loops.pause_facts) for id in paused]
    entries += [NewEvent(EventType.CONVERSATION_UPDATED, conversation_id=id, facts=OPENED) for id in opened]
    await write_entries(connection, tenant_id, entries)


def identity_of(message: Any) -> Identity | None:
    """The identity of a message, new or stored, if it has one."""
    if message.provider_message_id is not None:
        return "provider", message.provider_type, message.provider_message_id
    if message.idempotency_key is not None:
        return "caller", message.channel, message.idempotency_key
    if message.batch_id is not None:
        return "batch", str(message.batch_id), str(message.batch_line)
    return None


def _repeat(message: NewMessage, place: Place) -> Found:
    identity = {name: getattr(message, name) for name in SHOWN if name not in {"from_address", "to_address"}}
    return Found(Outcome.REPEAT, place.id, place.conversation_id, place.fingerprint, **identity)


async def find_stored(
    connection: AsyncConnection, tenant_id: int, identities: Iterable[Identity]
) -> dict[Identity, Place]:
    """The places of the messages that have one of these identities."""
    wanted = list(identities)
    ids = [(type_, id) for kind, type_, id in wanted if kind == "provider"]
    keys = [(channel, key) for kind, channel, key in wanted if kind == "caller"]
    lines = [(int(batch), int(line)) for kind, batch, line in wanted if kind == "batch"]
    found: dict[Identity, Place] = {}
    if ids:
        parameters = given(tenant_id, ("provider_type", "provider_message_id"), ids)
        for row in await connection.execute(FIND_BY_PROVIDER_ID, parameters):
            found["provider", row[0], row[1]] = Place(row.id, row.conversation_id, None)
    if keys:
        parameters = given(tenant_id, ("channel", "idempotency_key"), keys)
        for row in await connection.execute(FIND_BY_KEY, parameters):
            found["caller", row[0], row[1]] = Place(row.id, row.conversation_id, row.request_fingerprint)
    if lines:
        for row in await connection.execute(FIND_BY_LINE, given(tenant_id, ("batch_id", "batch_line"), lines)):
            place = Place(row.id, row.conversation_id, row.request_fingerprint)
            found["batch", str(row.batch_id), str(row.batch_line)] = place
    return found
