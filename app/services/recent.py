"""What was looked up a moment ago, kept for seconds only, so that a change takes effect in every process soon."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Recent(Generic[Key, Found]):
    """Answers to questions, at most `size` of them; when it is full, the one that was kept first goes.

    Many who ask the same at once share one look-up, and one of them giving up changes nothing for the others.
    """

    def __init__(self, *, size: int) -> None:
        self._size = size
        self._kept: dict[Key, tuple[Found, float]] = {}
        self._under_way: dict[Key, asyncio.Task[Found]] = {}

    def get(self, key: Key) -> Found | None:
        """The answer, where there is one that may still be used."""
        kept = self._kept.get(key)
        return kept[0] if kept is not None and time.monotonic() < kept[1] else None

    def has_kept(self, key: Key) -> bool:
        """Whether there was an answer lately, also one that may not be used any more."""
        return key in self._kept

    def drop(self, key: Key) -> None:
        """Keep an answer no longer."""
        self._kept.pop(key, None)

    async def ask(self, key: Key, look_up: Callable[[], Awaitable[tuple[Found, float]]]) -> Found:
        """The answer of `look_up`, which says for how many seconds, from when it was asked, it may be used again.

        What it raises is raised to all who wait for it, and not kept.
        """
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._looked_up(key, look_up))
            self._under_way[key] = task
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
        del self._under_way[key]
        hear_out(task)


def hear_out(task: asyncio.Task[Any]) -> None:
    """Called when a shared task is done: whoever waited for it may have left, and nobody else has to hear of what it
    raised."""
    if not task.cancelled():
        task.exception()
