"""The demo of a new installation: played by the simulated carriers, and removed without a trace."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from app.config import Settings
from app.domain import DEFAULT_TENANT_ID
from app.errors import NoDemo
from app.providers.registry import provider_registry
from app.services.consent.suppressions import Suppressions
from app.services.demo.demo import Demo
from app.services.demo.people import OUR_NUMBER, PEOPLE, REFUSING
from app.services.people.contacts import ContactService
from tests.factories import sms, until

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


def demo_of(client: httpx.AsyncClient, tenant_id: int = DEFAULT_TENANT_ID) -> Demo:
    state = client._transport.app.state  # type: ignore[attr-defined]
    services, told = state.services, state.services.notifier.events_logged
    return Demo(
        state.settings,
        services.sessions,
        tenant_id,
        messages=services.messages,
        items=services.callback_items,
        contacts=ContactService(services.sessions, tenant_id, services.address_hashes, on_logged=told),
        suppressions=Suppressions(
            services.sessions,
            state.settings,
            services.addresses,
            services.address_hashes,
            tenant_id,
            actor="demo",
            on_logged=told,
        ),
    )


@pytest.fixture
async def client(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    return await serve(settings.model_copy(update={"worker_poll_seconds": 0.05, "provider_timeout_seconds": 0.5}))


async def statuses(client: httpx.AsyncClient) -> set[str]:
    return {each["status"] for each in (await client.get("/api/messages?limit=100")).json()}


async def refusals(client: httpx.AsyncClient) -> list[object]:
    shown: list[object] = (await client.get("/api/suppressions")).json()
    return shown


async def test_everyone_of_the_demo_is_there_with_a_name(client: httpx.AsyncClient) -> None:
    demo = demo_of(client)
    assert await demo.is_offered()
    await demo.play()
    shown = (await client.get("/api/conversations?limit=100")).json()
    assert {each["contact_name"] for each in shown} == {person.name for person in PEOPLE}
    others = [each["contact_name"] for each in shown if each["contact_address"] != REFUSING]  # whose STOP may be last
    assert others[:2] == ["Jane Miller", "Priya Sharma"]
    assert await demo.is_there()
    assert not await demo.is_offered()


async def test_it_shows_a_refusal_a_failure_and_a_message_in_doubt(client: httpx.AsyncClient) -> None:
    await demo_of(client).play()
    wanted = {"delivered", "failed", "undelivered", "unknown", "received"}
    seen: set[str] = set()

    async def refusals_once_all_is_seen() -> list[object]:
        seen.update(await statuses(client))
        return await refusals(client) if wanted <= seen else []

    await until(refusals_once_all_is_seen, bool)


async def test_nothing_remains_of_it(client: httpx.AsyncClient) -> None:
    demo = demo_of(client)
    await demo.play()
    await demo.remove()  # at once: the refusal of one of them is still on its way
    assert not await demo.is_there()
    assert (await client.get("/api/conversations")).json() == []
    assert await refusals(client) == []
    assert await demo.is_offered()


async def test_other_conversations_stay(client: httpx.AsyncClient) -> None:
    demo = demo_of(client)
    await demo.play()
    await until(lambda: refusals(client), bool)
    await client.post("/api/messages/sms", json=sms(from_=OUR_NUMBER, to="+18045551234"))
    await demo.remove()
    assert [each["contact_address"] for each in (await client.get("/api/conversations")).json()] == ["+18045551234"]


async def test_it_is_not_played_beside_conversations(client: httpx.AsyncClient) -> None:
    await client.post("/api/messages/sms", json=sms())
    with pytest.raises(NoDemo):
        await demo_of(client).play()


async def test_it_is_not_played_where_a_carrier_really_sends(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(provider_registry["email"]), "simulated", False)
    with pytest.raises(NoDemo):
        await demo_of(client).play()


async def test_it_is_of_tenant_1(client: httpx.AsyncClient) -> None:
    with pytest.raises(NoDemo):
        await demo_of(client, tenant_id=2).play()
