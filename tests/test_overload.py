"""A server that has more under way than it may: what it says over a socket, and that it goes on afterwards."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.protocol import _may_be_shed
from tests.live import LiveServer
from tests.test_protocol import BODY, LENGTH, answers, connected, post, statuses

_GET = b"GET /api/conversations HTTP/1.1\r\nHost: x\r\n\r\n"


def say(connection: socket.socket, request: bytes) -> tuple[list[int], bytes, float]:
    """The statuses of an answer, the answer, and the seconds that it took."""
    began = time.monotonic()
    connection.sendall(request)
    received = answers(connection, 1)
    return statuses(received), received, time.monotonic() - began


def test_those_who_are_too_many_are_told_so_and_may_come_back(
    tmp_path: Path, new_database: Callable[..., str]
) -> None:
    server = LiveServer(
        tmp_path,
        DATABASE_URL=new_database(),
        LOG_FORMAT="json",
        WORKER_ENABLED="false",
        MAX_REQUESTS_IN_FLIGHT="2",
    )
    server.start()
    with ExitStack() as stack:
        stack.callback(server.stop)
        held = [stack.enter_context(connected(server)) for _ in range(2)]
        for connection in held:
            connection.sendall(post(LENGTH)[:-1])  # under way until it is whole
        shed, plain = (stack.enter_context(connected(server)) for _ in range(2))
        while say(shed, _GET)[0] != [503]:  # both have to be under way first
            pass

        assert httpx.get(f"{server.url}/healthz").status_code == 200
        codes, received, seconds = say(plain, _GET)
        assert codes == [503]
        assert seconds < 0.5
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"retry-after: 1" in head
        assert b"connection:" not in head
        problem = json.loads(body)
        assert problem["title"] == "Overloaded"
        assert f"x-request-id: {problem['request_id']}".encode() in head

        # Whoever asks again before the time that was named is heard when it is over.
        codes, _, seconds = say(plain, post(LENGTH))
        assert codes == [503]
        assert seconds > 0.5
        with connected(server) as unusual:
            assert say(unusual, _GET.replace(b"Host", b"Connection: close\r\nHost"))[0] == [503]

        for connection in held:
            connection.sendall(post(LENGTH)[-1:])
            assert statuses(answers(connection, 1)) == [200]
        with connected(server) as again:
            assert say(again, post(LENGTH))[0] == [200]
    assert "requests_shed" in server.log.read_text()


CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
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
