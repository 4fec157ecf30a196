"""Bytes on a socket: requests that two readers would read differently, and clients that never end."""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from app.http.protocol import _OneWrite
from tests.cases import each_case
from tests.factories import sms
from tests.live import LiveServer

BODY = json.dumps(sms()).encode()
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[..., str]) -> Iterator[LiveServer]:
    """A server whose patience is a second."""
    server = LiveServer(
        tmp_path_factory.mktemp("protocol"),
        DATABASE_URL=new_database(),
        LOG_FORMAT="json",
        WORKER_ENABLED="false",
        HEADER_TIMEOUT_SECONDS="1",
        REQUEST_TIMEOUT_SECONDS="1",
        KEEP_ALIVE_SECONDS="1",
    )
    server.start()
    yield server
    assert server.stop() == 0
    events = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [event for event in events if event["level"] == "error"] == []
    # Who sends what can't be read doesn't fill the log: it is said how often, once a second at most.
    malformed = [event["count"] for event in events if event["event"] == "requests_malformed"]
    assert len(malformed) < 5 or sum(malformed) > len(malformed)
    assert [event for event in events if "Invalid HTTP request" in event["event"]] == []


def connected(server: LiveServer) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def everything(connection: socket.socket) -> bytes:
    """All that the server says until it closes; fails when it does not within ten seconds."""
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionResetError:
        pass  # it has closed, with something of ours unread
    return received


def asked(server: LiveServer, request: bytes) -> bytes:
    with connected(server) as connection:
        connection.sendall(request)
        return everything(connection)


def answers(connection: socket.socket, count: int) -> bytes:
    """The bytes received until so many answers have come, each with its length."""
    received = b""
    while _whole_answers(received) < count and (part := connection.recv(65_536)):
        received += part
    return received


def _whole_answers(received: bytes) -> int:
    count, place = 0, 0
    while head := re.compile(rb"HTTP/1\.1 .*?content-length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL).match(received, place):
        place = head.end() + int(head[1])
        count += place <= len(received)
    return count


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def post(headers: bytes, body: bytes = BODY) -> bytes:
    return b"POST /api/messages/sms HTTP/1.1\r\nHost: x\r\n" + JSON + headers + b"\r\n" + body


LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
AS_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)

AMBIGUOUS = {
    "length and chunks": post(LENGTH + CHUNKED, AS_CHUNK),
    "chunks and length": post(CHUNKED + LENGTH, AS_CHUNK),
    "two lengths": post(LENGTH + b"Content-Length: 5\r\n"),
    "one length twice": post(LENGTH + LENGTH),
    "a list of lengths": post(b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY))),
    "a length with a sign": post(b"Content-Length: +%d\r\n" % len(BODY)),
    "a negative length": post(b"Content-Length: -1\r\n"),
    "a length in hexadecimal": post(b"Content-Length: 0x10\r\n"),
    "a length beyond 64 bits": post(b"Content-Length: 99999999999999999999999\r\n"),
    "chunks that are not the last coding": post(b"Transfer-Encoding: chunked, identity\r\n", AS_CHUNK),
    "an unknown coding": post(b"Transfer-Encoding: xchunked\r\n", AS_CHUNK),
    "a space before the colon": post(b"Content-Length : %d\r\n" % len(BODY)),
    "a folded header": post(b"X-A: b\r\n c\r\n" + LENGTH),
    "a folded coding": post(b"Transfer-Encoding:\r\n chunked\r\n", AS_CHUNK),
    "a header without a name": post(b": x\r\n" + LENGTH),
    "a carriage return in a header": post(b"X-A: b\rc\r\n" + LENGTH),
    "NUL in a header": post(b"X-A: b\x00c\r\n" + LENGTH),
    "lines that end with a line feed": post(LENGTH).replace(b"\r\n", b"\n"),
    "a chunk of no size": post(CHUNKED, b"x\r\n" + BODY),
    "a chunk larger than it says": post(CHUNKED, b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "another version": b"GET /healthz HTTP/3.7\r\nHost: x\r\n\r\n",
    "a method of any length": b"G" * 70_000 + b" / HTTP/1.1\r\n\r\n",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bytes in the address": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
}


@each_case("request_", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(
    server: LiveServer, request_: bytes
) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    received = asked(server, request_ + smuggled)
    assert [status // 100 for status in statuses(received)] == [4]
    assert b"application/problem+json" in received
    assert b"x-request-id: " in received
    assert b"x-content-type-options: nosniff" in received


@pytest.mark.slow
@each_case("method", [b"FOO", b"get", b"TRACE", b"PROPFIND", b"QUERY"])
def test_a_method_that_nobody_knows_is_not_allowed(server: LiveServer, method: bytes) -> None:
    received = asked(server, method + b" /api/conversations/?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert statuses(received) == [405]
    assert re.search(rb"\r\nallow: GET\b", received)


@pytest.mark.slow
@each_case(
    ("head", "status"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\n", 400, id="no host"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n", 400, id="two hosts"),
        pytest.param(b"GET /healthz HTTP/1.0\r\nHost: x\r\nhost: y\r\n", 400, id="two hosts of an old client"),
        pytest.param(b"GET /healthz HTTP/1.0\r\n", 200, id="an old client, which names none"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\r\nX-A: c\r\n", 200, id="one host"),
    ],
)
def test_a_request_names_its_host_and_once(server: LiveServer, head: bytes, status: int) -> None:
    assert statuses(asked(server, head + b"\r\n")) == [status]


GIVEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-1\r\n"


@pytest.mark.slow
@each_case(
    ("request_", "status"),
    [
        pytest.param(GIVEN + b"X-A: b\rc\r\n\r\n", 400, id="one that can't be read"),
        pytest.param(GIVEN + b"X-A: b", 408, id="one whose head does not end"),
        pytest.param(post(b"X-Request-Id: mine-1\r\n" + LENGTH)[:-1], 408, id="one whose body does not end"),
        pytest.param(GIVEN.ljust(65_536 + 4 * 8_192 + 1, b"x"), 431, id="one whose head is too large"),
    ],
)
def test_the_id_of_a_request_is_taken_over_whatever_is_wrong_with_it(
    server: LiveServer, request_: bytes, status: int
) -> None:
    received = asked(server, request_)
    assert statuses(received) == [status]
    assert b"x-request-id: mine-1\r\n" in received


def test_the_id_of_a_request_is_not_that_of_the_one_before(server: LiveServer) -> None:
    with connected(server) as connection:
        connection.sendall(GIVEN + b"\r\n")
        assert b"x-request-id: mine-1\r\n" in answers(connection, 1)
        connection.sendall(b"nonsense\r\n\r\n")
        assert b"mine-1" not in everything(connection)


@pytest.mark.slow
@each_case(
    ("request_", "status"),
    [
        pytest.param(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="a long path"),
        pytest.param(b"GET /?" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="a long query"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 150 + b"\r\n", 431, id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000, 431, id="headers without an end"),
        pytest.param(b"GET / HTTP/1.1\r\nX-A: " + b"b" * 1_000_000, 431, id="a header without an end"),
        pytest.param(b"GET /" + b"a" * 1_000_000, 431, id="an address without an end"),
        pytest.param(
            post(CHUNKED, b"1\r\n{\r\n0\r\n" + b"X-A: b\r\n" * 100_000), 431, id="headers without an end after a body"
        ),
    ],
)
def test_a_head_that_is_too_large_is_refused(server: LiveServer, request_: bytes, status: int) -> None:
    with connected(server) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has read enough
            connection.sendall(request_)
        received = everything(connection)
    # Where it closes with something unread the answer may be lost on the way.
    assert statuses(received) in ([status], []) if len(request_) > 70_000 else statuses(received) == [status]


@each_case("at_once", [1_000_000, 1_000], ids=["in one piece", "in pieces"])
@each_case(("size", "status"), [(65_536, 200), (65_537, 431)])
def test_the_limit_on_headers_is_exact_however_they_come(
    server: LiveServer, at_once: int, size: int, status: int
) -> None:
    others = b"Host: x\r\nX-A: "
    request = b"GET /api/conversations HTTP/1.1\r\n" + others + b"b" * (size - len(b"hostxx-a")) + b"\r\n\r\n"
    with connected(server) as connection:
        for start in range(0, len(request), at_once):
            connection.sendall(request[start : start + at_once])
        assert statuses(answers(connection, 1)) == [status]


def trickled(server: LiveServer, begin: bytes, drop: bytes) -> bytes:
    """The answers to a client that begins and then sends a byte every tenth of a second, until it is cut off."""
    with connected(server) as connection:
        began = time.monotonic()
        connection.sendall(begin)
        connection.settimeout(0.1)
        received = b""
        while time.monotonic() - began < 60:
            try:
                part = connection.recv(65_536)
                if not part:
                    return received
                received += part
            except TimeoutError:
                try:
                    connection.sendall(drop)
                except (BrokenPipeError, ConnectionResetError):
                    return received
            except ConnectionResetError:
                return received
    raise AssertionError(f"not closed after 60 seconds: {received!r}")


HEAD = b"POST /api/messages/sms HTTP/1.1\r\nHost: x\r\n" + JSON
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.slow
@each_case(
    ("begin", "drop", "expected"),
    [
        pytest.param(b"G", b"E", [400], id="a method"),
        pytest.param(b"GET /", b"a", [408], id="an address"),
        pytest.param(HEAD, b"X", [408], id="a header"),
        pytest.param(HEAD + b"Content-Length: 1000\r\n\r\n", b" ", [408], id="a body"),
        pytest.param(HEAD + CHUNKED + b"\r\n", b"1\r\n \r\n", [408], id="a body in chunks"),
        pytest.param(b"\r\n", b"\r\n", [408], id="empty lines"),
        pytest.param(WHOLE, b"\r\n", [200, 408], id="empty lines after an answer"),
        pytest.param(WHOLE + b"GET /", b"a", [200, 408], id="a second request"),
        pytest.param(
            b"GET /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
            b" ",
            [404, 408],
            id="a body nobody reads",
        ),
    ],
)
def test_who_sends_a_byte_now_and_then_is_cut_off(
    server: LiveServer, begin: bytes, drop: bytes, expected: list[int]
) -> None:
    received = trickled(server, begin, drop)
    assert statuses(received) in (expected, expected[:-1])


@pytest.mark.slow
def test_a_provider_that_is_slow_is_to_call_again(server: LiveServer) -> None:
    begin = b"POST /api/webhooks/sms HTTP/1.1\r\nHost: x\r\n" + JSON + b"Content-Length: 1000\r\n\r\n"
    received = trickled(server, begin, b" ")
    assert statuses(received) == [503]
    assert b"retry-after: 60\r\n" in received


@pytest.mark.slow
def test_who_says_nothing_is_cut_off(server: LiveServer) -> None:
    with connected(server) as connection:
        assert everything(connection) == b""
    with connected(server) as connection:
        connection.sendall(WHOLE)
        assert statuses(everything(connection)) == [200]


def test_a_request_in_pieces_is_answered_and_the_next_ones_too(server: LiveServer) -> None:
    with connected(server) as connection:
        for _ in range(3):
            request = post(LENGTH)
            for start in range(0, len(request), 40):
                connection.sendall(request[start : start + 40])
            assert statuses(answers(connection, 1)) == [200]
        connection.sendall(post(LENGTH) + WHOLE + post(LENGTH))
        assert statuses(answers(connection, 3)) == [200, 200, 200]


@pytest.mark.slow
def test_who_waits_for_an_answer_is_not_cut_off(server: LiveServer) -> None:
    with connected(server) as connection:
        connection.sendall(post(LENGTH + b"Prefer: wait=3\r\n"))
        assert statuses(answers(connection, 1)) == [200]


class Wire(asyncio.Transport):
    """The pieces that leave; None is the end."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[bytes | None] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.left.append(bytes(data))

    def close(self) -> None:
        self.left.append(None)

    def is_closing(self) -> bool:
        return None in self.left


@pytest.mark.anyio
async def test_an_answers_head_leaves_with_its_body_and_alone_where_that_takes_longer() -> None:
    wire = Wire()
    transport = _OneWrite(wire, asyncio.get_running_loop())
    transport.write(b"head,")
    transport.write(b"body")
    assert wire.left == [b"head,body"]
    transport.write(b"head")
    await asyncio.sleep(0)
    assert wire.left[1:] == [b"head"]
    transport.write(b"body")
    transport.close()
    assert wire.left[2:] == [b"body", None]
    assert transport.is_closing()


def lines(count: int) -> bytes:
    """Texts to contacts of their own, for a batch."""
    return b"".join(
        json.dumps({"channel": "sms", **sms(to=f"+1804{5550000 + number}")}).encode() + b"\n"
        for number in range(count)
    )


def batch(length: int, key: bytes) -> bytes:
    head = b"POST /api/batches HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n"
    return head + b"Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n" % (key, length)


def test_a_batch_may_take_longer_than_another_request(server: LiveServer) -> None:
    """Each piece of it has the time that others have for the whole body."""
    content = lines(25)
    with connected(server) as connection:
        connection.sendall(batch(len(content), b"slow"))
        began = time.monotonic()
        for line in content.splitlines(keepends=True):
            time.sleep(0.1)  # the client is slow
            connection.sendall(line)
        assert time.monotonic() - began > 2  # twice the time for a body
        answer = everything(connection)
    assert statuses(answer) == [200]
    assert b'"status":"complete","accepted":25' in answer


def test_a_batch_of_which_nothing_comes_any_more_is_given_up(server: LiveServer) -> None:
    content = lines(2)
    with connected(server) as connection:
        connection.sendall(batch(len(content), b"stalled") + content.splitlines(keepends=True)[0])
        answer = everything(connection)
    assert b'"line":1' in answer
    assert b"complete" not in answer


def test_a_client_may_read_the_answer_to_a_batch_after_it_has_sent_everything(server: LiveServer) -> None:
    """Neither side waits for the other: the answer is larger than what the system keeps for a socket."""
    refused, rest = b"{}\n" * 90_000, lines(1)
    with socket.socket() as connection:
        connection.settimeout(60)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # the system would keep all of it
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(batch(len(refused) + len(rest), b"half") + refused)
        for byte in range(40):
            time.sleep(0.1)  # longer, together, than a client may leave an answer unread
            connection.sendall(rest[byte : byte + 1])
        connection.sendall(rest[40:])
        answer = everything(connection)
    assert len(answer) > 8_000_000
    assert b'"status":"complete","accepted":1,"refused":90000' in answer
