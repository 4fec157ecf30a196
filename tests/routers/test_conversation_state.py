"""The state of conversations: unread messages, status, assignee, tags, filters, and replies."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import CONTACT, CONTACT_EMAIL, CUSTOMER, email, email_webhook, sms, sms_webhook, until
from tests.tenancy import bearer, make_key, production
from tests.wire import locations_of, problem_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
LATER = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)


async def send(client: httpx.AsyncClient, **changes: Any) -> int:
    answer = await client.post("/api/messages/sms", json=sms(**changes))
    assert answer.status_code == 200, answer.text
    return int(answer.json()["conversation_id"])


async def receive(client: httpx.AsyncClient, id: str, **changes: Any) -> None:
    answer = await client.post("/api/webhooks/sms", json=sms_webhook(messaging_provider_id=id, **changes))
    assert answer.status_code == 200, answer.text


async def shown(client: httpx.AsyncClient, conversation_id: int) -> dict[str, Any]:
    answer = await client.get(f"/api/conversations/{conversation_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def change(client: httpx.AsyncClient, conversation_id: int, **changes: Any) -> dict[str, Any]:
    answer = await client.patch(f"/api/conversations/{conversation_id}", json=changes)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def listed(client: httpx.AsyncClient, **query: Any) -> list[int]:
    answer = await client.get("/api/conversations", params=query)
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()]


async def updates(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/api/events", params={"types": "conversation.updated"})
    return [{"by": each["data"]["by"], **each["data"]["changed"]} for each in answer.json()["events"]]


async def test_inbound_messages_are_counted_until_they_are_read(client: httpx.AsyncClient) -> None:
    id = await send(client)
    for number in range(3):
        await receive(client, f"in-{number}")
    assert (await shown(client, id))["unread_count"] == 3
    answer = await client.post(f"/api/conversations/{id}/read", json={})
    assert answer.json()["unread_count"] == 0
    assert await updates(client) == [{"by": None, "unread_count": 0}]
    await client.post(f"/api/conversations/{id}/read", json={})
    assert len(await updates(client)) == 1


async def test_a_conversation_can_begin_unread(client: httpx.AsyncClient) -> None:
    await receive(client, "in-1")
    [conversation] = (await client.get("/api/conversations")).json()
    assert (conversation["unread_count"], conversation["status"]) == (1, "open")


async def test_reading_up_to_a_message_leaves_those_after_it(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await receive(client, f"in-{number}")
    [conversation] = (await client.get("/api/conversations")).json()
    messages = (await client.get(f"/api/conversations/{conversation['id']}/messages")).json()
    ids = sorted(each["id"] for each in messages)
    answer = await client.post(f"/api/conversations/{conversation['id']}/read", json={"up_to": ids[1]})
    assert answer.json()["unread_count"] == 1


async def test_a_repeated_callback_counts_once(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await receive(client, "in-1")
    [conversation] = (await client.get("/api/conversations")).json()
    assert conversation["unread_count"] == 1


async def test_messages_that_arrive_while_others_are_read_stay_unread(client: httpx.AsyncClient) -> None:
    await receive(client, "first")
    [conversation] = (await client.get("/api/conversations")).json()
    id = conversation["id"]
    read = [client.post(f"/api/conversations/{id}/read", json={}) for _ in range(5)]
    await asyncio.gather(*read, *(receive(client, f"in-{number}") for number in range(20)))
    await client.post(f"/api/conversations/{id}/read", json={})
    await receive(client, "last")
    assert (await shown(client, id))["unread_count"] == 1


@each_case("state", [{"status": "closed"}, {"status": "snoozed"}, {"snoozed_until": LATER.isoformat()}])
async def test_an_inbound_message_opens_what_was_put_away(client: httpx.AsyncClient, state: dict[str, str]) -> None:
    id = await send(client)
    put_away = await change(client, id, **state)
    assert put_away["status"] == state.get("status", "snoozed")
    await send(client)
    assert (await shown(client, id))["status"] == put_away["status"]
    await receive(client, f"in-{state}")
    opened = await shown(client, id)
    assert (opened["status"], "snoozed_until" in opened) == ("open", False)
    assert (await updates(client))[-1] == {"by": None, "status": "open"}


async def test_a_snoozed_conversation_opens_at_its_time(client: httpx.AsyncClient, database_url: str) -> None:
    id = await send(client)
    await change(client, id, snoozed_until=LATER.isoformat())
    passed = "UPDATE conversations SET snoozed_until = now() - interval '1 second' WHERE tenant_id = 1 AND id = %s"
    await asyncio.to_thread(execute, database_url, passed % id)
    await until(lambda: shown(client, id), lambda conversation: conversation["status"] == "open")
    assert (await updates(client))[-1] == {"by": None, "status": "open", "snoozed_until": None}


async def test_each_change_is_told_once_and_by_whom(serve: Serve, settings: Settings, database_url: str) -> None:
    client = await serve(production(settings))
    client.headers.update(bearer(make_key(database_url, name="Anna")))
    id = await send(client)
    await change(client, id, assignee="Ben", tags=["vip", "vip", " late "], status="closed")
    await change(client, id, assignee="Ben")
    await change(client, id, assignee=None)
    assert await updates(client) == [
        {"by": "Anna", "assignee": "Ben", "tags": ["vip", "late"], "status": "closed"},
        {"by": "Anna", "assignee": None},
    ]
    [message] = (await client.get(f"/api/conversations/{id}/messages")).json()
    assert message["author"] == "Anna"


@each_case(
    ("changes", "location"),
    [
        ({"status": "gone"}, "body.status"),
        ({"status": "closed", "snoozed_until": LATER.isoformat()}, "body.snoozed_until"),
        ({"snoozed_until": "2020-01-01T00:00:00Z"}, "body.snoozed_until"),
        ({"tags": ["x" * 51]}, "body.tags.0"),
        ({"tags": [" "]}, "body.tags.0"),
        ({"tags": [str(number) for number in range(21)]}, "body.tags"),
        ({"assignee": ""}, "body.assignee"),
        ({"assignee": "x" * 101}, "body.assignee"),
    ],
)
async def test_a_change_that_makes_no_sense_changes_nothing(
    client: httpx.AsyncClient, changes: dict[str, Any], location: str
) -> None:
    id = await send(client)
    before = await shown(client, id)
    answer = await client.patch(f"/api/conversations/{id}", json={"tags": ["kept"], **changes})
    assert locations_of(answer) == [location]
    assert await shown(client, id) == before


async def test_filters_find_conversations_and_combine(client: httpx.AsyncClient) -> None:
    numbers = [f"+1804555{1000 + number}" for number in range(12)]
    ids = [await send(client, to=number) for number in numbers]
    for place, id in enumerate(ids):
        await change(
            client,
            id,
            status=("open", "snoozed", "closed")[place % 3],
            assignee="Anna" if place % 2 else None,
            tags=["vip"] if place < 4 else [],
        )
    await receive(client, "in-1", from_=numbers[0])
    newest = list(reversed(ids))
    by_place = dict(enumerate(ids))
    assert set(await listed(client)) == set(ids)
    assert await listed(client, status="snoozed") == [by_place[place] for place in (10, 7, 4, 1)]
    assert set(await listed(client, assignee="Anna")) == {by_place[place] for place in range(1, 12, 2)}
    assert set(await listed(client, assignee="none")) == {by_place[place] for place in range(0, 12, 2)}
    assert await listed(client, unread="true") == [ids[0]]
    assert set(await listed(client, tag="vip")) == set(ids[:4])
    assert await listed(client, tag="vip", assignee="Anna", status="snoozed") == [by_place[1]]
    assert set(await listed(client, channel="sms")) == set(newest)
    assert await listed(client, channel="email") == []
    assert await listed(client, tag="none such") == []


@each_case("query", [{}, {"assignee": "Anna"}, {"channel": "sms"}])
async def test_a_filtered_list_is_walked_page_by_page_and_back(
    client: httpx.AsyncClient, query: dict[str, str]
) -> None:
    for number in range(11):
        id = await send(client, to=f"+1804555{1000 + number}")
        await change(client, id, status=("open", "snoozed", "closed")[number % 3], assignee="Anna")
    everything = await listed(client, **query)
    assert len(everything) == 11
    walked: list[int] = []
    answer = await client.get("/api/conversations", params={"limit": 3, **query})
    walked += [each["id"] for each in answer.json()]
    while "next" in answer.links:
        answer = await client.get(answer.links["next"]["url"])
        walked += [each["id"] for each in answer.json()]
    assert walked == everything
    answer = await client.get(answer.links["prev"]["url"])
    assert [each["id"] for each in answer.json()] == everything[6:9]


async def test_the_last_message_is_shown_where_it_is_asked_for(client: httpx.AsyncClient) -> None:
    await send(client)
    long = "ü" * 300
    await receive(client, "in-1", body=long, timestamp="2024-11-02T14:00:00Z")
    [plain] = (await client.get("/api/conversations")).json()
    [full] = (await client.get("/api/conversations", params={"include": "last_message"})).json()
    last = full.pop("last_message")
    assert full == plain
    assert (last["text"], last["direction"], last["channel"]) == (long[:200], "inbound", "sms")
    assert (last["status"], last["subject"], last["author"]) == ("received", None, None)


async def reply(client: httpx.AsyncClient, conversation_id: int, **body: Any) -> httpx.Response:
    return await client.post(f"/api/conversations/{conversation_id}/messages", json=body)


async def test_a_reply_goes_to_where_the_last_message_came_from(client: httpx.AsyncClient) -> None:
    await receive(client, "in-1")
    [conversation] = (await client.get("/api/conversations")).json()
    answer = await reply(client, conversation["id"], body="Yes, until six.")
    assert answer.status_code == 200, answer.text
    sent = (await client.get(f"/api/messages/{answer.json()['message_id']}")).json()
    assert (sent["from"], sent["to"], sent["channel"], sent["type"]) == (CUSTOMER, CONTACT, "sms", "sms")
    assert sent["conversation_id"] == conversation["id"]


async def test_a_reply_where_nothing_came_in_goes_where_the_last_one_went(client: httpx.AsyncClient) -> None:
    id = await send(client)
    answer = await reply(client, id, body="One more thing.", attachments=["https://example.com/cake.jpg"])
    sent = (await client.get(f"/api/messages/{answer.json()['message_id']}")).json()
    assert (sent["to"], sent["type"]) == (CONTACT, "mms")


async def test_a_reply_to_a_mail_continues_its_thread(client: httpx.AsyncClient) -> None:
    await client.post("/api/webhooks/email", json=email_webhook(subject="Rye bread"))
    [conversation] = (await client.get("/api/conversations")).json()
    answer = await reply(client, conversation["id"], body="Yes, until six.")
    sent = (await client.get(f"/api/messages/{answer.json()['message_id']}")).json()
    assert (sent["to"], sent["channel"], sent["conversation_id"]) == (CONTACT_EMAIL, "email", conversation["id"])


async def test_a_reply_is_sent_once_with_a_key(client: httpx.AsyncClient) -> None:
    id = await send(client)
    key = {"Idempotency-Key": "reply-1"}
    path = f"/api/conversations/{id}/messages"
    first = await client.post(path, json={"body": "Hello again!"}, headers=key)
    second = await client.post(path, json={"body": "Hello again!"}, headers=key)
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    problem_of(await client.post(path, json={"body": "Another one"}, headers=key), 422)


@each_case(
    ("body", "location"),
    [
        ({}, "body"),
        ({"body": " "}, "body"),
        ({"body": "x", "channel": "email"}, "body.channel"),
        ({"body": "x", "to": "nobody"}, "body.to"),
        ({"body": "x", "send_at": "yesterday"}, "body.send_at"),
    ],
)
async def test_a_reply_that_can_t_be_sent_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, str], location: str
) -> None:
    id = await send(client)
    before = await shown(client, id)
    assert locations_of(await reply(client, id, **body)) == [location]
    assert await shown(client, id) == before


async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    problem_of(await client.post("/api/conversations/99/read", json={}), 404)
    problem_of(await client.post("/api/conversations/99/messages", json={"body": "x"}), 404)
    problem_of(await client.patch("/api/conversations/99", json={"status": "closed"}), 404)


async def test_a_key_that_only_reads_changes_no_conversation(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings))
    client.headers.update(bearer(make_key(database_url)))
    path = f"/api/conversations/{await send(client)}"
    client.headers.update(bearer(make_key(database_url, scopes=(KeyScope.READ,))))
    problem_of(await client.patch(path, json={"status": "closed"}), 403)
    problem_of(await client.post(f"{path}/read", json={}), 403)
    problem_of(await client.post(f"{path}/messages", json={"body": "x"}), 403)
    assert (await client.get(path)).json()["status"] == "open"


async def test_a_mail_and_a_text_are_both_channels_of_their_conversations(client: httpx.AsyncClient) -> None:
    await send(client)
    await client.post("/api/messages/email", json=email())
    assert [each["channels"] for each in (await client.get("/api/conversations")).json()] == [["email"], ["sms"]]
