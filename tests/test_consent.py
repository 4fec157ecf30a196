"""STOP, START and HELP from the callback to the carrier, on real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from app.config import Settings
from app.consent import ConsentSource
from app.installation import KeyScope
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.services.consent.ledger import SENTENCES
from tests.cases import each_case
from tests.conftest import execute, make_settings
from tests.factories import CONTACT, CUSTOMER, sms, sms_webhook, until
from tests.tenancy import bearer, make_key
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
REPLY = {"stop_reply": "You get no more messages from us.", "help_reply": "Acme. Call +12016661234."}


class Carrier(BaseProvider):
    """Takes every message and keeps it; while it is closed, it takes none."""

    def __init__(self) -> None:
        self.taken: list[OutboundMessage] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        await self.open.wait()
        self.taken.append(payload)
        return ProviderResult(f"carrier-{len(self.taken)}")


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> Carrier:
    provider = Carrier()
    monkeypatch.setitem(provider_registry, "sms", provider)
    return provider


class Talk:
    """A client of the service, and the person at the other end."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self._count = 0

    async def says(self, body: str, **changes: object) -> None:
        self._count += 1
        callback = sms_webhook(body=body, messaging_provider_id=f"inbound-{self._count}", **changes)
        answer = await self.client.post("/api/webhooks/sms", json=callback)
        assert answer.status_code == 200, answer.text

    async def gets(self, **changes: object) -> dict[str, Any]:
        """A message to the person, once it has its final state."""
        answer = await self.client.post("/api/messages/sms", json=sms(**changes))
        assert answer.status_code == 200, answer.text
        return await self.ended(answer.json()["message_id"])

    async def ended(self, message_id: int) -> dict[str, Any]:
        async def look() -> dict[str, Any]:
            message: dict[str, Any] = (await self.client.get(f"/api/messages/{message_id}")).json()
            return message

        return await until(look, lambda message: message["status"] not in {"queued", "sending", "scheduled"})

    async def types(self) -> list[str]:
        events = (await self.client.get("/api/events", params={"limit": 500})).json()["events"]
        return [event["type"] for event in events]


@pytest.fixture
async def talk(serve: Serve, settings: Settings, carrier: Carrier) -> Talk:
    return Talk(await serve(settings.model_copy(update={**REPLY, "worker_poll_seconds": 0.05})))


async def test_after_stop_nothing_is_sent_until_start(talk: Talk, carrier: Carrier) -> None:
    assert (await talk.gets())["status"] == "sent"
    await talk.says("Stop.")
    refused = await talk.gets()
    assert (refused["status"], refused["status_reason"]) == ("suppressed", "The recipient has texted STOP.")
    assert refused["attempts"] == []
    steps = (await talk.client.get(f"/api/messages/{refused['id']}/timeline")).json()
    assert [step["kind"] for step in steps] == ["accepted", "suppressed"]
    today = datetime.now(UTC)
    evidence = f"the recipient has texted STOP on {today.day} {today:%B %Y} (message 2)"
    assert steps[1]["sentence"] == f"It was not sent: {evidence}."
    # The person is not asked to confirm, and gets one confirmation.
    assert [payload.body for payload in carrier.taken] == ["Hello!", REPLY["stop_reply"]]
    await talk.says("STOP")
    await talk.says("START")
    assert (await talk.gets())["status"] == "sent"
    assert [payload.body for payload in carrier.taken] == ["Hello!", REPLY["stop_reply"], "Hello!"]
    told = [type_ for type_ in await talk.types() if type_.startswith("consent") or type_ == "message.suppressed"]
    assert told == ["consent.revoked", "message.suppressed", "consent.granted"]


@each_case("body", ["please stop by at 5", "Cancel my order", "yes", "start at 5?", "help me move the sofa"])
async def test_an_ordinary_text_changes_nothing(talk: Talk, body: str) -> None:
    await talk.says(body)
    assert (await talk.gets())["status"] == "sent"
    assert not [type_ for type_ in await talk.types() if type_.startswith("consent")]


async def test_an_installation_has_words_of_its_own(serve: Serve, settings: Settings, carrier: Carrier) -> None:
    own = {"consent_words": "STOP=NIE WIEDER|GENUG;START=WEITER", "worker_poll_seconds": 0.05}
    talk = Talk(await serve(settings.model_copy(update=own)))
    await talk.says("Nie wieder!")
    assert (await talk.gets())["status"] == "suppressed"
    await talk.says("weiter")
    assert (await talk.gets())["status"] == "sent"
    with pytest.raises(ValidationError, match="STOP=word"):
        make_settings(consent_words="NIE WIEDER")


async def test_help_is_answered_also_after_a_stop(talk: Talk, carrier: Carrier) -> None:
    await talk.says("stop")
    await talk.says("HELP")

    async def bodies() -> list[str]:
        return [payload.body for payload in carrier.taken]

    await until(bodies, lambda found: found == [REPLY["stop_reply"], REPLY["help_reply"]])


async def test_without_texts_nobody_is_answered(serve: Serve, settings: Settings, carrier: Carrier) -> None:
    talk = Talk(await serve(settings.model_copy(update={"worker_poll_seconds": 0.05})))
    await talk.says("stop")
    await talk.says("help")
    assert (await talk.gets())["status"] == "suppressed"
    assert carrier.taken == []


async def test_a_stop_that_comes_twice_counts_once(talk: Talk, database_url: str) -> None:
    callback = sms_webhook(body="STOP")
    answers = await asyncio.gather(*(talk.client.post("/api/webhooks/sms", json=callback) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert rows_of(database_url, "SELECT count(*) FROM consent_entries") == [(1,)]
    assert rows_of(database_url, "SELECT count(*) FROM messages WHERE direction = 'outbound'") == [(1,)]


async def test_a_stop_holds_for_every_sender_and_another_address_is_not_concerned(talk: Talk) -> None:
    await talk.says("stop")
    assert (await talk.gets(from_="+12016665678"))["status"] == "suppressed"
    assert (await talk.gets(to="+18045559999"))["status"] == "sent"


async def test_a_member_of_a_group_stops_the_messages_to_the_group(talk: Talk, database_url: str) -> None:
    members = "+18045551111,+18045552222"
    callback = sms_webhook(from_="+18045551111", to=CUSTOMER, body="hello")
    await talk.client.post("/api/webhooks/sms", json=callback)
    sent = await talk.gets(to="+18045551111")
    with_group = "UPDATE conversations SET contact_address = 'group:{}' WHERE id = {}"

    await asyncio.to_thread(execute, database_url, with_group.format(members, sent["conversation_id"]))
    _refuse(database_url, "everything", "", "+18045552222")
    await asyncio.to_thread(
        execute, database_url, f"UPDATE messages SET status = 'queued', due_at = now() WHERE id = {sent['id']}"
    )
    assert (await talk.ended(sent["id"]))["status"] == "suppressed"


async def test_what_waits_for_its_turn_is_checked_once_more(
    serve: Serve, settings: Settings, carrier: Carrier, database_url: str
) -> None:
    """Claimed before the STOP, and still waiting for the provider's rate when it comes."""
    slow = {"provider_rates": {"sms": 2.0}, "worker_poll_seconds": 0.05, "lease_seconds": 60}
    talk = Talk(await serve(settings.model_copy(update=slow)))
    requests = [sms(body=f"{number}", from_=f"+120166600{number:02}") for number in range(8)]
    ids = [(await talk.client.post("/api/messages/sms", json=each)).json()["message_id"] for each in requests]
    await until(lambda: _taken(carrier), bool)
    await talk.says("stop")
    before = len(carrier.taken)
    ended = [await talk.ended(int(id)) for id in ids]
    assert {each["status"] for each in ended} == {"sent", "suppressed"}
    # One may have passed its last check before the commit.
    assert len(carrier.taken) <= before + 1
    assert len(carrier.taken) == sum(each["status"] == "sent" for each in ended)


async def test_the_timeline_says_that_a_claimed_message_was_not_handed_over(
    serve: Serve, settings: Settings, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.delivery.pacing.capacity.AHEAD_SECONDS", 10.0)  # all are claimed at once
    stored = Talk(await serve(settings.model_copy(update={"worker_enabled": False})))
    requests = [sms(body=f"{number}", from_=f"+120166600{number:02}") for number in range(3)]
    ids = [(await stored.client.post("/api/messages/sms", json=each)).json()["message_id"] for each in requests]
    slow = {"provider_rates": {"sms": 1.0}, "worker_poll_seconds": 0.05, "lease_seconds": 60}
    talk = Talk(await serve(settings.model_copy(update=slow)))
    await until(lambda: _taken(carrier), bool)
    await talk.says("stop")
    ended = [await talk.ended(int(id)) for id in ids]
    [stopped, *_] = [each for each in ended if each["status"] == "suppressed" and each["attempts"]]
    steps = (await talk.client.get(f"/api/messages/{stopped['id']}/timeline")).json()
    assert [step["kind"] for step in steps] == ["accepted", "routed", "attempt", "suppressed"]
    assert steps[2]["sentence"] == "Attempt 1: it waited for its turn with sms."
    assert steps[3]["sentence"].startswith("It was not sent: the recipient has texted STOP on ")


async def _taken(carrier: Carrier) -> list[OutboundMessage]:
    return carrier.taken


async def test_a_refused_topic_stops_that_topic_and_no_service_message(talk: Talk, database_url: str) -> None:
    _refuse(database_url, "topic", "offers")
    assert (await talk.gets(topic="offers"))["status"] == "suppressed"
    assert (await talk.gets(topic="orders"))["status"] == "sent"
    assert (await talk.gets())["status"] == "sent"
    code = await talk.gets(topic="offers", purpose="service")
    assert (code["status"], code["topic"], code["purpose"]) == ("sent", "offers", "service")


def _refuse(database_url: str, scope: str, value: str, address: str = CONTACT) -> None:
    execute(
        database_url,
        "INSERT INTO consent_entries (tenant_id, address, address_type, action, scope, scope_value, source)"
        f" VALUES (1, '{address}', 'phone', 'revoked', '{scope}', '{value}', 'api')",
        "INSERT INTO suppressions (tenant_id, address, address_type, scope, scope_value, source, entry_id)"
        " SELECT 1, address, 'phone', scope, scope_value, source, id FROM consent_entries"
        f" WHERE address = '{address}'",
    )


async def test_a_service_message_answers_a_person_or_needs_a_key_for_it(
    serve: Serve, settings: Settings, carrier: Carrier, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"worker_poll_seconds": 0.05}))
    sender = bearer(make_key(database_url, scopes=(KeyScope.SEND, KeyScope.READ)))
    coder = bearer(make_key(database_url, scopes=(KeyScope.SEND, KeyScope.SERVICE)))
    asked = sms(purpose="service")
    alone = await client.post("/api/messages/sms", json=asked, headers=sender)
    assert [each["location"] for each in problem_of(alone, 422)["errors"]] == ["body.purpose"]
    seen = await client.post("/api/messages/preview", json=asked | {"channel": "sms"}, headers=sender)
    assert [each["location"] for each in seen.json()["refused"]] == ["body.purpose"]
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(0,)]
    assert (await client.post("/api/messages/sms", json=asked, headers=coder)).status_code == 200
    await client.post("/api/webhooks/sms", json=sms_webhook(body="where is my order?"))
    answer = await client.post("/api/messages/sms", json=asked, headers=sender | {"Idempotency-Key": "answer"})
    assert answer.status_code == 200
    # A day later it is no answer any more, but the repeat of one is still the same message.
    await asyncio.to_thread(
        execute, database_url, "UPDATE messages SET created_at = created_at - interval '25 hours'"
    )
    repeat = await client.post("/api/messages/sms", json=asked, headers=sender | {"Idempotency-Key": "answer"})
    assert repeat.json()["message_id"] == answer.json()["message_id"]
    late = await client.post("/api/messages/sms", json=asked, headers=sender)
    assert late.status_code == 422


@each_case("changes", [{"topic": "New Offers"}, {"topic": ""}, {"purpose": "confirmation"}, {"purpose": "marketing"}])
async def test_a_wrong_topic_or_purpose_is_refused(untouched: httpx.AsyncClient, changes: dict[str, str]) -> None:
    [error] = problem_of(await untouched.post("/api/messages/sms", json=sms(**changes)), 422)["errors"]
    assert error["location"] == f"body.{next(iter(changes))}"


async def test_the_list_of_conversations_shows_who_refuses(talk: Talk, database_url: str) -> None:
    await talk.says("hello")
    await talk.gets(to="+18045559999")
    _refuse(database_url, "topic", "offers", "+18045559999")

    async def refused() -> dict[str, bool]:
        found = (await talk.client.get("/api/conversations")).json()
        return {each["contact_address"]: each.get("refused", False) for each in found}

    assert await refused() == {CONTACT: False, "+18045559999": False}
    await talk.says("stop")
    assert await refused() == {CONTACT: True, "+18045559999": False}
    await talk.says("start")
    assert await refused() == {CONTACT: False, "+18045559999": False}


async def test_a_preview_tells_the_refusal_and_the_send_is_accepted(talk: Talk) -> None:
    asked = sms() | {"channel": "sms"}
    assert (await talk.client.post("/api/messages/preview", json=asked)).json()["suppressed_by"] is None
    await talk.says("stop")
    seen = (await talk.client.post("/api/messages/preview", json=asked)).json()
    assert seen["refused"] == []
    told = seen["suppressed_by"]
    assert (told["source"], told["scope"], told["sentence"]) == (
        "keyword",
        "everything",
        SENTENCES[ConsentSource.KEYWORD],
    )
    assert (await talk.gets())["status"] == "suppressed"


async def test_an_erased_persons_stop_keeps_holding_without_the_address(talk: Talk, database_url: str) -> None:
    await talk.says("stop")
    [contact] = [each for each in (await talk.client.get("/api/contacts")).json() if each["address"] == CONTACT]
    export = (await talk.client.get(f"/api/contacts/{contact['id']}/export")).json()
    assert [(entry["action"], entry["detail"]) for entry in export["consent"]] == [("revoked", "stop")]
    assert (await talk.client.delete(f"/api/contacts/{contact['id']}")).status_code == 200
    stored = rows_of(database_url, "SELECT address, detail FROM consent_entries")
    assert not any(CONTACT in (address or "") or detail for address, detail in stored)
    assert (await talk.client.post("/api/messages/preview", json=sms() | {"channel": "sms"})).json()["suppressed_by"]
    assert (await talk.gets())["status"] == "suppressed"
    await talk.says("start")
    assert (await talk.gets())["status"] == "sent"
