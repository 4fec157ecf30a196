"""Entries of the event log, written by the statement that changes what they tell of, or in its transaction.

An entry holds ids and small facts. What a reader is shown is rendered when it is read (`app.services.events`).
"""

import json
import time
from collections.abc import Iterable
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
    case,
    cast,
    func,
    insert,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import TENANT, given, rows
from app.db.event_generation import CURRENT_GENERATION, CURRENT_TRANSACTION
from app.db.models import Event, EventLog
from app.domain import EventType, MessageStatus

#: The entry for a message that gets a status. The others change nothing that a client waits for.
_ENTRY_OF_STATUS = {
    MessageStatus.UNKNOWN: EventType.MESSAGE_UNKNOWN,
    MessageStatus.SENT: EventType.MESSAGE_SENT,
    MessageStatus.UNDELIVERED: EventType.MESSAGE_UNDELIVERED,
    MessageStatus.FAILED: EventType.MESSAGE_FAILED,
    MessageStatus.CANCELED: EventType.MESSAGE_CANCELED,
    MessageStatus.EXPIRED: EventType.MESSAGE_EXPIRED,
    MessageStatus.DELIVERED: EventType.MESSAGE_DELIVERED,
    MessageStatus.READ: EventType.MESSAGE_READ,
}
#: The entry for a message that is stored with a status.
_ENTRY_OF_STORED = {
    MessageStatus.RECEIVED: EventType.MESSAGE_RECEIVED,
    MessageStatus.SENT: EventType.MESSAGE_SENT,
    MessageStatus.SCHEDULED: EventType.MESSAGE_ACCEPTED,
    MessageStatus.QUEUED: EventType.MESSAGE_ACCEPTED,
}


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


def entries_of_stored(messages: CTE) -> CTE:
    """Write the entries of messages that are stored for the first time, of the same columns."""
    return _entries_of(messages, _ENTRY_OF_STORED)


def entries_of_paused(conversations: CTE, is_paused: ColumnElement[bool], facts: ColumnElement[Any]) -> CTE:
    """Write the entries of those conversations that are paused now: of `id`."""
    values: dict[str, ColumnElement[Any]] = {
        "tenant_id": TENANT,
        "generation": CURRENT_GENERATION,
        "transaction_id": CURRENT_TRANSACTION,
        "type": literal(EventType.CONVERSATION_PAUSED.value),
        "conversation_id": conversations.c.id,
        "facts": facts,
    }
    paused = select(*values.values()).where(is_paused).order_by(conversations.c.id)
    return insert(Event).from_select(list(values), paused).returning(Event.id).cte("pauses")


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
        told(3, _type_of(messages, _ENTRY_OF_STORED), messages, **of_message),
    ).subquery("told")
    columns = ["type", *ids]
    chosen = select(TENANT, CURRENT_GENERATION, CURRENT_TRANSACTION, *(each.c[name] for name in columns))
    names = ["tenant_id", "generation", "transaction_id", *columns]
    written = insert(Event).from_select(names, chosen.order_by(each.c.stage, each.c.number))
    return written.returning(Event.id).cte("logged")


def _type_of(messages: CTE, types: dict[MessageStatus, EventType]) -> ColumnElement[str]:
    return case({word.value: type_.value for word, type_ in types.items()}, value=messages.c.status)


def _entries_of(messages: CTE, types: dict[MessageStatus, EventType], *conditions: ColumnElement[bool]) -> CTE:
    values: dict[str, ColumnElement[Any]] = {
        "tenant_id": TENANT,
        "generation": CURRENT_GENERATION,
        "transaction_id": CURRENT_TRANSACTION,
        "type": _type_of(messages, types),
        "message_id": messages.c.id,
        "conversation_id": messages.c.conversation_id,
    }
    chosen = select(*values.values()).where(*conditions).order_by(messages.c.id)
    return insert(Event).from_select(list(values), chosen).returning(Event.id).cte("logged")


_told = rows(
    type=Text(), message_id=BigInteger(), conversation_id=BigInteger(), contact_id=BigInteger(), facts=Text()
)
_WRITE = insert(Event).from_select(
    ["tenant_id", "generation", "transaction_id", "type", "message_id", "conversation_id", "contact_id", "facts"],
    select(
        TENANT,
        CURRENT_GENERATION,
        CURRENT_TRANSACTION,
        _told.c.type,
        _told.c.message_id,
        _told.c.conversation_id,
        _told.c.contact_id,
        cast(_told.c.facts, JSONB),
    ).order_by(_told.c.position),
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
        names = ("type", "message_id", "conversation_id", "contact_id", "facts")
        await connection.execute(_WRITE, given(tenant_id, names, values))


def new_log(tenant_id: int) -> Insert:
    """A statement that adds the log of a new tenant."""
    log = {"generation": int(time.time()), "server_started_at": func.pg_postmaster_start_time()}
    return insert(EventLog).values(tenant_id=tenant_id, **log)
