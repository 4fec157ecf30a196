"""Connections of the pool are checked before use, but not each time, and lost ones are replaced."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.connectivity import pool
from app.db.engine import create_serving_engine
from tests.conftest import execute
from tests.factories import until

pytestmark = pytest.mark.anyio

_BACKEND = text("SELECT pg_backend_pid()")


@pytest.fixture
async def engine(settings: Settings, database_url: str) -> AsyncIterator[AsyncEngine]:
    """The engine of a service that has one connection."""
    one = settings.model_copy(update={"database_pool_size": 1, "database_pool_overflow": 0})
    engine = create_serving_engine(database_url, one)
    yield engine
    await engine.dispose()


@pytest.fixture
def checks(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The connections that were checked."""
    dialect, checked = engine.sync_engine.dialect, list[object]()
    ping = dialect.do_ping

    def counted(connection: object) -> bool:
        checked.append(connection)
        return ping(connection)  # type: ignore[arg-type]  # SQLAlchemy's own

    monkeypatch.setattr(dialect, "do_ping", counted)
    return checked


async def backend(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(_BACKEND)).scalar_one())


async def test_a_connection_in_use_is_not_checked_each_time(
    engine: AsyncEngine, checks: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CHECKED_SECONDS", 60)
    assert len({await backend(engine) for _ in range(3)}) == 1
    assert checks == []


async def test_a_connection_that_lay_idle_is_checked(
    engine: AsyncEngine, checks: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await backend(engine)
    monkeypatch.setattr(pool, "CHECKED_SECONDS", 0)
    assert await backend(engine) == first
    assert len(checks) == 1


async def test_a_connection_that_the_server_has_closed_is_replaced(engine: AsyncEngine, database_url: str) -> None:
    async with engine.connect() as connection:
        first = int((await connection.execute(_BACKEND)).scalar_one())
        driver = (await connection.get_raw_connection()).driver_connection
    execute(database_url, f"SELECT pg_terminate_backend({first})")

    async def is_closed() -> bool:
        assert driver is not None
        return bool(driver.is_closed())

    await until(is_closed, bool)
    assert await backend(engine) != first
