"""Connections to vendors: HTTP/1.1, kept open and used again."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import httpcore
import httpx

from app.providers.toolbox.connections import Connection, Connections

#: Idle connections are closed before the vendor closes them: a request in flight at that moment would be in doubt.
IDLE_SECONDS = 2.0
#: A vendor that is up takes a connection in well under a second, also when the first packet is lost.
CONNECT_SECONDS = 3.0


def new_client(timeout_seconds: float, base_url: str = "") -> httpx.AsyncClient:
    """A client for any number of concurrent requests in one event loop; `aclose` closes its connections.

    `timeout_seconds` is the wait for the next piece of an answer. The client reads nothing from the environment,
    repeats no request and follows no redirect.
    """
    timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
    return httpx.AsyncClient(base_url=base_url, transport=KeepAliveTransport(), timeout=timeout, trust_env=False)


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """Requests of httpx on connections that are kept."""

    def __init__(self) -> None:
        self._connections = Connections(idle_seconds=IDLE_SECONDS)

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
        connection = await self._connections.take(url.origin) or self._connections.new(url.origin)
        try:
            with _httpx_errors():
                answer = await connection.handle_async_request(raw)
        except BaseException:
            await connection.aclose()  # httpcore leaves it open after a cancellation before the request
            raise
        body = _Body(answer, partial(self._finish, answer, connection, url.origin))
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def _finish(self, answer: httpcore.Response, connection: Connection, origin: httpcore.Origin) -> None:
        """Close an answer, and keep its connection if that can take another request."""
        try:
            await answer.aclose()
        finally:
            await self._connections.give_back(origin, connection)


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
