"""Connections to vendors: HTTP/1.1, kept open and used again."""

import ssl
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from weakref import WeakSet

import httpcore
import httpx

#: Idle connections are closed before the vendor closes them: a request in flight at that moment would be in doubt.
IDLE_SECONDS = 2.0
#: A vendor that is up takes a connection in well under a second, also when the first packet is lost.
CONNECT_SECONDS = 3.0

#: Unused connections to one origin, each with the time since when, the longest on the left.
_Idle = deque[tuple[float, httpcore.AsyncHTTPConnection]]


def new_client(timeout_seconds: float, base_url: str = "") -> httpx.AsyncClient:
    """A client for any number of concurrent requests in one event loop; `aclose` closes its connections.

    `timeout_seconds` is the wait for the next piece of an answer. The client reads nothing from the environment,
    repeats no request and follows no redirect.
    """
    timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
    return httpx.AsyncClient(base_url=base_url, transport=KeepAliveTransport(), timeout=timeout, trust_env=False)


@cache
def _ssl_context() -> ssl.SSLContext:
    """One context for all vendors: reading the certificates of all authorities takes 30 ms."""
    return httpx.create_ssl_context(trust_env=False)


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """A pool of HTTP/1.1 connections without a limit: as many as there are concurrent requests.

    The cost of a request does not depend on the number in flight. httpx's own pool visits all of its connections,
    with a system call for each idle one, whenever a request begins or ends.
    """

    def __init__(self) -> None:
        self._ssl_context = _ssl_context()
        self._open: WeakSet[httpcore.AsyncHTTPConnection] = WeakSet()
        self._idle: defaultdict[tuple[bytes, bytes, int], _Idle] = defaultdict(deque)  # by scheme, host and port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme not in {"http", "https"}:
            raise httpx.UnsupportedProtocol(f"{request.url.scheme!r} is neither http nor https.")
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        raw = httpcore.Request(
            request.method,
            url,
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        idle = self._idle[url.origin.scheme, url.origin.host, url.origin.port]
        connection = await self._take(idle) or self._add(url.origin)
        try:
            with _httpx_errors():
                answer = await connection.handle_async_request(raw)
        except BaseException:
            await connection.aclose()  # httpcore leaves it open after a cancellation before the request
            raise
        body = _Body(answer, partial(self._finish, answer, connection, idle))
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    async def aclose(self) -> None:
        connections = list(self._open)
        self._open.clear()
        self._idle.clear()
        for connection in connections:
            await connection.aclose()

    async def _take(self, idle: _Idle) -> httpcore.AsyncHTTPConnection | None:
        """Return the connection that was used last, and close those that have been idle for too long."""
        while idle and time.monotonic() - idle[0][0] > IDLE_SECONDS:
            await idle.popleft()[1].aclose()
        while idle:
            _, connection = idle.pop()
            if not connection.has_expired():  # the other side has not closed it
                return connection
            await connection.aclose()
        return None

    def _add(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        connection = httpcore.AsyncHTTPConnection(origin, ssl_context=self._ssl_context)
        self._open.add(connection)
        return connection

    async def _finish(self, answer: httpcore.Response, connection: httpcore.AsyncHTTPConnection, idle: _Idle) -> None:
        """Close an answer, and keep its connection if that can take another request."""
        try:
            await answer.aclose()
        finally:
            if connection.is_idle() and connection in self._open:
                idle.append((time.monotonic(), connection))
            else:
                await connection.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response, finish: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._finish = finish

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            async for piece in self._answer.aiter_stream():
                yield piece

    async def aclose(self) -> None:
        await self._finish()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpcore's exceptions as httpx's of the same name."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
    except ssl.SSLError as error:
        # httpcore lets the error of an established connection through, where the request may have left.
        raise httpx.ReadError(f"TLS: {error.reason}") from error
