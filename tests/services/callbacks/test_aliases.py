"""People with two addresses, and messages that were sent elsewhere: one conversation, and each message once."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.domain import Address, AddressType, Direction, MessageStatus
from app.providers.base import InboundMessage, Receipt
from app.providers.registry import provider_registry
from app.services.callbacks.items import CallbackItems
from tests.routers.test_channels import Chat
from tests.tenancy import make_tenant
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

APP, USER, DIRECT = "slack:A024BE7LH", "slack:U024BE7LH", "slack:D024BE91L"
OURS, NUMBER, ID = "+12016661234", "+18045551234", "whatsapp:US.7700"


@dataclass
class Service:
    """The service with a provider of chats."""

    client: httpx.AsyncClient
    items: CallbackItems
    chat: Chat
    database_url: str

    async def hear(self, id_: str, sender: str, *, alias: str | None = None, **more: Any) -> None:
        kind = "slack" if sender.startswith("slack") else "whatsapp"
        ours = APP if kind == "slack" else OURS
        await self.items.accept("chat", InboundMessage(id_, kind, kind, sender, ours, "Hi", alias=alias, **more))

    async def send(self, to: str) -> Any:
        kind, ours = ("slack", APP) if to.startswith("slack") else ("whatsapp", OURS)
        answer = await self.client.post(f"/api/messages/{kind}", json={"from": ours, "to": to, "body": "Hello"})
        assert answer.status_code == 200, answer.text
        return answer.json()["conversation_id"]

    def rows(self, question: str) -> list[tuple[Any, ...]]:
        return rows_of(self.database_url, question)

    @property
    def conversations(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT contact_address, message_count FROM conversations ORDER BY id")


@pytest.fixture
async def service(
    serve: Callable[[Settings], Awaitable[httpx.AsyncClient]],
    settings: Settings,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Service:
    chat = Chat()
    monkeypatch.setitem(provider_registry, "chat", chat)
    client = await serve(settings)
    items: CallbackItems = client._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    return Service(client, items, chat, database_url)


async def test_a_direct_message_meets_what_was_sent_to_its_user(service: Service) -> None:
    await service.send(USER)
    await service.hear("1", USER, alias=DIRECT)
    await service.send(DIRECT)
    await service.hear("2", DIRECT)
    assert service.conversations == [(USER, 4)]
    sent = service.rows("SELECT to_address FROM messages WHERE direction = 'outbound'")
    assert sent == [(USER,), (USER,)]


async def test_a_thread_in_a_direct_message_is_one_with_the_person(service: Service) -> None:
    await service.hear("1", f"{USER}/1.2", alias=DIRECT)
    assert await service.send(f"{DIRECT}/1.2") == await service.send(f"{USER}/1.2")
    assert service.conversations == [(f"{USER}/1.2", 3)]


async def test_an_id_beside_a_number_is_that_number_from_then_on(service: Service) -> None:
    await service.hear("1", NUMBER, alias=ID)
    await service.hear("2", ID)
    await service.send(ID)
    assert service.conversations == [(NUMBER, 3)]


async def test_a_conversation_by_the_alias_gets_the_other_address(service: Service) -> None:
    await service.hear("1", ID)
    await service.hear("2", NUMBER, alias=ID)
    assert service.conversations == [(NUMBER, 2)]
    contacts = service.rows("SELECT address, address_type FROM contacts ORDER BY address")
    assert contacts == [(OURS, "phone"), (NUMBER, "phone")]


async def test_two_conversations_that_are_there_already_stay_two(service: Service) -> None:
    await service.hear("1", DIRECT)
    await service.send(USER)
    await service.hear("2", USER, alias=DIRECT)
    await service.hear("3", DIRECT)
    assert service.conversations == [(DIRECT, 1), (USER, 3)]


async def test_an_id_follows_its_person_to_another_number(service: Service) -> None:
    await service.hear("1", NUMBER, alias=ID)
    await service.hear("2", "+18045550000", alias=ID)
    await service.hear("3", ID)
    assert service.conversations == [(NUMBER, 1), ("+18045550000", 2)]


async def test_a_receipt_tells_an_alias_too(service: Service) -> None:
    receipt = Receipt("r-1", MessageStatus.READ, idempotency_key="1-1-1", recipient=NUMBER, alias=ID)
    unknown_tenant = Receipt("r-2", MessageStatus.READ, idempotency_key="77-1-1", recipient=NUMBER, alias=ID)
    await service.items.accept("chat", receipt, unknown_tenant)
    await service.hear("1", ID)
    assert service.conversations == [(NUMBER, 1)]
    assert service.rows("SELECT tenant_id, alias, address FROM aliases") == [(1, ID, NUMBER)]


async def test_an_alias_that_is_no_address_is_the_items_own_fault(service: Service) -> None:
    with pytest.raises(ValueError, match="Event 1"):
        await service.hear("1", NUMBER, alias="odd\nalias")
    await service.hear("2", NUMBER)
    assert service.conversations == [(NUMBER, 1)]


async def test_an_alias_is_known_to_its_own_tenant_alone(service: Service) -> None:
    tenant_id = make_tenant(service.database_url, "Shop")
    aliases = service.items._aliases
    alias, number = Address("whatsapp", ID, ID), Address(AddressType.PHONE, NUMBER, NUMBER)
    await aliases.learn(tenant_id, alias, number)
    assert (await aliases.resolved(tenant_id, alias)).value == NUMBER
    assert await aliases.resolved(1, alias) is alias


async def test_an_alias_is_erased_with_its_person(service: Service) -> None:
    await service.hear("1", NUMBER, alias=ID)
    [contact] = (await service.client.get("/api/contacts", params={"address": ID})).json()
    export = (await service.client.get(f"/api/contacts/{contact['id']}/export")).json()
    assert (contact["address"], export["aliases"]) == (NUMBER, [ID])
    assert (await service.client.delete(f"/api/contacts/{contact['id']}")).status_code == 200
    assert service.rows("SELECT * FROM aliases") == []
    await service.hear("2", ID)
    assert service.conversations == [(ID, 1)]


async def test_what_was_sent_elsewhere_is_there_once_and_not_sent(service: Service) -> None:
    await service.hear("1", NUMBER)
    echo = InboundMessage(
        "wamid.9", "whatsapp", "whatsapp", OURS, NUMBER, "From my phone", direction=Direction.OUTBOUND
    )
    early = Receipt("r-1", MessageStatus.DELIVERED, provider_message_id="wamid.9")
    late = Receipt("r-2", MessageStatus.READ, provider_message_id="wamid.9")
    await service.items.accept("chat", early)
    for _ in range(2):
        await service.items.accept("chat", echo)
    question = "SELECT direction, status, due_at, attempt_count, from_address, to_address FROM messages ORDER BY id"
    assert service.rows(question)[1:] == [("outbound", "delivered", None, 0, OURS, NUMBER)]
    await service.items.accept("chat", late)
    shown = (await service.client.get("/api/messages")).json()[0]
    assert (shown["status"], shown["body"], shown["conversation_id"]) == ("read", "From my phone", 1)
    steps = (await service.client.get(f"/api/messages/{shown['id']}/timeline")).json()
    sentences = {step["kind"]: step["sentence"] for step in steps}
    assert sentences["reported"] == "It was sent elsewhere, and chat reported it."
    assert service.chat.sent == []


async def test_an_echo_begins_a_conversation_and_is_its_only_message(service: Service) -> None:
    echo = InboundMessage("e-1", "slack", "slack", APP, DIRECT, "Hi", direction=Direction.OUTBOUND, alias=None)
    await service.items.accept("chat", echo, echo)
    assert service.conversations == [(DIRECT, 1)]
    assert service.rows("SELECT status, due_at FROM messages") == [("sent", None)]


async def test_a_kept_callback_about_an_alias_is_erased_too(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [InboundMessage("1", "slack", "slack", USER, APP, "Hi", alias=DIRECT)]
    monkeypatch.setattr(Chat, "verify", lambda *_: None, raising=False)
    monkeypatch.setattr(Chat, "parse", lambda *_: known, raising=False)
    body = json.dumps({"channel": "D024BE91L"})
    assert (await service.client.post("/api/webhooks/chat", content=body)).status_code == 200
    assert service.rows("SELECT addresses FROM webhook_calls") == [(sorted([APP, DIRECT, USER]),)]
    [contact] = (await service.client.get("/api/contacts", params={"address": USER})).json()
    await service.client.delete(f"/api/contacts/{contact['id']}")
    assert service.rows("SELECT id FROM webhook_calls") == []
