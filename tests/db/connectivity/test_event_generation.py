"""The generation of the event log: it rises with every start of a server, and nothing is written before it has."""

import asyncio
import secrets
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.embedded import EmbeddedPostgres
from app.db.embedded.programs import find_programs
from app.db.engine import create_serving_engine, is_unavailable
from app.db.schema.migrate import migrate
from app.domain import EventType
from app.services.event_log.entries import NewEvent, write_entries
from app.services.events.cursors import BEGINNING, Position, cursor_at
from app.services.events.reading import LogState, log_state, read_page
from tests.conftest import execute, let_in_quickly, make_settings
from tests.factories import make_messages, sms, sms_webhook, until
from tests.tenancy import insert
from tests.wire import problem_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
FAR = 10**12  #: a generation beyond the clock's, so that each rise adds one


def value(url: str, question: str) -> Any:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


def generation(url: str, tenant_id: int = 1) -> int:
    return int(value(url, f"SELECT generation FROM event_logs WHERE tenant_id = {tenant_id}"))


def pretend_a_restart(url: str, *, generation: int = FAR) -> None:
    """Leave the log as after a restart that a pooler hides: the open connections do not know of it."""
    execute(url, f"UPDATE event_logs SET generation = {generation}, server_started_at = '2020-01-01'")


async def write(engine: AsyncEngine, message_id: int, *, tenant_id: int = 1) -> None:
    async with engine.begin() as connection:
        await write_entries(connection, tenant_id, [NewEvent(EventType.MESSAGE_SENT, message_id, 1)])


async def read(engine: AsyncEngine, after: Position = BEGINNING) -> list[tuple[int | None, Position]]:
    """The message ids and positions of what can be read after a position, once neighbours let all be read."""

    async def state() -> LogState:
        async with engine.connect() as connection:
            return await log_state(connection, 1)

    decided = await until(state, lambda found: found.decided >= found.head)
    async with engine.connect() as connection:
        page = await read_page(connection, 1, after, decided, limit=500)
    return [(entry.message_id, entry.position) for entry in page.entries]


async def test_it_rises_once_for_any_number_of_connections(engine: AsyncEngine, database_url: str) -> None:
    pretend_a_restart(database_url)
    other_tenant = insert(database_url, "INSERT INTO tenants (name) VALUES (%s) RETURNING id", ("Acme",))
    async with asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(write(engine, 1))
    assert generation(database_url) == FAR + 1
    await engine.dispose()
    await write(engine, 1)
    assert generation(database_url) == FAR + 1
    assert 0 < generation(database_url, other_tenant) < FAR


async def test_what_is_written_past_a_hidden_restart_is_refused_as_temporary(
    engine: AsyncEngine, database_url: str
) -> None:
    await write(engine, 1)
    pretend_a_restart(database_url)
    with pytest.raises(IntegrityError) as refused:
        async with engine.begin() as connection:
            await make_messages(connection)
    assert is_unavailable(refused.value)
    assert value(database_url, "SELECT count(*) FROM messages") == 0
    assert generation(database_url) == FAR
    await write(engine, 2)
    assert generation(database_url) == FAR + 1
    assert [message_id for message_id, _ in await read(engine)] == [1, 2]


async def test_who_meets_a_hidden_restart_is_asked_to_come_again(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    quiet = settings.model_copy(update={"worker_enabled": False})  # a worker would raise the generation, too
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    first = await (await serve(quiet)).post("/api/messages/sms", json=sms(send_at=in_an_hour.isoformat()))
    asked = [
        ("/api/messages/sms", sms()),
        ("/api/messages/sms", sms(to="+18045550000")),
        ("/api/webhooks/sms", sms_webhook()),
        (f"/api/messages/{first.json()['message_id']}/cancel", None),
    ]
    for number, (path, body) in enumerate(asked):
        client = await serve(quiet)
        await client.post("/api/messages/sms", json=sms(to=f"+1804555100{number}"))  # opens the writers' connections
        # Opens those of sessions, more than other tasks of the process may have in use just then.
        await asyncio.gather(*(client.get("/api/contacts") for _ in range(4)))
        rows = value(database_url, "SELECT count(*) FROM messages")
        pretend_a_restart(database_url)
        problem = await client.post(path, json=body)
        problem_of(problem, 503)
        assert "retry-after" in problem.headers
        assert value(database_url, "SELECT count(*) FROM messages") == rows
        assert value(database_url, "SELECT status FROM messages ORDER BY id LIMIT 1") == "scheduled"
        assert (await client.post(path, json=body)).status_code == 200
        assert generation(database_url) == FAR + 1


async def test_cursors_of_an_earlier_generation_read_on_where_transaction_ids_went_back(
    engine: AsyncEngine, database_url: str
) -> None:
    await write(engine, 1)
    ahead = Position(generation(database_url), 2**62, 1)  # it has seen what the standby has lost
    assert await read(engine, ahead) == []
    pretend_a_restart(database_url)
    await engine.dispose()
    await write(engine, 2)
    [(message_id, position)] = await read(engine, ahead)
    assert message_id == 2
    assert position.transaction_id < ahead.transaction_id
    assert await read(engine, position) == []


async def test_a_cursor_of_a_generation_that_never_was_is_refused(client: httpx.AsyncClient) -> None:
    never = cursor_at(1, Position(FAR, 1, 1))
    assert problem_of(await client.get("/api/events", params={"after": never}), 422)["errors"][0]["location"]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_the_log_of_a_new_tenant_can_be_written(
    client: httpx.AsyncClient, engine: AsyncEngine, database_url: str, by_hand: bool
) -> None:
    await write(engine, 1)  # leaves a connection that was there before the tenant
    if by_hand:
        tenant_id = insert(database_url, "INSERT INTO tenants (name) VALUES (%s) RETURNING id", ("Acme",))
        with pytest.raises(IntegrityError) as refused:
            await write(engine, 1, tenant_id=tenant_id)
        assert is_unavailable(refused.value)
    else:
        tenant_id = (await client.post("/api/admin/tenants", json={"name": "Acme"})).json()["id"]
    await write(engine, 1, tenant_id=tenant_id)
    assert generation(database_url, tenant_id) > 0


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[[], tuple[EmbeddedPostgres, str]]]:
    """Starts servers of the test's own, each with an empty database."""
    with ExitStack() as servers:

        def start() -> tuple[EmbeddedPostgres, str]:
            directory = tmp_path / f"postgres-{secrets.token_hex(4)}"
            server = EmbeddedPostgres(directory, options={"fsync": "off"})
            url = servers.enter_context(server)
            let_in_quickly(url)
            return server, url

        yield start


StartServer = Callable[[], tuple[EmbeddedPostgres, str]]


@pytest.mark.slow
async def test_it_rises_once_with_a_restart(start_server: StartServer) -> None:
    server, url = start_server()
    migrate(url)
    engine = create_serving_engine(url, make_settings(database_url=url))
    await write(engine, 1)
    execute(url, f"UPDATE event_logs SET generation = {FAR}")
    await engine.dispose()
    await write(engine, 2)
    assert generation(url) == FAR
    server.stop()
    assert server.start() == url
    await engine.dispose()
    async with asyncio.TaskGroup() as tasks:
        for number in range(3, 11):
            tasks.create_task(write(engine, number))
    assert generation(url) == FAR + 1
    found = [message_id for message_id, _ in await read(engine)]
    assert found[:2] == [1, 2]
    assert {*found} == {*range(1, 11)}
    await engine.dispose()


@pytest.mark.slow
async def test_it_rises_where_a_dump_is_restored(start_server: StartServer, tmp_path: Path) -> None:
    """The restored server has other transaction ids, and a cursor may be ahead of the dump."""
    _, url = start_server()
    migrate(url)
    engine = create_serving_engine(url, make_settings(database_url=url))
    await write(engine, 1)
    programs, dump = find_programs(None, tmp_path), tmp_path / "dump.sql"
    with dump.open("wb") as output:
        done = programs.run("pg_dump", url, cwd=tmp_path, output=output)
    assert done.returncode == 0, dump.read_text()
    for number in range(2, 100):
        await write(engine, number)
    seen = await read(engine)
    await engine.dispose()

    _, restored = start_server()
    words = ("--quiet", "--set=ON_ERROR_STOP=1", "--file", str(dump), restored)
    done = programs.run("psql", *words, cwd=tmp_path, output=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
    engine = create_serving_engine(restored, make_settings(database_url=restored))
    await write(engine, 100)
    assert [message_id for message_id, _ in await read(engine)] == [1, 100]
    assert [message_id for message_id, _ in await read(engine, seen[-1][1])] == [100]
    await engine.dispose()
