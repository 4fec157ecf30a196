"""Pauses of a provider by people: for all tenants, and for one."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from app.providers.base import ProviderResult
from app.providers.registry import provider_registry
from tests.factories import sms, until
from tests.tenancy import bearer, give_address, make_key, make_tenant
from tests.test_worker import Scripted
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
REASON = {"reason": "Their texts arrive twice."}
NUMBER = "+12025550177"


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    provider = Scripted(ProviderResult())
    monkeypatch.setitem(provider_registry, "first", provider)
    return provider


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    provider = Scripted(ProviderResult())
    monkeypatch.setitem(provider_registry, "second", provider)
    return provider


@pytest.fixture
async def client(serve: Serve, settings: Settings, first: Scripted) -> httpx.AsyncClient:
    return await serve(settings.model_copy(update={"routes": {"sms": ["first"]}, "worker_poll_seconds": 0.05}))


@pytest.fixture
def tenant(database_url: str) -> dict[str, str]:
    """The credentials of another tenant, who may do everything."""
    tenant_id = make_tenant(database_url)
    give_address(database_url, tenant_id, NUMBER)
    return bearer(make_key(database_url, tenant_id, scopes=tuple(KeyScope)))


async def shown(client: httpx.AsyncClient, name: str = "first", **options: Any) -> tuple[str | None, ...]:
    [found] = [each for each in (await client.get("/api/providers", **options)).json() if each["name"] == name]
    return found["trouble"], found["reason"], found["paused_by"]


async def post(client: httpx.AsyncClient, **options: Any) -> str:
    sender = NUMBER if options else sms()["from"]
    sent = await client.post("/api/messages/sms", json=sms(from_=sender), **options)
    id_: str = sent.json()["message_id"]
    return id_


async def becomes(client: httpx.AsyncClient, message_id: str, status: str, **options: Any) -> dict[str, Any]:
    async def message() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/api/messages/{message_id}", **options)).json()
        return found

    return await until(message, lambda found: found["status"] == status)


async def test_a_provider_that_the_operator_pauses_gets_nothing_until_it_is_resumed(
    client: httpx.AsyncClient, first: Scripted, tenant: dict[str, str]
) -> None:
    answer = await client.post("/api/providers/first/pause", json=REASON)
    assert answer.status_code == 200
    paused = ("is paused by the operator", REASON["reason"], "operator")
    assert await shown(client) == await shown(client, headers=tenant) == paused
    ids = [await post(client), await post(client, headers=tenant)]
    mail = await client.post("/api/messages/email", json={**sms(), "from": "a@b.example", "to": "c@d.example"})
    await becomes(client, mail.json()["message_id"], "delivered")  # so the worker has looked around since
    assert first.handed == []
    steps = (await client.get(f"/api/messages/{ids[0]}/timeline")).json()
    assert "first is paused by the operator" in steps[-1]["sentence"]
    await client.post("/api/providers/first/resume")
    assert await shown(client) == (None, None, None)
    await becomes(client, ids[0], "sent")
    await becomes(client, ids[1], "sent", headers=tenant)


async def test_a_tenant_pauses_a_provider_for_itself_only(
    client: httpx.AsyncClient, first: Scripted, tenant: dict[str, str]
) -> None:
    assert (await client.post("/api/providers/first/pause", json=REASON, headers=tenant)).status_code == 200
    assert await shown(client, headers=tenant) == ("is paused by the tenant", REASON["reason"], "tenant")
    assert await shown(client) == (None, None, None)
    waiting = await post(client, headers=tenant)
    await becomes(client, await post(client), "sent")
    assert len(first.handed) == 1
    await client.post("/api/providers/first/resume")  # the operator's own, for all: no pause of a tenant
    assert await shown(client, headers=tenant) == ("is paused by the tenant", REASON["reason"], "tenant")
    await client.post("/api/providers/first/resume", headers=tenant)
    await becomes(client, waiting, "sent", headers=tenant)


async def test_messages_go_to_the_next_provider_of_the_route_meanwhile(
    serve: Serve, settings: Settings, first: Scripted, second: Scripted
) -> None:
    client = await serve(
        settings.model_copy(update={"routes": {"sms": ["first", "second"]}, "worker_poll_seconds": 0.05})
    )
    await client.post("/api/providers/first/pause", json=REASON, params={"of": "tenant"})
    message = await becomes(client, await post(client), "sent")
    assert message["provider_type"] == "second"
    assert message["attempts"][0]["routed_because"] == "first is paused by the tenant"


async def test_the_operator_may_pause_for_its_own_messages(client: httpx.AsyncClient, tenant: dict[str, str]) -> None:
    await client.post("/api/providers/first/pause", json=REASON, params={"of": "tenant"})
    assert (await shown(client))[2] == "tenant"
    assert await shown(client, headers=tenant) == (None, None, None)
    await client.post("/api/providers/first/resume", params={"of": "installation"})
    assert (await shown(client))[2] == "tenant"
    await client.post("/api/providers/first/resume")
    assert await shown(client) == (None, None, None)


@pytest.mark.parametrize("action", ["pause", "resume"])
async def test_a_tenant_can_do_neither_for_all(
    client: httpx.AsyncClient, tenant: dict[str, str], action: str
) -> None:
    answer = await client.post(
        f"/api/providers/first/{action}", json=REASON, params={"of": "installation"}, headers=tenant
    )
    problem_of(answer, 403)
    assert await shown(client) == (None, None, None)


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "two\nlines"}, {"reason": "x" * 501}])
async def test_a_pause_needs_a_reason(client: httpx.AsyncClient, body: dict[str, str]) -> None:
    assert locations_of(await client.post("/api/providers/first/pause", json=body)) == ["body.reason"]
    assert await shown(client) == (None, None, None)


async def test_a_provider_that_there_is_not_is_404(client: httpx.AsyncClient) -> None:
    problem_of(await client.post("/api/providers/pigeon/pause", json=REASON), 404)


async def test_a_pause_is_apart_from_that_of_refused_credentials(
    client: httpx.AsyncClient, database_url: str
) -> None:
    rows_of(
        database_url,
        "INSERT INTO provider_states (provider_type, paused_at, paused_reason) VALUES ('first', now(), '401')"
        " RETURNING 1",
    )
    await client.post("/api/providers/first/pause", json=REASON)
    assert await shown(client) == ("is paused", "401", "provider")
    [row] = rows_of(database_url, "SELECT paused_reason, stopped_reason FROM provider_states")
    assert row == ("401", REASON["reason"])


async def test_pauses_are_in_the_audit_of_their_tenant(
    client: httpx.AsyncClient, tenant: dict[str, str], database_url: str
) -> None:
    for headers in ({}, tenant):
        await client.post("/api/providers/first/pause", json=REASON, headers=headers)
        await client.post("/api/providers/first/resume", headers=headers)
    found = rows_of(
        database_url,
        "SELECT tenant_id, kind, detail->>'is_for_all' FROM audit_events WHERE kind LIKE 'provider%' ORDER BY id",
    )
    other = max(tenant_id for tenant_id, _, _ in found)
    assert found == [
        (1, "provider_paused", "true"),
        (1, "provider_resumed", "true"),
        (other, "provider_paused", "false"),
        (other, "provider_resumed", "false"),
    ]
