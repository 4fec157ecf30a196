"""The short-lived cache: shared, bounded, and never of a failed look-up."""

import asyncio

import pytest

from app.short_cache import ShortCache

pytestmark = pytest.mark.anyio


async def test_who_gives_up_changes_nothing_for_those_who_asked_the_same() -> None:
    recent: ShortCache[str, int] = ShortCache(size=10)
    asked, go = asyncio.Event(), asyncio.Event()
    count = 0

    async def look_up() -> tuple[int, float]:
        nonlocal count
        count += 1
        asked.set()
        await go.wait()
        return 7, 60

    first, second = [asyncio.create_task(recent.get_or_load("key", look_up)) for _ in range(2)]
    await asked.wait()
    first.cancel()
    go.set()
    assert await second == 7
    assert (count, recent.get("key")) == (1, 7)


async def test_what_failed_is_asked_again_and_what_is_over_is_not_given() -> None:
    recent: ShortCache[str, int] = ShortCache(size=10)

    async def failing() -> tuple[int, float]:
        raise ConnectionRefusedError

    async def short() -> tuple[int, float]:
        return 7, 0

    with pytest.raises(ConnectionRefusedError):
        await recent.get_or_load("key", failing)
    assert await recent.get_or_load("key", short) == 7
    assert recent.get("key") is None


async def test_it_never_keeps_more_than_its_size() -> None:
    recent: ShortCache[int, int] = ShortCache(size=3)
    for number in range(10):

        async def look_up(found: int = number) -> tuple[int, float]:
            return found, 60

        await recent.get_or_load(number, look_up)
    assert [number for number in range(10) if recent.get(number) is not None] == [7, 8, 9]
