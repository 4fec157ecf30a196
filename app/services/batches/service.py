"""The use cases of batches: receive lines, show the progress, pause, resume and cancel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.batches import BatchState
from app.db.models import Batch, Message
from app.db.statements.paging import Page
from app.domain import NewMessage
from app.errors import BatchCanceled, Overloaded
from app.services.batches.holding import settle
from app.services.batches.receiving import Receiver, Sender
from app.services.batches.store import (
    NewBatch,
    batches_of,
    change_state,
    complete_batch,
    count_by_status,
    lines_of,
    load_batch,
    open_batch,
)
from app.services.messages.service import MessageService

#: Requests with lines that a process reads at the same time: of all tenants, and of one.
_MOST_AT_ONCE, _MOST_OF_ONE = 16, 4
#: Seconds for which a state of a batch that was read holds.
_STATE_HOLDS_SECONDS = 1.0
_CANCELED = (BatchState.CANCELING, BatchState.CANCELED)


class Progress(NamedTuple):
    """A batch, and how many of its messages have each status."""

    batch: Batch
    statuses: Mapping[str, int]


class BatchService:
    """Works on the batches of all tenants. `on_due` and `on_logged` are as in `MessageService`."""

    def __init__(
        self,
        messages: MessageService,
        sessions: async_sessionmaker[AsyncSession],
        *,
        on_due: Callable[[], None],
        on_logged: Callable[[int], None],
    ) -> None:
        self._messages = messages
        self._sessions = sessions
        self._on_due = on_due
        self._on_logged = on_logged
        self._receiving: set[Receiver] = set()

    async def open(self, tenant_id: int, new: NewBatch) -> tuple[Batch, bool]:
        """The batch of a key, made if it is new, and True if it was there before. Raises `Overloaded`."""
        own = sum(receiver.batch.tenant_id == tenant_id for receiver in self._receiving)
        if len(self._receiving) >= _MOST_AT_ONCE or own >= _MOST_OF_ONE:
            raise Overloaded("As many batches are being read as can be at the same time. Try again shortly.")
        async with self._sessions.begin() as session:
            return await open_batch(session, tenant_id, new)

    @contextmanager
    def receiving(self, batch: Batch, sender: Sender, read: Callable[[bytes], NewMessage]) -> Iterator[Receiver]:
        """A receiver of lines for a batch; `read` makes a message of a line, and raises `ServiceError`."""
        receiver = Receiver(batch, self._messages, sender, read, self._canceled(batch))
        self._receiving.add(receiver)
        try:
            yield receiver
        finally:
            self._receiving.discard(receiver)

    def close(self) -> None:
        """Read no further lines: the process is being stopped."""
        for receiver in self._receiving:
            receiver.stop()

    def _canceled(self, batch: Batch) -> Callable[[], Awaitable[bool]]:
        """A function that tells if a batch is canceled, as of a second ago at most."""
        clock = asyncio.get_running_loop().time
        tenant_id, batch_id = batch.tenant_id, batch.id
        state, read_at = batch.state, clock()

        async def is_canceled() -> bool:
            nonlocal state, read_at
            if clock() - read_at > _STATE_HOLDS_SECONDS:
                read_at = clock()  # others go by the earlier state meanwhile
                async with self._sessions() as session:
                    state = (await load_batch(session, tenant_id, batch_id)).state
            return state in _CANCELED

        return is_canceled

    async def complete(self, receiver: Receiver) -> None:
        """Note that all lines of a batch have been read."""
        summary, batch = receiver.summary, receiver.batch
        async with self._sessions.begin() as session:
            await complete_batch(
                session, batch.tenant_id, batch.id, lines=summary.last_line, refused=summary.refused_within
            )

    async def page(self, tenant_id: int, *, limit: int, cursor: str | None) -> Page[Batch]:
        """The newest first."""
        async with self._sessions() as session:
            return await batches_of(session, tenant_id, limit=limit, cursor=cursor)

    async def progress(self, tenant_id: int, batch_id: int) -> Progress:
        """Raises `BatchNotFound`."""
        async with self._sessions() as session:
            batch = await load_batch(session, tenant_id, batch_id)
            return Progress(batch, await count_by_status(session, tenant_id, batch_id))

    async def lines(self, tenant_id: int, batch_id: int, *, limit: int, cursor: str | None) -> Page[Message]:
        """The messages of a batch in the order of its lines. Raises `BatchNotFound`."""
        async with self._sessions() as session:
            await load_batch(session, tenant_id, batch_id)
            return await lines_of(session, tenant_id, batch_id, limit=limit, cursor=cursor)

    async def pause(self, tenant_id: int, batch_id: int) -> Progress:
        """Hold what has not left, and the lines that are still to come. Raises `BatchNotFound`, `BatchCanceled`."""
        return await self._change(tenant_id, batch_id, BatchState.PAUSED, unless=(BatchState.PAUSED,))

    async def resume(self, tenant_id: int, batch_id: int) -> Progress:
        """Have what is held leave; scheduled messages keep their time. Raises `BatchNotFound`, `BatchCanceled`."""
        resumed = (BatchState.RUNNING, BatchState.RESUMING)
        return await self._change(tenant_id, batch_id, BatchState.RESUMING, unless=resumed)

    async def cancel(self, tenant_id: int, batch_id: int) -> Progress:
        """Cancel what has not left, and refuse further lines. Raises `BatchNotFound`."""
        return await self._change(tenant_id, batch_id, BatchState.CANCELING, unless=_CANCELED)

    async def _change(
        self, tenant_id: int, batch_id: int, state: BatchState, *, unless: tuple[BatchState, ...]
    ) -> Progress:
        """Give a batch a state, and have its messages follow. What is interrupted is completed by a worker."""
        async with self._sessions.begin() as session:
            batch = await load_batch(session, tenant_id, batch_id, for_update=True)
            if batch.state in _CANCELED and state is not BatchState.CANCELING:
                raise BatchCanceled("The batch is canceled: it can't be paused or resumed any more.")
            if batch.state not in unless:
                await change_state(session, tenant_id, batch_id, state)
        await settle(self._transaction, tenant_id, batch_id, state)
        self._on_due()
        self._on_logged(tenant_id)
        return await self.progress(tenant_id, batch_id)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._sessions.begin() as session:
            yield await session.connection()
