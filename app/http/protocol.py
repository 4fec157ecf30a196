"""HTTP/1.1 with timeouts for slow clients, which uvicorn's own protocol does not have.

`python -m app serve` uses it; `uvicorn app.main:app` has uvicorn's own protocol.
"""

import asyncio
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, cast

from httptools import HttpParserInvalidMethodError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.config import Settings
from app.errors import Overloaded
from app.http.access import methods_at
from app.http.admission import HEAD_IS_SMALL
from app.http.envelope import Headers, data_headers, id_for, request_ids
from app.http.monitoring.internal_port import is_at
from app.http.overload import NEVER_SHED, OverloadGuard
from app.http.problems import problem
from app.http.stop_signals import Drain
from app.log import Seldom

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*(?=\r\n)")
_UNUSUAL = (b"\r\ntransfer-encoding", b"\r\nconnection", b"\r\nexpect", b"http/1.0\r\n")
_GIVEN_ID = b"\r\nx-request-id:"
#: The request line with a method that the parser does not know; those that it knows are refused by the routes.
_UNKNOWN_METHOD = re.compile(rb"[A-Za-z]{1,32} (?P<path>/[^?\s]*)(\?\S*)? HTTP/1\.[01]\r\n")
_ALWAYS_SERVED = tuple(f"{method} {path}".encode() for method in ("GET", "HEAD") for path in sorted(NEVER_SHED))
#: A late callback gets 503: some providers drop a message that is answered 4xx, and it would be lost.
_WEBHOOKS = "/api/webhooks/"
#: Their bodies are read for as long as it takes to store them, and each piece of one in time is enough.
_STREAMED = frozenset({"/api/batches", "/api/batches/"})
_RETRY_LATER = {"Retry-After": "60"}
_TOO_SLOW = "The request did not come to its end in time."
# uvicorn warns of each malformed request and each unknown upgrade; any client can send those in any number.
_uvicorn = logging.getLogger("uvicorn.error.protocol")
_uvicorn.setLevel(logging.ERROR)
_malformed = Seldom("requests_malformed")
_LAST_READ_SECONDS = 2.0
_CHECKS = 4  # within the shortest timeout, so that none is exceeded by more than a quarter


class _OneWrite:
    """A transport that joins the first two writes within one turn of the loop.

    uvicorn writes the head of an answer and its body separately. Each would be a system call, which costs more than
    all else that is done to write the answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._held: bytes | None = None
        self.is_closing = transport.is_closing  # asked several times for each request

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._held = data
            self._call_soon(self._flush)
        else:
            held, self._held = self._held, None
            self._transport.write(held + data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class TimedProtocol(HttpToolsProtocol):
    """A connection whose client has to complete the head of a request, and then its body, each within a timeout.

    `HEADER_TIMEOUT_SECONDS` begin when the connection is made, and after an answer when the keep-alive time ends.
    `REQUEST_TIMEOUT_SECONDS` run from the end of the head to the end of the body. Then the connection is closed,
    after one of these answers:

    - 408 for a late client, or 503 where the late body is a callback's;
    - 431 for a head that is too large;
    - 400 for a request that can't be parsed, or 405 where only its method is unknown.

    A client that does not read its answer for `REQUEST_TIMEOUT_SECONDS` is cut off without one; after two seconds
    once the server stops. While as many requests are in flight as `OverloadGuard` allows, further ones get 503 before
    they are parsed. The settings, the guard and the drain come with the lifespan's state.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = _uvicorn
        self._settings: Settings = self.app_state["settings"]
        self._overload: OverloadGuard = self.app_state["overload"]
        self._drain: Drain = self.app_state["drain"]
        # The application has the exact limits; this one stops a head without an end. Escapes make an address longer.
        self._largest_head = self._settings.max_header_bytes + 4 * self._settings.max_url_length
        self._is_internal = False
        self._data = b""  # while it is parsed
        self._received = 0  # at least the bytes of the current request
        self._deadline: float | None = None  # None while a complete request is answered
        self._in_head = True
        self._unfinished = 0  # bytes of an incomplete head
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _OneWrite(transport, self.loop)))
        self._is_internal = is_at(self.server, self._settings.metrics_port)
        self._await_head()
        self._check_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give a client that reads its answer too slowly as long as it has for a request."""
        super().pause_writing()
        if not self._is_streaming():
            self._await_reading()

    def _await_reading(self) -> None:
        self._unread = self.loop.call_later(self._settings.request_timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def shutdown(self) -> None:
        """End the connection when its answer is read. The server waits for that."""
        super().shutdown()
        self._cut_off_unread(None)

    def _cut_off_unread(self, before: int | None) -> None:
        """Cut a client off that has read nothing since there were `before` bytes to send."""
        left = self.transport.get_write_buffer_size()
        if left and left == before:
            self.transport.abort()
        elif self in self.connections:
            self.loop.call_later(_LAST_READ_SECONDS, self._cut_off_unread, left)

    def data_received(self, data: bytes) -> None:
        in_flight = len(self.tasks) - self._overload.waiting
        is_full = in_flight >= self._overload.limit.allowed
        # Nothing is shed at the internal port, because its figures matter most under load.
        if is_full and not self._is_internal and self._is_idle() and _may_be_shed(data):
            self._shed(_id_in(data), in_flight)
            return
        self._data = data
        self._received += len(data)
        super().data_received(data)
        self._data = b""
        if self._deadline is not None and not self.transport.is_closing():
            self._unfinished += len(data) if self._in_head else 0
            # More headers may come after the head, behind a body in chunks.
            if self._unfinished > self._largest_head or (
                self.headers and len(self.headers) > 2 * self._settings.max_headers
            ):
                self._give_up(431, "Too many headers", "The head of the request is too large.")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unfinished = 0
        self._deadline = self.loop.time() + self._settings.request_timeout_seconds
        if self._received <= self._settings.max_header_bytes:
            self.scope[HEAD_IS_SMALL] = True  # type: ignore[literal-required]
        super().on_headers_complete()
        if self._drain.has_begun:
            self.cycle.keep_alive = False  # so that the client does not use a connection that is about to close

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self._is_streaming():
            self._deadline = self.loop.time() + self._settings.request_timeout_seconds

    def _is_streaming(self) -> bool:
        """True while the body of a request is read whose parts may come slowly."""
        is_read = self._deadline is not None and not self._in_head and not self.cycle.response_complete
        return is_read and self.scope["path"] in _STREAMED

    def on_message_complete(self) -> None:
        self._deadline = None
        if self.flow.write_paused and self._unread is None:
            self._await_reading()  # the client has sent everything, and may read
        self._received = len(self._data)  # some of it may belong to the next request
        super().on_message_complete()
        if self.cycle.response_complete:
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self._await_head(kept_seconds=self.timeout_keep_alive)

    def _is_idle(self) -> bool:
        """True where the next bytes begin a request and no answer is outstanding."""
        return self._in_head and not self._unfinished and (self.cycle is None or self.cycle.response_complete)

    def _shed(self, given_id: bytes | None, in_flight: int) -> None:
        """Answer 503 before anything is parsed, and read nothing more until the time in `Retry-After` is over.

        Refusing must stay cheap: otherwise clients that retry at once would use up the process.
        """
        headers, body = self._overload.refusal.answer(given_id, in_flight=in_flight)
        self.transport.write(_head(Overloaded.status, headers) + b"\r\n" + body)
        self._await_head(kept_seconds=self.timeout_keep_alive)
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.flow.pause_reading()
        self.loop.call_later(Overloaded.retry_after, self._resume_reading)

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        _malformed.note()
        unknown = _UNKNOWN_METHOD.match(self._data)
        if unknown is not None and isinstance(sys.exception(), HttpParserInvalidMethodError):
            allowed = {"Allow": methods_at(unknown["path"].decode("latin-1"))}
            self._give_up(405, "Method not allowed", "No address takes that method.", headers=allowed)
        else:
            self._give_up(400, "Bad request", "This is not a request of HTTP/1.1.")

    def _await_head(self, *, kept_seconds: float = 0) -> None:
        self._in_head = True
        self._deadline = self.loop.time() + kept_seconds + self._settings.header_timeout_seconds

    def _check_deadline(self) -> None:
        if self._is_streaming() and self.flow.read_paused:  # the client waits for us
            self._deadline = self.loop.time() + self._settings.request_timeout_seconds
        if self._deadline is not None and self.loop.time() >= self._deadline:
            if self._in_head and not self._unfinished:
                self.transport.close()  # no request has begun
            elif not self._in_head and self.scope["path"].startswith(_WEBHOOKS):
                self._give_up(503, "Request timeout", _TOO_SLOW, headers=_RETRY_LATER)
            else:
                self._give_up(408, "Request timeout", _TOO_SLOW)
        if not self.transport.is_closing():
            shortest = min(self._settings.header_timeout_seconds, self._settings.request_timeout_seconds)
            self._timer = self.loop.call_later(shortest / _CHECKS, self._check_deadline)

    def _give_up(self, status: int, title: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Answer in place of the application, unless an answer has begun, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            id_ = id_for(dict(self._headers_so_far()).get(b"x-request-id"), request_ids())
            answer = problem(status, title, detail, headers=headers)
            head = _head(status, [*answer.raw_headers, (b"x-request-id", id_), *data_headers(self._settings)])
            self.transport.write(head + b"connection: close\r\n\r\n" + bytes(answer.body))
        self.transport.close()

    def _headers_so_far(self) -> Headers:
        """The headers of the current request; none where only the request before it has any."""
        is_answered = self.cycle is not None and self.cycle.response_complete and self.cycle.scope is self.scope
        return [] if self.headers is None or is_answered else self.headers


def _head(status: int, headers: Headers) -> bytes:
    return b"".join([STATUS_LINE[status], *(name + b": " + value + b"\r\n" for name, value in headers)])


def _id_in(data: bytes) -> bytes | None:
    """The `X-Request-Id` of a complete head that has not been parsed."""
    head = data[: data.find(b"\r\n\r\n") + 2]
    place = head.lower().rfind(_GIVEN_ID)
    return None if place < 0 else head[place + len(_GIVEN_ID) : head.find(b"\r\n", place + 2)].strip(b" \t")


def _may_be_shed(data: bytes) -> bool:
    """True where these bytes are exactly one plain request, so that the next bytes begin another.

    A part of a request, or one that wants the connection closed, is parsed as usual.
    """
    if data.startswith(_ALWAYS_SERVED):
        return False
    end = data.find(b"\r\n\r\n")
    head = data[: end + 2].lower()
    if end < 0 or any(name in head for name in _UNUSUAL):
        return False
    length = _LENGTH.findall(head)
    return len(length) <= 1 and len(data) == end + 4 + (int(length[0]) if length else 0)
