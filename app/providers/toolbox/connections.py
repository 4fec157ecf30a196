"""HTTP/1.1 connections that are kept open for a while and used again: as many as there are concurrent requests."""

import ssl
import sys
import time
from collections import OrderedDict, defaultdict
from functools import cache
from weakref import WeakSet

import httpcore
import httpx

Connection = httpcore.AsyncHTTPConnection
_Key = tuple[bytes, bytes, int]


@cache
def _ssl_context() -> ssl.SSLContext:
    """One context for all connections: the certificates of all authorities take 30 ms to read, and 2 MB."""
    return httpx.create_ssl_context(trust_env=False)


class Connections:
    """Connections without a limit, of which at most `most_idle` are kept, for `idle_seconds`; in one event loop.

    The cost of a request does not depend on the number in flight. httpcore's own pool visits all of its connections,
    with a system call for each idle one, whenever a request begins or ends.
    """

    def __init__(
        self,
        *,
        idle_seconds: float,
        most_idle: int = sys.maxsize,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._idle_seconds = idle_seconds
        self._most_idle = most_idle
        self._network = network
        self._open: WeakSet[Connection] = WeakSet()
        #: Since when each is idle, the longest first, and those of each origin, the longest first.
        self._idle: OrderedDict[Connection, tuple[float, _Key]] = OrderedDict()
        self._of_origin: defaultdict[_Key, dict[Connection, None]] = defaultdict(dict)

    async def take(self, origin: httpcore.Origin) -> Connection | None:
        """The connection to an origin that was used last, if one is kept."""
        await self.tidy()
        while kept := self._of_origin.get(_key(origin)):
            connection = next(reversed(kept))
            self._forget(connection)
            if not connection.has_expired():  # the other side has not closed it
                return connection
            await connection.aclose()
        return None

    def new(self, origin: httpcore.Origin) -> Connection:
        """A connection that is opened by its first request."""
        context = _ssl_context() if origin.scheme == b"https" else None
        connection = Connection(origin, ssl_context=context, network_backend=self._network)
        self._open.add(connection)
        return connection

    async def give_back(self, origin: httpcore.Origin, connection: Connection) -> None:
        """Keep a connection if it can take another request, or close it."""
        if connection.is_idle() and connection in self._open:
            self._idle[connection] = time.monotonic(), _key(origin)
            self._of_origin[_key(origin)][connection] = None
        else:
            await connection.aclose()

    async def tidy(self) -> None:
        """Close connections that have been idle for too long, and the longest of too many."""
        while self._idle:
            connection, (since, _) = next(iter(self._idle.items()))
            if len(self._idle) <= self._most_idle and time.monotonic() - since <= self._idle_seconds:
                return
            self._forget(connection)
            await connection.aclose()

    async def aclose(self) -> None:
        connections = list(self._open)
        self._open.clear()
        self._idle.clear()
        self._of_origin.clear()
        for connection in connections:
            await connection.aclose()

    def _forget(self, connection: Connection) -> None:
        _, key = self._idle.pop(connection)
        del self._of_origin[key][connection]
        if not self._of_origin[key]:
            del self._of_origin[key]


def _key(origin: httpcore.Origin) -> _Key:
    return origin.scheme, origin.host, origin.port
