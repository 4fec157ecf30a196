"""Two tenants in one installation: neither sees, changes or speaks for the other."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.providers.base import InboundMessage
from tests.conftest import client_of
from tests.factories import CONTACT, CUSTOMER, CUSTOMER_EMAIL, WEBHOOKS, email, email_webhook, sms, sms_webhook, until
from tests.tenancy import bearer, give_address, make_key, make_tenant, production
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
ACME_NUMBER = "+12025550100"


class Tenants:
    """Tenant 1 and Acme, each with a client; Acme owns a number and a mail address."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.acme_id = make_tenant(url)
        give_address(url, self.acme_id, ACME_NUMBER)
        give_address(url, self.acme_id, "hello@acme.example", "email")
        app = client._transport.app  # type: ignore[attr-defined]
        self.first, self.acme, self.nobody = client_of(app), client_of(app), client
        self.first.headers.update(bearer(make_key(url)))
        self.acme.headers.update(bearer(make_key(url, self.acme_id)))


@pytest.fixture
async def tenants(serve: Serve, settings: Settings, database_url: str) -> Tenants:
    return Tenants(database_url, await serve(settings))


async def test_what_one_tenant_sends_is_nothing_to_the_other(tenants: Tenants) -> None:
    sent = (await tenants.acme.post("/api/messages/sms", json=sms(from_=ACME_NUMBER))).json()
    message, conversation = sent["message_id"], sent["conversation_id"]
    asked = [
        ("GET", "/api/messages/{}", message),
        ("GET", "/api/messages/{}/timeline", message),
        ("POST", "/api/messages/{}/cancel", message),
        ("POST", "/api/messages/{}/retry", message),
        ("GET", "/api/conversations/{}/messages", conversation),
    ]
    for method, path, id in asked:
        theirs = await tenants.first.request(method, path.format(id))
        never = await tenants.first.request(method, path.format(999_999_999))
        problem_of(theirs, 404)
        assert theirs.content == never.content
        assert (await tenants.acme.request(method, path.format(id))).status_code != 404
    for path in ("/api/conversations", "/api/messages", f"/api/messages?conversation_id={conversation}"):
        assert (await tenants.first.get(path)).json() == []
        assert len((await tenants.acme.get(path)).json()) == 1


async def test_an_idempotency_key_is_the_tenants_own(tenants: Tenants) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await tenants.first.post("/api/messages/sms", json=sms(), headers=headers)
    acme = await tenants.acme.post("/api/messages/sms", json=sms(from_=ACME_NUMBER), headers=headers)
    assert acme.status_code == 200
    assert "idempotent-replayed" not in acme.headers
    assert first.json()["message_id"] != acme.json()["message_id"]


async def test_another_tenants_cursor_shows_only_what_is_ones_own(tenants: Tenants) -> None:
    for number in range(3):
        await tenants.first.post("/api/messages/sms", json=sms(to=f"+1804555100{number}"))
        await tenants.acme.post("/api/messages/sms", json=sms(from_=ACME_NUMBER, to=f"+1804555100{number}"))
    page = await tenants.first.get("/api/conversations?limit=1")
    following = page.links["next"]["url"]
    own = {one["id"] for one in (await tenants.acme.get("/api/conversations")).json()}
    assert {one["id"] for one in (await tenants.acme.get(following)).json()} <= own


@pytest.mark.parametrize(
    ("path", "request_body", "owner"),
    [
        ("/api/messages/sms", sms(from_=ACME_NUMBER), "acme"),
        ("/api/messages/sms", sms(from_="(202) 555-0100"), "acme"),
        ("/api/messages/sms", sms(), "first"),
        ("/api/messages/email", email(from_="hello@ACME.example"), "acme"),
        ("/api/messages/email", email(), "first"),
    ],
)
async def test_a_message_is_sent_only_from_an_address_of_ones_own(
    tenants: Tenants, path: str, request_body: dict[str, Any], owner: str
) -> None:
    other = "first" if owner == "acme" else "acme"
    refused = await getattr(tenants, other).post(path, json=request_body)
    assert locations_of(refused) == ["body.from"]
    assert "not one of yours" in refused.text
    assert rows_of(tenants.url, "SELECT count(*) FROM messages") == [(0,)]
    assert (await getattr(tenants, owner).post(path, json=request_body)).status_code == 200


@pytest.mark.parametrize(
    ("path", "acmes", "others"),
    [("/api/webhooks/sms", ACME_NUMBER, CUSTOMER), ("/api/webhooks/email", "hello@acme.example", CUSTOMER_EMAIL)],
)
async def test_what_comes_in_belongs_to_whoever_owns_the_address_it_was_sent_to(
    tenants: Tenants, path: str, acmes: str, others: str
) -> None:
    name = "messaging_provider_id" if path.endswith("sms") else "xillio_id"
    for to in (acmes, others):
        body = WEBHOOKS[path](to=to) | {name: f"to {to}", "tenant_id": tenants.acme_id}
        # A key of Acme's says nothing here: only the address does.
        assert (await tenants.acme.post(path, json=body)).status_code == 200
    found = rows_of(tenants.url, "SELECT tenant_id, to_address FROM messages ORDER BY id")
    assert found == [(tenants.acme_id, acmes), (1, others)]


async def test_mail_to_an_address_in_another_case_is_its_owners(tenants: Tenants) -> None:
    for to in ("Hello@acme.example", "HELLO@ACME.example"):
        assert (await tenants.nobody.post("/api/webhooks/email", json=email_webhook(to=to, xillio_id=to))).is_success
    found = rows_of(tenants.url, "SELECT tenant_id, to_address FROM messages ORDER BY id")
    assert found == [(tenants.acme_id, "Hello@acme.example"), (tenants.acme_id, "HELLO@acme.example")]


async def test_an_answer_meets_what_was_sent_in_one_conversation_of_the_tenant(tenants: Tenants) -> None:
    sent = (await tenants.acme.post("/api/messages/sms", json=sms(from_=ACME_NUMBER))).json()
    await tenants.nobody.post("/api/webhooks/sms", json=sms_webhook(to=ACME_NUMBER))
    path = f"/api/conversations/{sent['conversation_id']}/messages"
    directions = [message["direction"] for message in (await tenants.acme.get(path)).json()]
    assert sorted(directions) == ["inbound", "outbound"]


async def test_the_first_address_of_a_tenant_is_its_own_at_once(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/api/webhooks/email", json=email_webhook(to="first@shop.example", xillio_id="1"))
    acme = (await client.post("/api/admin/tenants", json={"name": "Acme"})).json()["id"]
    given = await client.post(f"/api/admin/tenants/{acme}/addresses", json={"address": "Orders.EU@acme.example"})
    assert given.json()["address"] == "orders.eu@acme.example"
    await client.post("/api/webhooks/email", json=email_webhook(to="ORDERS.eu@acme.example", xillio_id="2"))
    assert rows_of(database_url, "SELECT tenant_id FROM messages ORDER BY id") == [(1,), (acme,)]


@pytest.mark.slow
async def test_an_address_changes_hands_soon(tenants: Tenants) -> None:
    await tenants.nobody.post("/api/webhooks/sms", json=sms_webhook())
    await tenants.first.post("/api/messages/sms", json=sms())
    give_address(tenants.url, tenants.acme_id, CUSTOMER)

    async def status() -> int:
        return (await tenants.first.post("/api/messages/sms", json=sms())).status_code

    await until(status, lambda code: code == 422)
    await tenants.nobody.post("/api/webhooks/sms", json=sms_webhook(messaging_provider_id="later"))
    later = "SELECT tenant_id FROM messages WHERE provider_message_id = 'later'"
    assert rows_of(tenants.url, later) == [(tenants.acme_id,)]


@pytest.mark.slow
async def test_the_first_address_of_an_installation_is_seen_soon(
    client: httpx.AsyncClient, database_url: str
) -> None:
    assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
    give_address(database_url, make_tenant(database_url), CUSTOMER)

    async def status() -> int:
        return (await client.post("/api/messages/sms", json=sms())).status_code

    await until(status, lambda code: code == 422)


async def test_a_message_of_a_tenant_is_delivered_and_its_receipts_find_it(tenants: Tenants) -> None:
    sent = (await tenants.acme.post("/api/messages/sms", json=sms(from_=ACME_NUMBER))).json()

    async def status() -> str:
        return str((await tenants.acme.get(f"/api/messages/{sent['message_id']}")).json()["status"])

    await until(status, lambda word: word == "delivered")
    assert rows_of(tenants.url, "SELECT DISTINCT tenant_id FROM provider_events") == [(tenants.acme_id,)]


async def test_what_a_provider_hands_over_belongs_to_the_address_it_was_sent_to(tenants: Tenants) -> None:
    events = tenants.nobody._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    await events.accept("sms", InboundMessage("in-1", "sms", "sms", CONTACT, ACME_NUMBER, "Hello"))
    await events.accept("sms", InboundMessage("in-2", "sms", "sms", CONTACT, CUSTOMER, "Hello"))
    found = rows_of(tenants.url, "SELECT tenant_id, provider_message_id FROM messages ORDER BY provider_message_id")
    assert found == [(tenants.acme_id, "in-1"), (1, "in-2")]


async def test_with_a_key_of_its_own_a_tenant_works_in_production(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    acme = make_tenant(database_url)
    give_address(database_url, acme, ACME_NUMBER)
    client = await serve(production(settings))
    answer = await client.post(
        "/api/messages/sms", json=sms(from_=ACME_NUMBER), headers=bearer(make_key(database_url, acme))
    )
    assert answer.status_code == 200
    assert rows_of(database_url, "SELECT tenant_id FROM messages") == [(acme,)]
