"""Tells other processes that messages are due and that event logs have grown: NOTIFY after a commit.

It only saves time. A process that misses a notification (during a reconnect) finds messages and events by polling.
Every process listens on one connection of its own, unless a pooler is in the way, which throws notifications away.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Self

import structlog
from sqlalchemy import ARRAY, Text, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.connectivity.connections import connect, is_pooled

log = structlog.get_logger(__name__)

_DUE, _LOGGED = "messages_due", "events_logged"
#: Seconds between two notifications. What comes within that time shares one.
_PAUSE = 0.02
#: Seconds until a lost connection is opened again.
_RECONNECT = 5.0
#: The most tenants in one notification, whose payload has less than 8,000 bytes.
_MOST_TENANTS = 400
_channels, _payloads = (func.unnest(bindparam(name, type_=ARRAY(Text()))) for name in ("channels", "payloads"))
_NOTIFY = select(func.pg_notify(_channels, _payloads))

#: Called with the tenants whose logs have grown; None stands for any tenant.
OnEvents = Callable[[Collection[int] | None], None]


class Notifier:
    """Sends and receives notifications; an async context manager. Callbacks of this process are called at once."""

    def __init__(self, url: str, engine: AsyncEngine) -> None:
        self._url = url
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._on_due: list[Callable[[], None]] = []
        self._on_events: list[OnEvents] = []
        self._is_due = False
        self._logged: set[int] = set()  # in this turn of the event loop
        self._untold: set[int] = set()  # since the last notification
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def on_due(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when a message is due, here or elsewhere."""
        self._on_due.append(callback)

    def on_events(self, callback: OnEvents) -> None:
        """Have `callback` called when entries of event logs were committed, here or elsewhere."""
        self._on_events.append(callback)

    def notify(self) -> None:
        """Say that a message is due. Costs nothing here; other processes hear of it within moments."""
        for callback in self._on_due:
            callback()
        self._is_due = True
        self._wanted.set()

    def events_logged(self, tenant_id: int) -> None:
        """Say that entries of a tenant's log were committed. Costs next to nothing here."""
        if not self._logged:
            asyncio.get_running_loop().call_soon(self._tell_here)
        self._logged.add(tenant_id)

    def _tell_here(self) -> None:
        logged, self._logged = self._logged, set()
        self._untold |= logged
        self._wanted.set()
        self._call(logged)

    def _call(self, tenant_ids: Collection[int] | None) -> None:
        for callback in self._on_events:
            callback(tenant_ids)

    async def __aenter__(self) -> Self:
        running = (self._tell(), "notifier"), (self._listen(), "notifier-listener")
        self._tasks = [asyncio.create_task(coroutine, name=name) for coroutine, name in running]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            told = {}
            if self._is_due:
                told[_DUE] = ""
            if self._untold:
                told[_LOGGED] = ",".join(map(str, self._untold)) if len(self._untold) <= _MOST_TENANTS else ""
            self._is_due, self._untold = False, set()
            with contextlib.suppress(Exception):  # the others poll
                async with self._engine.connect() as connection:
                    await connection.execute(_NOTIFY, {"channels": list(told), "payloads": list(told.values())})
            await asyncio.sleep(_PAUSE)

    async def _listen(self) -> None:
        while True:
            try:
                if not await self._listen_until_lost():
                    log.info("notifier_polls", reason="a pooler passes no notifications on: see DATABASE_LISTEN_URL")
                    return
            except Exception as error:
                log.debug("notifier_not_listening", error=type(error).__name__)
            await asyncio.sleep(_RECONNECT)

    async def _listen_until_lost(self) -> bool:
        """Listen as long as the connection lasts; False where a pooler is in the way."""
        connection = await connect(self._url, timeout=_RECONNECT)
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            if await is_pooled(connection):
                return False
            if self._on_due:
                await connection.add_listener(_DUE, lambda *_: self._hear_of_due())
            await connection.add_listener(_LOGGED, lambda *heard: self._hear_of_events(str(heard[-1])))
            await lost.wait()
            return True
        finally:
            connection.terminate()

    def _hear_of_due(self) -> None:
        for callback in self._on_due:
            callback()

    def _hear_of_events(self, payload: str) -> None:
        self._call({int(tenant_id) for tenant_id in payload.split(",")} if payload else None)
