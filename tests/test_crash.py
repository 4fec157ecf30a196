"""SIGKILL under load: what was answered 200 is there after the next start, which needs no repair by hand."""

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from app.db.embedded import EmbeddedPostgres
from app.db.schema.migrate import migrate
from tests.factories import until
from tests.http.test_protocol import HEAD, connected
from tests.live import LOCAL, LiveProcess, LiveServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CLIENTS = 16


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path, LOG_LEVEL="warning")
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()
    server.kill_postgres()


async def send_until_it_breaks(server: LiveServer, name: str, acknowledged: dict[int, str]) -> None:
    """One client's messages, one after the other; an answer counts once all of it was read."""
    async with httpx.AsyncClient(base_url=server.url, verify=LOCAL) as client:
        number = 0
        while True:
            body = f"{name}-{number}"
            message = {"from": "+12016661234", "to": f"+1804555{number % 50:04}", "type": "sms", "body": body}
            try:
                answer = await client.post("/api/messages/sms", json=message)
            except httpx.TransportError:
                return
            assert answer.status_code in {200, 503}, answer.text
            if answer.status_code == 200:
                acknowledged[int(answer.json()["message_id"])] = body
            number += 1


async def stored(server: LiveServer) -> dict[int, str]:
    """Every message there is, read the way a client reads them."""
    found: dict[int, str] = {}
    async with httpx.AsyncClient(base_url=server.url, verify=LOCAL) as client:
        conversations = (await client.get("/api/conversations", params={"limit": 1000})).json()
        for conversation in conversations:
            page: str | None = f"/api/conversations/{conversation['id']}/messages?limit=1000"
            in_conversation = 0
            while page:
                answer = await client.get(page)
                found |= {message["id"]: message["body"] for message in answer.json()}
                in_conversation += len(answer.json())
                page = answer.links.get("next", {}).get("url")
            assert in_conversation == conversation["message_count"]
    return found


async def test_no_acknowledged_message_is_lost_when_the_server_or_postgres_is_killed(server: LiveServer) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    acknowledged: dict[int, str] = {}
    server.start()
    for round in range(6):
        before = len(acknowledged)
        clients = [
            asyncio.create_task(send_until_it_breaks(server, f"{round}-{client}", acknowledged))
            for client in range(CLIENTS)
        ]
        async with asyncio.timeout(60):
            while len(acknowledged) == before:  # noqa: ASYNC110 - the clients know nothing of it
                await asyncio.sleep(0.01)
        await asyncio.sleep(dice.uniform(0.2, 1.2))  # the moment of the kill is what is drawn here
        if round % 3 == 2:
            server.kill_postgres()
        server.kill()
        await asyncio.gather(*clients)
        server.start()
    present = await stored(server)
    lost = {id: body for id, body in acknowledged.items() if present.get(id) != body}
    assert len(acknowledged) > 100
    assert lost == {}
    print(f"{len(acknowledged)} acknowledged, 0 lost, {len(present) - len(acknowledged)} stored but not acknowledged")


@pytest.mark.parametrize("processes", [1, 3])
async def test_a_killed_postgres_comes_back_to_the_service_that_uses_it(tmp_path: Path, processes: int) -> None:
    """It needs no command. Of several processes one starts it, on the same port, and no message is lost."""
    server = LiveServer(tmp_path, WEB_CONCURRENCY=str(processes), WORKER_ENABLED="false")
    acknowledged: dict[int, str] = {}
    kills = 3
    try:
        server.start()
        async with httpx.AsyncClient(base_url=server.url, verify=LOCAL) as client:
            for _ in range(kills):
                postmaster = min(server.postgres_processes(), key=psutil.Process.create_time)
                await send_until(client, acknowledged, stored=20)
                starts = server.log.read_text().count("postgres_started")
                postmaster.kill()
                began = time.monotonic()
                while server.log.read_text().count("postgres_started") == starts:
                    assert time.monotonic() < began + 60, server.log.read_text()
                    await send_until(client, acknowledged, answers=1)
                await send_until(client, acknowledged, stored=1)
                print(f"{processes} processes: back after {time.monotonic() - began:.1f} s")
        present = await stored(server)
        assert {id: body for id, body in acknowledged.items() if present.get(id) != body} == {}
        assert server.stop() == 0
        server.wait_for_postgres_to_end()
        log = server.log.read_text()
        assert log.count("postgres_started") == 1 + kills
        assert "Traceback" not in log
        assert "database_available" in log
        assert "request_refused" not in log  # one line a minute tells of them all
    finally:
        server.kill()
        server.kill_postgres()


def test_a_worker_waits_for_a_database_that_is_away(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    with postgres as url:
        migrate(url)
    worker = LiveProcess(tmp_path / "worker.log", "worker", DATABASE_URL=url, DATA_DIR=str(tmp_path / "data"))
    worker.launch()
    try:
        worker.wait_until(lambda: "waiting for it" in worker.log.read_text())
        assert worker.stop() == 0  # it waits for a signal as well
        worker.launch()
        with postgres:
            worker.wait_until(lambda: "worker_started" in worker.log.read_text())
            assert worker.stop() == 0
        worker.launch()
        worker.wait_until(lambda: worker.log.read_text().count("waiting for it") >= 2)
        with postgres:
            worker.wait_until(lambda: worker.log.read_text().count("worker_started") == 2)
            assert worker.stop() == 0
    finally:
        worker.kill()
    log = worker.log.read_text()
    assert "database_available" in log
    assert "Traceback" not in log


async def send_until(
    client: httpx.AsyncClient, acknowledged: dict[int, str], *, stored: int = 1, answers: int = 10**9
) -> None:
    """Send, one after the other, until so many more are stored or answered."""
    wanted, number = len(acknowledged) + stored, 0
    async with asyncio.timeout(60):
        while len(acknowledged) < wanted and number < answers:
            body, number = f"{len(acknowledged)}-{number}", number + 1
            message = {"from": "+12016661234", "to": "+18045551234", "type": "sms", "body": body}
            answer = await client.post("/api/messages/sms", json=message)
            assert answer.status_code in {200, 503}, answer.text
            if answer.status_code == 200:
                acknowledged[int(answer.json()["message_id"])] = body


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_that_was_started(server: LiveServer, name: signal.Signals) -> None:
    server.start()
    postgres = server.postgres_processes()
    assert postgres
    assert server.stop(name) == 0
    assert psutil.wait_procs(postgres, timeout=60)[1] == []
    assert "Traceback" not in server.log.read_text()
    server.start()  # and it starts again
    assert server.stop() == 0


@pytest.mark.timeout(900)
def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, WEB_CONCURRENCY="2", SHUTDOWN_GRACE_SECONDS="100", WORKER_ENABLED="false")
    with ExitStack() as stack:
        stack.callback(server.kill_postgres)
        server.launch()
        assert server.process is not None
        stack.callback(server.process.kill)
        server.wait_until(server.is_ready, within_seconds=90)
        everybody = psutil.Process(server.process.pid).children(recursive=True)
        for _ in range(6):
            held = stack.enter_context(connected(server))
            held.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: "Waiting for child process" in server.log.read_text())
        assert server.stop() == 0
        assert psutil.wait_procs(everybody, timeout=60)[1] == []


async def test_requests_in_flight_are_answered_before_it_ends(server: LiveServer) -> None:
    acknowledged: dict[int, str] = {}
    server.start()
    clients = [
        asyncio.create_task(send_until_it_breaks(server, str(client), acknowledged)) for client in range(CLIENTS)
    ]
    await until(lambda: asyncio.sleep(0, len(acknowledged)), lambda count: count > CLIENTS)
    assert await asyncio.to_thread(server.stop) == 0
    await asyncio.gather(*clients)
    server.start()
    present = await stored(server)
    assert {id: present.get(id) for id in acknowledged} == acknowledged
    # Every client whose message was stored was also answered: an orderly stop leaves none in doubt.
    assert len(present) - len(acknowledged) <= CLIENTS
