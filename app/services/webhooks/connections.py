"""HTTP/1.1 connections to webhook endpoints, kept open for a while and used again."""

import asyncio
import ssl
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpcore
import httpx

_IDLE_SECONDS = 20.0
_MOST_IDLE = 200

_Connection = httpcore.AsyncHTTPConnection


class Connections:
    """Connections through one network backend: as many as there are requests, and some that are idle."""

    def __init__(self, network: httpcore.AsyncNetworkBackend) -> None:
        self._network = network
        self._ssl_context: ssl.SSLContext | None = None
        #: Since when each is idle, the longest first, and those of each origin, the longest first.
        self._idle: OrderedDict[_Connection, tuple[float, str]] = OrderedDict()
        self._of_origin: defaultdict[str, list[_Connection]] = defaultdict(list)

    @asynccontextmanager
    async def request(
        self, target: httpcore.URL, headers: Sequence[tuple[bytes, bytes]], body: bytes, connect_seconds: float
    ) -> AsyncIterator[httpcore.Response]:
        """POST a body. If a kept connection breaks before there is an answer, a new one is tried."""
        connection = await self._take(target.origin)
        is_kept = connection is not None
        connection = connection or await self._new(target)
        request = httpcore.Request(
            "POST", target, headers=headers, content=body, extensions={"timeout": {"connect": connect_seconds}}
        )
        try:
            try:
                response = await connection.handle_async_request(request)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                if not is_kept:
                    raise
                await connection.aclose()
                connection = await self._new(target)
                response = await connection.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            await self._keep(target.origin, connection)

    async def tidy(self) -> None:
        """Close connections that have been idle for too long, and the longest of too many."""
        while self._idle:
            connection, (since, _) = next(iter(self._idle.items()))
            if len(self._idle) <= _MOST_IDLE and time.monotonic() - since <= _IDLE_SECONDS:
                return
            self._forget(connection)
            await connection.aclose()

    async def aclose(self) -> None:
        connections = list(self._idle)
        self._idle.clear()
        self._of_origin.clear()
        for connection in connections:
            await connection.aclose()

    async def _new(self, target: httpcore.URL) -> _Connection:
        if target.scheme == b"https" and self._ssl_context is None:
            # Made once, in a thread: reading the certificates of all authorities takes 20 ms.
            self._ssl_context = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
        return _Connection(target.origin, ssl_context=self._ssl_context, network_backend=self._network)

    async def _take(self, origin: httpcore.Origin) -> _Connection | None:
        kept = self._of_origin.get(str(origin))
        while kept:
            connection = kept[-1]
            self._forget(connection)
            if not connection.has_expired():  # the other side has not closed it
                return connection
            await connection.aclose()
        return None

    async def _keep(self, origin: httpcore.Origin, connection: _Connection) -> None:
        if connection.is_idle():
            self._idle[connection] = time.monotonic(), str(origin)
            self._of_origin[str(origin)].append(connection)
        else:
            await connection.aclose()

    def _forget(self, connection: _Connection) -> None:
        _, origin = self._idle.pop(connection)
        self._of_origin[origin].remove(connection)
        if not self._of_origin[origin]:
            del self._of_origin[origin]
