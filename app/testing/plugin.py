"""Fixtures of the contract for tests of another package: `pytest_plugins = ["app.testing.plugin"]` in a conftest.py.

Tests share one embedded PostgreSQL, in a temporary directory. Each has a database of its own in it.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from pydantic_settings import InitSettingsSource
from sqlalchemy.engine import make_url

from app.config import Settings
from app.db.embedded import EmbeddedPostgres
from app.db.schema.migrate import migrate
from app.main import create_app
from app.testing.service import Service, StartService

_TEMPLATE = "contract"
_numbers = count(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def _messaging_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL with one migrated database, from which the others are copied."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("messaging") / "postgres", options={"fsync": "off"})
    server = postgres.start()
    try:
        _execute(server, f"CREATE DATABASE {_TEMPLATE}")
        migrate(_named(server, _TEMPLATE))
        yield server
    finally:
        postgres.stop()


@pytest.fixture
def _messaging_database(_messaging_server: str) -> Iterator[str]:
    name = f"{_TEMPLATE}_{next(_numbers)}"
    _execute(_messaging_server, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    yield _named(_messaging_server, name)
    _execute(_messaging_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def messaging_service(
    _messaging_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StartService]:
    """Starts the service on a database of the test's own. Its settings come from the test alone."""
    monkeypatch.setattr("app.wiring._LOOK_UP_SECONDS", 60)  # a busy machine is no reason for a 503
    async with AsyncExitStack() as stack:

        async def start(**values: object) -> Service:
            values = {
                "database_url": _messaging_database,
                "data_dir": tmp_path,
                "database_statement_timeout_seconds": 60,
                "database_pool_timeout_seconds": 60,
            } | values
            settings = Settings(_build_sources=((InitSettingsSource(Settings, values),), values))
            app = create_app(settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://messaging.test")
            return Service(await stack.enter_async_context(client), settings, partial(_rows, _messaging_database))

        yield start


def _named(server: str, database: str) -> str:
    return make_url(server).set(database=database).render_as_string(hide_password=False)


def _execute(url: str, statement: str) -> None:
    """Run a statement that can't stand in a transaction."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


def _rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()
