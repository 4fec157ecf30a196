"""Order within a conversation, and independence between them. The providers hold messages; no clock decides."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.domain import AttemptOutcome, MessageStatus
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult, TemporaryFailure, send_through
from app.providers.registry import provider_registry
from app.services.delivery.claiming.claims import Claim
from app.services.delivery.results.outcomes import AttemptResult
from app.services.delivery.results.recorder import OutcomeRecorder
from app.services.delivery.results.retry_policy import ACCEPTED, Decision
from tests.conftest import client_of, started
from tests.factories import email, make_messages, sms, until
from tests.providers import outbound
from tests.test_worker import Queue, Scripted
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
Register = Callable[[str, BaseProvider], None]
NOW = Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "busy", retry_in=0)
LATER = Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "busy", retry_in=60)


class Gated(BaseProvider):
    """Holds every send until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.held: list[OutboundMessage] = []
        self.through: list[OutboundMessage] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.held.append(payload)
        await self.opened.wait()
        self.through.append(payload)
        return ProviderResult()

    async def holds(self, count: int) -> None:
        await until(lambda: asyncio.sleep(0, len(self.held)), lambda found: found == count)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    return lambda name, provider: monkeypatch.setitem(provider_registry, name, provider)


@pytest.fixture
def quick(settings: Settings) -> Settings:
    changes = {
        "routes": {"sms": ["slow"], "email": ["fast"]},
        "retry_base_seconds": 0.01,
        "worker_poll_seconds": 0.05,
    }
    return settings.model_copy(update=changes)


async def post(client: httpx.AsyncClient, given: dict[str, Any]) -> str:
    message_id: str = (await client.post(f"/api/messages/{_channel(given)}", json=given)).json()["message_id"]
    return message_id


def _channel(given: dict[str, Any]) -> str:
    return "email" if "@" in given["to"] else "sms"


async def become(client: httpx.AsyncClient, ids: list[str], status: str) -> None:
    async def ask() -> set[str]:
        answers = await asyncio.gather(*(client.get(f"/api/messages/{message_id}") for message_id in ids))
        return {answer.json()["status"] for answer in answers}

    await until(ask, lambda statuses: statuses == {status})


def bodies(handed: list[OutboundMessage]) -> list[str]:
    return [payload.body for payload in handed]


async def test_a_later_message_of_a_conversation_waits_for_an_earlier_one_that_is_being_retried(
    serve: Serve, quick: Settings, register: Register
) -> None:
    provider = Scripted(*[TemporaryFailure("busy")] * 3, ProviderResult())
    register("slow", provider)
    client = await serve(quick)
    ids = [await post(client, sms(body=str(number))) for number in range(5)]
    await become(client, ids, "sent")
    assert bodies(provider.handed) == ["0", "0", "0", "0", "1", "2", "3", "4"]


async def test_an_earlier_message_that_has_failed_for_good_holds_nobody_up(engine: AsyncEngine) -> None:
    queue = Queue(engine)
    async with engine.begin() as connection:
        await make_messages(connection)
        await make_messages(connection)
    [first] = await queue.claim()
    await queue.record(first, Decision(AttemptOutcome.PERMANENT, MessageStatus.FAILED, "refused"))
    [second] = await queue.claim()
    assert second.message_id > first.message_id


async def test_other_conversations_do_not_wait_for_one_that_is_being_retried(engine: AsyncEngine) -> None:
    queue = Queue(engine)
    async with engine.begin() as connection:
        ids = await make_messages(connection, 3)
        behind = await make_messages(connection, 3)  # of the same conversations
    claims = {claim.message_id: claim for claim in await queue.claim()}
    assert sorted(claims) == ids
    for message_id, decision in zip(ids, (LATER, ACCEPTED, NOW), strict=True):
        await queue.record(claims[message_id], decision)
    assert {claim.message_id for claim in await queue.claim()} == {behind[1], ids[2]}


async def test_a_message_that_is_scheduled_for_later_holds_up_nobody_of_its_conversation(
    serve: Serve, quick: Settings, register: Register
) -> None:
    provider = Scripted(ProviderResult())
    register("slow", provider)
    client = await serve(quick)
    await post(client, sms(body="later", send_at=(datetime.now(UTC) + timedelta(days=1)).isoformat()))
    await become(client, [await post(client, sms(body="now"))], "sent")
    assert bodies(provider.handed) == ["now"]


async def test_messages_scheduled_for_the_same_time_leave_one_after_the_other_as_they_were_accepted(
    engine: AsyncEngine,
) -> None:
    queue = Queue(engine)
    async with engine.begin() as connection:
        scheduled = [(await make_messages(connection, status=MessageStatus.SCHEDULED))[0] for _ in range(2)]
        [queued] = await make_messages(connection)
    for expected in [*scheduled, queued]:
        [claim] = await queue.claim()
        assert claim.message_id == expected
        assert await queue.claim() == []
        await queue.record(claim, ACCEPTED)


async def test_eight_workers_keep_the_order_of_every_conversation_and_hand_over_nothing_twice(
    engine: AsyncEngine,
) -> None:
    """Each claims, fails or succeeds, and claims again, until nothing is left."""
    queue = Queue(engine)
    async with engine.begin() as connection:
        for _ in range(5):
            await make_messages(connection, 12)
    left: list[int] = []
    tries: dict[int, int] = {}

    async def work() -> None:
        while len(left) < 60:
            for claim in await queue.claim(limit=4):
                tries[claim.message_id] = tries.get(claim.message_id, 0) + 1
                fails = claim.message_id % 3 == 0 and claim.number == 1
                assert await queue.record(claim, NOW if fails else ACCEPTED)
                if not fails:
                    left.append(claim.message_id)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work() for _ in range(8)))
    assert sorted(left) == list(range(1, 61))
    assert tries == {id: 2 if id % 3 == 0 else 1 for id in left}
    for conversation in range(12):
        own = [id for id in left if id % 12 == conversation]
        assert own == sorted(own)


async def test_a_provider_that_takes_long_does_not_slow_the_messages_of_another(
    serve: Serve, quick: Settings, register: Register
) -> None:
    slow, fast = Gated(), Scripted(ProviderResult())
    register("slow", slow)
    register("fast", fast)
    client = await serve(quick.model_copy(update={"provider_concurrency": 5, "worker_concurrency": 10}))
    texts = [await post(client, sms(to=f"+1804555{number:04}")) for number in range(20)]
    await slow.holds(5)
    mails = [await post(client, email(to=f"contact{number}@example.com")) for number in range(20)]
    await become(client, mails, "sent")
    assert len(slow.held) == 5  # its own slots, and no more
    assert slow.through == []
    slow.opened.set()
    await become(client, texts, "sent")
    assert len(slow.through) == 20


async def test_while_a_provider_takes_long_no_connection_to_the_database_is_held(
    serve: Serve, quick: Settings, register: Register
) -> None:
    slow = Gated()
    register("slow", slow)
    tight = {"database_pool_size": 8, "database_pool_overflow": 0}
    client = await serve(quick.model_copy(update=tight))
    texts = [await post(client, sms(to=f"+1804555{number:04}")) for number in range(30)]
    await slow.holds(30)
    answers = await asyncio.gather(*(client.get(f"/api/messages/{message_id}") for message_id in texts))
    assert [answer.json()["status"] for answer in answers] == ["sending"] * 30
    slow.opened.set()
    await become(client, texts, "sent")


@pytest.mark.slow
async def test_a_provider_that_blocks_its_threads_does_not_slow_another_that_needs_one_too(
    serve: Serve, quick: Settings, register: Register
) -> None:
    let_go = threading.Event()

    class Blocking(BaseProvider):
        def send(self, payload: OutboundMessage) -> ProviderResult:
            assert let_go.wait(30)
            return ProviderResult()

    class Prompt(BaseProvider):
        def send(self, payload: OutboundMessage) -> ProviderResult:
            return ProviderResult()

    register("slow", Blocking())
    register("fast", Prompt())
    client = await serve(quick.model_copy(update={"provider_concurrency": 40}))
    try:
        texts = [await post(client, sms(to=f"+1804555{number:04}")) for number in range(40)]
        await become(client, texts, "sending")
        mail = await post(client, email())
        await until(lambda: client.get(f"/api/messages/{mail}"), lambda answer: answer.json()["status"] == "sent")
    finally:
        let_go.set()
    await become(client, texts, "sent")


class KnowsKeys(Gated):
    honours_idempotency_key = True


@pytest.mark.parametrize(("provider", "before_it_is_recorded"), [(Gated(), 1), (KnowsKeys(), 2)])
async def test_what_cannot_be_repeated_is_written_down_before_a_hand_takes_the_next(
    serve: Serve,
    quick: Settings,
    register: Register,
    monkeypatch: pytest.MonkeyPatch,
    provider: Gated,
    before_it_is_recorded: int,
) -> None:
    """Or a death would leave two in doubt for each hand."""
    paper, asked = asyncio.Event(), asyncio.Event()
    write_down = OutcomeRecorder.write_down

    async def slowly(recorder: OutcomeRecorder, result: AttemptResult) -> None:
        asked.set()
        await paper.wait()
        await write_down(recorder, result)

    monkeypatch.setattr(OutcomeRecorder, "write_down", slowly)
    provider.opened.set()
    register("slow", provider)
    register("fast", Scripted(ProviderResult()))
    client = await serve(quick.model_copy(update={"provider_concurrency": 1}))
    texts = [await post(client, sms(to=f"+1804555{number:04}")) for number in range(2)]
    await asked.wait()
    await provider.holds(before_it_is_recorded)
    last = await post(client, email())  # the worker has looked at what is due since then
    await until(lambda: client.get(f"/api/messages/{last}"), lambda answer: answer.json()["status"] == "sending")
    assert len(provider.through) == before_it_is_recorded
    paper.set()
    await become(client, [*texts, last], "sent")


class Stuck(BaseProvider):
    """A plain function that keeps each of its threads until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.begun: list[int] = []

    def send(self, payload: OutboundMessage) -> ProviderResult:
        self.begun.append(payload.message_id)
        assert self.let_go.wait(30)
        return ProviderResult()

    async def holds(self, count: int) -> None:
        await until(lambda: asyncio.sleep(0, len(self.begun)), lambda found: found == count)


@pytest.fixture
def stuck(register: Register) -> Iterator[Stuck]:
    provider = Stuck()
    register("slow", provider)
    yield provider
    provider.let_go.set()


async def test_a_plain_function_gets_as_many_threads_as_its_provider_has_slots(
    serve: Serve, quick: Settings, stuck: Stuck
) -> None:
    client = await serve(quick.model_copy(update={"provider_concurrency": 40}))
    for number in range(40):
        await post(client, sms(to=f"+1804555{number:04}"))
    await stuck.holds(40)


async def test_what_no_thread_came_free_for_has_not_left_and_is_sent_later(
    serve: Serve, quick: Settings, stuck: Stuck
) -> None:
    changes = {"provider_concurrency": 2, "provider_timeout_seconds": 0.3, "max_attempts": 1}
    client = await serve(quick.model_copy(update=changes))
    first = [await post(client, sms(to=f"+1804555{number:04}")) for number in range(2)]
    await stuck.holds(2)
    await become(client, first, "unknown")  # their threads are still at it
    later = await post(client, sms(to="+18045550002"))

    async def tried() -> list[str]:
        attempts = (await client.get(f"/api/messages/{later}")).json()["attempts"]
        return [each["outcome"] for each in attempts if each["outcome"]]

    await until(tried, lambda outcomes: outcomes[:2] == ["temporary"] * 2)
    assert len(stuck.begun) == 2
    stuck.let_go.set()
    await become(client, [later], "sent")


async def test_an_orderly_stop_leaves_in_the_queue_what_no_thread_had_begun(
    quick: Settings, register: Register, database_url: str
) -> None:
    provider = Stuck()
    register("slow", provider)
    async with AsyncExitStack() as stack:
        hurried = quick.model_copy(update={"provider_concurrency": 3, "shutdown_grace_seconds": 0.1})
        provider.let_go.set()
        await send_through(provider, outbound(), threads=1)
        provider.let_go.clear()
        client = await stack.enter_async_context(client_of(await started(stack, hurried)))
        ids = [await post(client, sms(to=f"+1804555{number:04}")) for number in range(3)]
        await provider.holds(2)  # the one before, and one of these
        await become(client, ids, "sending")
    provider.let_go.set()
    found = rows_of(database_url, "SELECT status, count(*) FROM messages GROUP BY status")
    assert dict(found) == {"queued": 2, "unknown": 1}
    assert rows_of(database_url, "SELECT provider_type FROM provider_states") == []


async def test_a_claim_carries_what_the_provider_needs_and_the_same_key_every_time(engine: AsyncEngine) -> None:
    queue = Queue(engine)
    async with engine.begin() as connection:
        await make_messages(connection)
    [first] = await queue.claim()
    await queue.record(first, NOW)
    [second] = await queue.claim()
    assert isinstance(second, Claim)
    assert (first.number, second.number) == (1, 2)
    assert first.payload() == second.payload()
    assert not second.may_have_left
