"""Answers that wait for events at the ASGI level: server-sent events (WHATWG HTML, 9.2), and long polls.

While they wait they are not in flight, and the end of the connection ends their subscription.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http.envelope import IS_HEAD


class Source(Protocol):
    """The subscription behind an answer."""

    def end(self) -> None: ...


@contextmanager
def waiting(scope: Scope, receive: Receive, source: Source) -> Iterator[None]:
    """Count a request as not in flight, and end its source when the client leaves."""
    with scope["app"].state.overload.not_in_flight(scope):
        leaving = asyncio.create_task(_left(receive))
        leaving.add_done_callback(lambda _: source.end())
        try:
            yield
        finally:
            leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends `pieces`, which end with their source, to a client who may leave at any time. HEAD gets the headers only.

    `TimedProtocol` cuts off a client who doesn't read; its source may have ended before.
    """

    media_type = "text/event-stream"

    def __init__(self, source: Source, pieces: AsyncIterator[bytes]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"X-Accel-Buffering": "no"})
        self._source = source
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if IS_HEAD in scope:
                await send({"type": "http.response.body"})
            else:
                with waiting(scope, receive, self._source):
                    async for piece in self._pieces:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body"})
        finally:
            self._source.end()
