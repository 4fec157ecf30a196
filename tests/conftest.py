"""One PostgreSQL for the whole run, one database for each test process, emptied after each test that used it.

With DATABASE_URL that server is used, without it an embedded one in a temporary directory. Either way the tests work
in databases that they make, never in the one that DATABASE_URL names. With CITUS_URL, the coordinator of a cluster,
those are distributed. The first test that needs a database starts the
server, and the fixtures import the application: a test of pure functions waits for neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psycopg2
import pytest

from tests import cluster
from tests.factories import PRIVATE

if TYPE_CHECKING:
    import httpx
    from fastapi import FastAPI
    from sqlalchemy.ext.asyncio import AsyncEngine

    from app.config import Settings
    from app.db.embedded import EmbeddedPostgres

_RUN = "MESSAGING_TEST_RUN"  #: the directory that the processes of a run share
_GIVEN_SERVER = "MESSAGING_TEST_SERVER"
_TEMPLATE = "MESSAGING_TEST_TEMPLATE"
_MOST_WORKERS = 4  #: each has a database and an application to make first
_leave_server: list[Callable[[], object]] = []


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run everything on all processors, but files that are named in this process: they are done before it starts."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return 0
    count = min(os.cpu_count() or 1, _MOST_WORKERS)
    return count if count > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    # A busy machine is no reason to fail. A test takes the settings that hold when its module is imported.
    hypothesis.settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("untimed")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in the background of a shell. The processes that tests start would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        return  # xdist's processes inherit the environment of the controller
    # Every process that a test starts would compile the application first, which takes it a third longer.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ[_RUN] = tempfile.mkdtemp(prefix="messaging-test-")
    os.environ[_TEMPLATE] = f"messaging_test_{secrets.token_hex(4)}"
    given = os.environ.pop("DATABASE_URL", "")
    os.environ[_GIVEN_SERVER] = os.environ.get("CITUS_URL") or given


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.args_source is pytest.Config.ArgsSource.ARGS:
        return
    if config.option.markexpr == "not slow":
        reporter.write_line(
            "About five minutes on two cores, without the slow tests; ./bin/test.sh all runs those too."
        )


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay, and need not be looked through again and again


def pytest_unconfigure(config: pytest.Config) -> None:
    logging.disable()  # the file that it writes to is closed by now
    with redirect_stdout(StringIO()):
        while _leave_server:
            _leave_server.pop()()
        if not hasattr(config, "workerinput"):
            _tidy_up(Path(os.environ[_RUN]))


def _tidy_up(run: Path) -> None:
    if (run / "template").exists():
        if os.environ[_GIVEN_SERVER]:
            drop_databases(_given_server(), os.environ[_TEMPLATE])
        elif (run / "postgres" / "data" / "postmaster.pid").exists():  # a process that used it was killed
            postgres = _embedded(run)
            postgres.start()
            postgres.stop()
    shutil.rmtree(run, ignore_errors=True)


def _given_server() -> str:
    from app.database_urls import libpq_url

    return libpq_url(os.environ[_GIVEN_SERVER])


def _embedded(run: Path) -> EmbeddedPostgres:
    from app.db.embedded import EmbeddedPostgres

    # Nothing here has to outlive a power cut.
    options = {"fsync": "off", "max_connections": "200", "max_prepared_transactions": "10"}
    return EmbeddedPostgres(run / "postgres", options=options)


@pytest.fixture(scope="session")
def _server(_compiled_once: None) -> str:
    """The server that all processes of the run share, with the template of their databases."""
    from filelock import FileLock

    import app.main  # noqa: F401 - it sets up the log, as in a process of the service
    from app.db.schema.migrate import migrate

    _watch_log()
    run, template = Path(os.environ[_RUN]), os.environ[_TEMPLATE]
    with FileLock(run / "lock"):
        if os.environ[_GIVEN_SERVER]:
            server = _given_server()
        else:
            postgres = _embedded(run)
            server = postgres.start()
            _leave_server.append(postgres.stop)
        if not (run / "template").exists():
            if not os.environ[_GIVEN_SERVER]:
                let_in_quickly(server)
            if not is_cluster(server):
                execute(server, f"CREATE DATABASE {template}")
                migrate(database_named(server, template))
            (run / "template").touch()
    _known_server[:] = [server]
    return server


def execute(url: str, *statements: str) -> None:
    """Run statements that can't stand in a transaction."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def let_in_quickly(server: str) -> None:
    """Have a login cost one round of hashing, where 4096 take both sides ten milliseconds of each connection."""
    from sqlalchemy.engine import make_url

    login = make_url(server)
    execute(server, "SET scram_iterations = 1", f"ALTER ROLE {login.username} PASSWORD '{login.password}'")


def database_named(server: str, name: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(server).set(database=name).render_as_string(hide_password=False)


def drop_databases(server: str, prefix: str) -> None:
    with closing(psycopg2.connect(server)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,))
            for (name,) in cursor.fetchall():
                if is_cluster(server):
                    cluster.drop_database(server, name)
                else:
                    cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def is_cluster(server: str) -> bool:
    """True where the tests run on a cluster, whose coordinator this is."""
    return bool(os.environ.get("CITUS_URL")) and bool(cluster.workers_of(server))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def _compiled_once() -> Iterator[None]:
    """Let an engine find the statements that others have compiled, though each test has engines of its own.

    To compile them takes longer than all that is done with the few rows of a test. Look-ups have time, too.
    """
    from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = partial(create_async_engine, execution_options={"compiled_cache": {}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.db.engine.create_async_engine", engine)
        patch.setattr("app.wiring._LOOK_UP_SECONDS", 60)  # see `settings`
        # Tests count statements and connections. Those of the figures set their own pause.
        patch.setattr("app.services.figures.recorder.FiguresRecorder.pause_seconds", 3600)
        # By its dialect a compiled statement is found, and all engines here speak to one server.
        patch.setattr(PGDialect_asyncpg, "__eq__", lambda one, other: type(one) is type(other))
        patch.setattr(PGDialect_asyncpg, "__hash__", lambda one: hash(type(one)))
        _watch_statements(patch)
        yield


@pytest.fixture(scope="session")
def new_database(_server: str) -> Callable[..., str]:
    """Makes databases, each gone after the run: as the migrations leave one, or with `empty=True` without a table."""
    from app.db.schema.migrate import migrate

    template = os.environ[_TEMPLATE]

    def make(*, empty: bool = False) -> str:
        name = f"{template}_{secrets.token_hex(4)}"
        if is_cluster(_server):
            cluster.create_database(_server, name)
            if not empty:
                migrate(database_named(_server, name), distributed=True)
            return database_named(_server, name)
        execute(_server, f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else template}")
        return database_named(_server, name)

    return make


@pytest.fixture(scope="session")
def _process_database(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture(scope="session")
def _empty_again(_process_database: str) -> Iterator[Callable[[], None]]:
    """Deletes every row, and starts the ids at 1.

    For the few rows of a test this takes a millisecond. TRUNCATE takes forty, and so does a new connection.
    """
    from app.db.models import Base

    tables = [table for table in Base.metadata.sorted_tables if table.name != "installation"]
    statements = [
        *(f"DELETE FROM {table.name}" for table in reversed(tables)),
        *(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), 1, false)"
            for table in tables
            if table.name != "tenants" and "id" in table.c and table.c.id.identity is not None
        ),
        "INSERT INTO tenants (id, name) VALUES (1, 'default')",
        "INSERT INTO event_logs (tenant_id, generation) VALUES (1, 1)",
        "SELECT pg_postmaster_start_time() FROM event_logs WHERE tenant_id = 1",
    ]
    with closing(psycopg2.connect(_process_database)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            if os.environ.get("CITUS_URL"):
                cursor.execute("SET citus.multi_shard_modify_mode TO 'sequential'")

            def empty() -> None:
                cursor.execute(";".join(statements))
                # On a cluster it is the start of the node that has the tenant's rows.
                cursor.execute("UPDATE event_logs SET server_started_at = %s", cursor.fetchone())

            empty()
            yield empty


@pytest.fixture
def database_url(_process_database: str, _empty_again: Callable[[], None]) -> Iterator[str]:
    """A migrated database without a row but the default tenant's; ids start at 1."""
    yield _process_database
    _empty_again()


@pytest.fixture(autouse=True)
def _garbage_is_its_own() -> Iterator[None]:
    """Collect the garbage of a test at its end, so that a warning about an open socket is charged to that test."""
    yield
    gc.collect(1)  # the young ones: to look through all takes a tenth of a second


_private_lines: list[str] = []


def _watch_log() -> None:
    """Collect the lines of this process's log that hold an address or a body of the factories."""
    from structlog.stdlib import ProcessorFormatter

    rendered = ProcessorFormatter.format
    if rendered.__name__ == "watched":
        return

    def watched(formatter: ProcessorFormatter, record: logging.LogRecord) -> str:
        line = rendered(formatter, record)
        _private_lines.extend(line for private in PRIVATE if private in line)
        return line

    ProcessorFormatter.format = watched  # type: ignore[assignment, method-assign]


@pytest.fixture(autouse=True)
def _nothing_private_is_logged() -> Iterator[None]:
    """Fail every test that logs a private word of the factories."""
    if "structlog.stdlib" in sys.modules:
        _watch_log()
    yield
    found = [*_private_lines]
    _private_lines.clear()
    assert found == []


_statements: set[str] = set()  #: that the service has issued since the last test
_checked: set[str] = set()
_known_server: list[str] = []


def _watch_statements(patch: pytest.MonkeyPatch) -> None:
    """Collect the statements that this process issues through the service's connections."""
    from app.db.connectivity import connections

    class Watched(connections._Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.add_query_logger(lambda record: _statements.add(record.query))

    patch.setattr(connections, "_Connection", Watched)


@functools.cache
def _volatilities() -> dict[str, str]:
    from tests.statement_rules import VOLATILITIES

    with closing(psycopg2.connect(_known_server[0])) as connection, connection.cursor() as cursor:
        cursor.execute(VOLATILITIES)
        return dict(cursor.fetchall())


@pytest.fixture(autouse=True)
def _nothing_is_refused_by_a_distributed_database() -> Iterator[None]:
    """Fail every test during which the service issues a statement that breaks the rules for these."""
    yield
    new = _statements - _checked
    _statements.clear()
    if new:
        from tests.statement_rules import refused

        _checked.update(new)
        assert [found for sql in sorted(new) if (found := refused(sql, _volatilities()))] == []


#: The database may take its time: a busy machine is no reason for a 503.
_PATIENT = {
    "database_statement_timeout_seconds": 60,
    "database_lock_timeout_seconds": 60,
    "database_pool_timeout_seconds": 60,
}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings that read nothing of the environment; a test changes what it is about with `model_copy`."""
    return make_settings(database_url=database_url, data_dir=tmp_path, **_PATIENT)


def make_settings(**values: object) -> Settings:
    from pydantic_settings import InitSettingsSource

    from app.config import Settings

    values = {"event_heartbeat_seconds": 0.02} | values
    return Settings(_build_sources=((InitSettingsSource(Settings, values),), values))


@pytest.fixture
async def engine(settings: Settings, database_url: str) -> AsyncIterator[AsyncEngine]:
    """The engine of a service with these settings."""
    from app.db.engine import create_serving_engine
    from app.db.schema.distribution import with_its_form

    engine = create_serving_engine(database_url, settings)
    yield await with_its_form(engine) if os.environ.get("CITUS_URL") else engine
    await engine.dispose()


@pytest.fixture
async def serve(database_url: str) -> AsyncIterator[Callable[[Settings], Awaitable[httpx.AsyncClient]]]:
    """Opens applications in this process and gives a client for each; they end before the database is emptied."""
    async with AsyncExitStack() as stack:

        async def open_client(settings: Settings) -> httpx.AsyncClient:
            return await stack.enter_async_context(client_of(await started(stack, settings)))

        yield open_client


async def started(stack: AsyncExitStack, settings: Settings) -> FastAPI:
    from app.main import create_app

    app = create_app(settings)
    await stack.enter_async_context(app.router.lifespan_context(app))
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    import httpx

    class Transport(httpx.ASGITransport):
        """Gives an answer when it is complete, so a stream of events is left at its first heartbeat.

        Before a page of events it waits for neighbours on the same server, whose transactions hold readers back.
        """

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            path = request.url.path.rstrip("/")
            if path == "/api/events":
                await events_are_decided(app.state.settings)
            if path not in {"/api/events/stream", "/inbox/events"}:
                return await super().handle_async_request(request)
            left_early = httpx.ASGITransport(leaving_at_heartbeat(app), raise_app_exceptions=False)
            return await left_early.handle_async_request(request)

    transport = Transport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://messaging.test")


#: Entries that readers do not get yet (`app.services.events.reading`).
_UNDECIDED = """
SELECT count(*) FROM events JOIN event_logs USING (tenant_id) WHERE
(events.generation, transaction_id) >= (event_logs.generation, pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
"""


async def events_are_decided(settings: Settings) -> None:
    """Return when readers get every entry, or when that takes too long to be a neighbour's doing."""
    assert settings.database_url is not None
    with closing(psycopg2.connect(settings.database_url.get_secret_value())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                cursor.execute(_UNDECIDED)
                while cursor.fetchone() != (0,):
                    await asyncio.sleep(0.01)
                    cursor.execute(_UNDECIDED)


def leaving_at_heartbeat(app: FastAPI) -> Callable[..., Awaitable[None]]:
    """An application whose clients leave a stream when it has nothing to tell."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        leaving = asyncio.Event()

        async def receiving() -> Any:
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def sending(message: Any) -> None:
            if message.get("body", b"").startswith(b":\n"):
                leaving.set()
            await send(message)

        await app(scope, receiving, sending)

    return serve


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application on the test's database, delivering in the background."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(client_of(await started(stack, settings)))


Count = Callable[[], dict[str, int]]


@pytest.fixture(scope="session")
async def _watched(new_database: Callable[..., str]) -> AsyncIterator[tuple[httpx.AsyncClient, Count]]:
    url = new_database()
    from tests.wire import COUNT_ROWS  # it makes an application when it is imported

    async with AsyncExitStack() as stack:
        app = await started(stack, make_settings(database_url=url, worker_enabled=False, **_PATIENT))
        client = await stack.enter_async_context(client_of(app))
        connection = stack.enter_context(closing(psycopg2.connect(url)))
        connection.autocommit = True
        cursor = connection.cursor()

        def count() -> dict[str, int]:
            cursor.execute(COUNT_ROWS)
            return dict(cursor.fetchall())

        yield client, count


@pytest.fixture
async def untouched(_watched: tuple[httpx.AsyncClient, Count]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application whose database has to be as empty after the test as it was before."""
    client, count = _watched
    yield client
    assert set(count().values()) == {0}
