"""Subscriptions to a tenant's event log, and the channel in which those that are up to date share what is read."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from app.errors import ServiceError
from app.services.events.cursors import BEGINNING, Position, before
from app.services.events.payloads import Rendered, RenderedPage
from app.services.events.reading import Entry, EventFilter

#: What waits for a reader at most. The bytes are shared with other readers.
_MOST_ENTRIES, _MOST_BYTES = 1000, 2_000_000


class Subscription:
    """A reader of a tenant's log, who gets each entry that is wanted once, in order.

    A reader who is behind gets pages of its own from `catch_up`, which has it join the channel in the end. There its
    buffer is filled while the reader does other things. If it gets full, the subscription ends.
    """

    __slots__ = (
        "_buffer",
        "_bytes",
        "_catch_up",
        "_channel",
        "_error",
        "_on_end",
        "_waiter",
        "ended",
        "key",
        "read_to",
        "tenant_id",
        "wanted",
    )

    def __init__(
        self,
        tenant_id: int,
        wanted: EventFilter,
        key: str | None,
        *,
        catch_up: "Callable[[Subscription, int], Awaitable[None]]",
        on_end: "Callable[[Subscription], None]",
    ) -> None:
        self.tenant_id = tenant_id
        self.wanted = wanted
        self.key = key
        self.ended = False
        self.read_to = BEGINNING  #: until it joins the channel
        self._buffer: list[Rendered] = []
        self._bytes = 0
        self._channel: Channel | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: ServiceError | None = None
        self._catch_up = catch_up
        self._on_end = on_end

    @property
    def position(self) -> Position:
        """The position up to which the reader has got everything."""
        if self._buffer:
            return before(self._buffer[0].position)
        return self.read_to if self._channel is None else max(self.read_to, self._channel.handed_to)

    @property
    def is_behind(self) -> bool:
        """True while it has pages of its own to read."""
        return self._channel is None and not self.ended

    @property
    def more(self) -> bool:
        """True if there may be more to read at once."""
        return bool(self._buffer) or self.is_behind

    async def next(self, *, limit: int, until: float) -> list[Rendered]:
        """The next entries, at most `limit`. None by `until`, a time of the event loop's clock, or after the end.

        Raises `EventsGone` if entries were removed before they were read, and `Unauthorized` once the key is invalid.
        """
        clock = asyncio.get_running_loop().time
        while not self._buffer and not self.ended:
            if self._channel is None:
                await self._catch_up(self, limit)
            else:
                await self._wait(until)
            if clock() >= until:
                break
        if self._error is not None and not self._buffer:
            raise self._error
        return self._take(limit)

    def end(self, error: ServiceError | None = None) -> None:
        """End it. `next` gives what is in the buffer, then raises the error or returns nothing."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        self._leave()
        self._wake()
        self._on_end(self)

    def add_page(self, page: RenderedPage) -> None:
        """Take over a page that was read for this reader alone."""
        self._buffer += page.entries
        self.read_to = page.position if page.more else max(page.position, page.decided)

    def join(self, channel: "Channel", position: Position) -> None:
        """Go on with what the channel hands out, after a position that is not before `channel.read_to`."""
        self.read_to = position
        self._channel = channel
        channel.add(self)

    def push(self, rendered: Rendered) -> None:
        """Add an entry to the buffer, unless it was read before."""
        if self._channel is None or rendered.position <= self.read_to:
            return
        is_full = len(self._buffer) >= _MOST_ENTRIES or self._bytes + len(rendered.content) > _MOST_BYTES
        if self._buffer and is_full:
            self._overflow()
            return
        self._buffer.append(rendered)
        self._bytes += len(rendered.content)
        self._wake()

    def _overflow(self) -> None:
        """End it, or let a reader who waits, and got too much at once, read pages of its own again."""
        self._leave()
        self.read_to = self.position
        self._buffer, self._bytes = [], 0
        if self._waiter is None:
            self.end()

    def _leave(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.remove(self)
            self.read_to = self._buffer[-1].position if self._buffer else max(self.read_to, channel.handed_to)

    def _take(self, limit: int) -> list[Rendered]:
        taken, self._buffer = self._buffer[:limit], self._buffer[limit:]
        if taken:
            self._bytes = sum(len(rendered.content) for rendered in self._buffer)
        return taken

    async def _wait(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_at(until, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Channel:
    """The readers of a tenant's log that are up to date.

    Everything up to `read_to` is read for them; up to `handed_to` it is in their buffers.
    """

    def __init__(self, tenant_id: int, position: Position) -> None:
        self.tenant_id = tenant_id
        self.read_to = self.handed_to = position
        #: The time of the next look, by the event loop's clock.
        self.look_at = 0.0
        #: The pause between two looks while the newest entries are undecided.
        self.pause = 0.0
        # By the conversation that is wanted, so that an entry is not compared with all filters.
        self._readers: dict[int | None, dict[EventFilter, set[Subscription]]] = {}

    def __bool__(self) -> bool:
        return bool(self._readers)

    def add(self, reader: Subscription) -> None:
        self._readers.setdefault(reader.wanted.conversation_id, {}).setdefault(reader.wanted, set()).add(reader)

    def remove(self, reader: Subscription) -> None:
        by_filter = self._readers[reader.wanted.conversation_id]
        by_filter[reader.wanted].remove(reader)
        if not by_filter[reader.wanted]:
            del by_filter[reader.wanted]
        if not by_filter:
            del self._readers[reader.wanted.conversation_id]

    def wants(self, entry: Entry) -> bool:
        """True if a reader wants the entry."""
        return next(self._readers_of(entry), None) is not None

    def hand_out(self, rendered: Rendered) -> None:
        """Add an entry to the buffers of the readers who want it."""
        for readers in list(self._readers_of(rendered.entry)):
            for reader in list(readers):
                reader.push(rendered)

    def end(self, error: ServiceError) -> None:
        """End all subscriptions with an error."""
        for by_filter in list(self._readers.values()):
            for readers in list(by_filter.values()):
                for reader in list(readers):
                    reader.end(error)

    def _readers_of(self, entry: Entry) -> Iterator[set[Subscription]]:
        for conversation_id in {None, entry.conversation_id}:
            for wanted, readers in self._readers.get(conversation_id, {}).items():
                if wanted.wants(entry):
                    yield readers
