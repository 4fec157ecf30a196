"""Readers of the event log: many that wait for nothing, and one that gets every event."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

import psutil

from bench.measurements import Events
from bench.processes import HOST, BenchError, Server
from bench.singles import send_singly

#: A conversation that has no messages.
_SILENT = "conversation_id=999999999"
#: Readers before the memory is measured: the first ones have code and plans loaded.
_WARM_UP = 20
_PATIENCE = 60.0
#: Readers that connect at once.
_AT_ONCE = 50


async def measure_readers(server: Server, *, readers: int, count: int, pairs: int) -> Events:
    """Open idle readers, then send `count` messages and time their events in another reader.

    Raises `BenchError` if a stream can't be opened, or an event doesn't come.
    """
    async with AsyncExitStack() as stack:
        for _ in range(_WARM_UP):
            await stack.enter_async_context(_stream(server.port, _SILENT))
        before = _memory(server)
        for start in range(0, readers, _AT_ONCE):
            more = [stack.enter_async_context(_stream(server.port, _SILENT)) for _ in range(start, start + _AT_ONCE)]
            await asyncio.gather(*more)
        each = (_memory(server) - before) / readers
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


def _memory(server: Server) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)
