"""What wire formats have in common: an answer by the script, in the format's own words, and calls to the service."""

import asyncio
import socket
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import ClassVar, cast

import httpx
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.script import Reply
from app.simulator.carrier import Carrier, Order
from app.simulator.ledger import Entry

log = structlog.get_logger(__name__)

_HUGE = b'{"id": "' + b"x" * 10_000_000 + b'"}'
_LINGER_NOT_AT_ALL = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class WireFormat(ABC):
    """How one vendor is asked, and how it answers. What it does is decided by the carrier that all of them share."""

    #: The status of an answer to what was accepted.
    accepted_status: ClassVar[int] = 200

    @abstractmethod
    def routes(self) -> Sequence[Route]:
        """Where it is asked."""

    @abstractmethod
    def accepted(self, order: Order, entry: Entry) -> Response:
        """The answer that names the message, by the id in its entry."""

    @abstractmethod
    def refused(self, reply: Reply, entry: Entry) -> Response:
        """The answer to `THROTTLED`, `ERROR`, `REFUSED` or `UNAUTHORISED`."""

    def note(self, order: Order) -> None:  # noqa: B027 - most remember nothing
        """Remember an order that was accepted, however it is answered, before anything is called back about it."""

    async def answer(self, request: Request, order: Order) -> Response:
        """Have the carrier take an order, and answer as it says; also with nothing, or by breaking the connection."""
        carrier: Carrier = request.state.carrier
        try:
            reaction, entry = await carrier.take(order, self.note)
            await asyncio.sleep(reaction.delay)
        except asyncio.CancelledError:  # the server stops: the 500 that it would answer denies what may be accepted
            return _Held(cut=True)
        match reaction.reply:
            case Reply.ID:
                return self.accepted(order, entry)
            case Reply.MALFORMED:
                said = carrier.script.malformed(entry.reference)
                return Response(said, self.accepted_status, media_type="application/json")
            case Reply.HUGE:
                return Response(_HUGE, self.accepted_status, media_type="application/json")
            case Reply.REDIRECT:
                return Response(status_code=307, headers={"Location": request.url.path})
            case Reply.CUT | Reply.SILENCE:
                return _Held(cut=reaction.reply is Reply.CUT)
        response = self.refused(reaction.reply, entry)
        if reaction.reply is Reply.THROTTLED:
            response.headers["Retry-After"] = _retry_after(request.state.settings)
        return response


async def call(client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str]) -> None:
    """Make one call to the service. Raises `httpx.HTTPError` where a vendor would call again."""
    response = await client.post(url, content=body, headers=headers)
    if response.status_code >= 500 or response.status_code == 429:
        response.raise_for_status()
    if not response.is_success:
        log.warning("callback_refused", url=url.partition("?")[0], status=response.status_code)


class _Held(Response):
    """No answer: the connection stays open until the other side gives up, or is reset at once with `cut`."""

    def __init__(self, *, cut: bool) -> None:
        self._cut = cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = cast(asyncio.Transport, scope["state"]["transport"])
        try:
            if self._cut:
                _reset(transport)
            await _gone(receive)
        except asyncio.CancelledError:  # as in `answer`
            _reset(transport)
            await _gone(receive)


def _reset(transport: asyncio.Transport) -> None:
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
    transport.abort()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _retry_after(settings: SimulatorSettings) -> str:
    seconds = settings.retry_after_seconds
    if settings.retry_after_as_date:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
