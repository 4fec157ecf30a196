"""What vendors with an HTTP API have in common: how they are reached, what an answer means, when to come back, and
how an exchange can end without one."""

import asyncio
import re
import ssl
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from http import HTTPStatus
from weakref import WeakSet

import httpcore
import httpx

from app.providers.base import (
    BaseProvider,
    CredentialsRefused,
    PermanentFailure,
    ProviderFailure,
    TemporaryFailure,
    UnknownOutcome,
)

#: A day: who asks for more has made a mistake, and must not hold a queue for years.
LONGEST_RETRY_AFTER = 86_400.0
#: An answer to `send` is an id and a few words; what is larger is not read to its end, unless more was expected.
LARGEST_ANSWER = 65_536
#: Connections that are idle are given up before the other side gives them up under a request, which is then in doubt.
IDLE_SECONDS = 2.0
#: A vendor that is there takes a connection in well under a second, also when the first packet is lost.
CONNECT_SECONDS = 3.0

_SECONDS = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_LEFT = (
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.RemoteProtocolError,
    httpx.DecodingError,
)
#: The 4xx that speak of the moment, not of the message: Request Timeout, Too Early (RFC 9110, RFC 8470).
_OF_THE_MOMENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
#: The 4xx that speak of our account, not of the message: who has no credit left gets some, and the queue goes on.
_OF_THE_ACCOUNT = {HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN}
#: Headers that describe the body as it travelled, no longer as we have it.
_OF_THE_JOURNEY = {"content-encoding", "content-length", "transfer-encoding"}

#: Connections to one place that no request is using, each with the time since when, the longest on the left.
_Idle = deque[tuple[float, httpcore.AsyncHTTPConnection]]


def new_client(timeout_seconds: float, base_url: str = "") -> httpx.AsyncClient:
    """A client for any number of calls to a vendor at once, in one event loop; `aclose` closes its connections.

    `timeout_seconds` is the wait for the next piece of an answer. Nothing is read from the environment, no request is
    sent a second time, and redirects are not followed.
    """
    timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
    return httpx.AsyncClient(base_url=base_url, transport=KeepAliveTransport(), timeout=timeout, trust_env=False)


class HttpProvider(BaseProvider):
    """A vendor with an HTTP API. `close` it; a client that was handed in stays open."""

    def __init__(self, *, timeout_seconds: float, client: httpx.AsyncClient | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._given = client
        self._made: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """The client that was given, or one of this event loop's: its connections are of no use to another."""
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        if self._made is None or self._made[0] is not loop:
            self._made = loop, new_client(self._timeout_seconds)
        return self._made[1]

    async def close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            await made[1].aclose()


@cache
def _ssl_context() -> ssl.SSLContext:
    """One for all vendors: to read the certificates of all authorities takes 30 ms."""
    return httpx.create_ssl_context(trust_env=False)


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """Connections of HTTP/1.1 that are kept and used again, as many as there are requests at once.

    A request costs the same however many others are under way. httpx's own pool goes through all of its connections,
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
            with _in_words_of_httpx():
                answer = await connection.handle_async_request(raw)
        except BaseException:
            await connection.aclose()  # httpcore leaves it open if the call is given up before the request is begun
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
        """The connection that was used last: those that only a busier hour needs grow old, and are closed here."""
        while idle and time.monotonic() - idle[0][0] > IDLE_SECONDS:
            await idle.popleft()[1].aclose()
        while idle:
            _, connection = idle.pop()
            if not connection.has_expired():  # which is to say that the other side has not closed it
                return connection
            await connection.aclose()
        return None

    def _add(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        connection = httpcore.AsyncHTTPConnection(origin, ssl_context=self._ssl_context)
        self._open.add(connection)
        return connection

    async def _finish(self, answer: httpcore.Response, connection: httpcore.AsyncHTTPConnection, idle: _Idle) -> None:
        """Close an answer, and keep its connection if it can take another request."""
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
        with _in_words_of_httpx():
            async for piece in self._answer.aiter_stream():
                yield piece

    async def aclose(self) -> None:
        await self._finish()


@contextmanager
def _in_words_of_httpx() -> Iterator[None]:
    """httpx has an exception of the same name for each of httpcore's."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
    except ssl.SSLError as error:
        # Of a connection that stands, httpcore lets it through, and the request may have left.
        raise httpx.ReadError(f"TLS: {error.reason}") from error


def bounded(seconds: float) -> float:
    """Seconds that can be waited: not negative, at most `LONGEST_RETRY_AFTER`."""
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that Retry-After asks for, as number or HTTP date (RFC 9110, 10.2.3), bounded; None for anything
    else.

    Zero for what is negative or past. `now` is the aware time that a date is measured from.
    """
    written = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if _SECONDS.fullmatch(written):
        return bounded(float(written))
    try:
        until = parsedate_to_datetime(written)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if until.tzinfo is None:  # an HTTP date is in GMT, also in the form that doesn't say so
        until = until.replace(tzinfo=UTC)
    return bounded((until - now).total_seconds())


def outcome_of(response: httpx.Response, detail: str | None = None) -> ProviderFailure | None:
    """The failure that a status means, to be raised; None for a 2xx, whose body has the last word.

    `detail` is the vendor's own reason, where its file can tell it.
    """
    status = response.status_code
    if 200 <= status < 300:
        return None
    text = " ".join(part for part in (str(status), response.reason_phrase, detail and f"- {detail}") if part)
    wait = retry_after(response.headers, datetime.now(UTC))
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TemporaryFailure(text, retry_after=wait, throttled=True)
    if status >= 500 or status in _OF_THE_MOMENT:
        return TemporaryFailure(text, retry_after=wait)
    if status in _OF_THE_ACCOUNT:
        return CredentialsRefused(text)
    if status >= 400:
        return PermanentFailure(text)
    return UnknownOutcome(text)


async def exchange(
    client: httpx.AsyncClient, request: httpx.Request, *, largest: int = LARGEST_ANSWER
) -> httpx.Response:
    """Send a request and read its answer, of any status, up to `largest` bytes; redirects are not followed.

    Raises `TemporaryFailure` if the request never left, and `UnknownOutcome` if it did and no whole answer came.
    """
    try:
        response = await client.send(request, stream=True, follow_redirects=False)
    except _NEVER_LEFT as error:
        raise TemporaryFailure(f"No connection was made: {_told(error)}") from error
    except _LEFT as error:
        raise UnknownOutcome(f"The request left, and no answer came: {_told(error)}") from error
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_JOURNEY]
    content = await _content(response, largest)
    return httpx.Response(response.status_code, headers=headers, content=content, request=request)


async def _content(response: httpx.Response, largest: int) -> bytes:
    """The body; where it can't be had, nothing, as long as the status tells the outcome without it."""
    content = b""
    trouble = f"The answer is larger than {largest} bytes."
    try:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > largest:
                break
        else:
            return content
    except _LEFT as error:
        trouble = f"The answer broke off: {_told(error)}"
    finally:
        await response.aclose()
    if response.is_success:
        raise UnknownOutcome(trouble)
    return b""


def _told(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
