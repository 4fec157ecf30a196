"""Metadata of messages, conversations and contacts: stored, shown, found, merged, removed; names of contacts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.cases import each_case
from tests.factories import CONTACT, CONTACT_EMAIL, SENDS, email, email_webhook, sms, sms_webhook
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

_LATER = (datetime.now(UTC) + timedelta(days=30)).isoformat()
PAIRS = {"order": "17", "a.b_c-D": 'ü “quoted” 😀 \\ " \n', "empty": ""}


async def send(client: httpx.AsyncClient, path: str = "/api/messages/sms", **changes: Any) -> dict[str, Any]:
    answer = await client.post(path, json=SENDS[path](**changes))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def found(client: httpx.AsyncClient, path: str, **query: str) -> list[int]:
    answer = await client.get(path, params={name.replace("__", "."): value for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()]


@pytest.mark.parametrize("path", SENDS)
async def test_the_metadata_of_a_send_is_shown_wherever_the_message_is(client: httpx.AsyncClient, path: str) -> None:
    sent = await send(client, path, metadata=PAIRS)
    detail = (await client.get(f"/api/messages/{sent['message_id']}")).json()
    [listed] = (await client.get("/api/messages")).json()
    [in_thread] = (await client.get(f"/api/conversations/{sent['conversation_id']}/messages")).json()
    events = (await client.get("/api/events", params={"types": "message.accepted"})).json()["events"]
    told = events[0]["data"]["message"]
    contact = (await contact_of(client, CONTACT_EMAIL if path.endswith("email") else CONTACT))["id"]
    export = (await client.get(f"/api/contacts/{contact}/export")).json()
    exported = export["conversations"][0]["messages"][0]
    for each in (detail, listed, in_thread, told, exported):
        assert each["metadata"] == PAIRS


async def test_a_message_without_metadata_shows_none(client: httpx.AsyncClient) -> None:
    values: list[dict[str, str] | None] = [{}, None]
    for value in values:
        sent = await send(client, metadata=value)
        assert "metadata" not in (await client.get(f"/api/messages/{sent['message_id']}")).json()


async def test_messages_are_found_by_their_pairs_newest_first(client: httpx.AsyncClient) -> None:
    ids = [
        int((await send(client, metadata={"order": str(number % 2), "number": str(number)}))["message_id"])
        for number in range(6)
    ]
    await send(client, metadata={"other": "0"})
    assert await found(client, "/api/messages", metadata__order="0") == ids[4::-2]
    assert await found(client, "/api/messages", metadata__order="1", metadata__number="3") == [ids[3]]
    assert await found(client, "/api/messages", metadata__order="1", metadata__number="2") == []
    assert await found(client, "/api/messages", metadata__order="2") == []
    assert await found(client, "/api/messages", metadata__order="0", since="2020-01-01T00:00:00Z") == ids[4::-2]
    assert await found(client, "/api/messages", metadata__order="0", until="2020-01-01T00:00:00Z") == []
    conversation = str((await client.get(f"/api/messages/{ids[0]}")).json()["conversation_id"])
    assert await found(client, "/api/messages", metadata__order="0", conversation_id=conversation) == ids[4::-2]


async def test_a_pair_combines_with_status_and_provider(client: httpx.AsyncClient) -> None:
    waiting = await send(client, metadata={"order": "17"}, send_at=_LATER)
    gone = await send(client, metadata={"order": "17"}, send_at=_LATER)
    assert (await client.post(f"/api/messages/{gone['message_id']}/cancel")).status_code == 200
    await client.post("/api/webhooks/sms", json=sms_webhook())
    by_pair = {"metadata__order": "17"}
    assert await found(client, "/api/messages", **by_pair, status="canceled") == [int(gone["message_id"])]
    assert await found(client, "/api/messages", **by_pair, status="scheduled") == [int(waiting["message_id"])]
    assert await found(client, "/api/messages", **by_pair, provider="sms") == []


async def test_pages_of_what_is_found_join_without_a_gap(client: httpx.AsyncClient) -> None:
    ids = [int((await send(client, metadata={"order": "17"}))["message_id"]) for _ in range(5)]
    path, seen, back = "/api/messages?metadata.order=17&limit=2", [], ""
    while path:
        answer = await client.get(path)
        seen += [each["id"] for each in answer.json()]
        path, back = answer.links.get("next", {}).get("url", ""), answer.links.get("prev", {}).get("url", back)
    assert seen == ids[::-1]
    assert [each["id"] for each in (await client.get(back)).json()] == ids[2:0:-1]


#: Metadata that a send refuses.
BAD = [
    {"": "x"},
    {"a b": "x"},
    {"ä": "x"},
    {"k" * 41: "x"},
    {"key": "v" * 501},
    {"key": "nul\x00"},
    {"key": 1},
    {"key": None},
    {"key": ["x"]},
    {f"k{number}": "x" for number in range(21)},
    ["order"],
    "order=17",
]


@each_case("metadata", BAD)
async def test_metadata_that_is_not_pairs_of_texts_is_refused(untouched: httpx.AsyncClient, metadata: Any) -> None:
    for path, body in SENDS.items():
        problem = problem_of(await untouched.post(path, json=body(metadata=metadata)), 422)
        assert all(each["location"].startswith("body.metadata") for each in problem["errors"])


@each_case("query", ["metadata.=1", "metadata.a%20b=1", "metadata.a=1&metadata.a=2", "metadata.a=" + "v" * 501])
async def test_a_query_that_no_metadata_can_have_is_refused(untouched: httpx.AsyncClient, query: str) -> None:
    for path in ("/api/messages", "/api/conversations", "/api/contacts"):
        problem = problem_of(await untouched.get(f"{path}?{query}"), 422)
        assert problem["errors"][0]["location"].startswith("query.metadata")


async def test_equal_metadata_in_another_order_is_the_same_request(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "one"}
    first, again = [
        await client.post("/api/messages/sms", json=sms(metadata=metadata), headers=key)
        for metadata in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    ]
    assert first.json() == again.json()
    other = await client.post("/api/messages/sms", json=sms(metadata={"a": "1"}), headers=key)
    assert other.status_code == 422


@each_case("kind", ["conversations", "contacts"])
async def test_metadata_is_merged_found_and_removed(client: httpx.AsyncClient, kind: str) -> None:
    sent = await send(client)
    id = sent["conversation_id"] if kind == "conversations" else 1
    path = f"/api/{kind}/{id}"

    async def change(metadata: Any) -> Any:
        answer = await client.patch(path, json={"metadata": metadata})
        assert answer.status_code == 200, answer.text
        [listed] = [each for each in (await client.get(f"/api/{kind}")).json() if each["id"] == id]
        assert listed.get("metadata") == answer.json().get("metadata")
        return answer.json().get("metadata")

    assert await change(PAIRS) == PAIRS
    assert await found(client, f"/api/{kind}", metadata__order="17") == [id]
    assert await change({"order": "18", "empty": None, "never": None}) == {k: PAIRS[k] for k in ("a.b_c-D",)} | {
        "order": "18"
    }
    assert await found(client, f"/api/{kind}", metadata__order="17") == []
    assert await found(client, f"/api/{kind}", metadata__order="18", **{"metadata__a.b_c-D": PAIRS["a.b_c-D"]}) == [
        id
    ]
    assert await change({}) is not None
    assert await change({"order": None, "a.b_c-D": None}) is None
    assert await found(client, f"/api/{kind}", metadata__order="18") == []


@each_case("kind", ["conversations", "contacts"])
async def test_a_change_that_is_wrong_changes_nothing(
    client: httpx.AsyncClient, database_url: str, kind: str
) -> None:
    await send(client)
    path = f"/api/{kind}/1"
    full = {f"k{number}": "x" for number in range(20)}
    assert (await client.patch(path, json={"metadata": full})).status_code == 200
    before = rows_of(database_url, "SELECT * FROM metadata_entries ORDER BY 1, 2, 3, 4, 5")
    too_many = problem_of(await client.patch(path, json={"metadata": {"k0": "new", "one": "more"}}), 422)
    assert too_many["errors"][0]["location"] == "body.metadata"
    for metadata in BAD:
        if metadata != {"key": None}:
            problem_of(await client.patch(path, json={"metadata": metadata}), 422)
    problem_of(await client.patch(path, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    problem_of(await client.patch(f"/api/{kind}/999", json={"metadata": {"a": "b"}}), 404)
    assert rows_of(database_url, "SELECT * FROM metadata_entries ORDER BY 1, 2, 3, 4, 5") == before
    assert (await client.patch(path, json={"metadata": {"k0": None, "one": "more"}})).status_code == 200


async def test_removal_takes_what_finds_the_rows(client: httpx.AsyncClient, database_url: str) -> None:
    sent = await send(client, metadata={"order": "17"})
    for path in (f"/api/conversations/{sent['conversation_id']}", "/api/contacts/2"):
        assert (await client.patch(path, json={"metadata": {"order": "17"}})).status_code == 200
    assert rows_of(database_url, "SELECT count(*) FROM metadata_entries") == [(3,)]
    [contact] = (await client.get("/api/contacts", params={"address": CONTACT})).json()
    assert (await client.delete(f"/api/contacts/{contact['id']}")).status_code == 200
    left = rows_of(database_url, "SELECT subject, subject_id FROM metadata_entries")
    assert left == ([] if contact["id"] == 2 else [("contact", 2)])


async def contact_of(client: httpx.AsyncClient, address: str) -> dict[str, Any]:
    [contact] = (await client.get("/api/contacts", params={"address": address})).json()
    return dict(contact)


async def test_a_contact_keeps_the_first_name_that_a_message_tells(client: httpx.AsyncClient) -> None:
    await client.post("/api/webhooks/email", json=email_webhook(from_="ann@example.org", xillio_id="0"))
    assert "name" not in await contact_of(client, "ann@example.org")
    for number, name in enumerate(["Ann Roe", "Someone Else"], start=1):
        body = email_webhook(from_=f"{name} <ann@example.org>", xillio_id=str(number))
        assert (await client.post("/api/webhooks/email", json=body)).status_code == 200
        assert (await contact_of(client, "ann@example.org"))["name"] == "Ann Roe"
    [conversation] = (await client.get("/api/conversations")).json()
    assert conversation["contact_name"] == "Ann Roe"


async def test_a_first_message_names_its_contact(client: httpx.AsyncClient) -> None:
    await client.post("/api/webhooks/email", json=email_webhook(from_="Bo <bo@example.org>", xillio_id="1"))
    await client.post("/api/messages/email", json=email(to="Cy Roe <cy@example.org>"))
    assert (await contact_of(client, "bo@example.org"))["name"] == "Bo"
    assert (await contact_of(client, "cy@example.org"))["name"] == "Cy Roe"


async def test_a_name_of_the_team_is_not_overwritten(client: httpx.AsyncClient) -> None:
    await client.post("/api/webhooks/email", json=email_webhook(from_="Bo <bo@example.org>", xillio_id="1"))
    contact = await contact_of(client, "bo@example.org")
    path = f"/api/contacts/{contact['id']}"
    changed = await client.patch(path, json={"name": "  Bo Smith "})
    assert changed.json()["name"] == "Bo Smith"
    assert (await client.patch(path, json={"metadata": {"a": "b"}})).json()["name"] == "Bo Smith"
    assert "name" not in (await client.patch(path, json={"name": None})).json()
    await client.post("/api/webhooks/email", json=email_webhook(from_="Bo <bo@example.org>", xillio_id="2"))
    assert "name" not in await contact_of(client, "bo@example.org")
    for bad in ("", "  ", "a\nb", "x" * 201, 5):
        problem_of(await client.patch(path, json={"name": bad}), 422)
