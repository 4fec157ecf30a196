"""Delivery: every way a provider can answer, seen through the API; claims and fences on real PostgreSQL."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.models import Message
from app.db.process_lock import ProcessLock, ProcessNames
from app.domain import AttemptOutcome, MessageStatus
from app.providers.base import (
    BaseProvider,
    OutboundMessage,
    PermanentFailure,
    ProviderResult,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.registry import provider_registry
from app.services.delivery.claiming.claims import Claim, Wanted, claim_due
from app.services.delivery.claiming.leases import end_leases, rescue
from app.services.delivery.housekeeping import WORKER_LOST
from app.services.delivery.results.outcomes import AttemptResult, record_outcomes
from app.services.delivery.results.retry_policy import ACCEPTED, Decision
from app.worker import DeliveryWorker
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import make_messages, until

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
SMS = {"from": "+12016661234", "to": "+18045551234", "type": "sms", "body": "Hello!"}


class Scripted(BaseProvider):
    """Answers with what it is given, one after the other, the last one for ever; keeps what it was handed."""

    def __init__(self, *answers: Exception | ProviderResult) -> None:
        self.answers = list(answers)
        self.handed: list[OutboundMessage] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.handed.append(payload)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseProvider], BaseProvider]:
    """One class and one registry entry: nothing else is needed to add a provider."""

    def add(provider: BaseProvider) -> BaseProvider:
        monkeypatch.setitem(provider_registry, "scripted", provider)
        return provider

    return add


@pytest.fixture
async def client(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    quick = {
        "routes": {"sms": ["scripted"]},
        "retry_base_seconds": 0.01,
        "max_attempts": 3,
        "worker_poll_seconds": 0.05,
    }
    return await serve(settings.model_copy(update=quick))


async def settled(client: httpx.AsyncClient, message_id: str) -> dict[str, Any]:
    """The message, once no worker has anything to do with it any more."""
    async with asyncio.timeout(60):
        while True:
            message: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
            if message["status"] not in {"queued", "sending"}:
                return message
            await asyncio.sleep(0.01)


async def delivered(client: httpx.AsyncClient) -> dict[str, Any]:
    return await settled(client, (await client.post("/api/messages/sms", json=SMS)).json()["message_id"])


async def test_a_message_is_handed_to_the_provider_of_its_route(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    provider = register(Scripted(ProviderResult("vendor-1")))
    message = await delivered(client)
    assert (message["status"], message["provider_type"], message["provider_message_id"]) == (
        "sent",
        "scripted",
        "vendor-1",
    )
    [attempt] = message["attempts"]
    assert attempt["outcome"] == "accepted"
    assert attempt["started_at"] <= attempt["finished_at"]
    [payload] = provider.handed
    assert (payload.from_address, payload.to_address, payload.body) == ("+12016661234", "+18045551234", "Hello!")


async def test_waiting_gives_the_provider_s_id_in_the_answer(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    register(Scripted(ProviderResult("vendor-1")))
    answer = await client.post("/api/messages/sms", json=SMS, headers={"Prefer": "wait=5"})
    assert answer.json()["provider_message_id"] == "vendor-1"


async def test_a_plain_function_sends_as_well_and_does_not_hold_up_the_loop(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], BaseProvider]
) -> None:
    let_go = threading.Event()

    class Plain(BaseProvider):
        def send(self, payload: OutboundMessage) -> ProviderResult:
            assert let_go.wait(10)
            return ProviderResult("plain-1")

    register(Plain())
    sent = await client.post("/api/messages/sms", json=SMS)
    assert (await client.get("/healthz")).status_code == 200  # while the provider blocks its thread
    let_go.set()
    assert (await settled(client, sent.json()["message_id"]))["provider_message_id"] == "plain-1"


async def test_a_temporary_failure_is_tried_again(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    register(Scripted(TemporaryFailure("busy"), TemporaryFailure("still busy"), ProviderResult("vendor-1")))
    message = await delivered(client)
    assert message["status"] == "sent"
    attempts = message["attempts"]
    assert [(each["number"], each["outcome"], each["detail"]) for each in attempts] == [
        (1, "temporary", "busy"),
        (2, "temporary", "still busy"),
        (3, "accepted", None),
    ]


async def test_a_message_whose_attempts_are_used_up_has_failed_and_says_why(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    provider = register(Scripted(TemporaryFailure("busy")))
    message = await delivered(client)
    assert message["status"] == "failed"
    assert message["status_reason"] == "Given up after 3 attempts. The last: busy"
    assert len(provider.handed) == 3


async def test_a_permanent_failure_ends_at_once_with_the_provider_s_reason(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    provider = register(Scripted(PermanentFailure("the number does not exist")))
    message = await delivered(client)
    assert (message["status"], message["status_reason"]) == ("failed", "the number does not exist")
    assert len(provider.handed) == 1


async def test_a_lost_answer_is_unknown_and_not_sent_again(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    provider = register(Scripted(UnknownOutcome("the connection broke after the request")))
    message = await delivered(client)
    assert message["status"] == "unknown"
    assert len(provider.handed) == 1


async def test_a_provider_that_does_not_answer_in_time_leaves_the_outcome_unknown(
    serve: Serve, settings: Settings, register: Callable[[BaseProvider], BaseProvider]
) -> None:
    class Silent(BaseProvider):
        async def send(self, payload: OutboundMessage) -> ProviderResult:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    register(Silent())
    impatient = settings.model_copy(update={"routes": {"sms": ["scripted"]}, "provider_timeout_seconds": 0.05})
    message = await delivered(await serve(impatient))
    assert message["status"] == "unknown"
    assert "0.05 seconds" in str(message["status_reason"])


async def test_a_bug_in_a_provider_file_costs_the_message_its_attempts_and_nothing_else(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    register(Scripted(KeyError("to")))
    message = await delivered(client)
    assert (message["status"], message["status_reason"]) == (
        "failed",
        "Given up after 3 attempts. The last: KeyError in the provider.",
    )


async def test_an_id_that_the_provider_gives_out_twice_stays_with_its_first_message(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted]
) -> None:
    register(Scripted(ProviderResult("same")))
    first, second = await delivered(client), await delivered(client)
    assert (first["status"], first["provider_message_id"]) == ("sent", "same")
    assert (second["status"], second["provider_message_id"]) == ("sent", None)
    [attempt] = second["attempts"]
    assert "id that it had given to another message" in attempt["detail"]


@each_case(
    ("answer", "status", "told"),
    [
        (PermanentFailure("no such\x00number"), "failed", "no such\ufffdnumber"),
        (PermanentFailure("half \ud800"), "failed", "half \ufffd"),
        (ProviderResult("x" * 513), "sent", "The provider answered with an id that can't be stored."),
        (None, "unknown", "`send` returned NoneType where a ProviderResult belongs."),
    ],
    ids=["NUL", "surrogate", "long id", "nothing"],
)
async def test_what_postgresql_can_not_store_of_an_answer_costs_the_message_no_second_hand_over(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted], answer: Any, status: str, told: str
) -> None:
    provider = register(Scripted(answer))
    message = await delivered(client)
    assert (message["status"], message["status_reason"], message["provider_message_id"]) == (status, told, None)
    assert len(provider.handed) == 1


@each_case(("given", "kept"), [("a\x00b", "a\ufffdb"), ("half \ud800", "half \ufffd"), (17, "17")])
async def test_an_id_is_kept_as_postgresql_takes_it(
    client: httpx.AsyncClient, register: Callable[[BaseProvider], Scripted], given: Any, kept: str
) -> None:
    provider = register(Scripted(ProviderResult(given)))
    message = await delivered(client)
    assert (message["status"], message["provider_message_id"]) == ("sent", kept)
    assert len(provider.handed) == 1


@pytest.fixture
def refusing(database_url: str) -> Iterator[Callable[[str, str], None]]:
    """Has PostgreSQL refuse to close attempts with a code of its own, while a condition holds."""

    def refuse(sqlstate: str, condition: str) -> None:
        execute(
            database_url,
            "CREATE SEQUENCE tries",
            f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF {condition} THEN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$""",
            "CREATE TRIGGER refuse BEFORE UPDATE ON delivery_attempts FOR EACH ROW EXECUTE FUNCTION refuse()",
        )

    yield refuse
    execute(database_url, "DROP FUNCTION IF EXISTS refuse CASCADE", "DROP SEQUENCE IF EXISTS tries")


async def test_a_deadlock_is_no_reason_to_forget_what_a_provider_has_said(
    client: httpx.AsyncClient,
    register: Callable[[BaseProvider], Scripted],
    refusing: Callable[[str, str], None],
) -> None:
    refusing("40P01", "nextval('tries') <= 2")
    provider = register(Scripted(ProviderResult("vendor-1")))
    message = await delivered(client)
    assert (message["status"], message["provider_message_id"]) == ("sent", "vendor-1")
    assert len(provider.handed) == 1


async def test_where_the_provider_s_words_are_refused_its_answer_counts_without_them(
    client: httpx.AsyncClient,
    register: Callable[[BaseProvider], Scripted],
    refusing: Callable[[str, str], None],
) -> None:
    refusing("XX000", "NEW.detail LIKE '%number%'")
    provider = register(Scripted(PermanentFailure("no such number")))
    message = await delivered(client)
    assert (message["status"], message["status_reason"]) == ("failed", "What the provider said can't be stored.")
    assert len(provider.handed) == 1


@pytest.mark.slow
async def test_a_channel_without_a_provider_keeps_its_messages_and_says_so(serve: Serve, settings: Settings) -> None:
    client = await serve(settings.model_copy(update={"routes": {"sms": ["nobody"]}, "retry_base_seconds": 60}))
    sent = (await client.post("/api/messages/sms", json=SMS, headers={"Prefer": "wait=1"})).json()
    message = (await client.get(f"/api/messages/{sent['message_id']}")).json()
    assert (message["status"], message["status_reason"]) == ("queued", "No provider is registered as 'nobody'.")


RETRY = Decision(AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN, WORKER_LOST, retry_in=0)


class Queue:
    """The delivery queue as two workers use it, each step a transaction of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def claim(
        self,
        *,
        lease_seconds: float = 30,
        limit: int = 10,
        worker: str = "somebody",
        wanted: Wanted = Wanted.ANYTHING,
        skip_risky: bool = False,
    ) -> list[Claim]:
        async with self._engine.begin() as connection:
            claimed = await claim_due(
                connection,
                1,
                "sms",
                limit=limit,
                lease_seconds=lease_seconds,
                provider_type="sms",
                worker=worker,
                wanted=wanted,
                skip_risky=skip_risky,
            )
        return claimed.claims

    async def died_with(self) -> str:
        """A message that is due, and that a worker has died with."""
        async with self._engine.begin() as connection:
            [message_id] = await make_messages(connection)
            dead = update(Message).where(Message.tenant_id == 1, Message.id == message_id).values(worker_deaths=1)
            await connection.execute(dead)
        return str(message_id)

    async def end_leases(self, worker: str) -> None:
        async with self._engine.begin() as connection:
            await end_leases(connection, 1, "sms", worker)

    async def rescue(self, decision: Decision = RETRY) -> int:
        async with self._engine.begin() as connection:
            return await rescue(connection, 1, "sms", lambda *_: decision)

    async def record(self, claim: Claim, decision: Decision, provider_message_id: str | None = None) -> bool:
        result = AttemptResult(1, claim.message_id, claim.number, "sms", *decision, provider_message_id)
        async with self._engine.begin() as connection:
            [counted] = await record_outcomes(connection, [result])
            return counted


@pytest.fixture
async def queue(settings: Settings, database_url: str) -> AsyncIterator[Queue]:
    engine = create_serving_engine(database_url, settings)
    yield Queue(engine)
    await engine.dispose()


@pytest.fixture
async def idle(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """A client of an application that delivers nothing."""
    return await serve(settings.model_copy(update={"worker_enabled": False}))


async def test_two_workers_never_claim_the_same_message(idle: httpx.AsyncClient, queue: Queue) -> None:
    texts = [SMS | {"to": f"+1804555{number:04}"} for number in range(200)]
    await asyncio.gather(*(idle.post("/api/messages/sms", json=text) for text in texts))
    claims = [claim for batch in await asyncio.gather(*(queue.claim(limit=30) for _ in range(10))) for claim in batch]
    ids = [claim.message_id for claim in claims]
    assert len(ids) == len(set(ids)) == 200


async def test_a_conversation_s_messages_leave_in_the_order_in_which_they_were_accepted(
    idle: httpx.AsyncClient, queue: Queue
) -> None:
    for body in ("first", "second"):
        await idle.post("/api/messages/sms", json=SMS | {"body": body})
    [first] = await queue.claim()
    assert first.payload().body == "first"
    assert await queue.claim() == []
    later = Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "busy", retry_in=60)
    await queue.record(first, later)
    assert await queue.claim() == []  # the first still has to leave
    await idle.post("/api/messages/1/cancel")
    [second] = await queue.claim()
    assert second.payload().body == "second"


async def test_a_dead_worker_s_message_is_taken_over_and_its_late_word_changes_nothing(
    idle: httpx.AsyncClient, queue: Queue
) -> None:
    await idle.post("/api/messages/sms", json=SMS)
    [first] = await queue.claim(lease_seconds=0)
    assert await queue.claim() == []  # not before it has been taken over
    assert await queue.rescue() == 1
    assert await queue.rescue() == 0
    [second] = await queue.claim()
    assert (first.number, second.number) == (1, 2)
    assert second.may_have_left
    refused = Decision(AttemptOutcome.PERMANENT, MessageStatus.FAILED, "refused")
    assert await queue.record(first, refused) is False
    assert await queue.record(second, ACCEPTED, "vendor-2") is True
    assert await queue.record(first, refused) is False
    message = (await idle.get("/api/messages/1")).json()
    assert (message["status"], message["provider_message_id"]) == ("sent", "vendor-2")


async def test_that_it_was_sent_after_all_counts_also_from_a_worker_that_comes_back_late(
    idle: httpx.AsyncClient, queue: Queue
) -> None:
    await idle.post("/api/messages/sms", json=SMS)
    [first] = await queue.claim(lease_seconds=0)
    await queue.rescue()
    assert await queue.record(first, ACCEPTED, "vendor-1") is True
    assert await queue.claim() == []  # so it is not sent again
    message = (await idle.get("/api/messages/1")).json()
    assert (message["status"], message["provider_message_id"]) == ("sent", "vendor-1")
    said = [step["sentence"] for step in (await idle.get("/api/messages/1/timeline")).json()]
    assert said[-1] == f"Whether sms got it can't be told: {WORKER_LOST} It did, as vendor-1."


@pytest.mark.parametrize(
    "late", [ACCEPTED, Decision(AttemptOutcome.PERMANENT, MessageStatus.FAILED, "refused")], ids=["taken", "refused"]
)
async def test_an_attempt_that_was_closed_as_in_doubt_stays_so_whatever_its_worker_says_later(
    idle: httpx.AsyncClient, queue: Queue, late: Decision
) -> None:
    await idle.post("/api/messages/sms", json=SMS)
    [first] = await queue.claim(lease_seconds=0)
    await queue.rescue()
    [closed] = (await idle.get("/api/messages/1")).json()["attempts"]
    await queue.record(first, late)
    assert (await idle.get("/api/messages/1")).json()["attempts"] == [closed]
    assert (closed["outcome"], closed["detail"]) == ("unknown", WORKER_LOST)


async def test_what_is_called_back_is_never_handed_over_however_close_a_worker_is(
    idle: httpx.AsyncClient, queue: Queue
) -> None:
    texts = [SMS | {"to": f"+1804555{number:04}"} for number in range(60)]
    answers = await asyncio.gather(*(idle.post("/api/messages/sms", json=text) for text in texts))
    ids = [int(answer.json()["message_id"]) for answer in answers]
    canceled: set[int] = set()

    async def cancel(message_id: int) -> None:
        if (await idle.post(f"/api/messages/{message_id}/cancel")).status_code == 200:
            canceled.add(message_id)

    claiming = asyncio.create_task(_claim_all(queue, ids, canceled))
    await asyncio.gather(*map(cancel, reversed(ids)))
    claims = await claiming
    assert canceled.isdisjoint(claims)
    assert canceled | set(claims) == set(ids)
    assert canceled
    assert claims


async def _claim_all(queue: Queue, ids: list[int], canceled: set[int]) -> list[int]:
    """Claim one after the other, until nothing is left for either side."""
    claimed: list[int] = []
    while len(claimed) + len(canceled) < len(ids):
        claimed += [claim.message_id for claim in await queue.claim(limit=1)]
    return claimed


async def test_an_attempt_that_was_taken_over_is_in_doubt(idle: httpx.AsyncClient, queue: Queue) -> None:
    await idle.post("/api/messages/sms", json=SMS)
    await queue.claim(lease_seconds=0)
    await queue.rescue()
    assert (await idle.get("/api/messages/1")).json()["status"] == "unknown"
    await queue.claim()
    first, second = (await idle.get("/api/messages/1")).json()["attempts"]
    assert (first["outcome"], first["detail"]) == ("unknown", WORKER_LOST)
    assert (second["outcome"], second["finished_at"]) == (None, None)
    assert second["routed_because"] == "it may have it already"


async def test_what_a_worker_held_that_is_known_to_be_dead_is_taken_over_at_once(
    idle: httpx.AsyncClient, queue: Queue
) -> None:
    for number in range(2):
        await idle.post("/api/messages/sms", json=SMS | {"to": f"+1804555{number:04}"})
    [dead] = await queue.claim(worker="dead", limit=1)
    [living] = await queue.claim(worker="living", limit=1)
    assert await queue.rescue() == 0
    await queue.end_leases("dead")
    assert await queue.rescue() == 1
    assert [claim.message_id for claim in await queue.claim()] == [dead.message_id]
    assert await queue.record(living, ACCEPTED)


async def test_a_message_that_workers_die_with_goes_apart_from_the_others(
    idle: httpx.AsyncClient, queue: Queue
) -> None:
    await idle.post("/api/messages/sms", json=SMS)
    for _ in range(2):
        [claim] = await queue.claim(lease_seconds=0)
        await queue.rescue()
    await idle.post("/api/messages/sms", json=SMS | {"to": "+18045550000"})
    assert [other.message_id for other in await queue.claim()] == [claim.message_id + 1]
    assert [suspect.message_id for suspect in await queue.claim(wanted=Wanted.POISON_SUSPECTS)] == [claim.message_id]


async def test_a_claim_that_skips_what_is_risky_leaves_what_a_worker_has_died_with(
    idle: httpx.AsyncClient, queue: Queue
) -> None:
    await idle.post("/api/messages/sms", json=SMS)
    [died_with] = await queue.claim(lease_seconds=0)
    await queue.rescue()
    await idle.post("/api/messages/sms", json=SMS | {"to": "+18045550000"})
    assert [other.message_id for other in await queue.claim(skip_risky=True)] == [died_with.message_id + 1]
    assert await queue.claim(skip_risky=True, wanted=Wanted.IN_DOUBT) == []
    assert [claim.message_id for claim in await queue.claim()] == [died_with.message_id]


class Beside(ProcessLock):
    """The presence of a worker that has others beside it, or has not, as a test says."""

    others = 0
    rolls = 0

    def living_and_dead(self) -> ProcessNames:
        self.rolls += 1
        return ProcessNames([self.name, *(f"other-{number}" for number in range(self.others))], [])

    async def becomes(self, others: int) -> None:
        """Returns once its worker knows."""
        self.others, seen = others, self.rolls
        await until(lambda: asyncio.sleep(0, self.rolls), lambda rolls: rolls > seen)


@pytest.fixture
async def presence(
    settings: Settings, database_url: str, tmp_path: Path, register: Callable[[BaseProvider], BaseProvider]
) -> AsyncIterator[Beside]:
    """Of a worker that delivers."""
    register(Scripted(ProviderResult()))
    quick = settings.model_copy(update={"routes": {"sms": ["scripted"]}, "worker_poll_seconds": 0.05})
    engine = create_serving_engine(database_url, quick)
    presence = Beside(tmp_path)
    async with DeliveryWorker(engine, quick, presence, on_logged=lambda _: None):
        yield presence
    await engine.dispose()


async def test_the_last_worker_that_lives_tries_nothing_that_others_died_with_until_one_is_back(
    idle: httpx.AsyncClient, presence: Beside, queue: Queue
) -> None:
    await presence.becomes(1)
    await presence.becomes(0)
    dreaded = await queue.died_with()
    assert (await delivered(idle))["status"] == "sent"
    assert (await idle.get(f"/api/messages/{dreaded}")).json()["attempt_count"] == 0
    await presence.becomes(1)
    assert (await settled(idle, dreaded))["status"] == "sent"


async def test_a_worker_that_never_had_neighbours_waits_for_no_other(
    idle: httpx.AsyncClient, presence: Beside, queue: Queue
) -> None:
    await presence.becomes(0)
    assert (await settled(idle, await queue.died_with()))["status"] == "sent"


async def test_a_worker_goes_on_alone_when_nobody_comes_back(
    idle: httpx.AsyncClient, presence: Beside, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.delivery.housekeeping._RETURN_SECONDS", 0.1)
    await presence.becomes(1)
    await presence.becomes(0)
    assert (await settled(idle, await queue.died_with()))["status"] == "sent"
