"""The cap on requests under way: slow endpoints can't take all of it."""

import asyncio

import pytest

from app.services.webhooks.slots import Slots

pytestmark = pytest.mark.anyio


async def test_slow_endpoints_leave_the_other_half_free() -> None:
    slots, release = Slots(4), asyncio.Event()
    held: list[int] = []

    async def hold(number: int) -> None:
        async with slots.taken(is_slow=True):
            held.append(number)
            await release.wait()

    tasks = [asyncio.create_task(hold(number)) for number in range(5)]
    async with slots.taken(is_slow=False), slots.taken(is_slow=False):
        await asyncio.sleep(0)
        assert held == [0, 1]
    release.set()
    await asyncio.gather(*tasks)
    assert held == [0, 1, 2, 3, 4]


async def test_a_request_that_turns_out_slow_leaves_its_slot_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.webhooks.slots.SLOW_SECONDS", 0)
    slots = Slots(2)
    async with slots.taken(is_slow=False), slots.taken(is_slow=False):
        pass  # the second one got in: the first had changed over
    async with slots.taken(is_slow=True):
        pass


async def test_who_is_cancelled_while_waiting_keeps_nothing() -> None:
    slots = Slots(2)

    async def take() -> None:
        async with slots.taken(is_slow=True):
            pass

    async with slots.taken(is_slow=True):
        waiting = asyncio.create_task(take())
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with slots.taken(is_slow=True):
        pass
