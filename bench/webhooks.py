"""Endpoints for webhooks, some of them dead and some slow, and the time until the others have each event."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import httpx

from bench.load import messages
from bench.processes import HOST, BenchError, free_port

_PATH = "/api/webhook-endpoints"
_SLOW_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
#: For the events of the last message.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Endpoints:
    """The number of endpoints of each kind."""

    well: int = 400
    dead: int = 50  #: they refuse connections
    slow: int = 50  #: they take 30 s

    @property
    def all(self) -> int:
        return self.well + self.dead + self.slow


@dataclass
class Receiver:
    """Takes webhooks, and notes how long after its entry in the log each event came."""

    port: int = 0
    milliseconds: list[float] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    _expected: int = 0
    _complete: asyncio.Event = field(default_factory=asyncio.Event)

    async def has_all(self, expected: int) -> None:
        """Return when so many different events have come."""
        self._expected = expected
        if len(self.seen) < expected:
            await self._complete.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                path = head.split(b" ", 2)[1].decode()
                size = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
                event = json.loads(await reader.readexactly(size))
                if path.startswith("/slow"):
                    await asyncio.sleep(_SLOW_SECONDS)
                else:
                    self._note(path, event["id"], event["timestamp"])
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the service or the measurement has ended
        finally:
            writer.transport.abort()

    def _note(self, path: str, id: str, written_at: str) -> None:
        if (path, id) not in self.seen:
            self.seen.add((path, id))
            self.milliseconds.append((time.time() - datetime.fromisoformat(written_at).timestamp()) * 1000)
            if len(self.seen) == self._expected:
                self._complete.set()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a port of loopback."""
    receiver = Receiver()
    listener = await asyncio.start_server(receiver.serve, HOST, 0, backlog=1000)
    receiver.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield receiver


async def send_to(port: int, receiver: Receiver, count: int, endpoints: Endpoints) -> int:
    """Register endpoints, and send `count` messages with pauses, until the events of all should have come.

    Returns the number of deliveries that are missing. Raises `BenchError` if the service refuses something.
    """
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False, timeout=60) as client:
        urls = [f"http://{HOST}:{receiver.port}/well/{number}" for number in range(endpoints.well)]
        urls += [f"http://{HOST}:{receiver.port}/slow/{number}" for number in range(endpoints.slow)]
        urls += [f"http://{HOST}:{free_port()}/" for _ in range(endpoints.dead)]
        for url in urls:
            await _post(client, _PATH, {"url": url, "types": ["message.accepted"]})
        await asyncio.sleep(2 * _PAUSE_SECONDS)  # until the worker has them all
        for number, message in enumerate(itertools.islice(messages(count), count)):
            await _post(client, "/api/messages/sms", message)
            await asyncio.sleep(_PAUSE_SECONDS * (1 + number % 3 / 10))
    expected = count * endpoints.well
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await receiver.has_all(expected)
    return expected - len(receiver.seen)


async def _post(client: httpx.AsyncClient, path: str, body: object) -> None:
    try:
        answer = await client.post(path, json=body)
    except httpx.TransportError as error:
        raise BenchError(f"The service did not answer: {error!r}") from None
    if not answer.is_success:
        raise BenchError(f"{path} answered {answer.status_code}: {answer.text}")
