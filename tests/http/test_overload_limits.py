"""More requests than can be served: the surplus is refused at once."""

import asyncio
import time
from collections import deque

import pytest
from starlette.requests import Request
from starlette.types import Message

from app.config import Settings
from app.http import overload
from app.http.overload import AdaptiveLimit
from app.main import create_app
from bench.load import percentile
from tests.cases import each_case
from tests.conftest import client_of
from tests.factories import sms, sms_webhook
from tests.wire import problem_of, row_counts

pytestmark = pytest.mark.anyio

SLOW_REQUEST = {
    "type": "http",
    "method": "POST",
    "path": "/api/messages/sms",
    "raw_path": b"/api/messages/sms",
    "query_string": b"",
    "http_version": "1.1",
    "scheme": "http",
    "root_path": "",
}


async def test_one_more_than_may_be_under_way_is_turned_away_at_once(settings: Settings, database_url: str) -> None:
    app = create_app(settings.model_copy(update={"max_requests_in_flight": 3}))
    arrived, released = asyncio.Semaphore(0), asyncio.Event()

    @app.get("/held")
    async def held() -> str:
        arrived.release()
        await released.wait()
        return "done"

    async with app.router.lifespan_context(app), client_of(app) as client:
        under_way = [asyncio.create_task(client.get("/held")) for _ in range(3)]
        for _ in under_way:
            await arrived.acquire()
        refused = [
            await client.post("/api/messages/sms", json=sms()),
            await client.post("/api/webhooks/sms", json=sms_webhook()),
            await client.get("/api/conversations"),
            await client.get("/nothing"),
            await client.get("/nothing", headers={"X-Request-Id": "mine-1"}),
        ]
        for answer in refused:
            problem = problem_of(answer, 503)
            assert problem["title"] == "Overloaded"
            assert problem["request_id"] == answer.headers["x-request-id"]
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert len({answer.headers["x-request-id"] for answer in refused}) == len(refused)
        assert refused[-1].headers["x-request-id"] == "mine-1"
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200

        released.set()
        assert [answer.status_code for answer in await asyncio.gather(*under_way)] == [200] * 3
        assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
    assert row_counts(database_url)["messages"] == 1


async def test_a_request_that_fails_or_is_given_up_makes_room(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_requests_in_flight": 1}))

    @app.get("/broken")
    async def broken() -> str:
        raise RuntimeError

    arrived = asyncio.Event()

    @app.get("/endless")
    async def endless() -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with app.router.lifespan_context(app), client_of(app) as client:
        problem_of(await client.get("/broken"), 500)
        given_up = asyncio.create_task(client.get("/endless"))

        await arrived.wait()
        problem_of(await client.get("/api/conversations"), 503)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert (await client.get("/api/conversations")).status_code == 200


async def test_who_waits_for_a_provider_takes_up_neither_room_nor_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings.model_copy(update={"max_requests_in_flight": 1}))
    arrived, released = asyncio.Event(), asyncio.Event()
    took: list[float] = []
    waited: list[float] = []
    monkeypatch.setattr(app.state.overload.limit, "record", lambda seconds, in_flight, now: took.append(seconds))

    @app.get("/outside")
    async def outside(request: Request) -> None:
        with app.state.overload.not_in_flight(request.scope):
            began = time.monotonic()
            arrived.set()
            await released.wait()
            waited.append(time.monotonic() - began)

    async with app.router.lifespan_context(app), client_of(app) as client:
        asked_at = time.monotonic()
        waiting = asyncio.create_task(client.get("/outside"))
        await arrived.wait()
        assert (await client.get("/api/conversations")).status_code == 200
        released.set()
        assert (await waiting).status_code == 200
        answered_at = time.monotonic()
    assert len(took) == 2
    assert took[1] <= answered_at - asked_at - waited[0]


async def test_what_bodies_hold_before_they_are_whole_is_bounded_for_all_and_for_each_address(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "_INCOMPLETE_BYTES", 100)
    monkeypatch.setattr(overload, "_INCOMPLETE_BYTES_OF_ONE", 60)
    app = create_app(settings)
    more, held = asyncio.Event(), asyncio.Semaphore(0)

    async def send_slowly(address: str, size: int) -> int:
        """The status of what is answered; after its first piece the sender waits for `more`."""
        pieces = iter([b"x" * size, b""])
        said: list[int] = []

        async def receive() -> Message:
            piece = next(pieces)
            if not piece:
                held.release()
                await more.wait()
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                said.append(message["status"])

        scope = SLOW_REQUEST | {
            "client": (address, 1),
            "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        }
        await app(scope, receive, send)
        return said[0]

    async with app.router.lifespan_context(app):
        first = asyncio.create_task(send_slowly("192.0.2.1", 50))
        await held.acquire()
        assert await send_slowly("192.0.2.1", 20) == 503  # more than one address may hold
        second = asyncio.create_task(send_slowly("192.0.2.2", 40))
        await held.acquire()
        assert await send_slowly("192.0.2.3", 20) == 503  # more than all may hold
        more.set()
        assert [*await asyncio.gather(first, second)] == [422, 422]
        assert await send_slowly("192.0.2.3", 50) == 422


def crowded(limit: AdaptiveLimit, *, capacity: int, asked: int, seconds: float) -> list[float]:
    """The seconds of each request that a server with that limit let in, in order; both rates are per second.

    The server does one thing after the other, and each takes it as long.
    """
    inside: deque[tuple[float, int]] = deque()  # when each came, and how many there were then
    took: list[float] = []
    arrivals, ends = 0, 0
    while (now := min(arrivals / asked, (ends + 1) / capacity)) < seconds:
        if now == arrivals / asked:
            arrivals += 1
            if len(inside) < limit.allowed:
                inside.append((now, len(inside) + 1))
        else:
            ends += 1
            if inside:
                came, among = inside.popleft()
                took.append(now - came)
                limit.record(now - came, among, now=now)
    return took


@pytest.mark.slow
@each_case("capacity", [250, 500, 1000, 4000])
def test_of_ten_times_too_many_as_many_are_let_in_as_are_answered_in_time(capacity: int) -> None:
    took = crowded(AdaptiveLimit(500), capacity=capacity, asked=10 * capacity, seconds=60)
    assert len(took) > 0.95 * capacity * 60
    assert percentile(sorted(took), 99) < 2
    assert max(took[len(took) // 2 :]) < 0.7


def test_a_server_that_has_become_quick_again_lets_everybody_in() -> None:
    limit = AdaptiveLimit(500)
    crowded(limit, capacity=50, asked=500, seconds=20)
    assert limit.allowed < 40
    crowded(limit, capacity=5_000, asked=1_000, seconds=1)
    assert limit.allowed == 500


def test_what_takes_long_by_itself_keeps_nobody_out() -> None:
    limit = AdaptiveLimit(500)
    for number in range(1_000):
        limit.record(10, 5, now=number)
    assert limit.allowed == 500
    for number in range(1_000):  # among many that are quick
        limit.record(10 if number % 3 == 0 else 0.01, 100, now=number)
    assert limit.allowed == 500


def test_a_moments_stall_keeps_nobody_out() -> None:
    limit = AdaptiveLimit(500)
    for _ in range(20):
        for number in range(64):
            limit.record(2, 64, now=number / 1000)
        for number in range(64):
            limit.record(0.01, 64, now=1 + number / 1000)
    assert limit.allowed == 500


def test_no_limit_is_so_low_that_nobody_is_let_in() -> None:
    limit = AdaptiveLimit(500)
    for number in range(1_000):
        limit.record(60, 21, now=number)
    assert limit.allowed == 20
    assert AdaptiveLimit(3).allowed == 3
