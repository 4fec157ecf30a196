"""Waking workers elsewhere: by NOTIFY long before they would look by themselves, and by polling where that fails."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.process_lock import ProcessLock
from app.providers.base import ProviderResult
from app.providers.registry import provider_registry
from app.services.delivery import notifier
from app.services.delivery.notifier import Notifier
from app.wiring import running_services
from app.worker import DeliveryWorker
from tests.factories import sms, until
from tests.test_worker import Scripted

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
_ROOT = Path(__file__).parents[3]
LONG = 600.0  # seconds between two looks of a worker
SOON = 60.0  # seconds, on a machine that is busy


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    provider = Scripted(ProviderResult())
    monkeypatch.setitem(provider_registry, "sms", provider)
    return provider


@pytest.fixture
async def accepting(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """A client of an application that accepts, and leaves delivering to others."""
    return await serve(settings.model_copy(update={"worker_enabled": False}))


def listeners(database_url: str, *, end: bool = False) -> int:
    """Count the sessions that listen on the test's database; with `end`, the server ends them."""
    what = "count(pg_terminate_backend(pid))" if end else "count(*)"
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {what} FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        [row] = cursor.fetchall()
    connection.close()
    count: int = row[0]
    return count


def notifier_for(database_url: str, engine: AsyncEngine, on_due: Callable[[], None]) -> Notifier:
    notifier = Notifier(database_url, engine)
    notifier.on_due(on_due)
    return notifier


def nobody(tenant_id: int) -> None:
    """Stands for the notifier of a worker without readers."""


async def listening(database_url: str, count: int) -> None:
    await until(lambda: asyncio.to_thread(listeners, database_url), lambda found: found == count)


async def sent(client: httpx.AsyncClient) -> None:
    """Post a text and wait until it has left, long before a worker would look by itself."""
    message_id = (await client.post("/api/messages/sms", json=sms())).json()["message_id"]

    async def ask() -> dict[str, Any]:
        message: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
        return message

    await until(ask, lambda message: message["status"] in {"sent", "delivered"}, seconds=SOON)


async def test_a_worker_with_connections_of_its_own_is_woken_long_before_it_would_look(
    accepting: httpx.AsyncClient, settings: Settings, database_url: str
) -> None:
    patient = settings.model_copy(update={"worker_poll_seconds": LONG})
    async with running_services(database_url, patient, deliver=True):
        await listening(database_url, 2)
        for _ in range(5):
            await sent(accepting)


@pytest.fixture
def worker_process(database_url: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "WORKER_POLL_SECONDS": str(LONG),
        "LOG_LEVEL": "warning",
        "ROUTES": "sms:sms",
    }
    process = subprocess.Popen([sys.executable, "-m", "app", "worker"], cwd=_ROOT, env=environment)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.mark.slow
async def test_a_worker_in_another_process_is_woken_long_before_it_would_look(
    accepting: httpx.AsyncClient, worker_process: subprocess.Popen[bytes], database_url: str, provider: Scripted
) -> None:
    await listening(database_url, 2)
    for _ in range(3):
        await sent(accepting)
    assert provider.handed == []  # it was the other process
    worker_process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker_process.wait, 20) == 0


@pytest.fixture
def presence(tmp_path: Path) -> ProcessLock:
    return ProcessLock(tmp_path / "workers")


async def test_a_worker_that_gets_no_notification_finds_messages_by_polling(
    accepting: httpx.AsyncClient,
    engine: AsyncEngine,
    settings: Settings,
    presence: ProcessLock,
    provider: Scripted,
) -> None:
    async with DeliveryWorker(
        engine, settings.model_copy(update={"worker_poll_seconds": 0.05}), presence, on_logged=nobody
    ):
        for number in range(1, 4):
            await sent(accepting)
            assert len(provider.handed) == number


async def test_what_was_waiting_before_the_worker_came_needs_no_notification(
    accepting: httpx.AsyncClient, engine: AsyncEngine, settings: Settings, presence: ProcessLock
) -> None:
    message_id = (await accepting.post("/api/messages/sms", json=sms())).json()["message_id"]
    async with DeliveryWorker(
        engine, settings.model_copy(update={"worker_poll_seconds": LONG}), presence, on_logged=nobody
    ):
        await until(
            lambda: accepting.get(f"/api/messages/{message_id}"), lambda answer: answer.json()["status"] == "sent"
        )


async def test_a_notifier_that_can_not_listen_still_notifies_here(engine: AsyncEngine) -> None:
    """As behind a pooler that has no session to listen in."""
    rings: list[None] = []
    async with Notifier("postgresql://127.0.0.1:1/nobody", engine) as notifier:
        notifier.on_due(lambda: rings.append(None))
        notifier.notify()
        assert len(rings) == 1


async def test_a_notifier_without_a_database_raises_nothing(settings: Settings) -> None:
    nowhere = "postgresql://127.0.0.1:1/nobody"
    engine = create_serving_engine(nowhere, settings)
    rung = asyncio.Event()
    async with Notifier(nowhere, engine) as notifier:
        notifier.on_due(rung.set)
        notifier.notify()
        assert rung.is_set()
    await engine.dispose()


async def test_a_listener_that_was_cut_off_listens_again(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "_RECONNECT", 0.05)
    rung = asyncio.Event()
    async with (
        notifier_for(database_url, engine, rung.set),
        Notifier(database_url, engine) as elsewhere,
    ):
        await listening(database_url, 2)
        assert await asyncio.to_thread(listeners, database_url, end=True) == 2
        await listening(database_url, 2)
        elsewhere.notify()
        async with asyncio.timeout(SOON):
            await rung.wait()


async def test_logs_that_have_grown_are_told_here_at_once_and_elsewhere_by_tenant(
    engine: AsyncEngine, database_url: str
) -> None:
    here: list[Collection[int] | None] = []
    there: list[Collection[int] | None] = []
    heard = asyncio.Event()

    def hear(tenant_ids: Collection[int] | None) -> None:
        there.append(tenant_ids)
        heard.set()

    async with Notifier(database_url, engine) as one, Notifier(database_url, engine) as other:
        await listening(database_url, 2)
        one.on_events(here.append)
        other.on_events(hear)
        for tenant_id in (1, 7, 1):
            one.events_logged(tenant_id)
        await asyncio.sleep(0)
        assert here == [{1, 7}]
        async with asyncio.timeout(SOON):
            await heard.wait()
    assert there == [{1, 7}]


async def test_too_many_tenants_for_a_notification_stand_as_any(engine: AsyncEngine, database_url: str) -> None:
    heard: asyncio.Queue[Collection[int] | None] = asyncio.Queue()
    async with Notifier(database_url, engine) as one, Notifier(database_url, engine) as other:
        await listening(database_url, 2)
        other.on_events(heard.put_nowait)
        for tenant_id in range(10**17, 10**17 + 400):
            one.events_logged(tenant_id)
        async with asyncio.timeout(SOON):
            assert len(await heard.get() or ()) == 400
        for tenant_id in range(401):
            one.events_logged(tenant_id)
        async with asyncio.timeout(SOON):
            assert await heard.get() is None
