"""Workers that stop or die while webhooks are under way."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.conftest import client_of, started
from tests.factories import sms_webhook, until
from tests.live import LiveProcess
from tests.receivers import WebhookReceiver, receiving
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

_ENDPOINTS = "/api/webhook-endpoints"


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with receiving() as receiver:
        yield receiver


async def _let_one_be_under_way(client: httpx.AsyncClient, receiver: WebhookReceiver) -> str:
    """An event that the receiver has been sent, and does not answer yet."""
    receiver.may_answer.clear()
    made = await client.post(_ENDPOINTS, json={"url": receiver.url, "types": ["message.received"]})
    assert made.status_code == 200
    assert (await client.post("/api/webhooks/sms", json=sms_webhook())).status_code == 200
    [id] = await until(lambda: asyncio.sleep(0, receiver.ids), lambda ids: len(ids) == 1)
    return id


def _attempts(url: str) -> list[tuple[Any, ...]]:
    return rows_of(url, "SELECT event, status FROM webhook_attempts ORDER BY id")


async def test_a_worker_that_stops_waits_for_what_is_under_way(
    settings: Settings, database_url: str, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.webhooks.dispatcher._POLL_SECONDS", 0.02)
    stack = AsyncExitStack()
    client = client_of(await started(stack, settings))
    id = await _let_one_be_under_way(client, receiver)
    stopping = asyncio.create_task(stack.aclose())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    receiver.may_answer.set()
    await stopping
    assert _attempts(database_url) == [(id, 200)]
    assert rows_of(database_url, "SELECT leased_until FROM webhook_leases") == [(None,)]


@pytest.mark.slow
async def test_what_was_under_way_when_the_grace_period_ended_is_sent_again_by_the_next(
    settings: Settings, database_url: str, receiver: WebhookReceiver
) -> None:
    hasty = settings.model_copy(update={"shutdown_grace_seconds": 1})
    async with AsyncExitStack() as stack:
        id = await _let_one_be_under_way(client_of(await started(stack, hasty)), receiver)
    assert _attempts(database_url) == []
    receiver.may_answer.set()
    async with AsyncExitStack() as stack:
        await started(stack, settings)
        await until(lambda: asyncio.sleep(0, _attempts(database_url)), lambda found: found == [(id, 200)])
    assert receiver.ids == [id, id]


@pytest.fixture
def workers(tmp_path: Path, database_url: str) -> Iterator[list[LiveProcess]]:
    environment = {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path / "data")}
    workers = [LiveProcess(tmp_path / f"{name}.log", "worker", **environment) for name in ("first", "second")]
    yield workers
    for worker in workers:
        if worker.process is not None:
            worker.kill()


@pytest.mark.slow
async def test_a_killed_worker_leaves_its_endpoints_to_another_which_repeats_with_the_same_id(
    settings: Settings, database_url: str, receiver: WebhookReceiver, workers: list[LiveProcess]
) -> None:
    first, second = workers
    async with AsyncExitStack() as stack:
        client = client_of(await started(stack, settings.model_copy(update={"worker_enabled": False})))
        first.launch()
        id = await _let_one_be_under_way(client, receiver)
        second.launch()
        await until(lambda: asyncio.sleep(0.05, second.log.read_text()), lambda log: "worker_started" in log)
        first.kill()
        receiver.may_answer.set()
        await until(lambda: asyncio.sleep(0.05, _attempts(database_url)), lambda found: found == [(id, 200)])
        assert receiver.ids == [id, id]
        assert second.stop(signal.SIGTERM) == 0
