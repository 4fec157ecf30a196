"""How much of the room for large bodies anybody may hold."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from starlette.types import Message, Receive

from app.errors import Overloaded
from app.http.body_budget import SMALL, BodyBudget

pytestmark = pytest.mark.anyio


class Visitors:
    """Bodies that have come, and are still looked at; `come` says whether there was room for another."""

    def __init__(self, room: BodyBudget, stack: AsyncExitStack) -> None:
        self._room = room
        self._stack = stack
        self.asked: list[str | None] = []

    async def come(self, address: str | None, *pieces: int) -> bool:
        async with AsyncExitStack() as own:
            receive = own.enter_context(self._room.metered(_sending(*pieces), lambda: self._ask(address)))
            try:
                for _ in pieces:
                    await receive()
            except Overloaded:
                return False
            self._stack.push_async_exit(own.pop_all())
        return True

    def _ask(self, address: str | None) -> str | None:
        self.asked.append(address)
        return address


def _sending(*pieces: int) -> Receive:
    left = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * left.pop(0), "more_body": bool(left)}

    return receive


@pytest.fixture
def room() -> BodyBudget:
    return BodyBudget(900)


@pytest.fixture
async def visitors(room: BodyBudget) -> AsyncIterator[Visitors]:
    async with AsyncExitStack() as stack:
        yield Visitors(room, stack)
    assert room.held == 0


async def test_what_any_request_may_have_takes_no_room_and_asks_nobody(room: BodyBudget, visitors: Visitors) -> None:
    for _ in range(3):
        assert await visitors.come("192.0.2.1", SMALL // 2, SMALL // 2)
    assert (room.held, visitors.asked) == (0, [])


async def test_only_what_has_come_is_held_and_who_it_is_is_asked_once(room: BodyBudget, visitors: Visitors) -> None:
    assert await visitors.come("192.0.2.1", SMALL, 100, 100)
    assert (room.held, visitors.asked) == (200, ["192.0.2.1"])


async def test_an_address_of_strangers_has_a_third_and_all_of_them_two(room: BodyBudget, visitors: Visitors) -> None:
    assert await visitors.come("192.0.2.1", SMALL + 200)
    assert not await visitors.come("192.0.2.1", SMALL + 101)
    assert await visitors.come("192.0.2.1", SMALL + 100)
    assert await visitors.come("192.0.2.2", SMALL + 299)
    assert not await visitors.come("192.0.2.3", SMALL + 2)
    assert await visitors.come("192.0.2.3", SMALL + 1)
    assert room.held == 600


async def test_who_is_known_may_have_all_that_is_left(room: BodyBudget, visitors: Visitors) -> None:
    assert await visitors.come("192.0.2.1", SMALL + 300)
    assert not await visitors.come(None, SMALL + 601)
    assert await visitors.come(None, SMALL + 600)
    assert not await visitors.come("192.0.2.2", SMALL + 1)
    assert room.held == 900


async def test_who_finds_no_room_leaves_what_it_had(room: BodyBudget, visitors: Visitors) -> None:
    assert not await visitors.come("192.0.2.1", SMALL + 200, 101)
    assert room.held == 0
