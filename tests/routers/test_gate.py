"""What happens when more comes than can be served: whoever is too many is told so at once."""

import asyncio

import pytest
from starlette.types import Message

from app.config import Settings
from app.main import create_app
from app.routers import gate
from tests.conftest import client_of
from tests.factories import sms, sms_webhook
from tests.routers import problem_of, row_counts

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


async def test_what_bodies_hold_before_they_are_whole_is_bounded_for_all_and_for_each_address(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_ROOM", 100)
    monkeypatch.setattr(gate, "_ROOM_OF_ONE", 60)
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
