"""Reading conversations: all messages between one customer address and one contact address, on any channel.

They are created with their first message (`app.services.accept`).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Text, any_, bindparam, func, literal_column, select

from app.db.models import Conversation, ConversationTag, Message
from app.db.statements.batches import TENANT
from app.db.statements.json_text import constant
from app.db.statements.paging import JsonPages, Page, Source
from app.db.statements.reads import Read, Reads
from app.domain import ConversationStatus
from app.errors import ConversationNotFound
from app.services.messages.json_views import CONVERSATION, CONVERSATION_WITH_LAST_MESSAGE, MESSAGE
from app.services.messages.metadata import Pairs, has_pair, pair_parameters

_ID = bindparam("conversation", type_=BigInteger())
_MESSAGES = JsonPages(
    MESSAGE,
    Message.tenant_id == TENANT,
    Message.conversation_id == _ID,
    order=(Message.sent_at, Message.id),
    newest_first=False,
)
_ONE = Read(select(CONVERSATION).where(Conversation.tenant_id == TENANT, Conversation.id == _ID))
_ONE_WITH_LAST_MESSAGE = Read(
    select(CONVERSATION_WITH_LAST_MESSAGE).where(Conversation.tenant_id == TENANT, Conversation.id == _ID)
)
_SEVERAL = Read(
    select(CONVERSATION).where(
        Conversation.tenant_id == TENANT, Conversation.id == any_(bindparam("ids", type_=ARRAY(BigInteger())))
    ),
    may_be_shared=False,
)
_EXISTS = Read(select(Conversation.id).where(Conversation.tenant_id == TENANT, Conversation.id == _ID))


#: Every list has an index for it. That of all conversations is put together from those of each status.
_SOURCES = [Source(conditions=[Conversation.status == constant(each.value)]) for each in ConversationStatus]


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """The conversations to list; None stands for all. They have all pairs of `metadata`.

    `assignee` is a name, or empty for those that no one looks after. A conversation is listed by any of its channels.
    """

    status: ConversationStatus | None = None
    assignee: str | None = None
    tag: str | None = None
    channel: str | None = None
    unread: bool = False
    metadata: Pairs = ()

    async def page(
        self, reads: Reads, tenant_id: int, *, limit: int, cursor: str | None, with_last_message: bool = False
    ) -> Page[str]:
        """A page of a tenant's conversations as JSON, the most recently active first."""
        given: dict[str, Any] = {} if not self.assignee else {"assignee": self.assignee}
        given |= {} if self.tag is None else {"tag": self.tag}
        given |= {} if self.channel is None else {"channel": [self.channel]}
        names = frozenset(given) | ({"unread"} if self.unread else set())
        names |= {"unassigned"} if self.assignee == "" else set()
        pages = _pages_of(names, self.status, len(self.metadata), with_last_message)
        parameters = {"tenant": tenant_id, **given, **pair_parameters(self.metadata)}
        return await pages.fetch(reads, parameters, limit=limit, cursor=cursor)


#: Gathered into an array, they are looked up by their ids. As a join, PostgreSQL would read every conversation.
_TAGGED = (
    select(ConversationTag.conversation_id)
    .where(ConversationTag.tenant_id == TENANT, ConversationTag.tag == bindparam("tag", type_=Text()))
    .scalar_subquery()
)
_CONDITIONS: Mapping[str, ColumnElement[bool]] = {
    "assignee": Conversation.assignee == bindparam("assignee", type_=Text()),
    "unassigned": Conversation.assignee.is_(None),
    "tag": Conversation.id == any_(func.array(_TAGGED)),
    "channel": Conversation.channels.contains(bindparam("channel", type_=ARRAY(Text()))),
    "unread": Conversation.unread_count > literal_column("0"),
}
#: Those by which an index of its own finds the conversations in their order.
_IN_ORDER = {"assignee", "unread"}


@functools.cache
def _pages_of(
    names: frozenset[str], status: ConversationStatus | None, pairs: int, with_last_message: bool
) -> JsonPages:
    wanted = [condition for name, condition in _CONDITIONS.items() if name in names]
    wanted += [has_pair("conversation", Conversation.id, number) for number in range(pairs)]
    sources: list[Source] = []
    if status is not None:
        wanted.append(Conversation.status == constant(status.value))
    elif not names & {*_IN_ORDER, "tag"}:
        sources = _SOURCES
    return JsonPages(
        CONVERSATION_WITH_LAST_MESSAGE if with_last_message else CONVERSATION,
        Conversation.tenant_id == TENANT,
        *wanted,
        order=(Conversation.last_activity_at, Conversation.id),
        newest_first=True,
        sources=sources,
    )


class ConversationService:
    """A tenant's conversations, as JSON (`app.schemas.views`)."""

    def __init__(self, reads: Reads, tenant_id: int) -> None:
        self._reads = reads
        self._tenant_id = tenant_id

    async def recent(
        self,
        wanted: ConversationFilter | None = None,
        *,
        limit: int,
        cursor: str | None = None,
        with_last_message: bool = False,
    ) -> Page[str]:
        """The conversations that a filter finds, the most recently active first."""
        wanted = wanted or ConversationFilter()
        return await wanted.page(
            self._reads, self._tenant_id, limit=limit, cursor=cursor, with_last_message=with_last_message
        )

    async def one(self, conversation_id: int, *, with_last_message: bool = False) -> str:
        """A conversation. Raises `ConversationNotFound`."""
        read = _ONE_WITH_LAST_MESSAGE if with_last_message else _ONE
        found = await self._reads.fetch(read, {"tenant": self._tenant_id, "conversation": conversation_id})
        if not found:
            raise _not_found()
        json: str = found[0][0]
        return json

    async def several(self, ids: Sequence[int]) -> list[str]:
        """The conversations with these ids, in no order; those that do not exist are left out."""
        return [row[0] for row in await self._reads.fetch(_SEVERAL, {"tenant": self._tenant_id, "ids": [*ids]})]

    async def messages(self, conversation_id: int, *, limit: int, cursor: str | None = None) -> Page[str]:
        """The messages of a conversation in both directions and on every channel, oldest first by `sent_at`.

        Raises `ConversationNotFound`.
        """
        parameters = {"tenant": self._tenant_id, "conversation": conversation_id}
        page = await _MESSAGES.fetch(self._reads, parameters, limit=limit, cursor=cursor)
        if not page.rows and not await self._reads.fetch(_EXISTS, parameters):
            raise _not_found()
        return page


def _not_found() -> ConversationNotFound:
    return ConversationNotFound("There is no conversation with this id.")
