"""Readers of the event log at real servers that are stopped, or whose readers do not read."""

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.factories import email
from tests.live import LOCAL, LiveServer

pytestmark = pytest.mark.slow

READERS = 100
#: Exit codes of an orderly stop: ours, and uvicorn's, which raises the signal again.
STOPPED = {0, -signal.SIGTERM}


class PlainServer(LiveServer):
    """`uvicorn app.main:app`, which has no timeouts of its own and waits for open requests without end."""

    def __init__(self, directory: Path, **environment: Any) -> None:
        super().__init__(directory, **environment)
        self._command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(self.port)]


@pytest.fixture(params=[LiveServer, PlainServer])
def server(tmp_path: Path, new_database: Callable[..., str], request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    server: LiveServer = request.param(
        tmp_path, DATABASE_URL=new_database(), WORKER_ENABLED="false", SHUTDOWN_GRACE_SECONDS="600"
    )
    server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


Ask = Callable[[LiveServer, str], socket.socket]


@pytest.fixture
def asking() -> Iterator[Ask]:
    """Sends requests, each over a connection of its own with a small window."""
    with ExitStack() as stack:
        yield lambda server, path: stack.enter_context(asked(server, path))


def asked(server: LiveServer, path: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: messaging.test\r\n\r\n".encode())
    return connection


def rest_of(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def test_a_server_that_is_stopped_ends_its_streams_and_long_polls(server: LiveServer, asking: Ask) -> None:
    streams = [asking(server, "/api/events/stream") for _ in range(READERS)]
    heads = [connection.recv(4096) for connection in streams]
    polls = [asking(server, "/api/events?after=now&wait=60") for _ in range(READERS)]
    assert all(head.startswith(b"HTTP/1.1 200") for head in heads)
    httpx.get(f"{server.url}/api/events", verify=LOCAL)  # after the polls have come in
    assert server.stop() in STOPPED
    assert all(rest_of(connection).endswith(b"0\r\n\r\n") for connection in streams)
    answers = [rest_of(connection) for connection in polls]
    assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert all(b'{"events":[],"cursor":"evt_' in answer for answer in answers)
    assert "error" not in server.log.read_text().lower()


@pytest.mark.parametrize("server", [LiveServer], indirect=True)
def test_a_reader_who_does_not_read_keeps_no_server_from_stopping(server: LiveServer, asking: Ask) -> None:
    with httpx.Client(base_url=server.url, verify=LOCAL, timeout=60) as client:
        for number in range(16):
            assert client.post("/api/messages/email", json=email(body=f"{number}" * 450_000)).status_code == 200
        unread = asking(server, "/api/events/stream")
        assert unread.recv(12) == b"HTTP/1.1 200"
        assert client.get("/api/events?wait=1&after=now").json()["events"] == []
        assert client.get("/healthz").status_code == 200
    assert server.stop() in STOPPED
