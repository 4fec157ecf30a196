"""The one way in for messages, outbound and inbound: a group commit over `store_messages`."""

from collections.abc import Callable
from itertools import groupby

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.domain import Direction, NewMessage, StoredMessage
from app.services.batching import GroupCommit
from app.services.storing import store_messages


class MessageWriter(GroupCommit[NewMessage, StoredMessage]):
    """Stores messages; `on_outbound` is called after each commit that left something to deliver."""

    def __init__(self, engine: AsyncEngine, settings: Settings, *, on_outbound: Callable[[], None]) -> None:
        super().__init__(
            engine,
            _store,
            batch_size=settings.accept_batch_size,
            queue_limit=settings.accept_queue_limit,
            deadline_seconds=settings.database_statement_timeout_seconds,
            name="accept",
        )
        self._on_outbound = on_outbound

    async def write(self, message: NewMessage) -> StoredMessage:
        """Store one message and say where it is, after the commit.

        An inbound message whose provider id is already stored, or that arrives many times at once, is stored
        once; every copy gets the first one's place. Errors are those of `GroupCommit.submit`.
        """
        stored = await self.submit(message)
        if message.direction is Direction.OUTBOUND:
            self._on_outbound()
        return stored


async def _store(connection: AsyncConnection, messages: list[NewMessage]) -> list[StoredMessage]:
    """One set of statements for each tenant in the batch; no statement reaches over tenants."""
    places: dict[int, StoredMessage] = {}
    by_tenant = sorted(range(len(messages)), key=lambda position: messages[position].tenant_id)
    for tenant_id, group in groupby(by_tenant, key=lambda position: messages[position].tenant_id):
        positions = list(group)
        stored = await store_messages(connection, tenant_id, [messages[position] for position in positions])
        places.update(zip(positions, stored, strict=True))
    return [places[position] for position in range(len(messages))]
