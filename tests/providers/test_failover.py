"""Two vendors on one route, each listening on a socket of its own: what the first can't take, the second takes."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.config import Settings
from app.providers.registry import provider_registry
from app.providers.telnyx import TelnyxProvider, TelnyxSettings
from app.providers.twilio import TwilioProvider, TwilioSettings
from tests.factories import sms, until
from tests.live import free_port
from tests.providers.conftest import served

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


class Listening:
    """A vendor's API for sending, and what it was asked for."""

    def __init__(self, path: str, status: int, answer: dict[str, Any]) -> None:
        self.requests: list[tuple[httpx.Headers, bytes]] = []
        self._status, self._answer = status, answer
        self.app = Starlette(routes=[Route(path, self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.requests.append((httpx.Headers(request.headers.items()), await request.body()))
        return JSONResponse(self._answer, self._status)


def twilio_at(url: str) -> TwilioProvider:
    given: dict[str, Any] = {"account_sid": "AC1", "auth_token": "f" * 32, "api_url": url}
    return TwilioProvider(TwilioSettings(_env_file=None, **given))


def telnyx_at(url: str) -> TelnyxProvider:
    given: dict[str, Any] = {"api_key": "KEY1", "api_url": url}
    return TelnyxProvider(TelnyxSettings(_env_file=None, **given))


async def sent(client: httpx.AsyncClient) -> dict[str, Any]:
    """A message that was accepted, once a provider took it."""
    message_id = (await client.post("/api/messages/sms", json=sms())).json()["message_id"]

    async def ask() -> dict[str, Any]:
        message: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
        return message

    return await until(ask, lambda message: message["status"] in {"sent", "failed"})


@pytest.mark.parametrize("trouble", ["503", "refused"])
async def test_what_twilio_can_t_take_goes_to_telnyx_and_the_timeline_says_so(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    first = Listening("/2010-04-01/Accounts/AC1/Messages.json", 503, {"code": 20503, "message": "We are down."})
    second = Listening("/v2/messages", 200, {"data": {"id": "834f3d53-8a3c-4aa0-a733-7f2d682a72df"}})
    async with served(first.app) as first_url, served(second.app) as second_url:
        twilio = twilio_at(first_url if trouble == "503" else f"http://127.0.0.1:{free_port()}")
        telnyx = telnyx_at(second_url)
        monkeypatch.setitem(provider_registry, "twilio", twilio)
        monkeypatch.setitem(provider_registry, "telnyx", telnyx)
        changes: dict[str, Any] = {
            "routes": {"sms": ["twilio", "telnyx"]},
            "public_url": "https://messages.example",
            "breaker_failures": 2,
            "retry_base_seconds": 0.01,
            "worker_poll_seconds": 0.05,
        }
        client = await serve(settings.model_copy(update=changes))
        message = await sent(client)
        assert (message["status"], message["provider_type"]) == ("sent", "telnyx")
        assert message["provider_message_id"] == "834f3d53-8a3c-4aa0-a733-7f2d682a72df"
        tries = [(each["provider_type"], each["outcome"]) for each in message["attempts"]]
        assert tries == [("twilio", "temporary"), ("twilio", "temporary"), ("telnyx", "accepted")]

        timeline = (await client.get(f"/api/messages/{message['id']}/timeline")).json()
        told = [step["sentence"] for step in timeline]
        reason = "20503 We are down" if trouble == "503" else "No connection was made"
        assert told[1:3] == ["It goes to twilio, the first of its route.", "Attempt 1: handed to twilio."]
        assert told[3].startswith(f"twilio did not take it this time: {reason}")
        assert told[6:] == [
            "It goes to telnyx, because twilio has failed repeatedly.",
            "Attempt 3: handed to telnyx.",
            "telnyx accepted it as 834f3d53-8a3c-4aa0-a733-7f2d682a72df.",
        ]

        if trouble == "503":
            [one, two] = [httpx.QueryParams(body.decode()) for _, body in first.requests]
            assert one == two
            reference = httpx.URL(one["StatusCallback"]).params["ref"]
            assert one["StatusCallback"] == f"https://messages.example/api/webhooks/twilio?ref={reference}"
            [(headers, _)] = second.requests
            assert headers["idempotency-key"] == reference  # the same message for each provider
        await twilio.close()
        await telnyx.close()
