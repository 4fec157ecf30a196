"""The writer of all new messages, outbound and inbound: two group commits, one behind the other.

Nearly every message belongs to a conversation that exists, and is stored with one statement. First messages and
repeats go on to the second group commit, which looks up, creates what is missing, and stores.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from operator import attrgetter
from typing import Self

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.domain import Direction, NewMessage, StoredMessage
from app.services.accept.group_commit import GroupCommit
from app.services.accept.loops import LoopLimit
from app.services.accept.store import store_known, store_messages


class MessageWriter:
    """Stores messages, and calls `on_outbound` after each outbound one. An async context manager."""

    def __init__(self, engine: AsyncEngine, settings: Settings, *, on_outbound: Callable[[], None]) -> None:
        tenant_of, loops = attrgetter("tenant_id"), LoopLimit.of(settings)
        self._known: GroupCommit[NewMessage, StoredMessage | None] = GroupCommit(
            engine,
            settings,
            partial(_store_known, loops),
            name="accept",
            tenant_of=tenant_of,
            single_statement=True,
        )
        self._others: GroupCommit[NewMessage, StoredMessage] = GroupCommit(
            engine, settings, partial(_store, loops), name="accept-first", tenant_of=tenant_of
        )
        self._on_outbound = on_outbound
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._others)
        await self._stack.enter_async_context(self._known)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def write(self, message: NewMessage) -> StoredMessage:
        """Store one message; returns its place after the commit.

        Copies with the same provider id or idempotency key are stored once, and all get the first one's place.
        Raises the errors of `GroupCommit.submit`; its deadline holds for both group commits together.
        """
        until = asyncio.get_running_loop().time() + self._deadline_seconds
        stored = await self._known.submit(message, until=until) or await self._others.submit(message, until=until)
        if message.direction is Direction.OUTBOUND:
            self._on_outbound()
        return stored


async def _store_known(
    loops: LoopLimit, connection: AsyncConnection, messages: list[NewMessage]
) -> list[StoredMessage | None]:
    return await store_known(connection, messages[0].tenant_id, messages, loops)


async def _store(loops: LoopLimit, connection: AsyncConnection, messages: list[NewMessage]) -> list[StoredMessage]:
    return await store_messages(connection, messages[0].tenant_id, messages, loops)
