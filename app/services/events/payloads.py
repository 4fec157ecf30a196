"""Renders entries of the event log: what they are about, as it is at that moment.

The log holds ids only, so that what is erased is gone from it as well.
"""

import json
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any

import structlog
from sqlalchemy import ARRAY, BigInteger, ColumnElement, Row, Select, any_, bindparam, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import ConsentEntry, Contact, Conversation, Message
from app.db.statements.batches import TENANT
from app.domain import Direction, EventType
from app.schemas.consent import ConsentEntryView
from app.schemas.events import (
    EVENT_VIEWS,
    ConsentData,
    ContactData,
    ConversationData,
    DisabledData,
    MessageData,
    PauseData,
    UpdateData,
)
from app.schemas.personal_data import ContactView
from app.schemas.views import ConversationView, MessageView
from app.services.events.cursors import Position
from app.services.events.reading import EVERYTHING, Entry, EventFilter, Start, log_state, read_page
from app.services.files.views import FILES_OF_MESSAGE

log = structlog.get_logger(__name__)

_LINE_ENDS = [(end.encode(), json.dumps(end)[1:-1].encode()) for end in "\x85\u2028\u2029"]
#: The ids of entries that could not be rendered lately: each is logged once.
_not_rendered: deque[str] = deque(maxlen=1000)
_IDS = bindparam("ids", type_=ARRAY(BigInteger()))


def _these(model: type[Conversation | Contact | ConsentEntry], *conditions: ColumnElement[bool]) -> Select[Any]:
    return select(*model.__table__.c).where(model.tenant_id == TENANT, model.id == any_(_IDS), *conditions)


#: Of the HTML of received mails, which `MessageView` leaves out, one character says that there is some.
_HTML = case((Message.direction == Direction.INBOUND.value, func.left(Message.html, 1)), else_=Message.html)
_MESSAGES = select(
    *(_HTML.label("html") if column.name == "html" else column for column in Message.__table__.c),
    FILES_OF_MESSAGE.label("files"),
).where(Message.tenant_id == TENANT, Message.id == any_(_IDS))
_CONVERSATIONS = _these(Conversation)
_CONSENT_ENTRIES = _these(ConsentEntry)
_CONTACTS = _these(Contact, Contact.erasing_since.is_(None))


_ABOUT_CONVERSATIONS: dict[EventType, type[ConversationData]] = {
    EventType.CONVERSATION_PAUSED: PauseData,
    EventType.CONVERSATION_UPDATED: UpdateData,
}
_ABOUT_CONSENT = {EventType.CONSENT_REVOKED, EventType.CONSENT_GRANTED}


@dataclass(frozen=True, slots=True)
class _Things:
    """The rows that entries are about, by id."""

    messages: dict[int, Row[Any]]
    conversations: dict[int, Row[Any]]
    contacts: dict[int, Row[Any]]
    consent: dict[int, Row[Any]]


@dataclass(frozen=True)
class Rendered:
    """An entry as its readers get it; `content` is its JSON, one line."""

    entry: Entry
    content: bytes

    @property
    def position(self) -> Position:
        return self.entry.position

    @cached_property
    def server_sent(self) -> bytes:
        """The entry as a server-sent event, the same for all readers."""
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (self.entry.id.encode(), self.entry.type.encode(), self.content)


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """Rendered entries in order, and the position up to which the log is read with them."""

    entries: list[Rendered]
    position: Position
    more: bool  #: there may be more to read at once
    decided: Position  #: nothing can appear before it any more


async def rendered_page(
    connection: AsyncConnection,
    tenant_id: int,
    after: Position | Start,
    *,
    wanted: EventFilter = EVERYTHING,
    limit: int,
) -> RenderedPage:
    """The next entries after a place, as of now. Raises what `read_page` raises."""
    state = await log_state(connection, tenant_id)
    page = await read_page(connection, tenant_id, state.position_at(after), state, wanted=wanted, limit=limit)
    contents = await rendered(connection, tenant_id, page.entries)
    entries = [Rendered(*each) for each in zip(page.entries, contents, strict=True)]
    return RenderedPage(entries, page.position, page.more, state.decided)


async def rendered(connection: AsyncConnection, tenant_id: int, entries: Sequence[Entry]) -> list[bytes]:
    """The JSON of each entry (`EventView`), in order; one statement for each kind of thing that they are about.

    An entry that can't be rendered has its ids, and null for what it is about. So it holds up no reader of the log.
    """
    about_conversations = {entry.conversation_id for entry in entries if entry.message_id is None}
    consent = {_consent_entry_of(entry) for entry in entries}
    things = _Things(
        await _load(connection, _MESSAGES, tenant_id, {entry.message_id for entry in entries}),
        await _load(connection, _CONVERSATIONS, tenant_id, about_conversations),
        await _load(connection, _CONTACTS, tenant_id, {entry.contact_id for entry in entries}),
        await _load(connection, _CONSENT_ENTRIES, tenant_id, consent),
    )
    return [_on_one_line(_content(entry, things)) for entry in entries]


def _consent_entry_of(entry: Entry) -> int | None:
    return entry.facts.get("entry_id") if entry.type in _ABOUT_CONSENT else None


def _content(entry: Entry, things: _Things) -> bytes:
    try:
        view = EVENT_VIEWS[EventType(entry.type)](
            id=entry.id,
            type=entry.type,
            timestamp=entry.created_at,
            data=_data(entry, things),
        )
        return view.model_dump_json(by_alias=True).encode()
    except Exception as error:
        if entry.id not in _not_rendered:  # each reader renders it, and a page may be read again and again
            _not_rendered.append(entry.id)
            log.error("event_not_rendered", tenant=entry.tenant_id, id=entry.id, type=entry.type, exc_info=error)
        return _bare(entry)


def _bare(entry: Entry) -> bytes:
    """An entry without what it is about, in the shape of its type."""
    data = dict(entry.facts)
    for name in ("message", "conversation", "contact"):
        if (id := getattr(entry, f"{name}_id")) is not None:
            data[f"{name}_id"] = id
    if about := next((name for name in ("message", "contact", "conversation") if f"{name}_id" in data), None):
        data[about] = None
    moment = entry.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"id": entry.id, "type": entry.type, "timestamp": moment, "data": data}).encode()


def _on_one_line(content: bytes) -> bytes:
    """JSON in which programs that split text into lines find a single line.

    Of the characters that end a line for some of them (Python's `splitlines`, JavaScript), JSON escapes only those
    of ASCII.
    """
    for character, escaped in _LINE_ENDS:
        content = content.replace(character, escaped)
    return content


async def _load(
    connection: AsyncConnection, statement: Select[Any], tenant_id: int, ids: Collection[int | None]
) -> dict[int, Row[Any]]:
    wanted = [id for id in ids if id is not None]
    if not wanted:
        return {}
    return {row.id: row for row in await connection.execute(statement, {"tenant": tenant_id, "ids": wanted})}


def _data(entry: Entry, things: _Things) -> MessageData | ConversationData | ContactData | ConsentData | DisabledData:
    if (entry_id := _consent_entry_of(entry)) is not None:
        said = things.consent.get(entry_id)
        told = None if said is None else ConsentEntryView.model_validate(said)
        return ConsentData(contact_id=entry.contact_id, entry_id=entry_id, entry=told)
    if entry.message_id is not None:
        assert entry.conversation_id is not None
        message = things.messages.get(entry.message_id)
        shown = None if message is None else MessageView.model_validate(message)
        return MessageData(message_id=entry.message_id, conversation_id=entry.conversation_id, message=shown)
    if entry.contact_id is not None:
        contact = things.contacts.get(entry.contact_id)
        known = None if contact is None else ContactView.model_validate(contact)
        return ContactData(contact_id=entry.contact_id, contact=known)
    if entry.conversation_id is not None:
        row = things.conversations.get(entry.conversation_id)
        conversation = None if row is None else ConversationView.model_validate(row)
        about = {"conversation_id": entry.conversation_id, "conversation": conversation}
        view = _ABOUT_CONVERSATIONS.get(EventType(entry.type), ConversationData)
        return view(**about, **entry.facts)
    return DisabledData(endpoint_id=entry.facts["endpoint_id"], reason=entry.facts["reason"])
