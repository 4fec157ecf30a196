"""Conversations that several processes change at once, replies that are repeated, and lists of combined filters."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import httpx
import pytest

from app.config import Settings
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import CONTACT, CONTACT_EMAIL, email_webhook, sms, sms_webhook, until

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PATH = "/api/conversations/1"


class Carrier(BaseProvider):
    """Keeps what it is given, and takes all of it."""

    channels: ClassVar = {"email": "email", "whatsapp": "phone"}
    takes_mail_fields: ClassVar = True

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.sent.append(payload)
        return ProviderResult(f"carrier-{len(self.sent)}")


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> Carrier:
    provider = Carrier()
    monkeypatch.setitem(provider_registry, "carrier", provider)
    return provider


@pytest.fixture
async def mailing(carrier: Carrier, serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """An application whose mails the carrier gets."""
    return await serve(settings.model_copy(update={"routes": {"email": ["carrier"]}, "worker_poll_seconds": 0.05}))


@pytest.fixture
async def two_clients(serve: Serve, settings: Settings) -> list[httpx.AsyncClient]:
    """Two applications on one database."""
    quiet = settings.model_copy(update={"worker_enabled": False, "database_statement_timeout_seconds": 60})
    return [await serve(quiet), await serve(quiet)]


async def post(client: httpx.AsyncClient, path: str, body: Any, **headers: str) -> httpx.Response:
    answer = await client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def receive(client: httpx.AsyncClient, id: str, **changes: Any) -> None:
    await post(client, "/api/webhooks/sms", sms_webhook(messaging_provider_id=id, **changes))


async def state_of(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get(PATH)).json())


async def updates(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/api/events", params={"types": "conversation.updated", "limit": 500})
    return [each["data"]["changed"] for each in answer.json()["events"]]


async def test_two_writers_change_different_fields_and_lose_nothing(two_clients: list[httpx.AsyncClient]) -> None:
    await post(two_clients[0], "/api/messages/sms", sms())
    changes: list[dict[str, Any]] = [{"assignee": f"Anna {number}"} for number in range(10)]
    changes += [{"tags": [f"tag {number}"]} for number in range(10)]
    changes += [{"metadata": {f"key{number}": "set"}} for number in range(10)]
    answers = await asyncio.gather(
        *(two_clients[number % 2].patch(PATH, json=change) for number, change in enumerate(changes))
    )
    assert {answer.status_code for answer in answers} == {200}
    state = await state_of(two_clients[0])
    assert len(state["metadata"]) == 10
    told = await updates(two_clients[0])
    # The log promises no order of changes at the same moment.
    assert {each["assignee"] for each in told if "assignee" in each} == {f"Anna {number}" for number in range(10)}
    assert sorted(each["tags"] for each in told if "tags" in each) == [[f"tag {number}"] for number in range(10)]
    assert [one["id"] for one in (await two_clients[1].get(PATH[:-2], params={"tag": state["tags"][0]})).json()] == [
        1
    ]


async def test_closing_and_opening_at_once_are_told_as_often_as_they_happened(
    two_clients: list[httpx.AsyncClient],
) -> None:
    await receive(two_clients[0], "first")
    for number in range(20):
        await asyncio.gather(
            two_clients[0].patch(PATH, json={"status": "closed"}),
            receive(two_clients[1], f"in-{number}"),
        )
        statuses = [each["status"] for each in await updates(two_clients[0]) if "status" in each]
        is_closed = (await state_of(two_clients[1]))["status"] == "closed"
        # Nothing is told that was so already.
        assert statuses.count("closed") == statuses.count("open") + is_closed
    await two_clients[0].patch(PATH, json={"status": "closed"})
    await receive(two_clients[1], "last")
    assert (await state_of(two_clients[0]))["status"] == "open"
    assert (await state_of(two_clients[0]))["unread_count"] == 22


async def test_what_arrives_at_another_process_while_all_is_read_is_counted(
    two_clients: list[httpx.AsyncClient],
) -> None:
    """Each inbound message is either in the count, or was stored before a read that took it away."""
    await receive(two_clients[0], "first")
    for number in range(10):
        await asyncio.gather(
            post(two_clients[0], f"{PATH}/read", {}),
            *(receive(two_clients[1], f"in-{number}-{each}") for each in range(5)),
        )
    unread = (await state_of(two_clients[0]))["unread_count"]
    messages = (await two_clients[0].get(f"{PATH}/messages")).json()
    ids = sorted(one["id"] for one in messages)
    assert len(ids) == 51
    assert 0 <= unread <= 5
    # Reading up to the last one that was read changes nothing.
    read = await post(two_clients[1], f"{PATH}/read", {"up_to": ids[len(ids) - unread - 1]})
    assert read.json()["unread_count"] == unread


async def test_a_late_mark_of_an_earlier_message_does_not_raise_the_count(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await receive(client, f"in-{number}")
    await post(client, f"{PATH}/read", {})
    assert (await post(client, f"{PATH}/read", {"up_to": 1})).json()["unread_count"] == 0


async def test_a_reply_to_a_mail_names_it_in_its_thread(mailing: httpx.AsyncClient, carrier: Carrier) -> None:
    await post(mailing, "/api/webhooks/email", email_webhook(subject="Rye bread", xillio_id="<rye@example.net> us"))
    await post(mailing, f"{PATH}/messages", {"body": "Yes, until six."})
    await until(lambda: _of(carrier), lambda sent: len(sent) == 1)
    [sent] = carrier.sent
    assert (sent.to_address, sent.subject) == (CONTACT_EMAIL, "Re: Rye bread")
    assert list(sent.thread) == ["<rye@example.net>"]


async def _of(carrier: Carrier) -> list[OutboundMessage]:
    return list(carrier.sent)


async def test_a_repeated_reply_is_the_same_one_after_a_newer_message_of_another_spelling(
    mailing: httpx.AsyncClient,
) -> None:
    await post(mailing, "/api/webhooks/email", email_webhook(xillio_id="one"))
    key = {"Idempotency-Key": "reply-1"}
    first = await post(mailing, f"{PATH}/messages", {"body": "Yes."}, **key)
    await post(mailing, "/api/webhooks/email", email_webhook(xillio_id="two", from_="Contact@example.com"))
    second = await post(mailing, f"{PATH}/messages", {"body": "Yes."}, **key)
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"


async def test_a_repeated_reply_is_the_same_one_after_a_newer_message_on_another_channel(
    client: httpx.AsyncClient, carrier: Carrier, database_url: str
) -> None:
    await receive(client, "in-1")
    key = {"Idempotency-Key": "reply-1"}
    first = await post(client, f"{PATH}/messages", {"body": "Yes."}, **key)
    chat = {"from": sms()["from"], "to": CONTACT, "body": "Hello from a chat!"}
    chatted = (await post(client, "/api/messages/whatsapp", chat)).json()
    assert chatted["conversation_id"] == 1
    turned = "UPDATE messages SET direction = 'inbound', sent_at = now() WHERE tenant_id = 1 AND id = "
    await asyncio.to_thread(execute, database_url, turned + chatted["message_id"])
    second = await post(client, f"{PATH}/messages", {"body": "Yes."}, **key)
    assert second.json() == first.json()
    other = await post(client, f"{PATH}/messages", {"body": "Yes."})
    message = (await client.get(f"/api/messages/{other.json()['message_id']}")).json()
    assert message["channel"] == "whatsapp"


@each_case(
    "query",
    [
        {"tag": "vip"},
        {"unread": "true"},
        {"assignee": "none"},
        {"tag": "vip", "unread": "true", "channel": "sms", "status": "open"},
        {"assignee": "Anna", "tag": "vip", "include": "last_message"},
        {"metadata.walk": "yes"},
    ],
)
async def test_combined_filters_are_walked_forward_and_back(client: httpx.AsyncClient, query: dict[str, str]) -> None:
    for number in range(14):
        await receive(client, f"in-{number}", from_=f"+1804555{2000 + number}", timestamp="2024-11-01T14:00:00Z")
        matches = number % 2 == 0
        change: dict[str, Any] = {"tags": ["vip"] if matches else ["other"]}
        change |= {"assignee": "Anna"} if matches and "assignee" in query and query["assignee"] == "Anna" else {}
        change |= {"metadata": {"walk": "yes"}} if matches else {}
        assert (await client.patch(f"/api/conversations/{number + 1}", json=change)).status_code == 200
    everything = (await client.get(PATH[:-2], params=query)).json()
    assert len(everything) in {7, 14}
    page = await client.get(PATH[:-2], params={"limit": 3, **query})
    forward = [page.json()]
    while "next" in page.links:
        page = await client.get(page.links["next"]["url"])
        forward.append(page.json())
    assert [row for rows in forward for row in rows] == everything
    backward = [page.json()]
    while "prev" in page.links:
        page = await client.get(page.links["prev"]["url"])
        backward.append(page.json())
    assert backward[::-1] == forward
