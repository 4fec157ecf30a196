"""Search over HTTP: what is found while the service runs, pages, refusals, and the erasure of a person."""

import re
from typing import Any

import httpx
import pytest

from app.schemas.search import ContactHit, MessageHit
from tests.cases import each_case
from tests.factories import CONTACT, email_webhook, sms, sms_webhook, until
from tests.wire import locations_of, problem_of

pytestmark = pytest.mark.anyio

Hits = list[dict[str, Any]]


async def found(client: httpx.AsyncClient, q: str, **query: str) -> Hits:
    answer = await client.get("/api/search", params={"q": q, **query})
    assert answer.status_code == 200, answer.text
    return list(answer.json())


async def when_found(client: httpx.AsyncClient, q: str, count: int, **query: str) -> Hits:
    return await until(lambda: found(client, q, **query), lambda hits: len(hits) == count)


async def test_what_is_sent_and_what_arrives_is_found_soon(client: httpx.AsyncClient) -> None:
    sent = (await client.post("/api/messages/sms", json=sms(body="Your parcel is on its way"))).json()
    await client.post("/api/webhooks/sms", json=sms_webhook(body="Which parcel do you mean?"))
    inbound, outbound = await when_found(client, "parcel", 2)
    assert (outbound["message_id"], outbound["conversation_id"]) == (int(sent["message_id"]), sent["conversation_id"])
    assert (inbound["direction"], outbound["direction"]) == ("inbound", "outbound")
    for hit in (inbound, outbound):
        assert MessageHit.model_validate(hit).kind == "message"
        assert [part["text"] for part in hit["snippet"] if part["match"]] == ["parcel"]


async def test_a_person_is_found_by_a_part_of_the_number_and_by_a_name_that_is_set(client: httpx.AsyncClient) -> None:
    await client.post("/api/messages/sms", json=sms())
    [hit] = await when_found(client, "(804) 555-12", 1)
    assert ContactHit.model_validate(hit).address == CONTACT
    await client.patch(f"/api/contacts/{hit['contact_id']}", json={"name": "Jane Doe"})
    [named] = await when_found(client, "doe", 1)
    assert named == hit | {"name": "Jane Doe"}
    await client.patch(f"/api/contacts/{hit['contact_id']}", json={"name": None})
    await when_found(client, "doe", 0)


async def test_an_erased_person_is_not_found_any_more(client: httpx.AsyncClient) -> None:
    await client.post("/api/webhooks/email", json=email_webhook(body="a private word"))
    [hit] = await when_found(client, "private", 1)
    [person] = await found(client, "contact@")
    assert (await client.delete(f"/api/contacts/{person['contact_id']}")).status_code == 200
    assert await found(client, "private") == await found(client, "contact@") == []
    assert (await client.get(f"/api/messages/{hit['message_id']}")).status_code == 404


async def test_the_link_header_leads_through_all_pages(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.post("/api/messages/sms", json=sms(body=f"parcel & more {number}"))
    await when_found(client, "parcel & more", 5)
    seen, path = [], "/api/search?q=parcel+%26+more&limit=2"
    while path:
        answer = await client.get(path)
        seen += [hit["message_id"] for hit in answer.json()]
        match = re.search(r'<([^>]+)>; rel="next"', answer.headers.get("link", ""))
        path = match[1] if match else ""
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 5


async def test_one_kind_can_be_asked_for(client: httpx.AsyncClient) -> None:
    await client.post("/api/messages/sms", json=sms(body="call 8045551234"))
    await when_found(client, "8045551234", 2)
    for kind in ("contact", "message"):
        assert [hit["kind"] for hit in await found(client, "8045551234", kind=kind)] == [kind]
    assert await found(client, "8045551234", kind="tag") == []


@each_case(
    ("query", "location"),
    [
        ({}, "query.q"),
        ({"q": ""}, "query.q"),
        ({"q": "a" * 501}, "query.q"),
        ({"q": "a " * 1_000}, "query.q"),
        ({"q": "a", "kind": "file"}, "query.kind"),
        ({"q": "a", "limit": "0"}, "query.limit"),
        ({"q": "a", "cursor": "m0"}, "query.cursor"),
        ({"q": "a", "cursor": "c1", "kind": "message"}, "query.cursor"),
    ],
)
async def test_a_wrong_search_is_refused(untouched: httpx.AsyncClient, query: dict[str, str], location: str) -> None:
    refused = await untouched.get("/api/search", params=query)
    assert locations_of(refused) == [location]


async def test_a_search_that_is_far_too_long_is_refused(untouched: httpx.AsyncClient) -> None:
    problem_of(await untouched.get("/api/search", params={"q": "a" * 10_000}), 414)


@each_case("q", [" ", "...!?", '"', '"""', "\x00", "👍", "a" * 500, "' OR 1=1 --", ":*", "%_\\"])
async def test_an_odd_search_finds_nothing(untouched: httpx.AsyncClient, q: str) -> None:
    assert await found(untouched, q) == []
