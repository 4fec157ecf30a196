"""The list of refusals: looked up, added to one by one and in bulk, and lifted."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from app.services.consent.hashes import AddressHashes
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import CONTACT, CONTACT_EMAIL, CUSTOMER, email, sms, sms_webhook
from tests.tenancy import bearer, give_address, insert, make_key, make_tenant
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

PATH, BATCH = "/api/suppressions", "/api/suppressions/batch"
LINES = {"Content-Type": "application/jsonl"}
Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def client(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """Without a worker: nothing is sent."""
    return await serve(settings.model_copy(update={"worker_enabled": False}))


async def added(client: httpx.AsyncClient, address: str = CONTACT, **values: object) -> dict[str, Any]:
    answer = await client.post(PATH, json={"address": address} | values)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def listed(client: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    answer = await client.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


async def imported(client: httpx.AsyncClient, *lines: dict[str, Any] | str) -> dict[str, Any]:
    content = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    answer = await client.post(BATCH, content=content.encode(), headers=LINES)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def texts_stop(client: httpx.AsyncClient) -> int:
    """The id of the refusal of a person who has texted STOP."""
    assert (await client.post("/api/webhooks/sms", json=sms_webhook(body="STOP"))).status_code == 200
    [refusal] = await listed(client, source="keyword")
    return int(refusal["id"])


def refuse_as_erased(url: str, settings: Settings, address: str, **values: object) -> None:
    """A refusal of a person who was erased."""
    [hash, *_] = AddressHashes(settings.consent_secrets).of(1, address)
    given = {"scope": "everything", "scope_value": "", "source": "keyword"} | values
    key = (hash, "phone", given["scope"], given["scope_value"], given["source"])
    entry_id = insert(
        url,
        "INSERT INTO consent_entries (tenant_id, action, address, address_type, scope, scope_value, source)"
        " VALUES (1, 'revoked', %s, %s, %s, %s, %s) RETURNING id",
        key,
    )
    insert(
        url,
        "INSERT INTO suppressions (tenant_id, is_hashed, address, address_type, scope, scope_value, source, entry_id)"
        " VALUES (1, true, %s, %s, %s, %s, %s, %s) RETURNING id",
        (*key, entry_id),
    )


async def test_a_refusal_is_added_found_and_told_with_its_evidence(client: httpx.AsyncClient) -> None:
    made = await added(client, "(804) 555-1234", detail="By phone, to Jane.")
    today = datetime.now(UTC)
    shown = {"id": made["id"], "address": CONTACT, "type": "phone", "erased": False, "source": "api"}
    shown |= {"scope": "everything", "scope_value": None, "created_at": made["created_at"]}
    date = f"{today.day} {today:%B %Y}"
    assert made["sentence"] == f"The recipient is on the list of refusals, by the API since {date}."
    entry = {"action": "revoked", "detail": "By phone, to Jane.", "address": CONTACT, "message_id": None}
    assert made["entry"] == made["entry"] | entry
    assert {name: made[name] for name in shown} == shown
    assert set(made) == {*shown, "sentence", "entry"}
    assert (await client.get(f"{PATH}/{made['id']}")).json() == made
    for query in ({}, {"address": "+1 804 555-1234"}, {"source": "api"}, {"scope": "everything"}):
        assert await listed(client, **query) == [shown]
    for query in ({"address": "+18045550000"}, {"source": "import"}, {"scope": "topic"}, {"scope_value": "x"}):
        assert await listed(client, **query) == []
    again = await client.post(PATH, json={"address": f"whatsapp:{CONTACT}"})
    assert (again.status_code, again.json()) == (200, made)
    problem_of(await client.get(f"{PATH}/999"), 404)


async def test_a_stop_is_told_with_its_date_and_its_message(client: httpx.AsyncClient) -> None:
    found = (await client.get(f"{PATH}/{await texts_stop(client)}")).json()
    today = datetime.now(UTC)
    assert found["sentence"] == f"The recipient has texted STOP on {today.day} {today:%B %Y} (message 1)."
    assert (found["entry"]["message_id"], found["entry"]["detail"]) == (1, "STOP")


async def test_a_refusal_is_about_a_channel_a_sender_or_a_topic(client: httpx.AsyncClient) -> None:
    scopes = [("channel", "sms", "sms"), ("sender", "(201) 666-1234", CUSTOMER), ("topic", "offers", "offers")]
    for scope, written, stored in scopes:
        made = await added(client, scope=scope, scope_value=written)
        assert made["scope_value"] == stored
        assert made["sentence"].endswith(f", for the {scope} {stored}.")
    assert len(await listed(client)) == 3
    [found] = await listed(client, scope="topic", scope_value="offers")
    assert found["scope"] == "topic"
    assert [each["scope"] for each in await listed(client, scope="sender", scope_value="201-666-1234")] == ["sender"]


async def test_an_address_that_is_added_gets_no_message(serve: Serve, settings: Settings) -> None:
    client = await serve(settings.model_copy(update={"worker_poll_seconds": 0.05}))
    await added(client, CONTACT_EMAIL.upper(), scope="channel", scope_value="email")
    sent = await client.post("/api/messages/email", json=email(), headers={"Prefer": "wait=20"})
    assert sent.json()["message_status"] == "suppressed"
    [contact] = (await client.get("/api/contacts", params={"address": CONTACT_EMAIL})).json()
    assert "refusals" not in contact
    shown = (await client.get(f"/api/contacts/{contact['id']}")).json()
    [refusal] = await listed(client)
    assert shown["refusals"] == [{name: refusal[name] for name in shown["refusals"][0]}]


@each_case(
    ("values", "location"),
    [
        ({"address": "nonsense?"}, "body.address"),
        ({"address": ""}, "body.address"),
        ({"address": "ACME"}, "body.address"),
        ({"address": "group:+18045551111,+18045552222"}, "body.address"),
        ({"address": 5}, "body.address"),
        ({"address": "x" * 1000}, "body.address"),
        ({}, "body.address"),
        ({"address": CONTACT, "scope": "nothing"}, "body.scope"),
        ({"address": CONTACT, "scope": "topic"}, "body.scope_value"),
        ({"address": CONTACT, "scope": "topic", "scope_value": "two words"}, "body.scope_value"),
        ({"address": CONTACT, "scope": "topic", "scope_value": "x" * 64}, "body.scope_value"),
        ({"address": CONTACT, "scope": "channel", "scope_value": "pigeon"}, "body.scope_value"),
        ({"address": CONTACT, "scope": "sender", "scope_value": "x@"}, "body.scope_value"),
        ({"address": CONTACT, "scope_value": "newsletter"}, "body.scope_value"),
        ({"address": CONTACT, "detail": " "}, "body.detail"),
        ({"address": CONTACT, "detail": "x" * 501}, "body.detail"),
        ({"address": CONTACT, "detail": "\x00 or so"}, "body.detail"),
    ],
)
async def test_what_is_not_as_it_should_be_is_named_and_changes_nothing(
    client: httpx.AsyncClient, values: dict[str, Any], location: str
) -> None:
    assert locations_of(await client.post(PATH, json=values)) == [location]
    batch = await imported(client, values, {"address": CONTACT_EMAIL})
    assert batch["refused"] == 1
    assert batch["lines"][0]["sentence"].startswith(f"{location.removeprefix('body.')}: ")
    assert [each["address"] for each in await listed(client)] == [CONTACT_EMAIL]


@each_case("query", ["address=", "source=none", "scope=none", "scope_value=%00", "cursor=1", "limit=0"])
async def test_a_filter_that_can_not_be_read_is_named(untouched: httpx.AsyncClient, query: str) -> None:
    assert locations_of(await untouched.get(f"{PATH}?{query}")) == [f"query.{query.partition('=')[0]}"]


async def test_the_same_refusal_fifty_times_at_once_is_one(client: httpx.AsyncClient, database_url: str) -> None:
    answers = await asyncio.gather(*(client.post(PATH, json={"address": CONTACT}) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert rows_of(database_url, "SELECT count(*) FROM consent_entries") == [(1,)]
    events = (await client.get("/api/events")).json()["events"]
    assert [event["type"] for event in events] == ["consent.revoked"]
    assert events[0]["data"]["entry"]["source"] == "api"


async def test_batches_with_the_same_lines_add_each_once(client: httpx.AsyncClient, database_url: str) -> None:
    lines = [{"address": f"+1804555{number:04}"} for number in range(1200)]
    batches = await asyncio.gather(imported(client, *lines), imported(client, *reversed(lines)))
    assert sum(batch["added"] for batch in batches) == sum(batch["held"] for batch in batches) == 1200
    counts = "SELECT (SELECT count(*) FROM consent_entries), (SELECT count(*) FROM suppressions)"
    assert rows_of(database_url, counts) == [(1200, 1200)]


async def test_refusals_are_listed_page_by_page(client: httpx.AsyncClient) -> None:
    await imported(client, *({"address": f"+1804555{number:04}"} for number in range(3)))
    await added(client)
    first = await client.get(PATH, params={"limit": 2, "source": "import"})
    assert [each["address"] for each in first.json()] == ["+18045550002", "+18045550001"]
    second = await client.get(first.links["next"]["url"])
    assert [each["address"] for each in second.json()] == ["+18045550000"]
    assert "next" not in second.links


async def test_a_malformed_line_harms_no_other(client: httpx.AsyncClient) -> None:
    batch = await imported(
        client,
        {"address": "+18045550001", "detail": "moved here"},
        "{broken",
        "",
        '{"address": "+18045550002", "address": "+18045550003"}',
        '["+18045550004"]',
        "[" * 100,
        {"address": "(804) 555-0001"},
        '{"address": "\\ud800"}',
        {"address": "jane@example.com", "scope": "topic", "scope_value": "offers"},
    )
    statuses = [(line["line"], line["status"]) for line in batch["lines"]]
    refused = [(number, "refused") for number in (2, 4, 5, 6, 8)]
    assert statuses == sorted([(1, "added"), (7, "held"), (9, "added"), *refused])
    assert (batch["added"], batch["held"], batch["refused"]) == (2, 1, 5)
    assert all(line["sentence"] for line in batch["lines"] if line["status"] == "refused")
    assert "twice" in batch["lines"][2]["sentence"]
    assert [each["source"] for each in await listed(client)] == ["import", "import"]


async def test_a_batch_may_begin_with_a_byte_order_mark_and_have_any_line_ends(client: httpx.AsyncClient) -> None:
    lines = b'\xef\xbb\xbf{"address":"+18045550001"}\r\n{"address":"+18045550002"}\r\n'
    answer = await client.post(BATCH, content=lines, headers={"Content-Type": "application/x-ndjson; charset=utf-8"})
    assert answer.json()["added"] == 2


async def test_a_batch_has_a_largest_size(client: httpx.AsyncClient) -> None:
    fits = b'{"address":"+18045550001","detail":"%s"}\n' % (b"x" * 300)
    answer = await client.post(BATCH, content=fits * 10_000, headers=LINES)
    assert (answer.json()["added"], answer.json()["held"]) == (1, 9_999)
    answer = await client.post(BATCH, content=fits * 10_001, headers=LINES)
    assert "at most 10000 lines" in problem_of(answer, 422)["detail"]
    problem_of(await client.post(BATCH, content=b"x" * 5_000_001, headers=LINES), 413)
    problem_of(await client.post(BATCH, json={"address": CONTACT}), 415)
    refused = await client.get(BATCH)
    assert problem_of(refused, 405)
    assert refused.headers["allow"] == "POST"
    assert (await imported(client))["lines"] == []


async def test_a_refusal_is_lifted_alone_and_once(client: httpx.AsyncClient, database_url: str) -> None:
    bounced, other = await added(client), await added(client, scope="topic", scope_value="offers")
    reason = {"reason": "They have asked for it."}
    lifted = await client.post(f"{PATH}/{bounced['id']}/lift", json=reason)
    assert lifted.status_code == 200, lifted.text
    entry = {"action": "granted", "source": "api", "address": CONTACT, "detail": reason["reason"]}
    assert lifted.json() == lifted.json() | entry
    assert [each["id"] for each in await listed(client)] == [other["id"]]
    problem_of(await client.post(f"{PATH}/{bounced['id']}/lift", json=reason), 404)
    problem_of(await client.get(f"{PATH}/{bounced['id']}"), 404)
    events = (await client.get("/api/events")).json()["events"]
    assert [event["type"] for event in events] == ["consent.revoked"] * 2 + ["consent.granted"]
    audited = rows_of(database_url, "SELECT kind, detail FROM audit_events")
    facts = {"source": "api", "scope": "everything", "entry_id": lifted.json()["id"]}
    assert audited == [("suppression_lifted", facts)]
    assert (await client.post(PATH, json={"address": CONTACT})).status_code == 201


async def test_a_refusal_is_lifted_once_by_twenty_at_once(client: httpx.AsyncClient, database_url: str) -> None:
    path = f"{PATH}/{(await added(client))['id']}/lift"
    answers = await asyncio.gather(*(client.post(path, json={"reason": "They want it."}) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 19
    assert rows_of(database_url, "SELECT count(*) FROM consent_entries WHERE action = 'granted'") == [(1,)]
    assert rows_of(database_url, "SELECT count(*) FROM audit_events") == [(1,)]


async def test_a_stop_is_lifted_by_hand_only_with_evidence(client: httpx.AsyncClient) -> None:
    path = f"{PATH}/{await texts_stop(client)}/lift"
    reason = {"reason": "They have asked for it."}
    for values in (reason, reason | {"evidence": None}, reason | {"evidence": "  "}):
        assert locations_of(await client.post(path, json=values)) == ["body.evidence"]
    for values in ({}, {"reason": "ok"}, {"reason": " " * 20}, {"reason": "x" * 501}):
        assert locations_of(await client.post(path, json=values | {"evidence": "Ticket 4711."})) == ["body.reason"]
    assert len(await listed(client)) == 1
    lifted = await client.post(path, json=reason | {"evidence": "Ticket 4711."})
    assert lifted.json()["detail"] == "They have asked for it. Evidence: Ticket 4711."
    assert await listed(client) == []


async def test_a_contact_shows_its_refusals_and_the_whole_history(client: httpx.AsyncClient) -> None:
    stopped = await texts_stop(client)
    await added(client, scope="topic", scope_value="offers")
    path = f"{PATH}/{stopped}/lift"
    await client.post(path, json={"reason": "They have asked for it.", "evidence": "Ticket 4711."})
    [contact] = (await client.get("/api/contacts", params={"address": CONTACT})).json()
    consent = await client.get(f"/api/contacts/{contact['id']}/consent", params={"limit": 2})
    assert [each["scope_value"] for each in consent.json()["refusals"]] == ["offers"]
    told = [(each["action"], each["source"]) for each in consent.json()["history"]]
    assert told == [("granted", "api"), ("revoked", "api")]
    rest = (await client.get(consent.links["next"]["url"])).json()["history"]
    assert [(each["action"], each["source"]) for each in rest] == [("revoked", "keyword")]
    problem_of(await client.get("/api/contacts/999/consent"), 404)


async def test_a_group_shows_the_refusals_of_its_members(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/api/messages/sms", json=sms())
    [contact] = (await client.get("/api/contacts", params={"address": CONTACT})).json()
    group = "UPDATE contacts SET address = 'group:+18045551111,+18045552222', address_type = 'group' WHERE id = {}"
    execute(database_url, group.format(contact["id"]))
    await added(client, "+18045552222")
    consent = (await client.get(f"/api/contacts/{contact['id']}/consent")).json()
    assert [len(consent[name]) for name in ("refusals", "history")] == [1, 1]


async def test_an_erased_person_is_found_but_not_shown(
    client: httpx.AsyncClient, settings: Settings, database_url: str
) -> None:
    refuse_as_erased(database_url, settings, CONTACT)
    [found] = await listed(client, address=CONTACT)
    assert (found["address"], found["erased"], found["source"]) == (None, True, "keyword")
    assert await listed(client) == [found]
    assert (await client.get(f"{PATH}/{found['id']}")).json()["entry"]["address"] is None
    assert await listed(client, address="+18045550000") == []
    lifting = {"reason": "They have asked for it.", "evidence": "Ticket 4711."}
    assert (await client.post(f"{PATH}/{found['id']}/lift", json=lifting)).json()["address"] is None
    assert await listed(client) == []


async def test_a_person_who_is_erased_after_a_stop_stays_on_the_list(client: httpx.AsyncClient) -> None:
    stopped = await texts_stop(client)
    [contact] = (await client.get("/api/contacts", params={"address": CONTACT})).json()
    assert (await client.delete(f"/api/contacts/{contact['id']}")).status_code == 200
    batch = await imported(client, {"address": CONTACT})
    assert batch["lines"][0]["status"] == "held"
    [found] = await listed(client, address=CONTACT)
    assert (found["id"], found["address"], found["erased"]) == (stopped, None, True)
    # The person writes again, and is another contact.
    await client.post("/api/webhooks/sms", json=sms_webhook(body="hello", messaging_provider_id="message-2"))
    [contact] = (await client.get("/api/contacts", params={"address": CONTACT})).json()
    shown = (await client.get(f"/api/contacts/{contact['id']}")).json()
    assert [refusal["id"] for refusal in shown["refusals"]] == [stopped]


async def test_no_import_brings_an_erased_person_back(
    client: httpx.AsyncClient, settings: Settings, database_url: str
) -> None:
    refuse_as_erased(database_url, settings, CONTACT)
    refuse_as_erased(database_url, settings, "+18045550001", scope="topic", scope_value="offers")
    held = await client.post(PATH, json={"address": CONTACT, "scope": "topic", "scope_value": "offers"})
    assert (held.status_code, held.json()["erased"]) == (200, True)
    topic = {"address": "+18045550001", "scope": "topic", "scope_value": "offers"}
    lines = [{"address": CONTACT}, topic, topic | {"scope_value": "news"}, {"address": "+18045550001"}]
    batch = await imported(client, *lines)
    assert [line["status"] for line in batch["lines"]] == ["held", "held", "added", "added"]
    # The address is not stored again.
    assert rows_of(database_url, f"SELECT 1 FROM consent_entries WHERE address = '{CONTACT}'") == []
    assert len(await listed(client, address=CONTACT)) == 1


async def test_a_key_that_may_send_looks_up_and_adds_and_lifts_nothing(
    client: httpx.AsyncClient, database_url: str
) -> None:
    send, read = (bearer(make_key(database_url, scopes=(scope,))) for scope in (KeyScope.SEND, KeyScope.READ))
    made = (await client.post(PATH, json={"address": CONTACT}, headers=send)).json()
    assert made["entry"]["actor"]
    for path in (PATH, f"{PATH}/{made['id']}"):
        assert (await client.get(path, headers=send)).status_code == 200
        assert "`send`" in problem_of(await client.get(path, headers=read), 403)["detail"]
    lifting = {"reason": "They have asked for it."}
    refused = await client.post(f"{PATH}/{made['id']}/lift", json=lifting, headers=send)
    assert "`admin`" in problem_of(refused, 403)["detail"]
    refused = await client.post(BATCH, content=b"{}", headers=send | LINES)
    assert "`admin`" in problem_of(refused, 403)["detail"]


async def test_a_tenant_has_a_list_of_its_own(client: httpx.AsyncClient, database_url: str) -> None:
    other = make_tenant(database_url)
    give_address(database_url, other, "+12016669999")
    theirs = bearer(make_key(database_url, other))
    made = await added(client)
    assert (await client.get(PATH, headers=theirs)).json() == []
    problem_of(await client.get(f"{PATH}/{made['id']}", headers=theirs), 404)
    lifting = {"reason": "They have asked for it."}
    problem_of(await client.post(f"{PATH}/{made['id']}/lift", json=lifting, headers=theirs), 404)
    assert (await client.post(PATH, json={"address": CONTACT}, headers=theirs)).status_code == 201
    by_sender = {"address": CONTACT, "scope": "sender", "scope_value": CUSTOMER}
    assert locations_of(await client.post(PATH, json=by_sender, headers=theirs)) == ["body.scope_value"]
    batch = await client.post(BATCH, content=json.dumps(by_sender).encode(), headers=theirs | LINES)
    assert batch.json()["lines"][0]["sentence"] == "scope_value: this address is not one of yours"
    own = by_sender | {"scope_value": "+12016669999"}
    assert (await client.post(PATH, json=own, headers=theirs)).status_code == 201
    assert len(await listed(client)) == 1
