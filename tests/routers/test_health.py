"""Alive is not ready: a process whose database is away lives, and says that it can't work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from app.config import Settings
from app.main import create_app
from tests.conftest import client_of, execute, make_settings
from tests.factories import POSTS, sms, until
from tests.live import free_port
from tests.tenancy import bearer, make_key, production
from tests.wire import problem_of, row_counts

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


class Relay:
    """A way to PostgreSQL that can be cut, and mended."""

    def __init__(self, host: str, port: int) -> None:
        self._server_at = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._relays)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._server_at)
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(ConnectionError):
            while received := await reader.read(65_536):
                writer.write(received)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    parsed = make_url(database_url)
    relay = Relay(parsed.host or "127.0.0.1", parsed.port or 5432)
    await relay.open()
    yield relay
    await relay.cut()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_service_with_its_database_is_alive_and_ready(untouched: httpx.AsyncClient, path: str) -> None:
    response = await untouched.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_however_many_ask_whether_it_is_ready_one_connection_is_asked(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"worker_enabled": False}))
    asked: list[str] = []
    async with app.router.lifespan_context(app), client_of(app) as client:
        engine = app.state.services.sessions.kw["bind"].sync_engine
        event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(100)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(asked) == len({*asked}) == 2  # whether it may write, and something to commit


async def test_with_a_database_that_is_read_only_it_is_not_ready(
    new_database: Callable[[], str], serve: Serve
) -> None:
    url = new_database()
    here_alone = "SET citus.enable_ddl_propagation = off"  # a cluster would change its workers, too
    execute(url, here_alone, f"ALTER DATABASE {make_url(url).database} SET default_transaction_read_only = on")
    client = await serve(make_settings(database_url=url, worker_enabled=False))
    assert "read-only" in problem_of(await client.get("/readyz"), 503)["detail"]
    problem_of(await client.post("/api/messages/sms", json=sms()), 503)
    assert (await client.get("/api/conversations")).status_code == 200
    execute(
        url,
        here_alone,
        "SET default_transaction_read_only = off",
        f"ALTER DATABASE {make_url(url).database} RESET default_transaction_read_only",
    )
    await until(lambda: client.post("/api/messages/sms", json=sms()), lambda answer: answer.status_code == 200)
    await until(lambda: client.get("/readyz"), lambda answer: answer.status_code == 200)


async def test_without_its_database_it_is_alive_refuses_work_and_comes_back_by_itself(
    database_url: str, relay: Relay, serve: Serve
) -> None:
    url = make_url(database_url).set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)
    client = await serve(make_settings(database_url=url, worker_enabled=False))
    assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
    before = row_counts(database_url)

    await relay.cut()
    assert (await client.get("/healthz")).status_code == 200
    refused = [await client.post(path, json=make()) for path, make in POSTS.items()]
    refused += [
        await client.get(path)
        for path in ("/readyz", "/api/conversations", "/api/conversations/1/messages", "/api/messages/1")
    ]
    for response in refused:
        assert problem_of(response, 503)["type"] == "urn:problem-type:messaging:database-unavailable"
        assert int(response.headers["retry-after"]) > 0
    assert row_counts(database_url) == before

    await relay.open()
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
    assert len((await client.get("/api/conversations/1/messages")).json()) == 2


async def test_a_replica_that_is_away_is_not_missed(settings: Settings, serve: Serve) -> None:
    away = make_settings(database_read_url=f"postgresql://user@127.0.0.1:{free_port()}/name?sslmode=disable")
    read_url = {"database_read_url": away.database_read_url, "worker_enabled": False}
    client = await serve(settings.model_copy(update=read_url))
    assert "read-after" in (await client.post("/api/messages/sms", json=sms())).headers
    for path in ("/readyz", "/api/conversations", "/api/conversations/1/messages", "/api/messages/1"):
        assert (await client.get(path)).status_code == 200
    assert len((await client.get("/api/messages")).json()) == 1


async def test_without_its_database_a_key_is_neither_good_nor_bad(
    database_url: str, settings: Settings, relay: Relay, serve: Serve
) -> None:
    url = make_url(database_url).set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)
    client = await serve(production(settings, database_url=url, worker_enabled=False))
    headers = [bearer(token) for token in (make_key(database_url), make_key(database_url)[:-4] + "____")]
    await relay.cut()
    for shown in headers:
        response = await client.get("/api/conversations", headers=shown)
        assert problem_of(response, 503)["type"] == "urn:problem-type:messaging:database-unavailable"
