"""A server that has more under way than it may: what it says over a socket, and that it goes on afterwards."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import psycopg2
import pytest

from app.http.protocol import _may_be_shed
from tests.cases import each_case
from tests.http.test_protocol import BODY, LENGTH, answers, asked, connected, everything, post, statuses
from tests.live import LiveServer

_GET = b"GET /api/conversations HTTP/1.1\r\nHost: x\r\n\r\n"


def say(connection: socket.socket, request: bytes) -> tuple[list[int], bytes]:
    """The statuses of an answer, and the answer."""
    connection.sendall(request)
    received = answers(connection, 1)
    return statuses(received), received


@pytest.fixture(scope="module")
def url(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, url: str) -> Iterator[LiveServer]:
    server = LiveServer(
        tmp_path_factory.mktemp("overload"),
        DATABASE_URL=url,
        LOG_FORMAT="json",
        WORKER_ENABLED="false",
        MAX_REQUESTS_IN_FLIGHT="2",
        REQUEST_TIMEOUT_SECONDS="5",
        DATABASE_STATEMENT_TIMEOUT_SECONDS="60",
        DATABASE_LOCK_TIMEOUT_SECONDS="60",
    )
    server.start()
    yield server
    server.stop()


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Let every send wait meanwhile."""
    connection = psycopg2.connect(url)
    try:
        connection.cursor().execute("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


def test_those_who_are_too_many_are_told_so_and_may_come_back(server: LiveServer, url: str) -> None:
    with ExitStack() as stack:
        *held, shed, plain = (stack.enter_context(connected(server)) for _ in range(4))
        with locked(url):
            for connection in held:
                connection.sendall(post(LENGTH))
            while say(shed, _GET)[0] != [503]:  # both have to be under way first
                pass

            assert httpx.get(f"{server.url}/healthz").status_code == 200
            refused_at = time.monotonic()
            codes, received = say(plain, _GET)
            assert codes == [503]
            head, _, body = received.partition(b"\r\n\r\n")
            assert b"retry-after: 1" in head
            assert b"connection:" not in head
            problem = json.loads(body)
            assert problem["title"] == "Overloaded"
            assert f"x-request-id: {problem['request_id']}".encode() in head

            with connected(server) as named:
                _, received = say(named, _GET.replace(b"Host", b"X-Request-ID:  mine-1 \r\nHost"))
                assert b"x-request-id: mine-1\r\n" in received
                assert json.loads(received.partition(b"\r\n\r\n")[2])["request_id"] == "mine-1"

            # A client that asks again before the time that was named is read when it is over.
            assert say(plain, post(LENGTH))[0] == [503]
            assert time.monotonic() - refused_at > 0.5
            with connected(server) as unusual:
                assert say(unusual, _GET.replace(b"Host", b"Connection: close\r\nHost"))[0] == [503]

        for connection in held:
            assert statuses(answers(connection, 1)) == [200]
        with connected(server) as again:
            assert say(again, post(LENGTH))[0] == [200]
    assert "requests_shed" in server.log.read_text()


@pytest.mark.slow
def test_those_whose_bodies_are_still_coming_keep_nobody_out(server: LiveServer) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(server)) for _ in range(10)]
        for connection in slow:
            connection.sendall(post(LENGTH)[:-1])
        with connected(server) as quick:
            while say(quick, post(LENGTH))[0] != [200]:  # they may come in the same breath
                pass
            assert say(quick, post(LENGTH))[0] == [200]
        for connection in slow:
            connection.sendall(post(LENGTH)[-1:])
        assert [statuses(answers(connection, 1)) for connection in slow] == [[200]] * 10


@pytest.mark.slow
def test_those_who_do_not_read_what_they_are_answered_are_left(server: LiveServer) -> None:
    """Each holds a place until then."""
    large = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    whole = len(asked(server, large.replace(b"Host", b"Connection: close\r\nHost")))
    with ExitStack() as stack:
        deaf = [stack.enter_context(socket.socket()) for _ in range(2)]
        for connection in deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(30)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(large)
        with connected(server) as other:
            while say(other, _GET)[0] != [503]:
                pass
            while say(other, _GET)[0] != [200]:
                pass
        for connection in deaf:
            assert len(everything(connection)) < whole


CHUNKED = b"Transfer-Encoding: chunked\r\n"


@each_case(
    ("data", "may_be"),
    [
        (_GET, True),
        (post(LENGTH), True),
        (post(LENGTH)[:-1], False),
        (post(LENGTH) + b"G", False),
        (_GET + _GET, False),
        (_GET[:-1], False),
        (post(LENGTH + LENGTH), False),
        (post(LENGTH + CHUNKED), False),
        (post(b"Content-Length: %d, 1\r\n" % len(BODY)), False),
        (post(LENGTH + b"Expect: 100-continue\r\n"), False),
        (post(LENGTH + b"Connection: close\r\n"), False),
        (_GET.replace(b"1.1", b"1.0"), False),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_what_is_one_whole_plain_request_is_answered_unparsed(data: bytes, may_be: bool) -> None:
    assert _may_be_shed(data) is may_be
