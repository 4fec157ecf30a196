"""The cap on all webhook requests under way in a process, which slow endpoints can't fill."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: A request that takes longer counts among the slow ones from then on.
SLOW_SECONDS = 0.3


class Slots:
    """Half of `most` requests for endpoints that answer soon, the other half for slow and failing ones.

    A request that turns out to be slow changes over, if there is a free slot among the slow ones.
    """

    def __init__(self, most: int) -> None:
        self._soon, self._slow = _Half(most - most // 2), _Half(most // 2)

    @asynccontextmanager
    async def taken(self, *, is_slow: bool) -> AsyncIterator[None]:
        half = self._slow if is_slow else self._soon
        await half.take()

        def change_over() -> None:
            nonlocal half
            if self._slow.take_at_once():
                half.give_back()
                half = self._slow

        changing = None if is_slow else asyncio.get_running_loop().call_later(SLOW_SECONDS, change_over)
        try:
            yield
        finally:
            if changing is not None:
                changing.cancel()
            half.give_back()


class _Half:
    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take_at_once(self) -> bool:
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take(self) -> None:
        """Wait for a slot, in the order of the calls."""
        if self.take_at_once():
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        while self._waiting:
            next_one = self._waiting.popleft()
            if not next_one.done():
                next_one.set_result(None)
                return
        self._free += 1
