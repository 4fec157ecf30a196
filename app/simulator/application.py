"""The HTTP form's routes, its answers, and the connections that it cuts or never answers."""

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import httpx
import structlog
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.errors import ConfigurationError
from app.providers.base import ProviderEvent
from app.providers.script import Reply, Script
from app.providers.simulated import Outbox
from app.providers.simulation import SimulatorSettings
from app.providers.simulator import callback_of
from app.simulator.carrier import KEY_REUSED, Carrier, Submission
from app.simulator.ledger import Entry, Ledger

log = structlog.get_logger(__name__)

_HUGE = b'{"id": "' + b"x" * 10_000_000 + b'"}'
_LINGER_NOT_AT_ALL = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


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
        except asyncio.CancelledError:  # as in `_submit`
            _reset(transport)
            await _gone(receive)


def _reset(transport: asyncio.Transport) -> None:
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
    transport.abort()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _submit(request: Request) -> Response:
    carrier: Carrier = request.state.carrier
    try:
        submission = Submission.model_validate_json(await request.body())
    except ValidationError as error:
        return JSONResponse({"error": f"malformed in {error.error_count()} places"}, 422)
    key = request.headers.get("idempotency-key", submission.reference)
    try:
        reaction, entry = await carrier.take(submission, key)
        await asyncio.sleep(reaction.delay)
    except asyncio.CancelledError:  # the server stops: the 500 that it would answer denies what may be accepted
        return _Held(cut=True)
    return _answer(reaction.reply, entry, request.state.settings, carrier.script)


def _answer(reply: Reply, entry: Entry, settings: SimulatorSettings, script: Script) -> Response:
    match reply:
        case Reply.ID:
            answer = {"id": entry.provider_message_id, "status": "accepted", "duplicate": entry.duplicate}
            return JSONResponse(answer)
        case Reply.THROTTLED:
            return JSONResponse({"error": "too fast"}, 429, {"Retry-After": _retry_after(settings)})
        case Reply.ERROR:
            return JSONResponse({"error": "out of order"}, 500)
        case Reply.REFUSED:
            reused = entry.reply == KEY_REUSED
            reason = "this key had another body" if reused else "the carrier refuses this recipient"
            return JSONResponse({"error": reason}, 400)
        case Reply.UNAUTHORISED:
            return JSONResponse({"error": "the key was revoked"}, 401)
        case Reply.REDIRECT:
            return Response(status_code=307, headers={"Location": "/messages"})
        case Reply.MALFORMED:
            return Response(script.malformed(entry.reference), media_type="application/json")
        case Reply.HUGE:
            return Response(_HUGE, media_type="application/json")
        case Reply.CUT | Reply.SILENCE:
            return _Held(cut=reply is Reply.CUT)


def _retry_after(settings: SimulatorSettings) -> str:
    seconds = settings.retry_after_seconds
    if settings.retry_after_as_date:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


async def _look_up(request: Request) -> Response:
    carrier: Carrier = request.state.carrier
    entries = carrier.ledger.accepted(request.query_params.get("reference", ""))
    found = [{"id": entry.provider_message_id, **entry.model_dump(mode="json")} for entry in entries]
    return JSONResponse({"messages": found})


async def _summary(request: Request) -> Response:
    carrier: Carrier = request.state.carrier
    return JSONResponse(carrier.ledger.summary())


def create_simulator(settings: SimulatorSettings, ledger_path: Path, callback_url: str | None) -> Starlette:
    """The simulator as an application; its ledger is open, and its callbacks go out, while its lifespan is.

    Raises `ConfigurationError` with ENV=production. Connections are only cut under `server_of`.
    """
    if settings.in_production:
        raise ConfigurationError("The carrier simulator never runs with ENV=production.")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        ledger = Ledger(ledger_path)
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        async with httpx.AsyncClient(trust_env=False, timeout=10, limits=limits) as client:

            async def call_back(event: ProviderEvent) -> None:
                response = await client.post(callback_url or "", json=callback_of(event))
                if response.status_code >= 500 or response.status_code == 429:
                    response.raise_for_status()
                if not response.is_success:
                    log.warning("callback_refused", status=response.status_code)

            # More at once makes each dearer: the client looks through its connections for every request.
            outbox = Outbox(call_back, lanes=8) if callback_url else None
            yield {"carrier": Carrier(settings, ledger, outbox), "settings": settings}
            if outbox is not None:
                await outbox.close()
        ledger.close()

    routes = [
        Route("/messages", _submit, methods=["POST"]),
        Route("/messages", _look_up, methods=["GET"]),
        Route("/ledger/summary", _summary, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
