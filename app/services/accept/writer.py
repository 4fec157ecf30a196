"""The writer of all new messages, outbound and inbound: three group commits, one behind the other.

Most messages belong to a conversation that exists, or are repeats: one statement. The first message of a conversation
goes on to a second one, which creates what is missing. While most messages are first ones, as in a campaign, all go
there at once. What another writer does at the same moment goes on to a third group commit, which looks up again, and
stores. Keywords such as STOP, and mails that unsubscribe, go to that one, because they change consent in the same
transaction. So do messages with files of ours, which they hold from then on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from operator import attrgetter
from typing import Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.schema.distribution import engine_is_distributed
from app.domain import Direction, NewMessage, StoredMessage
from app.services.accept.group_commit import GroupCommit
from app.services.accept.loops import LoopLimit
from app.services.accept.replies import KeywordRules, act_on_keywords
from app.services.accept.store import store_first, store_known
from app.services.accept.store_stepwise import store_messages
from app.services.files.attached import attach, attached_to


class MessageWriter:
    """Stores messages. An async context manager.

    After the commit of a message it calls `on_logged` with the tenant, whose log has grown, and `on_outbound` if it
    is outbound.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        *,
        on_outbound: Callable[[], None],
        on_logged: Callable[[int], None],
    ) -> None:
        tenant_of, loops = attrgetter("tenant_id"), LoopLimit.of(settings)
        self._keywords = KeywordRules.of(settings)
        # Several statements need a transaction, where the database is distributed. First messages then go on at once.
        self._goes_on_at_once = engine_is_distributed(engine)
        self._known, self._first = (
            GroupCommit[NewMessage, StoredMessage | None](
                engine,
                settings,
                partial(_store, store, loops),
                name=name,
                tenant_of=tenant_of,
                single_statement=not self._goes_on_at_once,
            )
            for name, store in (("accept", store_known), ("accept-first", store_first))
        )
        self._others: GroupCommit[NewMessage, StoredMessage] = GroupCommit(
            engine, settings, self._store_others, name="accept-others", tenant_of=tenant_of
        )
        self._firsts = _ShareOfFirsts()
        self._on_outbound = on_outbound
        self._on_logged = on_logged
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for each in (self._others, self._first, self._known):
            await self._stack.enter_async_context(each)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def write(self, message: NewMessage) -> StoredMessage:
        """Store one message; returns its place after the commit.

        Copies with the same provider id or idempotency key are stored once, and all get the first one's place.
        Raises the errors of `GroupCommit.submit`; its deadline holds for all group commits together.
        """
        until = asyncio.get_running_loop().time() + self._deadline_seconds
        if self._keywords.concern(message) or attached_to(message):
            stored = await self._others.submit(message, until=until)
            self._on_outbound()  # a reply of ours may be stored with it
        else:
            stored = (
                (None if self._firsts.are_most else await self._known.submit(message, until=until))
                or (None if self._goes_on_at_once else await self._first.submit(message, until=until))
                or await self._others.submit(message, until=until)
            )
            self._firsts.count(stored.begins)
        if message.direction is Direction.OUTBOUND:
            self._on_outbound()
        self._on_logged(message.tenant_id)
        return stored

    async def _store_others(self, connection: AsyncConnection, messages: list[NewMessage]) -> list[StoredMessage]:
        tenant_id = messages[0].tenant_id
        places = await store_messages(connection, tenant_id, messages, self._keywords.loops)
        pairs = zip(messages, places, strict=True)
        await attach(
            connection, tenant_id, {place.id: attached_to(new) for new, place in pairs if not place.duplicate}
        )
        await act_on_keywords(connection, tenant_id, messages, places, self._keywords)
        return places


class _ShareOfFirsts:
    """The share of first messages among the latest ones, as a moving average."""

    _WEIGHT = 1 / 256

    def __init__(self) -> None:
        self._share = 0.0

    @property
    def are_most(self) -> bool:
        return self._share > 0.5

    def count(self, is_first: bool) -> None:
        self._share += (is_first - self._share) * self._WEIGHT


Places = TypeVar("Places")


async def _store(
    store: Callable[[AsyncConnection, int, list[NewMessage], LoopLimit], Awaitable[Places]],
    loops: LoopLimit,
    connection: AsyncConnection,
    messages: list[NewMessage],
) -> Places:
    return await store(connection, messages[0].tenant_id, messages, loops)
