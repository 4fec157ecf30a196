"""Test keys: the whole API in production, where the messages of a test tenant reach only the simulated carrier."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.routing import TEST_CARRIER, route_of
from tests.conftest import client_of, make_settings, started
from tests.factories import email, sms, until
from tests.tenancy import bearer, give_address, make_key, make_tenant, production
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
SENDER = "+12025550100"


class Vendor(BaseProvider):
    """A vendor that really sends, as far as this test goes."""

    channels = {"sms": "phone", "email": "email"}  # noqa: RUF012 - as vendors have it

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.sent.append(payload.body)
        return ProviderResult(f"vendor-{payload.message_id}")


class Installation:
    """Production with one vendor and the tenant Acme, and a client for each key."""

    def __init__(self, operator: httpx.AsyncClient, acme: int, vendor: Vendor, database_url: str) -> None:
        self.operator, self.acme, self.vendor, self.database_url = operator, acme, vendor, database_url

    async def key(self, *, test: bool, scopes: tuple[str, ...] = ("send", "read", "admin"), **body: Any) -> str:
        asked = {"tenant_id": self.acme, "name": "integration", "scopes": scopes, "test": test, **body}
        answer = await self.operator.post("/api/admin/keys", json=asked)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def client(self, *, test: bool) -> httpx.AsyncClient:
        client = client_of(self.operator._transport.app)  # type: ignore[attr-defined]
        client.headers.update(bearer(await self.key(test=test)))
        return client


@pytest.fixture
async def installation(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Installation]:
    vendor = Vendor()
    monkeypatch.setitem(provider_registry, "vendor", vendor)
    acme = make_tenant(database_url)
    give_address(database_url, acme, SENDER)
    async with AsyncExitStack() as stack:
        quick = production(settings, worker_enabled=True, simulated_carriers=False, worker_poll_seconds=0.05)
        operator = client_of(await started(stack, quick))
        operator.headers.update(bearer(make_key(database_url, scopes=(KeyScope.ADMIN,))))
        yield Installation(operator, acme, vendor, database_url)


async def sent(client: httpx.AsyncClient, body: str, **changes: object) -> int:
    answer = await client.post("/api/messages/sms", json=sms(from_=SENDER, body=body, **changes))
    assert answer.status_code == 200, answer.text
    return int(answer.json()["message_id"])


async def final(client: httpx.AsyncClient, message_id: int) -> dict[str, Any]:
    async def message() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
        return found

    return await until(message, lambda found: found["status"] not in {"queued", "sending", "sent"})


async def test_a_test_key_sends_to_the_simulated_carrier_alone(installation: Installation) -> None:
    test, live = await installation.client(test=True), await installation.client(test=False)
    message = await final(test, await sent(test, "only a test"))
    assert (message["status"], message["provider_type"]) == ("delivered", TEST_CARRIER)
    real = await sent(live, "for real")
    await until(lambda: _status(live, real), lambda status: status == "sent")
    assert installation.vendor.sent == ["for real"]


async def _status(client: httpx.AsyncClient, message_id: int) -> str:
    return str((await client.get(f"/api/messages/{message_id}")).json()["status"])


async def test_the_first_message_of_a_new_test_tenant_never_goes_to_a_vendor(installation: Installation) -> None:
    """The worker has looked at all tenants before this one was there."""
    live = await installation.client(test=False)
    real = await sent(live, "for real")
    await until(lambda: _status(live, real), lambda status: status == "sent")
    test = await installation.client(test=True)
    assert (await final(test, await sent(test, "only a test")))["provider_type"] == TEST_CARRIER
    assert installation.vendor.sent == ["for real"]


async def test_both_worlds_see_nothing_of_each_other(installation: Installation) -> None:
    test, live = await installation.client(test=True), await installation.client(test=False)
    theirs, ours = await sent(test, "only a test"), await sent(live, "for real")
    for client, own, other in ((test, "only a test", ours), (live, "for real", theirs)):
        assert [each["body"] for each in (await client.get("/api/messages")).json()] == [own]
        problem_of(await client.get(f"/api/messages/{other}"), 404)
        events = (await client.get("/api/events?types=message.accepted")).json()
        assert len(events["events"] if isinstance(events, dict) else events) == 1


async def test_an_answer_of_the_simulated_carrier_stays_in_the_test(installation: Installation) -> None:
    """Some recipients of the simulator answer: the answer comes in at an address of the live tenant."""
    test, live = await installation.client(test=True), await installation.client(test=False)
    await sent(test, "Hello!", to="+15005553100")

    async def inbound(client: httpx.AsyncClient) -> int:
        listed = (await client.get("/api/messages")).json()
        return sum(each["direction"] == "inbound" for each in listed)

    await until(lambda: inbound(test), lambda count: count > 0)
    assert (await live.get("/api/messages")).json() == []


async def test_a_test_key_sends_only_from_the_addresses_of_its_tenant(installation: Installation) -> None:
    test = await installation.client(test=True)
    refused = await test.post("/api/messages/sms", json=sms(from_="+12025550199"))
    assert locations_of(refused) == ["body.from"]


async def test_a_test_key_previews_the_route_of_its_messages(installation: Installation) -> None:
    for test, route in ((True, [TEST_CARRIER]), (False, ["vendor"])):
        client = await installation.client(test=test)
        seen = (await client.post("/api/messages/preview", json={"channel": "sms", **sms(from_=SENDER)})).json()
        assert (seen["route"], seen["may_send_from"]) == (route, True)


async def test_all_test_keys_of_a_tenant_share_one_test_tenant(installation: Installation) -> None:
    tokens = [await installation.key(test=True) for _ in range(2)]
    assert all(token.startswith("msk_test_") for token in tokens)
    assert not (await installation.key(test=False)).startswith("msk_test_")
    found = rows_of(installation.database_url, "SELECT name, test_of FROM tenants WHERE test_of IS NOT NULL")
    assert found == [("Acme (test)", installation.acme)]
    [listed] = [each for each in (await installation.operator.get("/api/admin/tenants")).json() if each["test_of"]]
    assert listed["test_of"] == installation.acme
    # A key for the test tenant itself is a test key too.
    asked = {"tenant_id": listed["id"], "name": "x", "scopes": ["read"]}
    answer = await installation.operator.post("/api/admin/keys", json=asked)
    assert answer.json()["token"].startswith("msk_test_")


async def test_a_token_that_is_only_called_a_test_is_refused(installation: Installation) -> None:
    client = await installation.client(test=False)
    token = client.headers["Authorization"].removeprefix("Bearer msk_")
    client.headers.update(bearer(f"msk_test_{token}"))
    problem_of(await client.get("/api/messages"), 401)


def test_a_test_tenant_has_one_route_for_every_channel() -> None:
    settings = make_settings(routes={"sms": ["twilio"]})
    assert [route_of(settings, channel, is_test=True) for channel in ("sms", "email", "whatsapp")] == [
        [TEST_CARRIER]
    ] * 3
    assert route_of(settings, "sms") == ["twilio"]


async def test_mail_reaches_the_simulated_carrier_too(installation: Installation) -> None:
    give_address(installation.database_url, installation.acme, "shop@example.com", "email")
    test = await installation.client(test=True)
    answer = await test.post("/api/messages/email", json=email(from_="shop@example.com"))
    assert (await final(test, int(answer.json()["message_id"])))["provider_type"] == TEST_CARRIER
