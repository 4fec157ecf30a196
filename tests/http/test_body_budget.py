"""The memory that large bodies may take, by sender."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from starlette.types import Message, Receive

from app.errors import Overloaded
from app.http.body_budget import SMALL, BodyBudget

pytestmark = pytest.mark.anyio


class Visitors:
    """Bodies that have come, and are still looked at; `come` says whether there was room for another."""

    def __init__(self, budget: BodyBudget, stack: AsyncExitStack) -> None:
        self._budget = budget
        self._stack = stack
        self.asked: list[str | None] = []

    async def come(self, address: str | None, *pieces: int) -> bool:
        async with AsyncExitStack() as own:
            receive = own.enter_context(self._budget.metered(_sending(*pieces), lambda: self._ask(address)))
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
def budget() -> BodyBudget:
    return BodyBudget(900, of_one=300, of_strangers=600)


@pytest.fixture
async def visitors(budget: BodyBudget) -> AsyncIterator[Visitors]:
    async with AsyncExitStack() as stack:
        yield Visitors(budget, stack)
    assert budget.held == 0


async def test_a_small_body_is_not_metered_and_its_sender_not_asked_for(
    budget: BodyBudget, visitors: Visitors
) -> None:
    for _ in range(3):
        assert await visitors.come("192.0.2.1", SMALL // 2, SMALL // 2)
    assert (budget.held, visitors.asked) == (0, [])


async def test_what_has_come_is_held_and_its_sender_asked_for_once(budget: BodyBudget, visitors: Visitors) -> None:
    assert await visitors.come("192.0.2.1", SMALL, 100, 100)
    assert (budget.held, visitors.asked) == (200, ["192.0.2.1"])


async def test_one_stranger_has_a_third_and_all_of_them_two(budget: BodyBudget, visitors: Visitors) -> None:
    assert await visitors.come("192.0.2.1", SMALL + 200)
    assert not await visitors.come("192.0.2.1", SMALL + 101)
    assert await visitors.come("192.0.2.1", SMALL + 100)
    assert await visitors.come("192.0.2.2", SMALL + 299)
    assert not await visitors.come("192.0.2.3", SMALL + 2)
    assert await visitors.come("192.0.2.3", SMALL + 1)
    assert budget.held == 600


async def test_who_is_known_may_have_all_that_is_left(budget: BodyBudget, visitors: Visitors) -> None:
    assert await visitors.come("192.0.2.1", SMALL + 300)
    assert not await visitors.come(None, SMALL + 601)
    assert await visitors.come(None, SMALL + 600)
    assert not await visitors.come("192.0.2.2", SMALL + 1)
    assert budget.held == 900


async def test_who_finds_no_room_leaves_what_it_had(budget: BodyBudget, visitors: Visitors) -> None:
    assert not await visitors.come("192.0.2.1", SMALL + 200, 101)
    assert budget.held == 0
