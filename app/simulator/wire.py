"""The frame of a wire format: answers as the script decides, in the format's own words, and callbacks to the service.

A format reads a request, words an answer and writes a callback. The script alone decides when to refuse, reset or
call back, so every format has all behaviours.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import ClassVar

import httpx
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.script import CarrierAnswer
from app.simulator.carrier import Carrier, SendRequest
from app.simulator.ledger import Entry
from app.simulator.server import NoAnswer

log = structlog.get_logger(__name__)

_HUGE = b'{"id": "' + b"x" * 10_000_000 + b'"}'


class WireFormat(ABC):
    """The requests and answers of one vendor, in front of the carrier that all formats share."""

    #: The status of an answer to an accepted message.
    accepted_status: ClassVar[int] = 200

    @abstractmethod
    def routes(self) -> Sequence[Route]:
        """The routes of its API."""

    @abstractmethod
    def accepted(self, request: SendRequest, entry: Entry) -> Response:
        """The answer that names the message, by the id in its entry."""

    @abstractmethod
    def refused(self, answer: CarrierAnswer, entry: Entry) -> Response:
        """The answer for `THROTTLED`, `ERROR`, `REFUSED` or `UNAUTHORISED`."""

    def note(self, request: SendRequest) -> None:  # noqa: B027 - most remember nothing
        """Remember an accepted message. Called before its answer and before any callback about it."""

    async def answer(self, http_request: Request, request: SendRequest) -> Response:
        """Pass a request to the carrier, and answer as the carrier decides: possibly not at all."""
        carrier: Carrier = http_request.state.carrier
        try:
            reaction, entry = await carrier.handle(request, self.note)
            await asyncio.sleep(reaction.delay)
        except asyncio.CancelledError:  # the server stops, and its 500 would deny what may be accepted
            return NoAnswer(reset=True)
        match reaction.answer:
            case CarrierAnswer.ID:
                return self.accepted(request, entry)
            case CarrierAnswer.MALFORMED:
                body = carrier.script.malformed(entry.reference)
                return Response(body, self.accepted_status, media_type="application/json")
            case CarrierAnswer.HUGE:
                return Response(_HUGE, self.accepted_status, media_type="application/json")
            case CarrierAnswer.REDIRECT:
                return Response(status_code=307, headers={"Location": http_request.url.path})
            case CarrierAnswer.CUT | CarrierAnswer.SILENCE:
                return NoAnswer(reset=reaction.answer is CarrierAnswer.CUT)
        response = self.refused(reaction.answer, entry)
        if reaction.answer is CarrierAnswer.THROTTLED:
            response.headers["Retry-After"] = _retry_after(http_request.state.settings)
        return response


async def call_back(client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str]) -> None:
    """Post one callback to the service. Raises `httpx.HTTPError` where a vendor would retry."""
    response = await client.post(url, content=body, headers=headers)
    if response.status_code >= 500 or response.status_code == 429:
        response.raise_for_status()
    if not response.is_success:
        log.warning("callback_refused", url=url.partition("?")[0], status=response.status_code)


def _retry_after(settings: SimulatorSettings) -> str:
    seconds = settings.retry_after_seconds
    if settings.retry_after_as_date:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
