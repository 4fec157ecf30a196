"""The receipt ledger on real PostgreSQL: everything is kept, and a status only ever rises."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import func, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.models import DeliveryAttempt, Message
from app.domain import STATUS_RANK, WAITING, AttemptOutcome, MessageStatus
from app.providers.base import Callback, OutboundMessage, ProviderResult, Receipt
from app.providers.registry import provider_registry
from app.references import reference_of
from app.services.callbacks.items import CallbackItems
from app.services.delivery.claiming.claims import Claim
from app.services.delivery.results.receipts import attach_parked, store_receipts, sweep_parked
from app.services.delivery.results.retry_policy import ACCEPTED, Decision
from tests.cases import each_case
from tests.factories import make_messages, sms, until
from tests.tenancy import make_tenant
from tests.test_worker import Queue, Scripted

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
SENT, DELIVERED, READ = MessageStatus.SENT, MessageStatus.DELIVERED, MessageStatus.READ
UNDELIVERED, FAILED = MessageStatus.UNDELIVERED, MessageStatus.FAILED
LATER = Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "busy", retry_in=0)
NO_ANSWER = Decision(AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN, "no answer", retry_in=0)


class Ledger:
    """Messages of the provider `sms`, what it says about them, and what came of it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.queue = Queue(engine)

    async def make(self, count: int = 1, *, status: MessageStatus = MessageStatus.QUEUED) -> list[int]:
        async with self.engine.begin() as connection:
            return await make_messages(connection, count, status=status)

    async def handed_over(self, *, status: MessageStatus) -> int:
        """A message in the given status that was handed to the provider once."""
        [message_id] = await self.make(status=status)
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(DeliveryAttempt).values(
                    tenant_id=1, message_id=message_id, number=1, provider_type="sms", started_at=func.now()
                )
            )
        return message_id

    async def claimed(self) -> Claim:
        """A message that a worker has in hand."""
        await self.make()
        [claim] = await self.queue.claim()
        return claim

    async def accepted(self, provider_message_id: str, *, channel: str = "sms") -> int:
        """A message that the provider has taken."""
        claim = await self.claimed()
        assert await self.queue.record(claim, ACCEPTED, provider_message_id)
        await self.is_of(channel, claim.message_id)
        return claim.message_id

    async def is_of(self, channel: str, message_id: int) -> None:
        async with self.engine.begin() as connection:
            is_it = (Message.tenant_id == 1, Message.id == message_id)
            await connection.execute(update(Message).where(*is_it).values(channel=channel))

    async def say(self, *receipts: Receipt) -> None:
        async with self.engine.begin() as connection:
            await store_receipts(connection, [("sms", receipt) for receipt in receipts])

    async def sweep(self) -> int:
        async with self.engine.begin() as connection:
            return len(await sweep_parked(connection))

    async def ask(self, question: str, **values: object) -> list[Any]:
        async with self.engine.connect() as connection:
            everything = text(question).execution_options(all_tenants="a test looks at all there is")
            return list((await connection.execute(everything, values)).all())

    async def message(self, message_id: int) -> Any:
        [row] = await self.ask("SELECT * FROM messages WHERE id = :id", id=message_id)
        return row

    async def status(self, message_id: int) -> MessageStatus:
        return MessageStatus((await self.message(message_id)).status)

    async def events(self) -> list[Any]:
        return await self.ask("SELECT * FROM provider_events ORDER BY id")

    async def reference(self, message_id: int) -> str:
        return reference_of(1, message_id, (await self.message(message_id)).created_at)


@pytest.fixture
def ledger(engine: AsyncEngine) -> Ledger:
    return Ledger(engine)


@pytest.mark.parametrize("said", MessageStatus)
async def test_a_receipt_raises_the_rank_and_never_lowers_it(ledger: Ledger, said: MessageStatus) -> None:
    """Each status a message can have, against each that a provider can tell."""
    became: dict[str, MessageStatus] = {}
    expected: dict[str, MessageStatus] = {}
    for status in MessageStatus:
        message_id = await ledger.handed_over(status=status)
        await ledger.say(Receipt(f"event-{status}", said, idempotency_key=await ledger.reference(message_id)))
        became[status] = await ledger.status(message_id)
        raised = STATUS_RANK[said] > STATUS_RANK[status]
        if raised and STATUS_RANK[said] < STATUS_RANK[SENT]:
            assert STATUS_RANK[became[status]] >= STATUS_RANK[status]  # whether it rises says the next test
            del became[status]
        else:
            expected[status] = said if raised else status
    assert became == expected
    assert len(await ledger.events()) == len(MessageStatus)


@pytest.mark.parametrize("said", [status for status in MessageStatus if STATUS_RANK[status] < STATUS_RANK[SENT]])
async def test_a_receipt_that_says_less_than_sent_takes_no_message_out_of_the_queue(
    ledger: Ledger, said: MessageStatus
) -> None:
    """`queued` over there says nothing about whether we still have to hand it over."""
    for status in WAITING:
        message_id = await ledger.handed_over(status=status)
        await ledger.say(Receipt(f"event-{status}", said, idempotency_key=await ledger.reference(message_id)))
        message = await ledger.message(message_id)
        assert message.due_at is not None, f"{status} became {message.status}, and nobody looks at it again"


async def test_delivered_after_undelivered_wins_and_takes_the_reason_away(ledger: Ledger) -> None:
    message_id = await ledger.accepted("vendor-1")
    await ledger.say(Receipt("1", UNDELIVERED, "vendor-1", detail="The phone is off."))
    message = await ledger.message(message_id)
    assert (message.status, message.status_reason) == ("undelivered", "The phone is off.")
    await ledger.say(Receipt("2", DELIVERED, "vendor-1"))
    message = await ledger.message(message_id)
    assert (message.status, message.status_reason) == ("delivered", None)


#: Each pair of receipts in the order in which they come, and where the message ends.
IN_MAIL = [
    ((DELIVERED, UNDELIVERED), UNDELIVERED),
    ((UNDELIVERED, DELIVERED), UNDELIVERED),
    ((SENT, UNDELIVERED), UNDELIVERED),
    ((UNDELIVERED, SENT), UNDELIVERED),
    ((READ, UNDELIVERED), READ),
    ((UNDELIVERED, READ), READ),
    ((DELIVERED, None), DELIVERED),
    ((DELIVERED, FAILED), DELIVERED),
    ((FAILED, DELIVERED), DELIVERED),
]
IN_TEXTS = [
    ((DELIVERED, UNDELIVERED), DELIVERED),
    ((UNDELIVERED, DELIVERED), DELIVERED),
    ((UNDELIVERED, READ), READ),
    ((READ, UNDELIVERED), READ),
    ((FAILED, UNDELIVERED), FAILED),
]


@each_case("channel, said, expected", [("email", *row) for row in IN_MAIL] + [("sms", *row) for row in IN_TEXTS])
@each_case("together", [False, True])
async def test_a_bounce_takes_a_delivery_back_in_mail_and_nowhere_else(
    ledger: Ledger, channel: str, said: tuple[MessageStatus | None, ...], expected: MessageStatus, *, together: bool
) -> None:
    name = f"{channel}-{said}-{together}"
    message_id = await ledger.accepted(name, channel=channel)
    receipts = [Receipt(f"{name}-{number}", status, name, detail="why") for number, status in enumerate(said)]
    for batch in [receipts] if together else [[receipt] for receipt in receipts]:
        await ledger.say(*batch)
    assert await ledger.status(message_id) is expected


async def test_the_reason_tells_that_a_mail_had_been_delivered_before_it_bounced(ledger: Ledger) -> None:
    message_id = await ledger.accepted("vendor-1", channel="email")
    await ledger.say(Receipt("1", DELIVERED, "vendor-1"))
    await ledger.say(Receipt("2", UNDELIVERED, "vendor-1", detail="550 5.1.1 unknown"))
    assert (await ledger.message(message_id)).status_reason == "It bounced after it was delivered: 550 5.1.1 unknown"
    await ledger.say(Receipt("3", DELIVERED, "vendor-1"), Receipt("4", UNDELIVERED, "vendor-1", detail="again"))
    assert (await ledger.message(message_id)).status_reason == "It bounced after it was delivered: 550 5.1.1 unknown"
    await ledger.say(Receipt("5", READ, "vendor-1"))
    assert (await ledger.message(message_id)).status_reason is None


async def test_a_bounce_of_an_earlier_attempt_hides_no_delivery_that_comes_with_it(ledger: Ledger) -> None:
    claim = await ledger.claimed()
    await ledger.queue.record(claim, LATER, "vendor-1")
    [again] = await ledger.queue.claim()
    assert await ledger.queue.record(again, ACCEPTED, "vendor-2")
    await ledger.is_of("email", claim.message_id)
    await ledger.say(Receipt("1", UNDELIVERED, "vendor-1"), Receipt("2", DELIVERED, "vendor-2"))
    assert await ledger.status(claim.message_id) is DELIVERED


@each_case(
    "said, expected",
    [
        ([(DELIVERED, None), (UNDELIVERED, "In part: 1 of 3 parts failed")], UNDELIVERED),
        ([(UNDELIVERED, "In part: 1 of 3 parts failed"), (DELIVERED, None)], UNDELIVERED),
        ([(UNDELIVERED, "In part"), (READ, None)], READ),
        ([(UNDELIVERED, "Not in part"), (DELIVERED, None)], DELIVERED),
        ([(UNDELIVERED, None), (DELIVERED, None)], DELIVERED),
    ],
)
async def test_a_text_that_arrived_in_part_is_undelivered_whatever_its_other_parts_say(
    ledger: Ledger, said: list[tuple[MessageStatus, str | None]], expected: MessageStatus
) -> None:
    name = repr(said)
    message_id = await ledger.accepted(name)
    for number, (status, detail) in enumerate(said):
        await ledger.say(Receipt(f"{name}-{number}", status, name, detail=detail))
    assert await ledger.status(message_id) is expected


async def test_failed_after_delivered_changes_nothing(ledger: Ledger) -> None:
    message_id = await ledger.accepted("vendor-1")
    await ledger.say(Receipt("1", DELIVERED, "vendor-1"))
    await ledger.say(Receipt("2", FAILED, "vendor-1", detail="Too late."))
    message = await ledger.message(message_id)
    assert (message.status, message.status_reason) == ("delivered", None)


async def test_of_two_failures_the_first_stays(ledger: Ledger) -> None:
    message_id = await ledger.accepted("vendor-1")
    await ledger.say(Receipt("1", UNDELIVERED, "vendor-1", detail="first"))
    await ledger.say(Receipt("2", FAILED, "vendor-1", detail="second"))
    message = await ledger.message(message_id)
    assert (message.status, message.status_reason) == ("undelivered", "first")


async def test_of_receipts_that_come_together_the_highest_counts(ledger: Ledger) -> None:
    message_id = await ledger.accepted("vendor-1")
    await ledger.say(*(Receipt(status, status, "vendor-1") for status in (DELIVERED, UNDELIVERED, READ, SENT)))
    assert await ledger.status(message_id) is READ
    assert len(await ledger.events()) == 4


async def test_a_repeated_event_is_kept_once_as_it_came_first(ledger: Ledger) -> None:
    await ledger.accepted("vendor-1")
    first = Receipt("1", SENT, "vendor-1", raw={"word": "first"})
    await ledger.say(first, first)
    await ledger.say(Receipt("1", DELIVERED, "vendor-1", raw={"word": "second"}))
    [event] = await ledger.events()
    assert (event.status, event.raw) == ("sent", {"word": "first"})


async def test_fifty_copies_of_an_event_at_once_are_kept_once(ledger: Ledger) -> None:
    message_id = await ledger.accepted("vendor-1")
    await asyncio.gather(*(ledger.say(Receipt("1", DELIVERED, "vendor-1")) for _ in range(50)))
    assert len(await ledger.events()) == 1
    assert await ledger.status(message_id) is DELIVERED


async def test_two_providers_may_use_the_same_event_id(ledger: Ledger, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await store_receipts(connection, [("sms", Receipt("1", SENT, "a")), ("other", Receipt("1", SENT, "b"))])
    assert {event.provider_type for event in await ledger.events()} == {"sms", "other"}


async def test_words_without_a_meaning_here_are_kept_raw_and_change_nothing(ledger: Ledger) -> None:
    message_id = await ledger.accepted("vendor-1")
    await ledger.say(Receipt("1", None, "vendor-1", raw={"status": "carrier_enroute", "nested": [1, None, "ü"]}))
    [event] = await ledger.events()
    assert event.status is None
    assert event.raw == {"status": "carrier_enroute", "nested": [1, None, "ü"]}
    assert event.message_id == message_id
    assert await ledger.status(message_id) is SENT


async def test_every_receipt_is_kept_also_where_it_changes_nothing_or_is_about_nobody(ledger: Ledger) -> None:
    await ledger.accepted("vendor-1")
    words = [DELIVERED, SENT, FAILED, None, MessageStatus.QUEUED, DELIVERED]
    for number, said in enumerate(words):
        await ledger.say(Receipt(str(number), said, "vendor-1"))
    await ledger.say(Receipt("stranger", SENT, "vendor-2"), Receipt("nameless", SENT))
    events = await ledger.events()
    assert [event.status for event in events[: len(words)]] == words
    assert {event.event_id: event.message_id for event in events[len(words) :]} == {
        "stranger": None,
        "nameless": None,
    }


async def test_a_receipt_that_came_before_the_answer_attaches_when_the_answer_is_recorded(ledger: Ledger) -> None:
    claim = await ledger.claimed()
    await ledger.say(Receipt("1", DELIVERED, "vendor-1"))
    [parked] = await ledger.events()
    assert parked.message_id is None
    assert await ledger.status(claim.message_id) is MessageStatus.SENDING
    assert await ledger.queue.record(claim, ACCEPTED, "vendor-1")
    [attached] = await ledger.events()
    assert attached.message_id == claim.message_id
    assert await ledger.status(claim.message_id) is DELIVERED


async def test_a_receipt_of_another_provider_with_the_same_id_stays_parked(
    ledger: Ledger, engine: AsyncEngine
) -> None:
    async with engine.begin() as connection:
        await store_receipts(connection, [("other", Receipt("1", DELIVERED, "vendor-1"))])
    message_id = await ledger.accepted("vendor-1")
    assert await ledger.sweep() == 0
    assert await ledger.status(message_id) is SENT


async def test_a_receipt_that_crosses_its_answer_on_the_way_is_found_by_the_sweep(
    ledger: Ledger, engine: AsyncEngine
) -> None:
    """Neither transaction sees the other's row; both commit."""
    claim = await ledger.claimed()
    async with engine.begin() as connection:
        await store_receipts(connection, [("sms", Receipt("1", DELIVERED, "vendor-1"))])
        assert await ledger.queue.record(claim, ACCEPTED, "vendor-1")
    assert await ledger.status(claim.message_id) is SENT
    assert await ledger.sweep() == 1
    assert await ledger.sweep() == 0
    assert await ledger.status(claim.message_id) is DELIVERED
    [event] = await ledger.events()
    assert event.message_id == claim.message_id


async def test_a_running_worker_sweeps_by_itself(
    ledger: Ledger, engine: AsyncEngine, serve: Serve, settings: Settings
) -> None:
    claim = await ledger.claimed()
    async with engine.begin() as connection:
        await store_receipts(connection, [("sms", Receipt("1", DELIVERED, "vendor-1"))])
        assert await ledger.queue.record(claim, ACCEPTED, "vendor-1")
    await serve(settings)
    await until(lambda: ledger.status(claim.message_id), lambda status: status is DELIVERED)


async def test_a_receipt_that_names_our_key_needs_no_id_of_the_provider(ledger: Ledger) -> None:
    claim = await ledger.claimed()
    await ledger.say(Receipt("1", DELIVERED, "vendor-1", idempotency_key=claim.payload().idempotency_key))
    [event] = await ledger.events()
    assert (event.message_id, event.provider_message_id) == (claim.message_id, "vendor-1")
    assert await ledger.status(claim.message_id) is DELIVERED


@pytest.mark.parametrize("key", ["", "1", "1-1", "1-999-0", "2-1-0", "somebody else's", "1-1-1-1", "1-" + "9" * 30])
async def test_a_key_that_is_not_ours_names_nobody(ledger: Ledger, key: str) -> None:
    claim = await ledger.claimed()
    await ledger.say(Receipt("1", DELIVERED, idempotency_key=key))
    assert [event.message_id for event in await ledger.events()] == [None]
    assert await ledger.status(claim.message_id) is MessageStatus.SENDING


async def test_a_key_of_an_earlier_database_does_not_name_the_message_that_has_the_id_now(ledger: Ledger) -> None:
    claim = await ledger.claimed()
    tenant, message_id, created = claim.payload().idempotency_key.split("-")
    await ledger.say(Receipt("1", DELIVERED, idempotency_key=f"{tenant}-{message_id}-{int(created) - 1}"))
    assert await ledger.status(claim.message_id) is MessageStatus.SENDING


async def test_the_worker_s_late_word_does_not_lower_what_a_receipt_has_said(ledger: Ledger) -> None:
    claim = await ledger.claimed()
    await ledger.say(Receipt("1", DELIVERED, idempotency_key=claim.payload().idempotency_key))
    await ledger.queue.record(claim, ACCEPTED, "vendor-1")
    message = await ledger.message(claim.message_id)
    assert (message.status, message.provider_message_id, message.due_at) == ("delivered", "vendor-1", None)


async def test_a_receipt_tells_the_id_that_a_lost_answer_would_have_told(ledger: Ledger) -> None:
    claim = await ledger.claimed()
    await ledger.queue.record(claim, NO_ANSWER)
    await ledger.say(Receipt("1", SENT, "vendor-1", idempotency_key=claim.payload().idempotency_key))
    message = await ledger.message(claim.message_id)
    assert (message.status, message.provider_type, message.provider_message_id) == ("sent", "sms", "vendor-1")
    await ledger.say(Receipt("2", DELIVERED, "vendor-2", idempotency_key=claim.payload().idempotency_key))
    message = await ledger.message(claim.message_id)
    assert (message.status, message.provider_message_id) == ("delivered", "vendor-1")


async def test_an_id_that_another_message_has_is_not_learned_from_a_receipt(ledger: Ledger) -> None:
    first = await ledger.accepted("vendor-1")
    second = await ledger.claimed()
    await ledger.say(
        Receipt("1", DELIVERED, "vendor-1"),
        Receipt("2", DELIVERED, "vendor-1", idempotency_key=second.payload().idempotency_key),
    )
    messages = [await ledger.message(id_) for id_ in (first, second.message_id)]
    assert [(each.status, each.provider_message_id) for each in messages] == [
        ("delivered", "vendor-1"),
        ("delivered", None),
    ]
    assert messages[1].provider_type == "sms"


async def test_of_two_receipts_at_once_that_tell_the_same_id_both_count_and_one_names_its_message(
    ledger: Ledger, serve: Serve, settings: Settings
) -> None:
    client = await serve(settings.model_copy(update={"worker_enabled": False}))
    events: CallbackItems = client._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    ids = [await ledger.handed_over(status=MessageStatus.UNKNOWN) for _ in range(2)]
    keys = [await ledger.reference(id_) for id_ in ids]
    await events.accept("sms", *(Receipt(key, DELIVERED, "vendor-1", idempotency_key=key) for key in keys))
    messages = [await ledger.message(id_) for id_ in ids]
    assert [each.status for each in messages] == ["delivered", "delivered"]
    assert {each.provider_message_id for each in messages} == {"vendor-1", None}


@pytest.mark.parametrize(
    "decision",
    [
        LATER,
        Decision(AttemptOutcome.PERMANENT, FAILED, "refused"),
        NO_ANSWER,
    ],
    ids=lambda decision: decision.outcome,
)
async def test_a_receipt_that_comes_before_the_worker_s_word_stops_further_attempts(
    ledger: Ledger, decision: Decision
) -> None:
    claim = await ledger.claimed()
    await ledger.say(Receipt("1", SENT, "vendor-1", idempotency_key=claim.payload().idempotency_key))
    assert await ledger.queue.record(claim, decision) is False
    message = await ledger.message(claim.message_id)
    assert (message.status, message.status_reason, message.due_at) == ("sent", None, None)
    assert await ledger.queue.claim() == []


async def test_a_receipt_stops_a_message_that_waits_for_its_next_try(ledger: Ledger) -> None:
    claim = await ledger.claimed()
    await ledger.queue.record(claim, LATER)
    await ledger.say(Receipt("1", SENT, "vendor-1", idempotency_key=claim.payload().idempotency_key))
    assert await ledger.queue.claim() == []
    assert await ledger.status(claim.message_id) is SENT


async def test_after_a_retry_the_message_has_the_id_of_the_attempt_that_took_it(
    ledger: Ledger, serve: Serve, settings: Settings
) -> None:
    message_id = await ledger.accepted("vendor-1")
    await ledger.say(Receipt("1", FAILED, "vendor-1"))
    client = await serve(settings.model_copy(update={"worker_enabled": False}))
    assert (await client.post(f"/api/messages/{message_id}/retry")).status_code == 200
    [again] = await ledger.queue.claim()
    assert await ledger.queue.record(again, ACCEPTED, "vendor-2")
    message = await ledger.message(message_id)
    assert (message.status, message.provider_message_id) == ("sent", "vendor-2")


STORIES: list[list[MessageStatus | None]] = [
    [MessageStatus.QUEUED, SENT, DELIVERED],
    [SENT, UNDELIVERED, DELIVERED],
    [SENT, FAILED],
    [SENT, None, DELIVERED, READ],
]


def best_of(story: Sequence[MessageStatus | None]) -> MessageStatus:
    return max((said for said in story if said), key=lambda said: STATUS_RANK[said])


@pytest.mark.slow
async def test_receipts_shuffled_and_tripled_over_three_hundred_messages_end_right(
    ledger: Ledger, settings: Settings, database_url: str
) -> None:
    """From two processes, in batches of any size, while the attempts of the messages are recorded."""
    dice = random.Random(11)
    ids = await ledger.make(300)
    claims = await ledger.queue.claim(limit=300)
    assert sorted(claim.message_id for claim in claims) == ids
    stories = {claim.message_id: STORIES[claim.message_id % len(STORIES)] for claim in claims}
    once = [
        Receipt(f"{id}-{step}", said, f"vendor-{id}", raw={"step": step})
        for id, story in stories.items()
        for step, said in enumerate(story)
    ]
    receipts = once * 3
    dice.shuffle(receipts)
    dice.shuffle(claims)
    other_engine = create_serving_engine(database_url, settings)
    ledgers = [ledger, Ledger(other_engine)]

    async def tell(own: Ledger, part: list[Receipt], batch_sizes: list[int]) -> None:
        for size in batch_sizes:
            await own.say(*part[:size])
            del part[:size]
        await own.say(*part)

    async def record(own: Ledger, part: list[Claim]) -> None:
        for claim in part:
            await own.queue.record(claim, ACCEPTED, f"vendor-{claim.message_id}")

    await asyncio.gather(
        *(tell(ledgers[n % 2], receipts[n::4], dice.choices(range(1, 60), k=20)) for n in range(4)),
        *(record(ledgers[n % 2], claims[n::4]) for n in range(4)),
    )
    await ledger.sweep()
    await other_engine.dispose()
    ended = {row.id: MessageStatus(row.status) for row in await ledger.ask("SELECT id, status FROM messages")}
    assert ended == {id: best_of(story) for id, story in stories.items()}
    kept = {(event.event_id, event.message_id, event.status) for event in await ledger.events()}
    assert kept == {(each.event_id, int(each.event_id.split("-")[0]), each.status) for each in once}
    assert len(await ledger.events()) == len(once)
    assert await ledger.ask("SELECT 1 FROM messages WHERE due_at IS NOT NULL") == []


async def test_what_a_provider_calls_back_with_is_in_the_ledger_before_it_is_answered(
    serve: Serve, settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CallsBack(Scripted):
        def verify(self, callback: Callback) -> None:
            pass

        def parse(self, callback: Callback) -> list[Receipt]:
            said = json.loads(callback.body)
            return [Receipt(said["event"], MessageStatus(said["status"]), said["id"], raw=said)]

        async def send(self, payload: OutboundMessage) -> ProviderResult:
            return ProviderResult("vendor-1")

    monkeypatch.setitem(provider_registry, "scripted", CallsBack())
    client = await serve(settings.model_copy(update={"routes": {"sms": ["scripted"]}}))
    await client.post("/api/messages/sms", json=sms(), headers={"Prefer": "wait=10"})
    for _ in range(2):
        said = {"event": "1", "status": "delivered", "id": "vendor-1"}
        assert (await client.post("/api/webhooks/scripted", json=said)).status_code == 200
        assert await ledger.status(1) is DELIVERED
        [event] = await ledger.events()
        assert event.raw == said


class Acme:
    """Another tenant with one message, handed to `sms`."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        self._ledger = ledger
        self.tenant_id = make_tenant(url)

    async def hand_over(self, *, provider_message_id: str | None = None) -> int:
        async with self._ledger.engine.begin() as connection:
            [message_id] = await make_messages(connection, tenant_id=self.tenant_id, status=MessageStatus.SENDING)
            await connection.execute(
                insert(DeliveryAttempt).values(
                    tenant_id=self.tenant_id,
                    message_id=message_id,
                    number=1,
                    provider_type="sms",
                    provider_message_id=provider_message_id,
                    started_at=func.now(),
                )
            )
        return message_id

    async def attach(self, message_id: int, provider_message_id: str) -> None:
        async with self._ledger.engine.begin() as connection:
            await attach_parked(connection, self.tenant_id, [(message_id, "sms", provider_message_id)])

    async def reference(self, message_id: int) -> str:
        return reference_of(self.tenant_id, message_id, (await self._ledger.message(message_id)).created_at)


@pytest.fixture
def acme(ledger: Ledger, database_url: str) -> Acme:
    return Acme(ledger, database_url)


async def test_a_receipt_finds_the_tenant_of_its_message_by_either_name(ledger: Ledger, acme: Acme) -> None:
    by_us, by_them = await acme.hand_over(), await acme.hand_over(provider_message_id="vendor-2")
    await ledger.say(
        Receipt("1", DELIVERED, idempotency_key=await acme.reference(by_us)), Receipt("2", DELIVERED, "vendor-2")
    )
    assert [await ledger.status(id) for id in (by_us, by_them)] == [DELIVERED, DELIVERED]
    assert {event.tenant_id for event in await ledger.events()} == {acme.tenant_id}


async def test_our_name_for_a_message_is_believed_only_from_whom_it_was_handed_to(ledger: Ledger, acme: Acme) -> None:
    message_id = await acme.hand_over()
    reference = await acme.reference(message_id)
    async with ledger.engine.begin() as connection:
        await store_receipts(connection, [("other", Receipt("1", DELIVERED, idempotency_key=reference))])
    assert await ledger.status(message_id) == MessageStatus.SENDING
    [event] = await ledger.events()
    assert (event.tenant_id, event.message_id) == (1, None)


@pytest.mark.parametrize("tenant", ["0", "7", "999999999999999999", "9" * 5000, "\u0661", "-1", ""])
async def test_a_name_of_a_tenant_that_is_none_is_no_name(ledger: Ledger, tenant: str) -> None:
    await ledger.say(Receipt("1", DELIVERED, idempotency_key=f"{tenant}-1-1730469600000000"))
    [event] = await ledger.events()
    assert (event.tenant_id, event.message_id) == (1, None)


async def test_a_parked_event_moves_to_the_tenant_of_its_message(ledger: Ledger, acme: Acme) -> None:
    message_id = await acme.hand_over()
    await ledger.say(Receipt("1", DELIVERED, "vendor-1", detail="kept"))
    [parked] = await ledger.events()
    assert (parked.tenant_id, parked.message_id) == (1, None)
    await acme.attach(message_id, "vendor-1")
    [moved] = await ledger.events()
    assert (moved.tenant_id, moved.message_id, moved.detail) == (acme.tenant_id, message_id, "kept")
    assert moved.received_at == parked.received_at
    assert await ledger.status(message_id) == DELIVERED
    await ledger.say(Receipt("1", DELIVERED, "vendor-1"))
    await acme.attach(message_id, "vendor-1")
    assert len(await ledger.events()) == 1


async def test_the_sweep_finds_what_crossed_the_recording_of_another_tenants_attempt(
    ledger: Ledger, acme: Acme
) -> None:
    await ledger.say(Receipt("1", DELIVERED, "vendor-1"))
    message_id = await acme.hand_over(provider_message_id="vendor-1")
    assert await ledger.sweep() == 1
    assert await ledger.status(message_id) == DELIVERED
    assert await ledger.sweep() == 0
