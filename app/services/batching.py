"""Group commit: many callers, one transaction.

One commit for each row costs a disk flush each. Here callers hand over an item and wait; one task writes at once
when idle, and whatever arrives while it writes forms the next batch.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database import is_unavailable
from app.errors import DatabaseUnavailable, Overloaded

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class GroupCommit(Generic[Item, Answer]):
    """Runs `work` over batches of items, each batch in one transaction; an async context manager.

    `work` gets an open connection and the items, and gives one answer for each, in their order. Leaving the context
    writes what is still waiting.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        work: Callable[[AsyncConnection, list[Item]], Awaitable[list[Answer]]],
        *,
        batch_size: int,
        queue_limit: int,
        deadline_seconds: float,
        name: str,
    ) -> None:
        self._engine = engine
        self._work = work
        self._batch_size = batch_size
        self._queue_limit = queue_limit
        self._deadline_seconds = deadline_seconds
        self._name = name
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=self._name)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._arrived.set()
        assert self._task is not None
        await self._task

    async def submit(self, item: Item) -> Answer:
        """Hand over one item; returns its answer after the COMMIT. A caller that stops waiting changes nothing.

        Raises `Overloaded` at once when the queue is full or closing, `DatabaseUnavailable` when PostgreSQL is
        away or slower than the deadline, and whatever `work` raises for this item alone.
        """
        if self._closing or len(self._waiting) >= self._queue_limit:
            raise Overloaded("The service has more to write than it can take on right now. Try again shortly.")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._arrived.set()
        return await answer

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                size = min(len(self._waiting), self._batch_size)
                await self._write([self._waiting.popleft() for _ in range(size)])

    async def _write(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        """Write a batch and answer its callers; where an item is at fault, one by one, so that it fails alone."""
        try:
            async with asyncio.timeout(self._deadline_seconds), self._engine.begin() as connection:
                answers = await self._work(connection, [item for item, _ in batch])
        except Exception as error:
            if is_unavailable(error):
                log.warning("database_unavailable", batch=self._name, size=len(batch), error=type(error).__name__)
                error = DatabaseUnavailable("The database did not take this in time. Try again shortly.")
            elif len(batch) > 1:
                log.warning("batch_split", batch=self._name, size=len(batch), error=type(error).__name__)
                for alone in batch:
                    await self._write([alone])
                return
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for (_, waiting), given in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(given)
