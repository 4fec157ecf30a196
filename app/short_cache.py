"""An in-process cache whose entries expire after a few seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class ShortCache(Generic[Key, Found]):
    """At most `size` entries. When it is full, the oldest entry is removed."""

    def __init__(self, *, size: int) -> None:
        self._size = size
        self._kept: dict[Key, tuple[Found, float]] = {}
        self._in_flight: dict[Key, asyncio.Task[Found]] = {}

    def get(self, key: Key) -> Found | None:
        """The cached value, unless it has expired."""
        kept = self._kept.get(key)
        return kept[0] if kept is not None and time.monotonic() < kept[1] else None

    def was_cached(self, key: Key) -> bool:
        """True if a value is in the cache, even if it has expired."""
        return key in self._kept

    def forget(self, key: Key) -> None:
        """Remove a value."""
        self._kept.pop(key, None)

    def clear(self) -> None:
        """Remove all values."""
        self._kept.clear()

    async def get_or_load(self, key: Key, look_up: Callable[[], Awaitable[tuple[Found, float]]]) -> Found:
        """The cached value, or else that of `look_up`, which also returns for how many seconds it stays valid.

        Concurrent callers share one look-up. An error of `look_up` is raised to all of them and is not cached.
        """
        cached = self.get(key)
        if cached is not None:
            return cached
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._looked_up(key, look_up))
            self._in_flight[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    async def _looked_up(self, key: Key, look_up: Callable[[], Awaitable[tuple[Found, float]]]) -> Found:
        began = time.monotonic()
        found, seconds = await look_up()
        self._kept.pop(key, None)
        if len(self._kept) >= self._size:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = found, began + seconds
        return found

    def _forget(self, key: Key, task: asyncio.Task[Found]) -> None:
        del self._in_flight[key]
        ignore_exception(task)


def ignore_exception(task: asyncio.Task[Any]) -> None:
    """Mark the exception of a shared task as seen, because all callers that waited for it may have left."""
    if not task.cancelled():
        task.exception()
