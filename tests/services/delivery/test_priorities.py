"""Priorities: which messages leave first, and what those of low priority leave to others."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app import worker
from app.batches import Priority
from app.config import Settings
from app.domain import EARLIEST_DATE
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.services.delivery.claiming.claims import claim_due
from app.services.delivery.claiming.queues import DueWork
from app.services.delivery.pacing.capacity import AHEAD_SECONDS
from app.services.delivery.pacing.provider_states import draw_from_rate, lock_rate
from tests.factories import make_messages, sms, until

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
OTHER = "+18045559999"
WAITING = 2000
#: Seconds for which the rate of the carrier is booked.
_BOOKED = (
    "SELECT extract(epoch FROM next_slot_at - clock_timestamp())::float FROM provider_states"
    " WHERE provider_type = 'carrier'"
)


class Carrier(BaseProvider):
    """Notes what it is handed, and answers once it may."""

    def __init__(self) -> None:
        self.handed: list[OutboundMessage] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.handed.append(payload)
        await self.may_answer.wait()
        return ProviderResult()

    def place_of(self, body: str) -> int | None:
        return next((place for place, each in enumerate(self.handed) if each.body == body), None)


@pytest.fixture
async def carrier(monkeypatch: pytest.MonkeyPatch) -> Carrier:
    carrier = Carrier()
    monkeypatch.setitem(provider_registry, "carrier", carrier)
    return carrier


@pytest.fixture
async def idle(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    return await serve(settings.model_copy(update={"worker_enabled": False}))


def delivering(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update={"routes": {"sms": ["carrier"]}, **changes})


async def handed(carrier: Carrier, body: str) -> int:
    """The place of a message among those that the carrier was handed, once it was."""

    async def place() -> int | None:
        return carrier.place_of(body)

    found = await until(place, lambda place: place is not None)
    assert found is not None
    return found


async def test_a_high_one_passes_two_thousand_bulk_messages_at_a_slow_carrier(
    engine: AsyncEngine, settings: Settings, serve: Serve, carrier: Carrier
) -> None:
    async with engine.begin() as connection:
        await make_messages(connection, WAITING, priority=Priority.BULK)
    client = await serve(delivering(settings, provider_rates={"carrier": 20}))

    async def count() -> int:
        return len(carrier.handed)

    await until(count, lambda count: count >= 10)
    before = len(carrier.handed)
    accepted = await client.post("/api/messages/sms", json=sms(to=OTHER, body="a code", priority="high"))
    assert accepted.status_code == 200
    # At this rate twenty leave in a second.
    assert await handed(carrier, "a code") - before <= 20


async def test_two_workers_together_do_not_book_a_rate_far_ahead(
    engine: AsyncEngine, settings: Settings, serve: Serve, carrier: Carrier
) -> None:
    async with engine.begin() as connection:
        await make_messages(connection, 200, priority=Priority.BULK)
    chosen = delivering(settings, provider_rates={"carrier": 20})
    client, *_ = [await serve(chosen) for _ in range(4)]

    async def count() -> int:
        return len(carrier.handed)

    booked: list[float] = []

    async def count_and_look() -> int:
        async with engine.connect() as connection:
            booked.append(await connection.scalar(text(_BOOKED)) or 0.0)
        return await count()

    await until(count_and_look, lambda count: count >= 10)
    await client.post("/api/messages/sms", json=sms(to=OTHER, body="a code", priority="high"))
    await handed(carrier, "a code")
    await until(count_and_look, lambda count: count >= 40)
    assert max(booked) <= 2 * AHEAD_SECONDS


async def test_bulk_messages_leave_a_tenth_of_the_calls_to_others(
    engine: AsyncEngine, settings: Settings, serve: Serve, carrier: Carrier
) -> None:
    carrier.may_answer.clear()
    async with engine.begin() as connection:
        await make_messages(connection, 30, priority=Priority.BULK)
    client = await serve(delivering(settings, provider_concurrencies={"carrier": 20}))

    async def count() -> int:
        return len(carrier.handed)

    await until(count, lambda count: count == 18)
    await client.post("/api/messages/sms", json=sms(to=OTHER, body="a code"))
    assert await handed(carrier, "a code") == 18
    carrier.may_answer.set()
    await until(count, lambda count: count == 31)


async def test_a_provider_with_one_call_at_a_time_gets_bulk_messages_too(
    engine: AsyncEngine, settings: Settings, serve: Serve, carrier: Carrier
) -> None:
    async with engine.begin() as connection:
        await make_messages(connection, 3, priority=Priority.BULK)
    await serve(delivering(settings, provider_concurrencies={"carrier": 1}))

    async def count() -> int:
        return len(carrier.handed)

    await until(count, lambda count: count == 3)


async def claimed(engine: AsyncEngine, priority: Priority) -> list[int]:
    async with engine.begin() as connection:
        found = await claim_due(
            connection, 1, "sms", priority, limit=10, lease_seconds=30, provider_type="sms", worker="test"
        )
    return [claim.message_id for claim in found.claims]


@pytest.mark.parametrize(
    ("first", "second", "leaves_at_once"),
    [
        ("bulk", "high", True),
        ("bulk", "normal", True),
        ("normal", "high", True),
        ("bulk", "bulk", False),
        ("high", "bulk", False),
        ("normal", "bulk", False),
        ("high", "high", False),
    ],
)
async def test_a_message_waits_only_for_earlier_ones_of_its_priority_or_a_higher_one(
    engine: AsyncEngine, idle: httpx.AsyncClient, first: str, second: str, leaves_at_once: bool
) -> None:
    for word in (first, second):
        assert (await idle.post("/api/messages/sms", json=sms(priority=word))).status_code == 200
    found = await claimed(engine, Priority.of(second))
    assert (2 in found) == leaves_at_once


async def test_a_claim_takes_the_messages_of_its_priority_only(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        ids = {priority: await make_messages(connection, 2, priority=priority) for priority in reversed(Priority)}
    for priority in Priority:
        assert await claimed(engine, priority) == ids[priority]


@pytest.mark.parametrize("word", ["high", "normal", "bulk"])
async def test_the_priority_of_a_message_is_shown_unless_it_is_the_usual_one(
    idle: httpx.AsyncClient, word: str
) -> None:
    sent = await idle.post("/api/messages/sms", json=sms(priority=word))
    shown = (await idle.get(f"/api/messages/{sent.json()['message_id']}")).json()
    assert shown.get("priority", "normal") == word


@pytest.mark.parametrize(
    ("request_", "priority"),
    [
        (sms(), "normal"),
        (sms(purpose="service"), "high"),
        (sms(purpose="service", priority="bulk"), "bulk"),
    ],
)
async def test_a_code_is_of_high_priority(
    idle: httpx.AsyncClient, request_: dict[str, object], priority: str
) -> None:
    sent = await idle.post("/api/messages/sms", json=request_)
    shown = (await idle.get(f"/api/messages/{sent.json()['message_id']}")).json()
    assert shown.get("priority", "normal") == priority


def test_every_priority_gets_its_turn_at_times(monkeypatch: pytest.MonkeyPatch) -> None:
    due = [DueWork(1, "sms", priority, 0, EARLIEST_DATE) for priority in Priority]
    monkeypatch.setattr(worker, "_ODD_ROUNDS", 0)
    assert [item.priority for item in worker._in_turn(due[::-1])] == [*Priority]
    monkeypatch.setattr(worker, "_ODD_ROUNDS", 1)
    assert {worker._in_turn(due)[0].priority for _ in range(200)} == {*Priority}


async def test_the_time_for_which_a_rate_is_booked_is_told_under_a_lock(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        assert await lock_rate(connection, "carrier") == 0
        await draw_from_rate(connection, "carrier", 60)
    async with engine.begin() as connection:
        assert 30 < await lock_rate(connection, "carrier") <= 60
