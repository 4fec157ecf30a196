"""An application that is started once, for all tests whose requests may store nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing

import httpx
import psycopg2
import pytest

from tests.conftest import client_of, make_settings, started
from tests.routers import COUNT_ROWS

Count = Callable[[], dict[str, int]]


@pytest.fixture(scope="session")
async def _watched(new_database: Callable[..., str]) -> AsyncIterator[tuple[httpx.AsyncClient, Count]]:
    url = new_database()
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
