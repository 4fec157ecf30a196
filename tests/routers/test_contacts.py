"""A person's rights: to see everything that is stored about them, and to have it erased."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.db.models import Base
from app.domain import MessageStatus
from app.installation import KeyScope
from app.providers.base import OutboundMessage, ProviderResult, Receipt
from app.providers.registry import provider_registry
from app.services.callbacks.items import CallbackItems
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import CONTACT, CONTACT_EMAIL, CUSTOMER, email, sms, sms_webhook, until
from tests.logs import captured
from tests.tenancy import bearer, give_address, make_key, make_tenant, production
from tests.test_worker import Scripted
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
OTHER = "+18045559999"
TABLES = [table.name for table in Base.metadata.sorted_tables]


class Numbered(Scripted):
    """Takes everything, each under an id of its own."""

    def __init__(self) -> None:
        super().__init__(ProviderResult())

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        await super().send(payload)
        return ProviderResult(f"vendor-{payload.message_id}")


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Numbered:
    provider = Numbered()
    monkeypatch.setitem(provider_registry, "scripted", provider)
    return provider


@pytest.fixture
async def client(serve: Serve, settings: Settings, provider: Numbered) -> httpx.AsyncClient:
    changes = {"routes": {"sms": ["scripted"], "email": ["scripted"]}, "worker_poll_seconds": 0.05}
    return await serve(settings.model_copy(update=changes))


def events_of(client: httpx.AsyncClient) -> CallbackItems:
    events: CallbackItems = client._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    return events


def dump(database_url: str) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    return {
        table: [row for (row,) in rows_of(database_url, f"SELECT t::text FROM {table} t ORDER BY 1")]
        for table in TABLES
    }


async def contact_id(client: httpx.AsyncClient, address: str) -> int:
    [contact] = (await client.get("/api/contacts", params={"address": address})).json()
    return int(contact["id"])


async def sent(client: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Send a message, and wait until the provider has it; gives the message."""
    path = "/api/messages/" + ("email" if "@" in body["to"] else "sms")
    message_id = (await client.post(path, json=body, headers=headers)).json()["message_id"]

    async def ask() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
        return found

    return await until(ask, lambda message: message["status"] in {"sent", "delivered"})


async def talk(client: httpx.AsyncClient, *, to: str, mark: str) -> None:
    """All that can be stored about a person, with `mark` in every free text."""
    message = await sent(client, sms(to=to, body=f"body {mark}"), **{"Idempotency-Key": f"key-{mark}"})
    raw = {"To": to, "note": f"raw {mark}"}
    vendor_id = message["provider_message_id"]
    detail = f"detail {mark}"
    receipt = Receipt(f"event-{mark}", MessageStatus.DELIVERED, vendor_id, detail=detail, raw=raw)
    await events_of(client).accept("scripted", receipt)
    inbound = sms_webhook(from_=to, body=f"answer {mark}", messaging_provider_id=f"inbound-{mark}")
    assert (await client.post("/api/webhooks/sms", json=inbound)).status_code == 200
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    scheduled = (await client.post("/api/messages/sms", json=sms(to=to, body=mark, send_at=later))).json()
    assert (await client.post(f"/api/messages/{scheduled['message_id']}/cancel")).status_code == 200
    await client.post("/api/messages/sms", json=sms(to=to, body=f"scheduled {mark}", send_at=later))


@each_case(
    ("query", "found"),
    [
        ("address=%2B18045551234", CONTACT),
        ("address=+1 804-555-1234", CONTACT),
        ("address=(804) 555-1234", CONTACT),
        ("address=contact@EXAMPLE.com", CONTACT_EMAIL),
        ("address=Jane <contact@example.com>", CONTACT_EMAIL),
        ("address=%2B18045550000", None),
    ],
)
async def test_a_contact_is_found_by_any_spelling_of_its_address(
    client: httpx.AsyncClient, query: str, found: str | None
) -> None:
    await client.post("/api/messages/sms", json=sms())
    await client.post("/api/messages/email", json=email())
    contacts = (await client.get(f"/api/contacts?{query}")).json()
    assert [contact["address"] for contact in contacts] == ([found] if found else [])
    for contact in contacts:
        assert (await client.get(f"/api/contacts/{contact['id']}")).json() == contact | {"refusals": []}


async def test_a_plus_that_a_query_turns_into_a_space_is_read_as_a_plus(serve: Serve, settings: Settings) -> None:
    client = await serve(settings.model_copy(update={"default_region": "US"}))
    await client.post("/api/messages/sms", json=sms(to="+493012345678"))
    [contact] = (await client.get("/api/contacts?address=+493012345678")).json()
    assert contact["address"] == "+493012345678"


@each_case("address", ["", "x@", "+", "%00", "%0a1"])
async def test_what_is_no_address_is_said_so(untouched: httpx.AsyncClient, address: str) -> None:
    assert locations_of(await untouched.get(f"/api/contacts?address={address}")) == ["query.address"]


async def test_contacts_are_listed_page_by_page(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await client.post("/api/messages/sms", json=sms(to=f"+1804555100{number}"))
    listed, url = [], "/api/contacts?limit=2"
    while url:
        page = await client.get(url)
        assert len(page.json()) <= 2
        listed += [contact["address"] for contact in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert listed == [CUSTOMER, "+18045551000", "+18045551001", "+18045551002"]


@each_case(
    ("method", "path"),
    [("GET", "/api/contacts/{}"), ("GET", "/api/contacts/{}/export"), ("DELETE", "/api/contacts/{}")],
)
async def test_nobody_is_found_where_nobody_is(untouched: httpx.AsyncClient, method: str, path: str) -> None:
    for id in ("1", str(2**63 - 1)):
        assert problem_of(await untouched.request(method, path.format(id)), 404)["title"] == "Contact not found"


async def test_the_export_holds_everything_and_nothing_of_anybody_else(client: httpx.AsyncClient) -> None:
    await talk(client, to=CONTACT, mark="hers")
    await talk(client, to=OTHER, mark="others")
    response = await client.get(f"/api/contacts/{await contact_id(client, CONTACT)}/export")
    assert response.headers["content-type"] == "application/json"
    exported = response.json()
    assert exported["contact"]["address"] == CONTACT
    [conversation] = exported["conversations"]
    assert conversation["contact_address"] == CONTACT
    assert conversation["message_count"] == len(conversation["messages"]) == 4
    by_body = {message["body"]: message for message in conversation["messages"]}
    assert set(by_body) == {"body hers", "answer hers", "hers", "scheduled hers"}
    first = by_body["body hers"]
    assert first["idempotency_key"] == "key-hers"
    assert first["attempts"][0]["outcome"] == "accepted"
    assert [receipt["raw"] for receipt in first["receipts"]] == [{"To": CONTACT, "note": "raw hers"}]
    assert [event["kind"] for event in by_body["hers"]["history"]] == ["canceled"]
    for other in ("others", OTHER):
        assert other not in response.text


async def test_an_export_of_many_pages_is_whole_and_in_order(client: httpx.AsyncClient) -> None:
    for own in range(3):
        for number in range(60 if own == 1 else 1):
            body = sms(from_=f"+1201666123{own}", body=f"{own} {number}", send_at="2027-01-01T00:00:00Z")
            await client.post("/api/messages/sms", json=body)
    exported = (await client.get(f"/api/contacts/{await contact_id(client, CONTACT)}/export")).json()
    found = [[message["body"] for message in each["messages"]] for each in exported["conversations"]]
    assert found == [["0 0"], [f"1 {number}" for number in range(60)], ["2 0"]]


async def test_one_who_was_never_written_to_is_exported_without_conversations(client: httpx.AsyncClient) -> None:
    await client.post("/api/messages/sms", json=sms())
    exported = (await client.get(f"/api/contacts/{await contact_id(client, CUSTOMER)}/export")).json()
    assert exported["conversations"] == []


async def are_indexed(database_url: str) -> None:
    """Return once a search finds everything."""

    async def queued() -> list[tuple[Any, ...]]:
        return rows_of(database_url, "SELECT subject_id FROM search_queue")

    await until(queued, lambda rows: rows == [])


async def test_nothing_of_an_erased_person_is_left_in_any_table(
    client: httpx.AsyncClient, database_url: str, provider: Numbered
) -> None:
    await talk(client, to=OTHER, mark="others")
    await are_indexed(database_url)
    before = dump(database_url)
    await talk(client, to=CONTACT, mark="hers")
    await are_indexed(database_url)
    assert sum("hers" in row or CONTACT in row for rows in dump(database_url).values() for row in rows) >= 8

    log = captured()
    response = await client.delete(f"/api/contacts/{await contact_id(client, CONTACT)}")
    assert response.json() == {
        "contacts": 1,
        "conversations": 1,
        "messages": 4,
        "attempts": 1,
        "receipts": 1,
        "events": 1,
        "files": 0,
        "webhook_calls": 0,
        "named_in": 0,
    }
    after = dump(database_url)
    for table, rows in after.items():
        for mark in ("hers", CONTACT, CONTACT.removeprefix("+"), "8045551234", "vendor-5"):
            written = mark.replace("hers", " hers"), f"-{mark}", f":{mark}"
            assert [row for row in rows if any(each in row for each in written)] == [], table
    added_to = {"audit_events", "events"}  # of ids alone, so that nothing in them has to be erased
    added_to.add("shared_tasks")  # by the worker, at any time
    kept = {name: rows for name, rows in after.items() if name not in added_to}
    assert kept == {name: rows for name, rows in before.items() if name not in added_to}
    [event] = rows_of(database_url, "SELECT kind, detail FROM audit_events WHERE kind = 'contact_erased'")
    assert set(event[1]) == {"contact_id"}
    assert CONTACT not in log.getvalue()
    assert "hers" not in log.getvalue()
    assert "contact_erased" in log.getvalue()
    problem_of(await client.delete(f"/api/contacts/{event[1]['contact_id']}"), 404)


async def test_the_event_log_shows_nothing_of_an_erased_person(client: httpx.AsyncClient, database_url: str) -> None:
    await talk(client, to=OTHER, mark="others")
    await talk(client, to=CONTACT, mark="hers")
    erased = await contact_id(client, CONTACT)
    conversation = (await client.get("/api/conversations")).json()[0]["id"]

    async def read() -> tuple[str, list[dict[str, Any]]]:
        answer = await client.get("/api/events", params={"limit": 500})
        return answer.text, answer.json()["events"]

    before, events = await until(read, lambda found: found[0].count(f'"conversation_id":{conversation},') >= 8)
    assert " hers" in before
    assert CONTACT in before
    await client.delete(f"/api/contacts/{erased}")
    shown, after = await until(read, lambda found: found[1][-1]["type"] == "contact.erased")
    assert [mark for mark in (" hers", "-hers", CONTACT, "8045551234") if mark in shown] == []
    assert "body others" in shown
    assert [event["id"] for event in after[: len(events)]] == [event["id"] for event in events]
    about = [event["data"] for event in after if event["data"].get("conversation_id") == conversation]
    assert len(about) >= 8
    assert {data.get("message") or data.get("conversation") for data in about} == {None}
    assert {str(event["data"]["contact"]) for event in after if event["data"].get("contact_id") == erased} == {"None"}
    assert rows_of(database_url, "SELECT count(*) FROM events WHERE facts IS NOT NULL") == [(0,)]


async def test_a_late_receipt_brings_nobody_back(client: httpx.AsyncClient, database_url: str) -> None:
    message = await sent(client, sms())
    await client.delete(f"/api/contacts/{await contact_id(client, CONTACT)}")
    receipt = Receipt("late", MessageStatus.DELIVERED, message["provider_message_id"], raw={"To": CONTACT})
    await events_of(client).accept("scripted", receipt)
    assert rows_of(database_url, "SELECT message_id FROM provider_events") == [(None,)]
    assert (await client.get("/api/contacts", params={"address": CONTACT})).json() == []
    assert (await client.get("/api/conversations")).json() == []
    problem_of(await client.get(f"/api/messages/{message['id']}"), 404)


async def test_parked_receipts_of_an_erased_message_go_with_it(client: httpx.AsyncClient, database_url: str) -> None:
    message = await sent(client, sms())
    # As when it crossed the recording of the attempt on its way, and no sweep has come by yet.
    execute(
        database_url,
        "INSERT INTO provider_events (tenant_id, provider_type, event_id, provider_message_id, raw, received_at)"
        f" VALUES (1, 'scripted', 'crossed', '{message['provider_message_id']}', '{{}}', now() - interval '2 days')",
    )
    erased = (await client.delete(f"/api/contacts/{await contact_id(client, CONTACT)}")).json()
    assert erased["receipts"] == 1
    assert rows_of(database_url, "SELECT * FROM provider_events") == []


@pytest.mark.parametrize("known_by", ["what it sent", "who owns it"])
async def test_an_address_of_ones_own_is_not_erased(
    client: httpx.AsyncClient, database_url: str, known_by: str
) -> None:
    if known_by == "what it sent":
        await client.post("/api/messages/sms", json=sms())
        own = CUSTOMER
    else:
        await client.post("/api/messages/sms", json=sms())
        give_address(database_url, 1, CONTACT)
        own = CONTACT
    before = rows_of(database_url, "SELECT id, address FROM contacts ORDER BY id")
    refused = await client.delete(f"/api/contacts/{await contact_id(client, own)}")
    assert "of your own" in problem_of(refused, 409)["detail"]
    assert rows_of(database_url, "SELECT id, address FROM contacts ORDER BY id") == before
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(1,)]
    assert rows_of(database_url, "SELECT count(*) FROM audit_events WHERE kind = 'contact_erased'") == [(0,)]


async def test_what_is_said_after_an_erasure_begins_anew(client: httpx.AsyncClient) -> None:
    first = (await client.post("/api/messages/sms", json=sms())).json()
    old = await contact_id(client, CONTACT)
    await client.delete(f"/api/contacts/{old}")
    again = (await client.post("/api/messages/sms", json=sms())).json()
    assert again["conversation_id"] != first["conversation_id"]
    assert await contact_id(client, CONTACT) != old
    assert len((await client.get("/api/conversations")).json()) == 1


async def test_an_idempotency_key_is_free_again_after_an_erasure(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "one"}
    await client.post("/api/messages/sms", json=sms(), headers=headers)
    await client.delete(f"/api/contacts/{await contact_id(client, CONTACT)}")
    answer = await client.post("/api/messages/sms", json=sms(body="Another."), headers=headers)
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers


async def test_the_same_address_of_another_tenant_stays(serve: Serve, settings: Settings, database_url: str) -> None:
    client = await serve(production(settings))
    acme_id = make_tenant(database_url)
    give_address(database_url, acme_id, "+12025550100")
    first, acme = bearer(make_key(database_url)), bearer(make_key(database_url, acme_id))
    await client.post("/api/messages/sms", json=sms(), headers=first)
    await client.post("/api/messages/sms", json=sms(from_="+12025550100"), headers=acme)
    [(own,)] = rows_of(database_url, f"SELECT id FROM contacts WHERE tenant_id = 1 AND address = '{CONTACT}'")
    [(theirs,)] = rows_of(
        database_url, f"SELECT id FROM contacts WHERE tenant_id = {acme_id} AND address = '{CONTACT}'"
    )
    for method, path in (("GET", ""), ("GET", "/export"), ("DELETE", "")):
        problem_of(await client.request(method, f"/api/contacts/{theirs}{path}", headers=first), 404)
    assert (await client.delete(f"/api/contacts/{own}", headers=first)).status_code == 200
    left = rows_of(database_url, "SELECT tenant_id, contact_address FROM conversations")
    assert left == [(acme_id, CONTACT)]
    assert rows_of(database_url, f"SELECT tenant_id FROM contacts WHERE address = '{CONTACT}'") == [(acme_id,)]
    assert rows_of(database_url, "SELECT tenant_id FROM messages") == [(acme_id,)]


@each_case("scope", KeyScope)
async def test_reading_takes_the_scope_read_and_erasing_the_scope_admin(
    serve: Serve, settings: Settings, database_url: str, scope: KeyScope
) -> None:
    client = await serve(production(settings))
    await client.post("/api/messages/sms", json=sms(), headers=bearer(make_key(database_url)))
    [(person,)] = rows_of(database_url, f"SELECT id FROM contacts WHERE address = '{CONTACT}'")
    key = bearer(make_key(database_url, scopes=(scope,)))
    answers = {
        "list": await client.get("/api/contacts", headers=key),
        "get": await client.get(f"/api/contacts/{person}", headers=key),
        "export": await client.get(f"/api/contacts/{person}/export", headers=key),
        "erase": await client.delete(f"/api/contacts/{person}", headers=key),
    }
    allowed = {name for name, answer in answers.items() if answer.status_code == 200}
    refused = {name for name, answer in answers.items() if answer.status_code == 403}
    expected = {KeyScope.READ: {"list", "get", "export"}, KeyScope.ADMIN: {"erase"}}.get(scope, set())
    assert allowed == expected
    assert refused == set(answers) - expected


async def test_how_long_a_tenants_messages_are_kept_is_set_by_an_administrator(
    client: httpx.AsyncClient, database_url: str
) -> None:
    assert (await client.get("/api/admin/tenants")).json()[0]["retention_days"] is None
    for days in (30, None):
        changed = await client.patch("/api/admin/tenants/1", json={"retention_days": days})
        assert changed.json()["retention_days"] == days
        assert (await client.get("/api/admin/tenants")).json()[0]["retention_days"] == days
    for wrong in ({"retention_days": 0}, {"retention_days": 36501}, {"retention_days": "x"}):
        response = await client.patch("/api/admin/tenants/1", json=wrong)
        assert locations_of(response) == ["body.retention_days"]
    problem_of(await client.patch("/api/admin/tenants/9", json={"retention_days": 1}), 404)
    recorded = rows_of(database_url, "SELECT detail FROM audit_events WHERE kind = 'retention_set' ORDER BY id")
    assert [json.dumps(detail) for (detail,) in recorded] == ['{"days": 30}', '{"days": null}']
