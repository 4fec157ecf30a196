"""JSON Lines: a body of any length that is read line by line, and an answer that is made meanwhile."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.errors import UnsupportedMediaType

_MEDIA_TYPES = {b"application/jsonl", b"application/x-ndjson"}

#: Bytes of an answer that are sent at once.
_PART = 32_768
#: Lines that are not blank, each with its number, from 1; None for one that is too long.
Lines = AsyncIterator[tuple[int, bytes | None]]


def must_be_json_lines(scope: Scope) -> None:
    """Raises `UnsupportedMediaType` where the Content-Type of a request is missing or another."""
    content_type = scope["headers_by_name"].get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type not in _MEDIA_TYPES:
        raise UnsupportedMediaType("Send JSON Lines, with the header Content-Type: application/x-ndjson.")


class LineStream(Response):
    """An answer of JSON Lines, made of those of the request while they are read. Each takes as long as it takes.

    `answer` makes the pieces of the answer from the lines, each of `longest` bytes at most. The lines raise
    `ClientDisconnect` where the client leaves before the end; then nothing more is sent. A client may read the answer
    while it sends, or afterwards.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self, answer: Callable[[Lines], AsyncIterator[bytes]], *, longest: int, headers: Mapping[str, str]
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({**headers, "X-Accel-Buffering": "no"})
        self._answer = answer
        self._longest = longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # How long it takes depends on the client, and says nothing about our load.
        with scope["app"].state.overload.not_in_flight(scope):
            first = await receive()  # before an answer begins, because that would end a `100 Continue`
            outlet = _Outlet(send)
            sending = asyncio.create_task(outlet.run(self.raw_headers), name="json-lines")
            try:
                async for piece in self._answer(_lines(first, receive, self._longest)):
                    outlet.put(piece)
                outlet.put(None)
                await sending
            except ClientDisconnect:
                pass
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


class _Outlet:
    """Sends pieces that wait together, so that a client who does not read yet does not hold up the reading."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[bytes] = []
        self._is_complete = False
        self._has_some = asyncio.Event()

    def put(self, piece: bytes | None) -> None:
        """Send a piece, or end the answer."""
        if piece is None:
            self._is_complete = True
        else:
            self._waiting.append(piece)
        self._has_some.set()

    async def run(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            await self._has_some.wait()
            self._has_some.clear()
            more = not self._is_complete
            waiting, self._waiting = b"".join(self._waiting), []
            # In parts, so that a client who reads slowly is seen to read.
            for start in range(0, len(waiting), _PART):
                part = waiting[start : start + _PART]
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})


async def _lines(first: Message, receive: Receive, longest: int) -> Lines:
    message, rest, number, is_too_long = first, b"", 0, False
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        is_last = not message.get("more_body", False)
        *whole, rest = (rest + message.get("body", b"")).split(b"\n")
        for line in [*whole, rest] if is_last else whole:
            number += 1
            content = line.removeprefix(BOM_UTF8) if number == 1 else line
            if is_too_long or len(line) > longest:
                yield number, None
            elif content.strip():
                yield number, content
            is_too_long = False
        if is_last:
            return
        if len(rest) > longest:
            rest, is_too_long = b"", True
        message = await receive()
