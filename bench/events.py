"""Single messages to an idle service, and the time until their events reach readers and webhook endpoints."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import httpx
import psutil

from bench.load import messages
from bench.measurements import Events
from bench.processes import HOST, BenchError, Server, answering, free_port

#: Random seconds between two messages: regular ones could coincide with a worker's polling.
_PAUSES = (0.05, 0.25)
_SEED = 20241101
#: A conversation that has no messages.
_SILENT = "conversation_id=999999999"
#: Readers before the memory is measured: the first ones have code and plans loaded.
_WARM_UP = 20
#: Seconds for the events of the last message.
_PATIENCE = 60.0
#: Readers that connect at once.
_AT_ONCE = 50
_ENDPOINTS = "/api/webhook-endpoints"
_SLOW_SECONDS = 30.0
#: Seconds between two messages to many webhook endpoints.
_PAUSE_SECONDS = 1.0


async def send_singly(port: int, count: int, pairs: int) -> int:
    """Send `count` messages. Returns the number of answers with 2xx. Raises `BenchError` if a connection breaks."""
    chance = random.Random(_SEED)  # noqa: S311 - repeatable, not secret
    answered = 0
    try:
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False) as client:
            for message in itertools.islice(itertools.cycle(messages(pairs)), count):
                answer = await client.post("/api/messages/sms", json=message)
                answered += answer.is_success
                await asyncio.sleep(chance.uniform(*_PAUSES))
    except httpx.TransportError as error:
        raise BenchError(f"The service did not answer a single message: {error!r}") from None
    return answered


async def measure_readers(server: Server, *, readers: int, count: int, pairs: int) -> Events:
    """Open idle readers, then send `count` messages and time their events in another reader.

    Raises `BenchError` if a stream can't be opened, or an event doesn't come.
    """
    async with AsyncExitStack() as stack:
        for _ in range(_WARM_UP):
            await stack.enter_async_context(_stream(server.port, _SILENT))
        before = rss(server)
        for start in range(0, readers, _AT_ONCE):
            more = [stack.enter_async_context(_stream(server.port, _SILENT)) for _ in range(start, start + _AT_ONCE)]
            await asyncio.gather(*more)
        each = (rss(server) - before) / readers
        reader = await stack.enter_async_context(_stream(server.port, "types=message.accepted"))
        reading = asyncio.create_task(_times(reader, count))
        answered = await send_singly(server.port, count, pairs)
        try:
            after_ms = await asyncio.wait_for(reading, _PATIENCE)
        except TimeoutError:
            raise BenchError(f"not every event of {count} messages came within {_PATIENCE:g} seconds") from None
    return Events(readers, answered, after_ms, bytes_each=each)


@asynccontextmanager
async def _stream(port: int, query: str) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET /api/events/stream?after=now&{query} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"retry: "), _PATIENCE)
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise BenchError(f"a stream of events was refused: {answer[:60]!r}")
        yield reader
    except (asyncio.IncompleteReadError, OSError) as error:
        raise BenchError(f"a stream of events broke: {error!r}") from None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _times(reader: asyncio.StreamReader, count: int) -> list[float]:
    """Milliseconds from the `timestamp` of each event to its arrival."""
    times: list[float] = []
    while len(times) < count:
        line = await reader.readline()
        now = time.time()
        if line.startswith(b"data: "):
            recorded = datetime.fromisoformat(json.loads(line[6:])["timestamp"])
            times.append((now - recorded.timestamp()) * 1000)
        elif not line:
            raise BenchError("a stream of events ended")
    return times


def rss(server: Server) -> int:
    """The resident memory of a server's process, in bytes."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


@dataclass(frozen=True)
class Endpoints:
    """The number of endpoints of each kind: a tenth is dead, and another slow."""

    all: int

    @property
    def dead(self) -> int:
        """They refuse connections."""
        return self.all // 10

    @property
    def slow(self) -> int:
        """They take 30 s."""
        return self.all // 10

    @property
    def well(self) -> int:
        return self.all - self.dead - self.slow


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

    async def answer(self, path: str, body: bytes) -> bytes:
        if path.startswith("/slow"):
            await asyncio.sleep(_SLOW_SECONDS)
        else:
            event = json.loads(body)
            self._note(path, event["id"], event["timestamp"])
        return b"HTTP/1.1 204 No Content\r\n\r\n"

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
    async with answering(receiver.answer) as receiver.port:
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
            await _post(client, _ENDPOINTS, {"url": url, "types": ["message.accepted"]})
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
