"""One PostgreSQL for the whole run, one database for each test process, emptied after each test that used it.

With DATABASE_URL that server is used, without it an embedded one in a temporary directory. Either way the tests work
in databases of their own making, and never in the one that DATABASE_URL names.
"""

import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path

import httpx
import psycopg2
import pytest
from fastapi import FastAPI
from pydantic_settings import InitSettingsSource
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.stdlib import ProcessorFormatter

from app.config import Settings
from app.db.embedded import EmbeddedPostgres
from app.db.engine import libpq_url
from app.db.migrate import migrate
from app.db.models import Base
from app.main import create_app
from tests.factories import PRIVATE

_SERVER = "MESSAGING_TEST_SERVER"
_TEMPLATE = "MESSAGING_TEST_TEMPLATE"
_running: list[Callable[[], object]] = []


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or config.option.collectonly:
        return  # xdist's processes inherit what the controller has set up
    # Every process that a test starts would compile the application first, which takes it a third longer.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    given = os.environ.pop("DATABASE_URL", None)
    if given:
        server = libpq_url(given)
    else:
        directory = tempfile.TemporaryDirectory(prefix="messaging-test-", ignore_cleanup_errors=True)
        # Nothing here has to outlive a power cut.
        postgres = EmbeddedPostgres(
            Path(directory.name) / "postgres", options={"fsync": "off", "max_connections": "200"}
        )
        server = postgres.start()
        let_in_quickly(server)
        _running.extend([postgres.stop, directory.cleanup])
    template = f"messaging_test_{secrets.token_hex(4)}"
    execute(server, f"CREATE DATABASE {template}")
    _running.insert(0, lambda: drop_databases(server, template))
    migrate(database_named(server, template))
    os.environ[_SERVER], os.environ[_TEMPLATE] = server, template


def pytest_unconfigure(config: pytest.Config) -> None:
    while _running:
        _running.pop(0)()


def execute(url: str, *statements: str) -> None:
    """Run statements that can't stand in a transaction."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def let_in_quickly(server: str) -> None:
    """Have a login cost one round of hashing, where 4096 take both sides ten milliseconds of each connection."""
    login = make_url(server)
    execute(server, "SET scram_iterations = 1", f"ALTER ROLE {login.username} PASSWORD '{login.password}'")


def database_named(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def drop_databases(server: str, prefix: str) -> None:
    connection = psycopg2.connect(server)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,))
        for (name,) in cursor.fetchall():
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    connection.close()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """An engine finds the statements that others have compiled, though each test has engines of its own.

    To compile them takes longer than all that is done with the few rows of a test.
    """
    engine = partial(create_async_engine, execution_options={"compiled_cache": {}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.db.engine.create_async_engine", engine)
        # By its dialect a compiled statement is found, and all engines here speak to one server.
        patch.setattr(PGDialect_asyncpg, "__eq__", lambda one, other: type(one) is type(other))
        patch.setattr(PGDialect_asyncpg, "__hash__", lambda one: hash(type(one)))
        yield


@pytest.fixture(scope="session")
def new_database() -> Callable[..., str]:
    """Makes databases, each gone after the run: as the migrations leave one, or with `empty=True` without a table."""
    server, template = os.environ[_SERVER], os.environ[_TEMPLATE]

    def make(*, empty: bool = False) -> str:
        name = f"{template}_{secrets.token_hex(4)}"
        execute(server, f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else template}")
        return database_named(server, name)

    return make


@pytest.fixture(scope="session")
def _process_database(new_database: Callable[..., str]) -> str:
    return new_database()


#: For the few rows of a test this takes a millisecond, where TRUNCATE takes forty, and so does a connection that has
#: seen none of the tables before.
_EMPTYING = [
    *(f"DELETE FROM {table.name}" for table in reversed(Base.metadata.sorted_tables)),
    *(
        f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), 1, false)"
        for table in Base.metadata.sorted_tables
        if table.name != "tenants" and "id" in table.c and table.c.id.identity is not None
    ),
    "INSERT INTO tenants (id, name) VALUES (1, 'default')",
]


@pytest.fixture(scope="session")
def _empty_again(_process_database: str) -> Iterator[Callable[[], None]]:
    connection = psycopg2.connect(_process_database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield partial(cursor.execute, ";".join(_EMPTYING))
    connection.close()


@pytest.fixture
def database_url(_process_database: str, _empty_again: Callable[[], None]) -> Iterator[str]:
    """A migrated database without a row but the default tenant's; ids start at 1."""
    yield _process_database
    _empty_again()


@pytest.fixture(autouse=True)
def _nothing_private_is_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of what the factories write, no test may find an address or a body in the log of this process."""
    logged: list[str] = []
    rendered = ProcessorFormatter.format

    def looked_through(formatter: ProcessorFormatter, record: logging.LogRecord) -> str:
        line = rendered(formatter, record)
        logged.extend(line for private in PRIVATE if private in line)
        return line

    monkeypatch.setattr(ProcessorFormatter, "format", looked_through)
    yield
    assert logged == []


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings that read nothing of the environment; a test changes what it is about with `model_copy`."""
    return make_settings(database_url=database_url, data_dir=tmp_path)


def make_settings(**values: object) -> Settings:
    return Settings(_build_sources=((InitSettingsSource(Settings, values),), values))


@pytest.fixture
async def serve(database_url: str) -> AsyncIterator[Callable[[Settings], Awaitable[httpx.AsyncClient]]]:
    """Opens applications in this process and gives a client for each; they end before the database is emptied."""
    async with AsyncExitStack() as stack:

        async def open_client(settings: Settings) -> httpx.AsyncClient:
            return await stack.enter_async_context(client_of(await started(stack, settings)))

        yield open_client


async def started(stack: AsyncExitStack, settings: Settings) -> FastAPI:
    app = create_app(settings)
    await stack.enter_async_context(app.router.lifespan_context(app))
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://messaging.test")


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
        app = await started(stack, make_settings(database_url=url, worker_enabled=False))
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
