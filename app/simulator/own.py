"""The simulator's own wire format, which the provider `simulator` speaks."""

from collections.abc import Sequence
from functools import partial
from uuid import uuid4

import httpx
from pydantic import Field, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.providers.base import CallbackItem, OutboundMessage
from app.providers.simulated.script import CarrierAnswer
from app.providers.simulator import MessageBody, callback_body
from app.simulator.carrier import KEY_REUSED, Carrier, SendRequest
from app.simulator.ledger import Entry
from app.simulator.wire import WireFormat, call_back

_REFUSALS = {
    CarrierAnswer.THROTTLED: (429, "too fast"),
    CarrierAnswer.ERROR: (500, "out of order"),
    CarrierAnswer.REFUSED: (400, "the carrier refuses this recipient"),
    CarrierAnswer.UNAUTHORISED: (401, "the key was revoked"),
}


class Submission(MessageBody):
    """The body of POST /messages. `reference` names the message on every request for it and in its receipts."""

    idempotency_key: str = Field(alias="reference", min_length=1)


class OwnFormat(WireFormat):
    """JSON, with idempotency keys and a look-up. Receipts and inbound messages go to `callback_url`, if set."""

    def __init__(self, callback_url: str | None) -> None:
        self._callback_url = callback_url

    def routes(self) -> Sequence[Route]:
        return [
            Route("/messages", self._submit, methods=["POST"]),
            Route("/messages", _look_up, methods=["GET"]),
            Route("/ledger/summary", _summary, methods=["GET"]),
        ]

    def accepted(self, request: SendRequest, entry: Entry) -> Response:
        return JSONResponse({"id": entry.provider_message_id, "status": "accepted", "duplicate": entry.duplicate})

    def refused(self, answer: CarrierAnswer, entry: Entry) -> Response:
        status, reason = _REFUSALS[answer]
        return JSONResponse({"error": "this key had another body" if entry.reply == KEY_REUSED else reason}, status)

    async def _submit(self, http_request: Request) -> Response:
        try:
            submission = Submission.model_validate_json(await http_request.body())
        except ValidationError as error:
            return JSONResponse({"error": f"malformed in {error.error_count()} places"}, 422)
        request = SendRequest(
            OutboundMessage(message_id=0, **dict(submission)),  # the service's own id, unknown to a carrier
            id=f"sim-{uuid4()}",
            key=http_request.headers.get("idempotency-key", submission.idempotency_key),
            sink=partial(_post, http_request.state.client, self._callback_url) if self._callback_url else None,
        )
        return await self.answer(http_request, request)


async def _post(client: httpx.AsyncClient, url: str, item: CallbackItem) -> None:
    await call_back(client, url, to_json(callback_body(item)), {"Content-Type": "application/json"})


async def _look_up(request: Request) -> Response:
    carrier: Carrier = request.state.carrier
    entries = carrier.ledger.accepted(request.query_params.get("reference", ""))
    found = [{"id": entry.provider_message_id, **entry.model_dump(mode="json")} for entry in entries]
    return JSONResponse({"messages": found})


async def _summary(request: Request) -> Response:
    carrier: Carrier = request.state.carrier
    return JSONResponse(carrier.ledger.summary())
