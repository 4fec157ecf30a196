"""Finding messages, contacts and tags of one tenant, the newest first.

Each kind is one statement. It goes through the sections of the index from the newest to the oldest, and stops at the
last hit of the page. So a common word costs no more than a rare one.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Numeric,
    Select,
    Subquery,
    Text,
    any_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import InstrumentedAttribute

from app.db.models import (
    Contact,
    ContactWords,
    Conversation,
    ConversationParticipant,
    ConversationTag,
    Message,
    MessageWords,
)
from app.db.statements.batches import TENANT
from app.db.statements.json_text import constant
from app.db.statements.paging import Page
from app.db.statements.reads import Read, Reads
from app.db.statements.sanitize import storable_text
from app.domain import ParticipantRole
from app.errors import FieldError, InvalidRequest
from app.schemas.search import ContactHit, HitKind, MessageHit, TagHit
from app.services.search.indexing import BEGINNING, readable_body
from app.services.search.query import SearchQuery, read_query
from app.services.search.snippets import snippet_of
from app.services.search.words import ANY_SECTION, SECTION

#: Of contacts and of tags so many are shown in front of messages.
_IN_FRONT = 5
_BEYOND_ALL = 2**63 - 1
_CURSOR = re.compile(r"([mc])([1-9][0-9]{0,18})", re.ASCII)

_QUERY = bindparam("query", type_=Text())
_BEFORE = bindparam("before", type_=BigInteger())
_MOST = bindparam("most", type_=Integer())
_SECTION = literal_column(str(SECTION), BigInteger())
_ONE = literal_column("1", Integer())
#: The tenant again, as a number of another type. Otherwise PostgreSQL would read the whole primary key of the tenant
#: beside the index of words, which has the tenant in each word. Zero is added to ids for the same reason.
_OWNER = bindparam("owner", type_=Numeric())


def _newest(
    model: type[MessageWords | ContactWords], id: InstrumentedAttribute[int], *conditions: ColumnElement[bool]
) -> Subquery:
    """The ids of the newest rows before `before` that a query finds: of `id`, at most `most`."""
    own = model.tenant_id == TENANT
    newest = select(func.max(id)).where(own, id < _BEFORE).scalar_subquery()
    oldest = select(func.min(id)).where(own).scalar_subquery()
    step = literal_column("-1", BigInteger())
    series = func.generate_series(newest // _SECTION, oldest // _SECTION, step)
    sections = series.table_valued("number", name="section").render_derived()
    query = cast(func.replace(_QUERY, constant(ANY_SECTION), cast(sections.c.number, Text())), TSQUERY)
    number = id + literal_column("0", BigInteger())
    found = (
        select(id.label("id"))
        .where(model.tenant_id == _OWNER, model.words.op("@@")(query), number < _BEFORE, *conditions)
        .order_by(number.desc())
        .limit(_MOST)
        .lateral("found")
    )
    return select(found.c.id).select_from(sections.join(found, true())).limit(_MOST).subquery("newest")


def _read(newest: Subquery, row: Select[*tuple[Any, ...]]) -> Read:
    """A row for each id, the newest first. `row` is limited to one, so that each is looked up by its key."""
    each = row.limit(_ONE).lateral("hit")
    return Read(
        select(*each.c).select_from(newest.join(each, true())).order_by(newest.c.id.desc()), may_be_shared=False
    )


_messages = _newest(MessageWords, MessageWords.message_id)
_MESSAGES = _read(
    _messages,
    select(
        Message.id,
        Message.conversation_id,
        Message.channel,
        Message.direction,
        Message.sent_at,
        Message.subject,
        BEGINNING.label("body"),
    ).where(Message.tenant_id == TENANT, Message.id == _messages.c.id),
)

_part = func.unnest(bindparam("parts", type_=ARRAY(Text()))).column_valued("part")
_lacks_a_part = exists(select(_part).where(func.strpos(ContactWords.content, _part) == 0))
_contacts = _newest(ContactWords, ContactWords.contact_id, ~_lacks_a_part)
#: With the conversation that was active last.
_CONTACTS = _read(
    _contacts,
    select(Contact.id, Contact.address, Contact.name, Conversation.id.label("conversation_id"))
    .join(ConversationParticipant, ConversationParticipant.contact_id == Contact.id)
    .join(Conversation, Conversation.id == ConversationParticipant.conversation_id)
    .where(
        Contact.tenant_id == TENANT,
        Contact.id == _contacts.c.id,
        Contact.erasing_since.is_(None),
        ConversationParticipant.tenant_id == TENANT,
        ConversationParticipant.role == constant(ParticipantRole.CONTACT.value),
        Conversation.tenant_id == TENANT,
    )
    .order_by(Conversation.last_activity_at.desc(), Conversation.id.desc()),
)

_tags = bindparam("tags", type_=ARRAY(Text()))
_id_and_tag: list[Any] = [Conversation.id, ConversationTag.tag]
_TAGS = Read(
    select(*_id_and_tag)
    .where(
        ConversationTag.tenant_id == TENANT,
        ConversationTag.tag == any_(_tags),
        Conversation.tenant_id == TENANT,
        Conversation.id == ConversationTag.conversation_id,
    )
    .order_by(Conversation.last_activity_at.desc(), Conversation.id.desc())
    .limit(_MOST),
    may_be_shared=False,
)


class Search:
    """Searches in what a tenant has. What was written within the last second may be missing."""

    def __init__(self, reads: Reads, tenant_id: int) -> None:
        self._reads = reads
        self._tenant_id = tenant_id

    async def page(self, q: str, *, kind: HitKind | None = None, limit: int, cursor: str | None = None) -> Page[str]:
        """Hits as JSON (`app.schemas.search`): of one kind, or some contacts, some tags, and then messages.

        Contacts and messages go on from a cursor, the newest first. Raises `InvalidRequest` for an invalid cursor.
        """
        query = read_query(q)
        of_kind, before = _read_cursor(cursor, kind)
        if of_kind is HitKind.CONTACT:
            return await self._contacts(query, before, limit)
        if of_kind is HitKind.TAG:
            return Page(await self._tags(query, limit), None, None)
        in_front: list[str] = []
        if of_kind is None:
            in_front += (await self._contacts(query, before, min(limit, _IN_FRONT))).rows
            in_front += await self._tags(query, min(limit - len(in_front), _IN_FRONT))
        messages = await self._messages(query, before, limit - len(in_front))
        return Page([*in_front, *messages.rows], messages.next, None)

    async def _messages(self, query: SearchQuery, before: int, limit: int) -> Page[str]:
        written = query.for_messages(self._tenant_id)
        if written is None:
            return Page([], None, None)
        found = await self._fetch(_MESSAGES, {"query": written, "before": before, "most": limit + 1})
        hits = [await _message_hit(row, query) for row in found[:limit]]
        last = hits[-1].message_id if hits else before
        return Page(_written(hits), f"m{last}" if len(found) > limit else None, None)

    async def _contacts(self, query: SearchQuery, before: int, limit: int) -> Page[str]:
        written = query.for_contacts(self._tenant_id)
        if written is None:
            return Page([], None, None)
        parameters = {"query": written, "parts": [*query.parts], "before": before, "most": limit + 1}
        found = await self._fetch(_CONTACTS, parameters)
        hits = [
            ContactHit(
                contact_id=row["id"],
                address=row["address"],
                name=row["name"],
                conversation_id=row["conversation_id"],
            )
            for row in found[:limit]
        ]
        return Page(_written(hits), f"c{hits[-1].contact_id}" if len(found) > limit else None, None)

    async def _tags(self, query: SearchQuery, limit: int) -> Sequence[str]:
        """Conversations with the whole query as a tag, also in small or capital letters."""
        text = storable_text(query.text)
        if not text or limit <= 0:
            return []
        tags = [*{text, text.lower(), text.upper(), text.capitalize()}]
        found = await self._fetch(_TAGS, {"tags": tags, "most": limit})
        return _written(TagHit(tag=row["tag"], conversation_id=row["id"]) for row in found)

    async def _fetch(self, read: Read, parameters: dict[str, Any]) -> Sequence[Any]:
        return await self._reads.fetch(read, {"tenant": self._tenant_id, "owner": self._tenant_id, **parameters})


async def _message_hit(row: Any, query: SearchQuery) -> MessageHit:
    # Other requests have their turn between two long texts.
    await asyncio.sleep(0)
    return MessageHit(
        message_id=row["id"],
        snippet=snippet_of(await readable_body(row["channel"], row["body"]), query.terms),
        **{name: row[name] for name in ("conversation_id", "channel", "direction", "sent_at", "subject")},
    )


def _written(hits: Iterable[MessageHit | ContactHit | TagHit]) -> list[str]:
    return [hit.model_dump_json() for hit in hits]


def _read_cursor(cursor: str | None, kind: HitKind | None) -> tuple[HitKind | None, int]:
    """The kind to go on with and the id to begin below."""
    if cursor is None:
        return kind, _BEYOND_ALL
    match = _CURSOR.fullmatch(cursor)
    of_kind = HitKind.CONTACT if match and match[1] == "c" else HitKind.MESSAGE
    if match is None or kind not in {None, of_kind} or int(match[2]) > _BEYOND_ALL:
        error = FieldError("query.cursor", "take the cursor from the Link header of an earlier page")
        raise InvalidRequest("The cursor is not one that this service has given out.", errors=[error])
    return of_kind, int(match[2])
