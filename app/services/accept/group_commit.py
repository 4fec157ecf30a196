"""Group commit: many callers, one transaction.

A commit for each row costs a disk flush each. Here callers submit an item and wait. One task writes it at once when
it is idle; the items that arrive while it writes form the next batch.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.connectivity.outage import outage
from app.db.connectivity.pool import CHECKED_SECONDS
from app.db.engine import is_unavailable, lost_a_race
from app.errors import DatabaseUnavailable, Overloaded
from app.metrics.catalogue import BATCH_SECONDS, BATCH_SIZE

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """Runs `work` over batches of items, each batch in one transaction; an async context manager.

    `work` gets an open connection and the items, and returns one answer for each, in their order. A batch holds the
    items of one tenant only, and tenants take turns. With `single_statement`, `work` executes one statement only. It
    is a transaction by itself, which saves two round trips. Sizes that are not given are those of the settings.
    Leaving writes the items that still wait.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        work: Callable[[AsyncConnection, list[Item]], Awaitable[list[Result]]],
        *,
        name: str,
        tenant_of: Callable[[Item], int],
        batch_size: int | None = None,
        queue_limit: int | None = None,
        single_statement: bool = False,
    ) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT") if single_statement else engine
        self._work = work
        self._tenant_of = tenant_of
        self._batch_size = batch_size or settings.accept_batch_size
        self._queue_limit = queue_limit or settings.accept_queue_limit
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._name = name
        self._waiting: dict[int, deque[tuple[Item, asyncio.Future[Result]]]] = {}
        self._size = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._connection: AsyncConnection | None = None
        self._used_at = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=self._name)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._arrived.set()
        assert self._task is not None
        await self._task
        await self._discard()

    async def submit(self, item: Item, *, until: float | None = None) -> Result:
        """Submit one item; returns its answer after the COMMIT. The item is written even if the caller is cancelled.

        `until`, by the event loop's clock, replaces the deadline of a caller that has waited elsewhere before.

        Raises:
            Overloaded: The queue is full or closing; raised at once.
            DatabaseUnavailable: PostgreSQL is away, or there is no answer by the deadline.
            Exception: `work` failed for this item alone.
        """
        if self._closing or self._size >= self._queue_limit:
            raise Overloaded("The service has more to write than it can take on right now. Try again shortly.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._waiting.setdefault(self._tenant_of(item), deque()).append((item, answer))
        self._size += 1
        self._arrived.set()
        # `asyncio.timeout` would cost five times as much.
        deadline = loop.call_at(until or loop.time() + self._deadline_seconds, _give_up, answer)
        try:
            return await answer
        finally:
            deadline.cancel()

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if batch := self._next_batch():
                    await self._write(batch)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """A batch of the first tenant's items, without cancelled ones. Its other items go to the end of the queue."""
        tenant_id = next(iter(self._waiting))
        queue = self._waiting.pop(tenant_id)
        taken = [queue.popleft() for _ in range(min(len(queue), self._batch_size))]
        if queue:
            self._waiting[tenant_id] = queue
        self._size -= len(taken)
        return [(item, answer) for item, answer in taken if not answer.done()]

    async def _write(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        """Write a batch and answer its callers. After an error, write item by item: a faulty one fails alone."""
        try:
            answers = await self._commit([item for item, _ in batch])
        except Exception as error:
            unavailable = is_unavailable(error)
            if len(batch) > 1 and (lost_a_race(error) or not unavailable):
                log.warning("batch_split", batch=self._name, size=len(batch), error=type(error).__name__)
                await self._discard()
                for alone in batch:
                    await self._write([alone])
                return
            if unavailable:
                outage.note(error, batch=self._name)
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(_unavailable() if unavailable else error)
            await self._discard()
        else:
            outage.end()
            for (_, waiting), given in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(given)

    async def _commit(self, items: list[Item]) -> list[Result]:
        began = time.monotonic()
        async with asyncio.timeout(self._deadline_seconds):
            connection = await self._connected()
            async with connection.begin():
                answers = await self._work(connection, items)
        BATCH_SIZE.observe((self._name,), len(items))
        BATCH_SECONDS.observe((self._name,), time.monotonic() - began)
        self._used_at = asyncio.get_running_loop().time()
        return answers

    async def _connected(self) -> AsyncConnection:
        """The connection, kept from batch to batch. After a pause the pool checks it or opens a new one."""
        if self._connection is not None:
            raw = await self._connection.get_raw_connection()
            if raw.driver_connection is None or raw.driver_connection.is_closed():
                await self._discard()
            elif asyncio.get_running_loop().time() - self._used_at > CHECKED_SECONDS:
                connection, self._connection = self._connection, None
                await connection.close()
        if self._connection is None:
            self._connection = await self._engine.connect()
        return self._connection

    async def _discard(self) -> None:
        """Discard the connection after an error, since its state is unknown."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.invalidate()
            with contextlib.suppress(Exception):
                await connection.close()


def _give_up(answer: asyncio.Future[Result]) -> None:
    if not answer.done():
        answer.set_exception(_unavailable())


def _unavailable() -> DatabaseUnavailable:
    return DatabaseUnavailable(
        "The database did not confirm this in time, and may store it all the same. Try again shortly: with the same "
        "Idempotency-Key it is stored once."
    )
