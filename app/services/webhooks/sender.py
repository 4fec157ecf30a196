"""Requests to webhook endpoints: one POST each, on connections that are kept, to addresses that are checked."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus

import httpcore

from app.config import Settings
from app.db.statements.sanitize import storable_text
from app.metrics.catalogue import WEBHOOK_SECONDS, WEBHOOKS
from app.providers.toolbox.connections import Connections
from app.providers.toolbox.http_client import retry_after
from app.providers.toolbox.public_network import Forbidden, PublicNetwork, literal_address, target_of
from app.services.events.cursors import Position
from app.services.webhooks.signatures import signatures
from app.services.webhooks.slots import Slots
from app.services.webhooks.urls import allowed_networks

_CONNECT_SECONDS = 5.0
_IDLE_SECONDS, _MOST_IDLE = 20.0, 200
_MOST_READ, _MOST_KEPT = 65_536, 1_000
#: Names are resolved in threads of our own: a name server that is away must delay nothing else.
_RESOLVERS = 64

#: What a receiver, the network or its address can make of a request.
_FAILURES = (Forbidden, OSError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
_USER_AGENT = b"messaging-service-webhooks/1"


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request; `error` says in words what went wrong, None after a success."""

    started_at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None
    retry_after: float | None = None
    beginning: str | None = None


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where an endpoint's requests go, and how they are signed."""

    url: str
    headers: Mapping[str, str]
    secret: str
    previous_secret: str | None = None
    previous_secret_until: datetime | None = None

    def secrets_at(self, moment: datetime) -> list[str]:
        """The secrets that sign at a time: for a while after a rotation, two."""
        if self.previous_secret is None or self.previous_secret_until is None or self.previous_secret_until <= moment:
            return [self.secret]
        return [self.secret, self.previous_secret]


class WebhookSender:
    """Sends webhooks of a process, until `aclose`. `WEBHOOK_REQUESTS` bounds the requests under way."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.webhook_timeout_seconds
        self._slots = Slots(settings.webhook_requests)
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="webhook-names")
        network = PublicNetwork(self._resolve, httpcore.AnyIOBackend(), allowed=allowed_networks(settings))
        self._connections = Connections(idle_seconds=_IDLE_SECONDS, most_idle=_MOST_IDLE, network=network)

    async def aclose(self) -> None:
        await self._connections.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def tidy(self) -> None:
        """Close connections that have been idle for too long."""
        await self._connections.tidy()

    async def post(
        self, receiver: Receiver, id: str, body: bytes, *, position: Position | None = None, is_slow: bool
    ) -> Answer:
        """Send one event, signed at this moment. Never raises for anything that the receiver does."""
        async with self._slots.taken(is_slow=is_slow):
            began, started_at = time.monotonic(), datetime.now(UTC)
            status, error, wait, beginning = await self._exchange(receiver, id, body, position)
            seconds = time.monotonic() - began
            WEBHOOKS.values[("unreachable" if status is None else "refused" if error else "delivered",)] += 1
            WEBHOOK_SECONDS.observe((), seconds)
            return Answer(started_at, seconds, status, error, wait, beginning)

    async def _exchange(
        self, receiver: Receiver, id: str, body: bytes, position: Position | None
    ) -> tuple[int | None, str | None, float | None, str | None]:
        target = _target(receiver.url)
        headers = _headers(receiver, target, id, body)
        if position is not None:
            headers.append((b"webhook-position", b"%019d-%019d-%019d" % position))
        response, content = None, bytearray()
        try:
            async with asyncio.timeout(self._timeout):
                async with self._request(target, headers, body) as response:
                    async for piece in response.aiter_stream():
                        content += piece
                        if len(content) >= _MOST_READ:
                            break
        except _FAILURES as error:
            if response is None:
                return None, _in_words(error, self._timeout), None, None
        headers_back = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        wait = retry_after(headers_back, datetime.now(UTC))
        beginning = storable_text(content[:_MOST_KEPT].decode(errors="replace"))
        return response.status, _error_of(response.status), wait, beginning or None

    @asynccontextmanager
    async def _request(
        self, target: httpcore.URL, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> AsyncIterator[httpcore.Response]:
        """POST a body. If a kept connection breaks before there is an answer, a new one is tried."""
        timeout = {"timeout": {"connect": _CONNECT_SECONDS}}
        request = httpcore.Request("POST", target, headers=headers, content=body, extensions=timeout)
        kept = await self._connections.take(target.origin)
        connection = kept or self._connections.new(target.origin)
        try:
            try:
                response = await connection.handle_async_request(request)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                if kept is None:
                    raise
                await connection.aclose()
                connection = self._connections.new(target.origin)
                response = await connection.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            await self._connections.give_back(target.origin, connection)

    async def _resolve(self, name: str) -> Sequence[str]:
        if (literal := literal_address(name)) is not None:
            return [literal]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _addresses_of, name)


@lru_cache(maxsize=2000)
def _target(url: str) -> httpcore.URL:
    return target_of(url, schemes={"http", "https"})


def _addresses_of(name: str) -> list[str]:
    return [str(address[0]) for *_, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def _headers(receiver: Receiver, target: httpcore.URL, id: str, body: bytes) -> list[tuple[bytes, bytes]]:
    now = datetime.now(UTC)
    timestamp = int(now.timestamp())
    ours = [
        (b"host", _host(target)),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"user-agent", _USER_AGENT),
        (b"accept-encoding", b"identity"),
        (b"webhook-id", id.encode()),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"webhook-signature", signatures(receiver.secrets_at(now), id, timestamp, body).encode()),
    ]
    return ours + [(name.encode(), value.encode()) for name, value in receiver.headers.items()]


def _host(target: httpcore.URL) -> bytes:
    host = b"[%b]" % target.host if b":" in target.host else target.host
    default = 443 if target.scheme == b"https" else 80
    return host if target.port == default else b"%b:%d" % (host, target.port or default)


def _error_of(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"It answered {status}, and redirects are not followed."
    try:
        return f"It answered {status} ({HTTPStatus(status).phrase})."
    except ValueError:
        return f"It answered {status}."


def _in_words(error: BaseException, timeout_seconds: float) -> str:
    """The reason that there is no answer, in words and without anything of the address."""
    if isinstance(error, Forbidden):
        return "Its address is not on the public internet. WEBHOOK_ALLOWED_NETWORKS can allow its network."
    if isinstance(error, httpcore.ConnectTimeout):
        return f"No connection was made within {_CONNECT_SECONDS:g} seconds."
    if isinstance(error, TimeoutError | httpcore.TimeoutException):
        return f"It did not answer within {timeout_seconds:g} seconds."
    if isinstance(error, socket.gaierror):
        return "Its name can't be resolved."
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"Its certificate is not valid: {cause.verify_message}."
        if isinstance(cause, ssl.SSLError):
            return "It does not speak TLS as it should."
        if isinstance(cause, ConnectionRefusedError):
            return "It refused the connection."
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectError):
        return "No connection could be made."
    return "The connection broke before there was an answer."
