"""Draining: what a process answers between the signal that stops it and the moment when it stops."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from tests.conftest import client_of, make_settings
from tests.factories import sms
from tests.live import LOCAL, LiveServer
from tests.wire import problem_of


@pytest.mark.anyio
async def test_a_process_that_drains_is_alive_and_not_ready() -> None:
    app = create_app(make_settings())
    app.state.drain.has_begun = True
    async with client_of(app) as client:
        assert (await client.get("/healthz")).status_code == 200
        problem = problem_of(await client.get("/readyz"), 503)
    assert problem["detail"] == "This process is about to stop."


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_it_serves_on_and_lets_connections_go_until_the_next_signal(
    tmp_path: Path, new_database: Callable[..., str], processes: str
) -> None:
    server = LiveServer(
        tmp_path, DATABASE_URL=new_database(), DRAIN_SECONDS="600", WEB_CONCURRENCY=processes, WORKER_ENABLED="false"
    )
    server.start()
    with httpx.Client(base_url=server.url, verify=LOCAL) as client:
        before = client.post("/api/messages/sms", json=sms())
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: client.get("/readyz").status_code == 503)
        after = client.post("/api/messages/sms", json=sms())
    assert (before.status_code, before.headers.get("connection")) == (200, None)
    assert (after.status_code, after.headers.get("connection")) == (200, "close")
    assert server.stop() == 0
