"""Channels that a provider brings: sent to like texts and mail, with addresses of their own kind."""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from app.providers.base import BaseProvider, InboundMessage, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.factories import until
from tests.tenancy import bearer, make_key, make_tenant, production
from tests.wire import problem_of, row_counts, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


class Chat(BaseProvider):
    channels: ClassVar = {"slack": "slack", "whatsapp": "phone"}

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.sent.append(payload)
        return ProviderResult(f"chat-{len(self.sent)}")


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Chat:
    provider = Chat()
    monkeypatch.setitem(provider_registry, "chat", provider)
    return provider


def slack(**changes: object) -> dict[str, Any]:
    return {"from": "slack:A024BE7LH", "to": "slack:C024BE91L", "body": "Hello!"} | changes


async def test_a_message_leaves_on_a_channel_of_a_provider(chat: Chat, client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/messages/slack", json=slack(), headers={"Prefer": "wait=10"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=10")
    assert answer.json() == {
        "message_id": "1",
        "provider_message_id": "chat-1",
        "conversation_id": 1,
        "status": "accepted",
        "message_status": "sent",
    }
    [sent] = chat.sent
    assert (sent.channel, sent.type, sent.from_address, sent.to_address) == (
        "slack",
        "slack",
        "slack:A024BE7LH",
        "slack:C024BE91L",
    )
    [conversation] = (await client.get("/api/conversations")).json()
    assert conversation["contact_address"] == "slack:C024BE91L"
    [contact] = (await client.get("/api/contacts", params={"address": "slack:C024BE91L"})).json()
    assert contact["type"] == "slack"


async def test_phone_numbers_of_a_channel_are_those_of_texts(chat: Chat, client: httpx.AsyncClient) -> None:
    texted = await client.post(
        "/api/messages/sms", json={"from": "+12016661234", "to": "+18045551234", "type": "sms", "body": "Hello!"}
    )
    chatted = await client.post(
        "/api/messages/whatsapp", json={"from": "(201) 666-1234", "to": "18045551234", "body": "Hello again!"}
    )
    assert chatted.json()["conversation_id"] == texted.json()["conversation_id"]
    await client.post("/api/messages/whatsapp", json={"from": "+12016661234", "to": "whatsapp:US.1", "body": "Hi"})
    sent = await until(lambda: _of(chat), lambda sent: len(sent) == 2)
    assert sorted(payload.to_address for payload in sent) == ["+18045551234", "whatsapp:US.1"]


async def _of(chat: Chat) -> list[OutboundMessage]:
    return chat.sent


async def test_the_same_key_is_the_same_message(chat: Chat, client: httpx.AsyncClient, database_url: str) -> None:
    answers = [
        await client.post("/api/messages/slack", json=slack(), headers={"Idempotency-Key": "one"}) for _ in range(2)
    ]
    assert answers[0].json()["message_id"] == answers[1].json()["message_id"]
    assert answers[1].headers["idempotent-replayed"] == "true"
    other = await client.post("/api/messages/slack", json=slack(body="Other"), headers={"Idempotency-Key": "one"})
    problem_of(other, 422)
    assert row_counts(database_url)["messages"] == 1


@each_case(
    ("changes", "location"),
    [
        ({"from": "A024BE7LH"}, "body.from"),
        ({"to": "+18045551234"}, "body.to"),
        ({"to": "whatsapp:1"}, "body.to"),
        ({"to": 5}, "body.to"),
        ({"body": " "}, "body"),
        ({"attachments": ["ftp://example.com/a"]}, "body.attachments.0"),
        ({"send_at": "2024-11-01T14:00:00Z"}, "body.send_at"),
    ],
)
async def test_what_is_wrong_is_named(
    chat: Chat, client: httpx.AsyncClient, changes: dict[str, object], location: str
) -> None:
    problem = problem_of(await client.post("/api/messages/slack", json=slack(**changes)), 422)
    assert [error["location"] for error in problem["errors"]] == [location]


@each_case("channel", ["slack", "preview2", "SMS", "1a", "%7Bchannel%7D", "chat", "a" * 100])
async def test_a_channel_that_nobody_carries_is_unknown(
    client: httpx.AsyncClient, database_url: str, channel: str
) -> None:
    problem = problem_of(await client.post(f"/api/messages/{channel}", json=slack()), 404)
    assert problem["title"] == "Channel not found"
    assert set(row_counts(database_url).values()) == {0}


async def test_messages_are_still_read_where_channels_are_written(client: httpx.AsyncClient) -> None:
    problem_of(await client.get("/api/messages/5"), 404)
    problem_of(await client.get("/api/messages/slack"), 422)
    for refused in (await client.delete("/api/messages/5"), await client.post("/api/messages/5", json=slack())):
        problem_of(refused, 405)
        assert refused.headers["allow"] == "GET, HEAD"


async def test_it_takes_a_key_and_an_address_of_ones_own(
    chat: Chat, serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings, simulated_carriers=None))
    problem_of(await client.post("/api/messages/slack", json=slack()), 401)
    reader = bearer(make_key(database_url, scopes=(KeyScope.READ,)))
    problem_of(await client.get("/api/messages/5", headers=reader), 404)
    tenant = make_tenant(database_url, "Acme")
    admin, theirs = bearer(make_key(database_url)), bearer(make_key(database_url, tenant))
    problem_of(await client.post("/api/messages/slack", json=slack(), headers=theirs), 422)
    path = f"/api/admin/tenants/{tenant}/addresses"
    added = await client.post(path, json={"address": "slack:A024BE7LH"}, headers=admin)
    assert added.json()["type"] == "slack"

    async def send() -> httpx.Response:
        return await client.post("/api/messages/slack", json=slack(), headers=theirs)

    await until(send, lambda answer: answer.status_code == 200)  # whose an address is may be remembered for seconds
    problem_of(await client.post("/api/messages/slack", json=slack(), headers=admin), 422)


async def test_what_comes_in_meets_what_was_sent(chat: Chat, client: httpx.AsyncClient, database_url: str) -> None:
    sent = (await client.post("/api/messages/slack", json=slack())).json()
    app = client._transport.app  # type: ignore[attr-defined]
    event = InboundMessage("m-1", "slack", "slack", "slack:C024BE91L", "slack:A024BE7LH", "Hello back!")
    await app.state.services.callback_items.accept("chat", event)
    rows = rows_of(database_url, "SELECT conversation_id, direction FROM messages ORDER BY id")
    assert rows == [(sent["conversation_id"], "outbound"), (sent["conversation_id"], "inbound")]


async def test_a_cap_for_all_others_holds_for_a_channel_too(chat: Chat, serve: Serve, settings: Settings) -> None:
    client = await serve(settings.model_copy(update={"daily_caps": {"*": 1}}))
    assert (await client.post("/api/messages/slack", json=slack())).status_code == 200
    problem = problem_of(await client.post("/api/messages/slack", json=slack()), 429)
    assert "by slack" in problem["detail"]
