"""Making connections, and what they ask of the server, where no test of what stands on them would show it."""

import asyncio
import gc
import socket
from contextlib import closing, suppress

import asyncpg
import psycopg2
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.db.connectivity.connections import connect
from app.db.engine import PromptSessions, create_command_engine, create_serving_engine, is_unavailable
from app.main import create_app
from tests.conftest import client_of, execute, make_settings
from tests.factories import sms
from tests.live import free_port
from tests.wire import problem_of

pytestmark = pytest.mark.anyio


async def test_the_server_is_told_how_long_it_may_take(settings: Settings, database_url: str) -> None:
    times = {"database_statement_timeout_seconds": 3, "database_lock_timeout_seconds": 0.5}
    engine = create_serving_engine(database_url, settings.model_copy(update=times))
    async with engine.connect() as connection:
        shown = [
            (await connection.exec_driver_sql(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "jit")
        ]
    await engine.dispose()
    # The driver gives up first. A commit that the server gives up counts as done, and no standby may have it.
    assert shown == ["3500ms", "500ms", "10s", "off"]


async def test_pgbouncer_is_asked_for_nothing_that_it_refuses(settings: Settings) -> None:
    """Its documentation names what it knows; anything else in the first message is an error."""
    known = {"user", "database", "client_encoding", "application_name", "timezone"}
    asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def bouncer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4))
        asked.set_result(await reader.readexactly(length - 4))
        writer.close()

    async with await asyncio.start_server(bouncer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://user:password@127.0.0.1:{port}/name?sslmode=disable"
        engine = create_serving_engine(url, settings.model_copy(update={"database_prepared_statements": False}))
        with suppress(Exception):
            async with engine.connect():
                pass
        await engine.dispose()
    words = (await asked)[4:].rstrip(b"\0").decode().split("\0")
    assert set(words[::2]) == known


def url_of_several(database_url: str, *ports: int, wanted: str = "read-write") -> str:
    """The URL with a host for each port, as libpq has it."""
    url = make_url(database_url)
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    query = f"sslmode=disable&connect_timeout=9&target_session_attrs={wanted}"
    return f"postgresql+psycopg2://{url.username}:{url.password}@{hosts}/{url.database}?{query}"


async def test_of_several_hosts_the_one_that_is_right_is_used_by_both_drivers(database_url: str) -> None:
    port = make_url(database_url).port
    assert port is not None
    url = url_of_several(database_url, free_port(), port, free_port())
    engine = create_serving_engine(url, make_settings(database_url=url))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT inet_server_port()"))).scalar_one() == port
    await engine.dispose()
    with create_command_engine(url).connect() as connection:
        assert connection.execute(text("SELECT inet_server_port()")).scalar_one() == port
        connection.engine.dispose()


async def test_a_host_of_another_role_is_passed_over(database_url: str) -> None:
    port = make_url(database_url).port
    assert port is not None
    with pytest.raises(ConnectionError, match="is standby"):
        await connect(url_of_several(database_url, free_port(), port, wanted="standby"))
    connection = await connect(url_of_several(database_url, port, wanted="prefer-standby"))
    await connection.close()


async def test_a_host_that_is_silent_leaves_time_for_the_next_one(database_url: str) -> None:
    port = make_url(database_url).port
    assert port is not None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = url_of_several(database_url, silent.getsockname()[1], port)
        for _ in range(2):  # the second time the right one is asked first
            connection = await connect(url, timeout=4)
            await connection.close()


async def test_a_space_in_the_options_stays_one_for_both_drivers(database_url: str) -> None:
    url = f"{database_url}&options=-c%20search_path%3Dpg_catalog"
    engine = create_serving_engine(url, make_settings(database_url=url))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SHOW search_path"))).scalar_one() == "pg_catalog"
    await engine.dispose()
    with create_command_engine(url).connect() as connection:
        assert connection.execute(text("SHOW search_path")).scalar_one() == "pg_catalog"
        connection.engine.dispose()


async def test_who_waits_too_long_for_a_lock_is_asked_to_come_again(settings: Settings, database_url: str) -> None:
    times = {"database_lock_timeout_seconds": 0.2, "database_statement_timeout_seconds": 60, "worker_enabled": False}
    app = create_app(settings.model_copy(update=times))
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
        with closing(psycopg2.connect(database_url)) as other:
            other.cursor().execute("SELECT 1 FROM conversations FOR UPDATE")
            problem_of(await client.post("/api/messages/sms", json=sms()), 503)
        assert (await client.post("/api/messages/sms", json=sms())).status_code == 200


def test_whoever_gives_up_while_connecting_leaves_no_error_behind(database_url: str) -> None:
    """Whichever step it is at: asyncio would report a leftover error to the next test that runs."""
    reported: list[dict[str, object]] = []

    async def give_up_at_each_step() -> int:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        steps = 0
        while True:
            connecting = asyncio.create_task(connect(database_url))
            for _ in range(steps):
                await asyncio.sleep(0)
            given_up = connecting.cancel()
            [outcome] = await asyncio.gather(connecting, return_exceptions=True)
            if not given_up:
                break
            assert isinstance(outcome, asyncio.CancelledError)
            steps += 1
        assert not isinstance(outcome, BaseException)
        await outcome.close()
        while left := [task for task in asyncio.all_tasks() if task.get_name() == "connecting"]:
            await asyncio.wait(left)
        gc.collect()
        await asyncio.sleep(0)
        return steps

    # In a loop of its own: tasks that other tests left behind are reported to theirs.
    assert asyncio.run(give_up_at_each_step()) > 3
    assert reported == []


async def test_a_server_that_stops_in_the_middle_of_a_login_is_unavailable(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(_: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    monkeypatch.setattr("app.db.engine.raise_generation", cut_off)
    engine = create_serving_engine(database_url, settings)
    with pytest.raises(DBAPIError) as refused:
        await engine.connect()
    assert is_unavailable(refused.value)
    await engine.dispose()


@pytest.mark.parametrize("opened", ["by itself", "with a transaction"])
async def test_a_session_ends_at_its_deadline_however_many_statements_it_has_come_to(
    settings: Settings, database_url: str, opened: str
) -> None:
    engine = create_serving_engine(database_url, settings)
    sessions = PromptSessions(engine, deadline_seconds=0.5)
    asked = 0

    async def ask() -> None:
        nonlocal asked
        async with sessions() if opened == "by itself" else sessions.begin() as session:
            while True:
                await session.execute(text("SELECT pg_sleep(0.1)"))
                asked += 1

    with pytest.raises(TimeoutError) as given_up:
        await asyncio.wait_for(ask(), 60)
    assert 1 <= asked < 5
    assert is_unavailable(given_up.value)
    async with sessions() as session:
        assert (await session.execute(text("SELECT 1"))).scalar_one() == 1
    await engine.dispose()


async def test_a_transaction_ends_at_its_deadline_also_where_it_is_the_commit_that_takes_long(
    settings: Settings, database_url: str
) -> None:
    engine = create_serving_engine(database_url, settings)
    sessions = PromptSessions(engine, deadline_seconds=0.5)
    slow = (
        "CREATE TABLE slow (id int)",
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(120); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    execute(database_url, *slow)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(TimeoutError):
                async with sessions.begin() as session:
                    await session.execute(text("INSERT INTO slow VALUES (1)"))
        async with sessions.begin() as session:
            assert (await session.execute(text("SELECT count(*) FROM slow"))).scalar_one() == 0
    finally:
        await engine.dispose()
        execute(database_url, "DROP TABLE slow", "DROP FUNCTION wait")
