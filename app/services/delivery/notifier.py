"""Wakes workers in other processes: NOTIFY after a commit, LISTEN on a connection of its own.

It only saves time. A worker that misses a notification (behind a pooler, or during a reconnect) finds the message by
polling.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect

log = structlog.get_logger(__name__)

_CHANNEL = "messages_due"
_PAUSE = 0.02  # seconds between two notifications: messages within that time share one
_RECONNECT = 5.0  # seconds until a lost connection is opened again


class Notifier:
    """Sends and receives notifications; an async context manager. `on_notify`, if given, is called for each."""

    def __init__(self, url: str, engine: AsyncEngine, *, on_notify: Callable[[], None] | None) -> None:
        self._url = url
        self._engine = engine
        self._on_notify = on_notify
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def notify(self) -> None:
        """Say that a message is due. Costs nothing here; other processes hear of it within moments."""
        if self._on_notify is not None:
            self._on_notify()
        self._wanted.set()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._tell(), name="notifier")]
        if self._on_notify is not None:
            self._tasks.append(asyncio.create_task(self._listen(self._on_notify), name="notifier-listener"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(Exception):  # the others poll
                async with self._engine.begin() as connection:
                    await connection.execute(select(func.pg_notify(_CHANNEL, "")))
            await asyncio.sleep(_PAUSE)

    async def _listen(self, on_notify: Callable[[], None]) -> None:
        while True:
            try:
                await self._listen_until_lost(on_notify)
            except Exception as error:
                log.debug("doorbell_not_listening", error=type(error).__name__)
            await asyncio.sleep(_RECONNECT)

    async def _listen_until_lost(self, on_notify: Callable[[], None]) -> None:
        connection = await connect(self._url, timeout=_RECONNECT)
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(_CHANNEL, lambda *_: on_notify())
            await lost.wait()
        finally:
            connection.terminate()
