"""Renders entries of the event log: what they are about, as it is at that moment.

The log holds ids only, so that what is erased is gone from it as well.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Row, Select, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import TENANT
from app.db.models import Contact, Conversation, Message
from app.schemas.events import ContactEvent, ConversationEvent, EndpointEvent, EventView, MessageEvent
from app.schemas.personal_data import ContactView
from app.schemas.views import ConversationView, MessageView
from app.services.events.cursors import Position
from app.services.events.reading import EVERYTHING, Entry, EventFilter, Start, log_state, read_page

_IDS = bindparam("ids", type_=ARRAY(BigInteger()))


def _these(model: type[Message | Conversation | Contact], *conditions: ColumnElement[bool]) -> Select[Any]:
    return select(*model.__table__.c).where(model.tenant_id == TENANT, model.id == any_(_IDS), *conditions)


_MESSAGES = _these(Message)
_CONVERSATIONS = _these(Conversation)
_CONTACTS = _these(Contact, Contact.erasing_since.is_(None))


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
    """The JSON of each entry (`EventView`), in order; one statement for each kind of thing that they are about."""
    about_conversations = {entry.conversation_id for entry in entries if entry.message_id is None}
    messages = await _load(connection, _MESSAGES, tenant_id, {entry.message_id for entry in entries})
    conversations = await _load(connection, _CONVERSATIONS, tenant_id, about_conversations)
    contacts = await _load(connection, _CONTACTS, tenant_id, {entry.contact_id for entry in entries})
    return [
        EventView(
            id=entry.id,
            type=entry.type,
            timestamp=entry.created_at,
            data=_data(entry, messages, conversations, contacts),
        )
        .model_dump_json(by_alias=True)
        .encode()
        for entry in entries
    ]


async def _load(
    connection: AsyncConnection, statement: Select[Any], tenant_id: int, ids: Collection[int | None]
) -> dict[int, Row[Any]]:
    wanted = [id for id in ids if id is not None]
    if not wanted:
        return {}
    return {row.id: row for row in await connection.execute(statement, {"tenant": tenant_id, "ids": wanted})}


def _data(
    entry: Entry, messages: dict[int, Row[Any]], conversations: dict[int, Row[Any]], contacts: dict[int, Row[Any]]
) -> MessageEvent | ConversationEvent | ContactEvent | EndpointEvent:
    if entry.message_id is not None:
        assert entry.conversation_id is not None
        message = messages.get(entry.message_id)
        shown = None if message is None else MessageView.model_validate(message)
        return MessageEvent(message_id=entry.message_id, conversation_id=entry.conversation_id, message=shown)
    if entry.conversation_id is not None:
        conversation = conversations.get(entry.conversation_id)
        return ConversationEvent(
            conversation_id=entry.conversation_id,
            conversation=None if conversation is None else ConversationView.model_validate(conversation),
            reason=entry.facts.get("reason"),
        )
    if entry.contact_id is not None:
        contact = contacts.get(entry.contact_id)
        known = None if contact is None else ContactView.model_validate(contact)
        return ContactEvent(contact_id=entry.contact_id, contact=known)
    return EndpointEvent(endpoint_id=entry.facts["endpoint_id"], reason=entry.facts["reason"])
