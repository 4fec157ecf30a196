"""Callbacks of the HTTP simulator, and its provider reading them and malformed ones."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.domain import MessageStatus
from app.providers.base import (
    Callback,
    CallbackItem,
    InboundMessage,
    Receipt,
    UnknownOutcome,
)
from app.providers.simulator import SimulatorProvider, callback_body
from tests.cases import each_case
from tests.live import free_port
from tests.providers import outbound, simulator_settings
from tests.providers.conftest import Simulate, served

pytestmark = pytest.mark.anyio


class Receiver:
    """The callback address: keeps the bodies it gets, after refusing the first `failures` with 503."""

    def __init__(self) -> None:
        self.bodies: asyncio.Queue[bytes] = asyncio.Queue()
        self.failures = 0
        self.app = Starlette(routes=[Route("/callback", self._receive, methods=["POST"])])

    async def _receive(self, request: Request) -> Response:
        body = await request.body()
        if self.failures:
            self.failures -= 1
            return Response(status_code=503)
        self.bodies.put_nowait(body)
        return Response()

    async def events(self, count: int) -> list[CallbackItem]:
        provider = SimulatorProvider(settings=simulator_settings())
        async with asyncio.timeout(60):
            bodies = [await self.bodies.get() for _ in range(count)]
        return [event for body in bodies for event in provider.parse(called(body))]


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    receiver = Receiver()
    async with served(receiver.app) as url:
        yield receiver, f"{url}/callback"


async def test_receipts_are_called_back_in_the_shape_that_the_provider_reads(
    simulate: Simulate, receiver: tuple[Receiver, str]
) -> None:
    simulation = await simulate(receiver[1], receipt_delay_seconds=0.05)
    message = outbound()
    result = await simulation.provider.send(message)
    first, second = await receiver[0].events(2)
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (first.status, second.status) == (MessageStatus.SENT, MessageStatus.DELIVERED)
    assert first.provider_message_id == second.provider_message_id == result.provider_message_id
    assert first.idempotency_key == message.idempotency_key
    assert first.event_id != second.event_id
    assert first.occurred_at is not None
    assert abs((first.occurred_at - datetime.now(UTC)).total_seconds()) < 60


async def test_receipts_that_come_first_are_called_back_before_the_answer(
    simulate: Simulate, receiver: tuple[Receiver, str]
) -> None:
    simulation = await simulate(receiver[1])
    await simulation.provider.send(outbound("+15005552400"))
    assert receiver[0].bodies.qsize() == 2


async def test_what_was_accepted_and_not_answered_is_still_called_back(
    simulate: Simulate, receiver: tuple[Receiver, str]
) -> None:
    simulation = await simulate(receiver[1])
    message = outbound("+15005550700")
    with pytest.raises(UnknownOutcome):
        await simulation.provider.send(message)
    for event in await receiver[0].events(2):
        assert isinstance(event, Receipt)
        assert event.idempotency_key == message.idempotency_key


async def test_answers_of_recipients_are_called_back(simulate: Simulate, receiver: tuple[Receiver, str]) -> None:
    simulation = await simulate(receiver[1], receipts=False, inbound_burst_size=7)
    await simulation.provider.send(outbound("+15005553000"))
    [stop] = await receiver[0].events(1)
    assert isinstance(stop, InboundMessage)
    assert (stop.body, stop.from_address, stop.to_address) == ("STOP", "+15005553000", "+12016661234")
    await simulation.provider.send(outbound("inbound-burst@simulator.test", subject="Hi"))
    burst = await receiver[0].events(7)
    assert len({event.provider_message_id for event in burst}) == 7
    assert {event.subject for event in burst if isinstance(event, InboundMessage)} == {"Re: Hi"}


async def test_a_callback_is_repeated_until_it_is_taken(simulate: Simulate, receiver: tuple[Receiver, str]) -> None:
    receiver[0].failures = 2
    simulation = await simulate(receiver[1])
    await simulation.provider.send(outbound("+15005552500"))
    events = await receiver[0].events(2)
    assert {event.status for event in events if isinstance(event, Receipt)} == {"sent", "undelivered"}


async def test_a_callback_address_that_is_away_costs_no_answer(simulate: Simulate) -> None:
    simulation = await simulate(f"http://127.0.0.1:{free_port()}/callback")
    assert (await simulation.provider.send(outbound("+15005552400"))).provider_message_id


def called(body: bytes) -> Callback:
    return Callback("POST", "http://testserver/api/webhooks/simulator", [], body)


def parsed(body: bytes | str | object) -> list[CallbackItem]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return list(SimulatorProvider(settings=simulator_settings()).parse(called(content)))


def test_what_is_called_back_reads_as_it_was_meant() -> None:
    now = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
    receipt = Receipt("event", MessageStatus.SENT, "sim-1", "key", "why", now, {"status": "sent"})
    message = InboundMessage("sim-2", "email", "email", "a@b.test", "c@d.test", "Hi", "Re", ["https://x.test/1"], now)
    assert parsed([callback_body(receipt), callback_body(message)])[1] == message
    [read] = parsed(callback_body(receipt))
    assert isinstance(read, Receipt)
    assert read.raw["status"] == "sent"
    assert (read.event_id, read.status, read.detail, read.occurred_at) == ("event", receipt.status, "why", now)


def test_an_unknown_word_is_kept_raw() -> None:
    [receipt] = parsed({"event": "receipt", "event_id": "1", "id": "sim-1", "status": "teleported", "speed": 7})
    assert isinstance(receipt, Receipt)
    assert receipt.status is None
    assert (receipt.raw["status"], receipt.raw["speed"]) == ("teleported", 7)


@each_case(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"17",
        b'"text"',
        b"null",
        b"[17]",
        b"{}",
        b'{"event": "receipt", "event_id": "1"}',
        b'{"event": "receipt", "event_id": "", "status": "sent"}',
        b'{"event": "receipt", "event_id": "1", "status": {"word": "yesterday"}}',
        b'{"event": "message", "id": "1", "body": "Hi"}',
        b"[" * 100_000,
        b'{"event_id": "' + b"x" * 513 + b'", "status": "sent"}',
    ],
)
def test_a_broken_callback_is_a_value_error_that_repeats_nothing_of_it(body: bytes) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the promise of `parse`
        parsed(body)
    assert "yesterday" not in str(raised.value)
