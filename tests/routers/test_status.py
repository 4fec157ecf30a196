"""The status page: for the operator alone, and current when a provider is out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult, TemporaryFailure
from app.providers.registry import provider_registry
from app.services.figures.recorder import WRITE_SECONDS, FiguresRecorder
from tests.factories import sms, until
from tests.tenancy import EVERYTHING, in_browser, make_key, make_session, make_tenant, production
from tests.wire import problem_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PAGE = {"Accept": "text/html"}


async def test_only_the_operator_sees_the_page(serve: Serve, settings: Settings, database_url: str) -> None:
    client = await serve(production(settings))
    sent_away = await client.get("/status", headers=PAGE)
    assert (sent_away.status_code, sent_away.headers["location"]) == (303, f"/login?next={quote('/status', safe='')}")
    for token in (
        make_key(database_url, scopes=(KeyScope.READ, KeyScope.SEND)),
        make_key(database_url, make_tenant(database_url), scopes=EVERYTHING),
    ):
        cookie = in_browser(make_session(database_url, token))
        problem_of(await client.get("/status", headers=cookie), 403)
    operator = in_browser(make_session(database_url, make_key(database_url)))
    answer = await client.get("/status", headers=operator)
    assert answer.status_code == 200
    assert "<h1>Status</h1>" in answer.text


async def test_the_login_leads_back_to_the_page(serve: Serve, settings: Settings, database_url: str) -> None:
    client = await serve(production(settings))
    form = {"key": make_key(database_url), "next": "/status"}
    answer = await client.post("/login", data=form, headers={"Origin": "http://messaging.test"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/status")


async def test_the_page_needs_no_script_and_allows_none(client: httpx.AsyncClient) -> None:
    answer = await client.get("/status")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert '<meta http-equiv="refresh"' in answer.text
    for part in ("<script", " style=", "<style", "javascript:", " on"):
        assert part not in answer.text.replace(" on<", ""), part
    assert '<meta http-equiv="refresh"' not in (await client.get("/status?refresh=off")).text
    assert (await client.get("/status.css")).headers["content-type"].startswith("text/css")


class Unsteady(BaseProvider):
    """Accepts while it is up."""

    is_up = True

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        if not self.is_up:
            raise TemporaryFailure("It is out of order.")
        return ProviderResult(f"its-{payload.message_id}")


@pytest.mark.parametrize("seconds", [0.05, pytest.param(WRITE_SECONDS, marks=pytest.mark.slow)])
async def test_an_outage_of_a_provider_is_on_the_page_soon(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(FiguresRecorder, "pause_seconds", seconds)
    provider = Unsteady()
    monkeypatch.setitem(provider_registry, "sms", provider)
    client = await serve(settings.model_copy(update={"breaker_failures": 5, "retry_base_seconds": 0.1}))

    async def send(count: int) -> None:
        answers = await asyncio.gather(
            *(client.post("/api/messages/sms", json=sms(to=f"+1804555{n:04}")) for n in range(count))
        )
        assert {answer.status_code for answer in answers} == {200}

    async def page() -> str:
        return (await client.get("/status")).text

    await send(20)
    well = await until(page, lambda html: "<td>100 %</td>" in html)
    assert "All is well" in well
    provider.is_up = False
    began = time.monotonic()
    await send(20)
    shown = await until(page, lambda html: "sms: has failed repeatedly" in html or "sms: tries again" in html)
    print(f"the breaker is on the page after {time.monotonic() - began:.1f} s (figures every {seconds:g} s)")
    shown = await until(page, lambda html: "<td>100 %</td>" not in html and "Trouble" in html)
    print(f"the success has fallen on the page after {time.monotonic() - began:.1f} s")
    assert "All is well" not in shown
