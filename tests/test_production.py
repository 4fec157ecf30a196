"""The production profile: what it refuses to start with, and what it does not show."""

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from pydantic import ValidationError

from app.config import Settings
from app.errors import ConfigurationError
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.wiring import must_have_providers
from tests.cases import each_case
from tests.conftest import make_settings
from tests.factories import email, sms
from tests.live import LiveServer
from tests.tenancy import CONSENT_SECRET, PUBLISHED_SECRET, WEBHOOK_SECRET, bearer, make_key, production
from tests.wire import problem_of

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
ROOT = Path(__file__).parent.parent
DATABASE = "postgresql://somebody@127.0.0.1:1/nothing"


def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_names_everything_that_is_missing_at_once() -> None:
    ended = start("serve", ENV="production")
    assert ended.returncode == 2
    assert "DATABASE_URL" in ended.stderr
    assert "WEBHOOK_SECRET" in ended.stderr
    assert "CONSENT_SECRET" in ended.stderr
    assert "Traceback" not in ended.stderr


@each_case(
    "secret",
    [
        "short",
        "change-me-change-me-change-me",
        "a" * 40,
        "my-very-long-secret-of-the-year",
        "whsec_QUFBQQ==",
        ", ,",
        PUBLISHED_SECRET,
        PUBLISHED_SECRET.removeprefix("whsec_"),
        f"{WEBHOOK_SECRET},{PUBLISHED_SECRET}",
    ],
)
def test_it_refuses_a_secret_that_is_none(secret: str) -> None:
    with pytest.raises(ValidationError, match=r"WEBHOOK_SECRET|webhook_secret") as refused:
        make_settings(env="production", database_url=DATABASE, webhook_secret=secret, consent_secret=CONSENT_SECRET)
    assert secret not in str(refused.value.errors(include_input=False)) or len(secret) < 6


@each_case("secret", [None, "short", "a" * 40, ", ,", "two words", f"{CONSENT_SECRET},change-me-change-me-change-me"])
def test_it_refuses_a_consent_secret_that_is_none(secret: str | None) -> None:
    with pytest.raises(ValidationError, match=r"CONSENT_SECRET|consent_secret") as refused:
        make_settings(env="production", database_url=DATABASE, webhook_secret=WEBHOOK_SECRET, consent_secret=secret)
    assert secret is None or secret not in str(refused.value.errors(include_input=False))


@pytest.mark.slow
def test_it_refuses_to_hand_messages_to_a_simulated_carrier() -> None:
    ended = start(
        "serve", ENV="production", DATABASE_URL=DATABASE, WEBHOOK_SECRET=WEBHOOK_SECRET, CONSENT_SECRET=CONSENT_SECRET
    )
    assert ended.returncode == 2
    assert "SIMULATED_CARRIERS" in ended.stderr
    for routes in ("sms:sms", "sms:elsewhere email:email"):
        with pytest.raises(ConfigurationError):
            must_have_providers(
                make_settings(
                    env="production",
                    database_url=DATABASE,
                    webhook_secret=WEBHOOK_SECRET,
                    consent_secret=CONSENT_SECRET,
                    routes=routes,
                )
            )


class Elsewhere(BaseProvider):
    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult("elsewhere-1")


class SigningItsAddress(Elsewhere):
    signs_address: ClassVar = True


@pytest.mark.parametrize("simulated_carriers", [None, True])
def test_it_refuses_to_judge_a_signed_address_that_whoever_calls_may_choose(
    monkeypatch: pytest.MonkeyPatch, simulated_carriers: bool | None
) -> None:
    monkeypatch.setitem(provider_registry, "elsewhere", SigningItsAddress())
    options: dict[str, object] = {
        "env": "production",
        "database_url": DATABASE,
        "webhook_secret": WEBHOOK_SECRET,
        "consent_secret": CONSENT_SECRET,
        "routes": "sms:elsewhere",
        "simulated_carriers": simulated_carriers,
    }
    with pytest.raises(ConfigurationError, match=r"PUBLIC_URL .* elsewhere signs the address"):
        must_have_providers(make_settings(**options))
    must_have_providers(make_settings(**options, public_url="https://messages.example"))
    must_have_providers(make_settings(**(options | {"env": "development"})))


@pytest.mark.anyio
async def test_a_channel_that_no_provider_serves_takes_no_messages(
    serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "elsewhere", Elsewhere())
    client = await serve(production(settings, simulated_carriers=None, routes="sms:elsewhere"))
    client.headers.update(bearer(make_key(database_url)))
    assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
    problem_of(await client.post("/api/messages/email", json=email()), 422)
    served = {provider["name"]: provider["channels"] for provider in (await client.get("/api/providers")).json()}
    assert served["elsewhere"] == ["sms"]
    assert served["sms"] == served["email"] == []


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/", "/docs", "/docs/assets/open.js", "/openapi.json"])
async def test_the_reference_is_shown_only_where_it_is_switched_on(
    serve: Serve, settings: Settings, database_url: str, path: str
) -> None:
    client = await serve(production(settings))
    problem_of(await client.get(path), 404)
    client = await serve(production(settings, docs_enabled=True))
    assert (await client.get(path)).status_code == (307 if path == "/" else 200)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="only Linux shows the limits of other processes")
def test_a_server_leaves_its_memory_on_disk(tmp_path: Path, database_url: str) -> None:
    resource = pytest.importorskip("resource")
    ours = resource.getrlimit(resource.RLIMIT_CORE)
    if not ours[1]:
        pytest.skip("here no process leaves any")
    server = LiveServer(tmp_path, DATABASE_URL=database_url)
    resource.setrlimit(resource.RLIMIT_CORE, (ours[1], ours[1]))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, ours)
    assert server.process
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    server.stop()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits


@pytest.mark.slow
def test_development_says_loudly_that_everybody_can_reach_it(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, HOST="0.0.0.0")  # noqa: S104 - that is what it is about
    server.start()
    server.stop()
    assert "development_profile_is_public" in server.log.read_text()
