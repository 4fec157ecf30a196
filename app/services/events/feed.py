"""The event feed of a process: reads the logs once for all readers, and hands the entries out.

Woken after commits, here and elsewhere (`Notifier`); without that it looks each second. A reader who starts behind
reads pages of its own until it is up to date, and then joins the others of its tenant. While the database is away
readers stay, and get everything later.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Self

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.engine import is_unavailable
from app.errors import ServiceError, TooManyReaders, Unauthorized
from app.services.events.cursors import Position
from app.services.events.payloads import Rendered, rendered, rendered_page
from app.services.events.reading import EVERYTHING, EventFilter, LogState, Start, log_states, read_page
from app.services.events.subscriptions import Channel, Subscription
from app.services.tenancy.keys import valid_keys

log = structlog.get_logger(__name__)

_POLL_SECONDS = 1.0
#: Logs that are due within this time are looked at together, in one statement.
_TOGETHER_SECONDS = 0.3
#: Between two looks, so that a busy log is read in pages and not entry by entry.
_PAUSE_SECONDS = 0.01
#: Until the next look at a log whose newest entries are not decided yet; nothing wakes us when they are.
_UNDECIDED_SECONDS, _LONG_UNDECIDED_SECONDS = 0.01, 0.1
_PAGE = 200
#: Readers who are behind must not use up the connections.
_CATCHING_UP_AT_ONCE = 3
#: A revoked key ends its readers after this, and what it takes to ask; the promise is five seconds.
_KEYS_SECONDS = 2.0


class EventFeed:
    """Serves the readers of this process; an async context manager. At most `MAX_EVENT_READERS` at a time."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._most = settings.max_event_readers
        self._readers: set[Subscription] = set()
        self._channels: dict[int, Channel] = {}
        self._woken = asyncio.Event()
        self._catching_up = asyncio.Semaphore(_CATCHING_UP_AT_ONCE)
        self._is_closing = False
        self._is_away = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        running = (self._run(), "event-feed"), (self._watch_keys(), "event-readers-keys")
        self._tasks = [asyncio.create_task(coroutine, name=name) for coroutine, name in running]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """End all subscriptions, and take on no more."""
        self._is_closing = True
        for reader in list(self._readers):
            reader.end()

    @property
    def reader_count(self) -> int:
        """The subscriptions that are open."""
        return len(self._readers)

    def wake(self, tenant_ids: Collection[int] | None) -> None:
        """Say that the logs of these tenants have grown, or any log (None)."""
        if not self._channels:
            return
        for tenant_id in self._channels if tenant_ids is None else tenant_ids:
            if (channel := self._channels.get(tenant_id)) is not None:
                self._look_soon(channel)

    async def subscribe(
        self,
        tenant_id: int,
        after: Position | Start,
        wanted: EventFilter = EVERYTHING,
        *,
        key: str | None = None,
        limit: int = _PAGE,
    ) -> Subscription:
        """A subscription to the entries after a place, which the caller ends. The first page is read here.

        It ends by itself when the key of this prefix becomes invalid, when its buffer is full, or with the process.

        Raises:
            TooManyReaders: There are too many, or the process is being stopped.
            EventsGone: Entries after the position have been removed.
            InvalidRequest: The position is not one of this log.
        """
        if self._is_closing or len(self._readers) >= self._most:
            raise TooManyReaders("As many readers wait for events here as may. Try again shortly.")
        reader = Subscription(tenant_id, wanted, key, catch_up=self._catch_up, on_end=self._forget)
        self._readers.add(reader)
        channel = self._channels.get(tenant_id)
        if channel is not None and after == channel.read_to == channel.handed_to:
            reader.join(channel, channel.read_to)
            return reader
        try:
            async with asyncio.timeout(self._deadline_seconds), self._catching_up:
                await self._read_alone(reader, after, limit)
        except BaseException:
            reader.end()
            raise
        return reader

    def _forget(self, reader: Subscription) -> None:
        self._readers.discard(reader)
        channel = self._channels.get(reader.tenant_id)
        if channel is not None and not channel:
            del self._channels[reader.tenant_id]

    async def _catch_up(self, reader: Subscription, limit: int) -> None:
        """Read the next page for a reader who is behind, which ends the subscription if that can't be."""
        try:
            async with self._catching_up:
                is_up_to_date = await self._read_alone(reader, reader.read_to, limit)
        except ServiceError as error:
            reader.end(error)
        except Exception as error:
            self._note(error)
            await asyncio.sleep(_POLL_SECONDS)
        else:
            if is_up_to_date and reader.is_behind:  # others have got further meanwhile
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _read_alone(self, reader: Subscription, after: Position | Start, limit: int) -> bool:
        """Read a page for one reader. After the last one it joins its tenant's channel, unless that is ahead."""
        async with self._engine.connect() as connection:
            page = await rendered_page(connection, reader.tenant_id, after, wanted=reader.wanted, limit=limit)
        reader.add_page(page)
        if page.more or reader.ended:
            return False
        channel = self._channels.get(reader.tenant_id) or Channel(reader.tenant_id, page.decided)
        if reader.read_to >= channel.read_to:
            self._channels[reader.tenant_id] = channel
            reader.join(channel, reader.read_to)
            self._look_soon(channel)  # nothing woke it before it was there
        return True

    def _look_soon(self, channel: Channel) -> None:
        channel.look_at = 0
        self._woken.set()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._wait(clock)
            self._woken.clear()
            until = clock() + _TOGETHER_SECONDS
            due = [channel for channel in self._channels.values() if channel.look_at <= until]
            for channel in due:
                channel.look_at = clock() + _POLL_SECONDS
            try:
                await self._look(due, clock)
                self._is_away = False
            except Exception as error:
                self._note(error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _wait(self, clock: Callable[[], float]) -> None:
        """Wait until a log is due, or we are woken."""
        look_at = min((channel.look_at for channel in self._channels.values()), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if look_at is None else max(0, look_at - clock())):
                await self._woken.wait()

    async def _look(self, due: list[Channel], clock: Callable[[], float]) -> None:
        async with self._engine.connect() as connection:
            states = await log_states(connection, [channel.tenant_id for channel in due])
            for channel in due:
                state = states[channel.tenant_id]
                try:
                    await self._advance(connection, channel, state)
                except ServiceError as error:
                    channel.end(error)
                if state.head > state.decided:
                    channel.pause = min(channel.pause * 2 or _UNDECIDED_SECONDS, _LONG_UNDECIDED_SECONDS)
                    channel.look_at = min(channel.look_at, clock() + channel.pause)
                else:
                    channel.pause = 0

    async def _advance(self, connection: AsyncConnection, channel: Channel, state: LogState) -> None:
        """Read the next page of a log, and hand it out.

        `read_to` is set before the page is rendered: what a reader wants who joins meanwhile may not be among it.
        """
        if state.decided > channel.read_to:
            page = await read_page(connection, channel.tenant_id, channel.read_to, state, limit=_PAGE)
            entries = [entry for entry in page.entries if channel.wants(entry)]
            channel.read_to = page.position if page.more else max(page.position, state.decided)
            try:
                contents = await rendered(connection, channel.tenant_id, entries) if entries else []
            except BaseException:
                channel.read_to = channel.handed_to
                raise
            for each in zip(entries, contents, strict=True):
                channel.hand_out(Rendered(*each))
            if page.more:
                self._look_soon(channel)
        elif state.decided < channel.read_to:
            channel.read_to = state.decided  # a failover has lost the entries between
        channel.handed_to = channel.read_to

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(_KEYS_SECONDS)
            try:
                await self.end_invalid()
            except Exception as error:
                self._note(error)

    async def end_invalid(self) -> None:
        """End the subscriptions whose keys are revoked or expired."""
        shown = {(reader.tenant_id, reader.key) for reader in self._readers if reader.key is not None}
        if not shown:
            return
        async with self._engine.connect() as connection:
            invalid = shown - await valid_keys(connection, shown)
        for reader in list(self._readers):
            if reader.key is not None and (reader.tenant_id, reader.key) in invalid:
                reader.end(Unauthorized("revoked", reader.key))

    def _note(self, error: Exception) -> None:
        """Log an error, and that of a database that is away only once."""
        if not is_unavailable(error):
            log.error("events_not_read", exc_info=error)
        elif not self._is_away:
            self._is_away = True
            log.warning("database_unavailable", batch="events", error=type(error).__name__)
