"""Entries of the event log, written by the statement that changes what they tell of, or in its transaction.

An entry holds ids and small facts. What a reader is shown is rendered when it is read (`app.services.events`).
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Insert,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.connectivity.event_generation import CURRENT_GENERATION, CURRENT_TRANSACTION
from app.db.models import Contact, Event, EventLog
from app.db.statements.batches import TENANT, given, rows, same
from app.db.statements.json_text import constant
from app.domain import ConversationStatus, EventType, MessageStatus

#: The entry for a message that gets a status. The others change nothing that a client waits for.
_ENTRY_OF_STATUS = {
    MessageStatus.UNKNOWN: EventType.MESSAGE_UNKNOWN,
    MessageStatus.SENT: EventType.MESSAGE_SENT,
    MessageStatus.UNDELIVERED: EventType.MESSAGE_UNDELIVERED,
    MessageStatus.FAILED: EventType.MESSAGE_FAILED,
    MessageStatus.CANCELED: EventType.MESSAGE_CANCELED,
    MessageStatus.SUPPRESSED: EventType.MESSAGE_SUPPRESSED,
    MessageStatus.EXPIRED: EventType.MESSAGE_EXPIRED,
    MessageStatus.DELIVERED: EventType.MESSAGE_DELIVERED,
    MessageStatus.READ: EventType.MESSAGE_READ,
}
#: The entry for a message that is stored with a status.
ENTRY_OF_STORED = {
    MessageStatus.RECEIVED: EventType.MESSAGE_RECEIVED,
    MessageStatus.SENT: EventType.MESSAGE_SENT,
    MessageStatus.SCHEDULED: EventType.MESSAGE_ACCEPTED,
    MessageStatus.QUEUED: EventType.MESSAGE_ACCEPTED,
}


#: The facts of a conversation that an inbound message has opened.
OPENED = {"by": None, "changed": {"status": ConversationStatus.OPEN.value}}
_OPENED = cast(constant(json.dumps(OPENED)), JSONB)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An entry to be written. `facts` hold no text of a person and no whole address."""

    type: EventType
    message_id: int | None = None
    conversation_id: int | None = None
    contact_id: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def entries_of_changed(messages: CTE) -> CTE:
    """Write the entries of messages whose status has changed: of `id`, `conversation_id` and `status`."""
    return _entries_of(messages, _ENTRY_OF_STATUS, messages.c.status.in_(_ENTRY_OF_STATUS))


def entries_of_suppressed(messages: CTE) -> CTE:
    """Write the entries of messages that refusals have stopped: of `id` and `conversation_id`."""
    values = {
        "type": literal(EventType.MESSAGE_SUPPRESSED.value, Text()),
        "message_id": messages.c.id,
        "conversation_id": messages.c.conversation_id,
    }
    return _written(values, [messages.c.id]).returning(Event.id).cte("logged")


def entries_of_stored(messages: CTE) -> CTE:
    """Write the entries of messages that are stored for the first time, of the same columns."""
    return _entries_of(messages, ENTRY_OF_STORED)


def entries_of_counted(conversations: CTE, pause_facts: ColumnElement[Any]) -> CTE:
    """Write the entries of conversations that are paused now, and of those that a message has opened."""

    def told_of(type_: EventType, facts: ColumnElement[Any], is_it: ColumnElement[bool]) -> Select[Any]:
        name = cast(constant(type_.value), Text()).label("type")
        return select(name, conversations.c.id, facts.label("facts")).where(is_it)

    told = union_all(
        told_of(EventType.CONVERSATION_PAUSED, pause_facts, conversations.c.is_paused_now),
        told_of(EventType.CONVERSATION_UPDATED, _OPENED, conversations.c.is_opened_now),
    ).subquery("told_of")
    values = {"type": told.c.type, "conversation_id": told.c.id, "facts": told.c.facts}
    return _written(values, [told.c.id]).returning(Event.id).cte("changes")


def entries_of_consent(said: CTE, type_: EventType) -> CTE:
    """Write the entries of consent entries that are stored: of `id`, `address` and `address_type`."""
    is_its = same(Contact, said, "address", "address_type")
    contact = select(Contact.id).where(is_its).correlate(said).scalar_subquery()
    values = {
        "type": literal(type_.value),
        "contact_id": contact,
        "facts": func.jsonb_build_object("entry_id", said.c.id),
    }
    return _written(values, [said.c.id]).returning(Event.id).cte("logged")


def entries_of_begun(contacts: CTE, conversations: CTE, messages: CTE) -> CTE:
    """Write the entries of new contacts, new conversations and stored messages, in this order."""
    ids = {name: cast(null(), BigInteger()) for name in ("message_id", "conversation_id", "contact_id")}

    def told(stage: int, type_: ColumnElement[str], source: CTE, **own: ColumnElement[Any]) -> Select[Any]:
        columns: dict[str, ColumnElement[Any]] = {"type": cast(type_, Text()), **ids, **own}
        order: dict[str, ColumnElement[Any]] = {"stage": literal(stage, Integer()), "number": source.c.id}
        return select(*(column.label(name) for name, column in (order | columns).items()))

    of_message = {"message_id": messages.c.id, "conversation_id": messages.c.conversation_id}
    each = union_all(
        told(1, literal(EventType.CONTACT_CREATED.value), contacts, contact_id=contacts.c.id),
        told(2, literal(EventType.CONVERSATION_CREATED.value), conversations, conversation_id=conversations.c.id),
        told(3, _type_of(messages, ENTRY_OF_STORED), messages, **of_message),
    ).subquery("told")
    values = {name: each.c[name] for name in ("type", *ids)}
    return _written(values, [each.c.stage, each.c.number]).returning(Event.id).cte("logged")


def _type_of(messages: CTE, types: dict[MessageStatus, EventType]) -> ColumnElement[str]:
    return case({word.value: type_.value for word, type_ in types.items()}, value=messages.c.status)


def _entries_of(messages: CTE, types: dict[MessageStatus, EventType], *conditions: ColumnElement[bool]) -> CTE:
    values = {
        "type": _type_of(messages, types),
        "message_id": messages.c.id,
        "conversation_id": messages.c.conversation_id,
    }
    return _written(values, [messages.c.id], *conditions).returning(Event.id).cte("logged")


def _written(
    values: Mapping[str, ColumnElement[Any]],
    order: Sequence[ColumnElement[Any]],
    *conditions: ColumnElement[bool],
) -> Insert:
    """An INSERT of entries with these columns, as part of the transaction that executes it."""
    key = {"tenant_id": TENANT, "generation": CURRENT_GENERATION, "transaction_id": CURRENT_TRANSACTION}
    chosen = select(*key.values(), *values.values()).where(*conditions)
    return insert(Event).from_select([*key, *values], chosen.order_by(*order))


_told = rows(
    type=Text(), message_id=BigInteger(), conversation_id=BigInteger(), contact_id=BigInteger(), facts=Text()
)
_FIELDS = ("type", "message_id", "conversation_id", "contact_id")
_WRITE = _written(
    {name: _told.c[name] for name in _FIELDS} | {"facts": cast(_told.c.facts, JSONB)}, [_told.c.position]
)


async def write_entries(connection: AsyncConnection, tenant_id: int, events: Iterable[NewEvent]) -> None:
    """Write entries in the transaction that is open on `connection`, in this order."""
    values = [
        (
            event.type.value,
            event.message_id,
            event.conversation_id,
            event.contact_id,
            json.dumps(event.facts) if event.facts else None,
        )
        for event in events
    ]
    if values:
        await connection.execute(_WRITE, given(tenant_id, (*_FIELDS, "facts"), values))


_STARTED = select(func.pg_postmaster_start_time()).where(EventLog.tenant_id == TENANT)
_BEGIN = update(EventLog).where(EventLog.tenant_id == TENANT).values(server_started_at=bindparam("started"))


async def add_log(connection: AsyncConnection, tenant_id: int) -> None:
    """Add the log of a new tenant, for the server that has its rows."""
    log = insert(EventLog).values(tenant_id=tenant_id, generation=int(time.time()))
    await connection.execute(log)
    started = (await connection.execute(_STARTED, {"tenant": tenant_id})).scalar_one()
    await connection.execute(_BEGIN, {"tenant": tenant_id, "started": started})
