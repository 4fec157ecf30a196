"""A client of server-sent events at the ASGI level, since httpx gives an answer only when it is complete."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

SOON = 60.0  # seconds, on a machine that is busy


class Stream:
    """An answer that is under way."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.left = asyncio.Event()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._text = ""

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self._pieces.put_nowait(message.get("body", b""))
        if not message.get("more_body"):
            self._pieces.put_nowait(None)

    async def block(self) -> str | None:
        """The next block of lines, or a heartbeat; None at the end."""
        while "\n\n" not in self._text and not self._text.startswith(":\n"):
            async with asyncio.timeout(SOON):
                piece = await self._pieces.get()
            if piece is None:
                return None
            self._text += piece.decode()
        end = ":\n" if self._text.startswith(":\n") else "\n\n"
        block, _, self._text = self._text.partition(end)
        return block or end.strip()

    async def event(self) -> dict[str, Any]:
        """The next event: its fields, `data` as the JSON that it is."""
        while (block := await self.block()) is not None:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            if "data" in fields:
                return fields | {"data": json.loads(fields["data"])}
        raise AssertionError("the stream ended")


@asynccontextmanager
async def opened(
    app: FastAPI, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Stream]:
    """A request whose client leaves at the end of the context."""
    place, _, query = path.partition("?")
    given = {"host": "messaging.test"} | dict(headers or {})
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": place,
        "raw_path": place.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("messaging.test", 80),
    }
    stream = Stream()
    serving = asyncio.create_task(app(scope, stream.receive, stream.send))
    try:
        yield stream
    finally:
        stream.left.set()
        async with asyncio.timeout(SOON):
            await serving
