"""The queues of a worker: those with messages, where they begin, and every way to become due before that place."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.batches import Priority
from app.config import Settings
from app.db.models import Message
from app.domain import AttemptOutcome, MessageStatus
from app.services.delivery.claiming import queues
from app.services.delivery.claiming.claims import Claim, claim_due
from app.services.delivery.claiming.leases import end_leases, rescue
from app.services.delivery.claiming.queues import DueWork, Queues
from app.services.delivery.results.outcomes import AttemptResult, record_outcomes
from app.services.delivery.results.retry_policy import ACCEPTED, Decision
from tests.factories import make_messages, sms, until
from tests.tenancy import make_tenant

pytestmark = pytest.mark.anyio

CHANNELS = ["sms", "email"]
Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first look be the only full one for an hour."""
    monkeypatch.setattr(queues, "_LONGEST_SECONDS", 3600.0)
    monkeypatch.setattr(queues, "_SHARE", 1e-12)


class Worker:
    """Looks and claims as a worker does."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.queues = Queues(ahead_seconds=1)

    async def look(self) -> list[DueWork]:
        async with self._engine.connect() as connection:
            return await self.queues.look(connection, CHANNELS)

    async def claim(self) -> list[Claim]:
        """Claim all that the next look finds to be due."""
        claims: list[Claim] = []
        for work in await self.look():
            async with self._engine.begin() as connection:
                claimed = await claim_due(
                    connection,
                    work.tenant_id,
                    work.channel,
                    work.priority,
                    limit=100,
                    lease_seconds=30,
                    provider_type="sms",
                    worker="test",
                    begins_at=work.begins_at,
                )
            claims += claimed.claims
        return claims

    async def claims_all(self, ids: list[int]) -> None:
        """Returns once these messages, and no others, are claimed."""
        found: list[int] = []

        async def claimed() -> list[int]:
            found.extend(claim.message_id for claim in await self.claim())
            return sorted(found)

        await until(claimed, lambda claimed: claimed == ids)


@pytest.fixture
def worker(engine: AsyncEngine) -> Worker:
    return Worker(engine)


async def due(connection: AsyncConnection, ids: list[int], *, seconds: float) -> None:
    """Let messages be due so many seconds from now; before now, if negative."""
    later = text("now()") if not seconds else text(f"now() + interval '{seconds} seconds'")
    await connection.execute(update(Message).where(Message.tenant_id == 1, Message.id.in_(ids)).values(due_at=later))


async def test_a_look_shows_the_queues_with_messages_and_how_long_the_first_waits(
    engine: AsyncEngine, worker: Worker, database_url: str
) -> None:
    assert await worker.look() == []
    other = make_tenant(database_url)
    async with engine.begin() as connection:
        await due(connection, await make_messages(connection, 2), seconds=60)
        await make_messages(connection, tenant_id=other)
        await make_messages(connection, status=MessageStatus.DELIVERED)
    worker = Worker(engine)
    found = {work.tenant_id: work for work in await worker.look()}
    assert set(found) == {1, other}
    assert found[1].wait_seconds > 0 >= found[other].wait_seconds
    assert {work.channel for work in found.values()} == {"sms"}


async def test_a_channel_that_nobody_serves_is_left_alone(engine: AsyncEngine, worker: Worker) -> None:
    async with engine.begin() as connection:
        await make_messages(connection)
        assert await worker.queues.look(connection, ["email"]) == []


@pytest.mark.usefixtures("seldom")
async def test_a_queue_is_looked_at_from_where_it_began(engine: AsyncEngine, worker: Worker) -> None:
    async with engine.begin() as connection:
        ids = await make_messages(connection, 3)
        await due(connection, ids[:1], seconds=-100)
        await due(connection, ids[1:2], seconds=-50)
    [before] = await worker.look()
    async with engine.begin() as connection:
        claimed = await claim_due(connection, 1, "sms", limit=1, lease_seconds=30, provider_type="sms", worker="test")
    [claim] = claimed.claims
    assert claim.message_id == ids[0]
    [after] = await worker.look()
    assert after.begins_at - before.begins_at == timedelta(seconds=50)
    assert worker.queues.full_look_in() > 0


@pytest.mark.usefixtures("seldom")
async def test_what_is_accepted_for_now_is_found_in_a_queue_that_was_empty(
    engine: AsyncEngine, worker: Worker
) -> None:
    async with engine.begin() as connection:
        await make_messages(connection)
    for _ in range(3):
        [claim] = await worker.claim()
        assert await worker.claim() == []
        await record(engine, claim, ACCEPTED)
        async with engine.begin() as connection:
            await make_messages(connection)
    assert len(await worker.claim()) == 1


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize("priority", Priority)
async def test_the_first_message_of_a_priority_is_found_without_a_full_look(
    engine: AsyncEngine, worker: Worker, priority: Priority
) -> None:
    async with engine.begin() as connection:
        await make_messages(connection)
    [claim] = await worker.claim()
    await record(engine, claim, ACCEPTED)
    async with engine.begin() as connection:
        [first] = await make_messages(connection, priority=priority)
    await worker.claims_all([first])


@pytest.mark.usefixtures("seldom")
async def test_of_many_queues_those_that_stay_empty_are_forgotten(
    engine: AsyncEngine, worker: Worker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "_REMEMBERED", 2)
    tenants = [1, *(make_tenant(database_url, f"Tenant {number}") for number in range(3))]
    async with engine.begin() as connection:
        for tenant_id in tenants:
            await make_messages(connection, tenant_id=tenant_id)
    assert len(await worker.claim()) == 4
    async with engine.begin() as connection:
        await connection.execute(
            update(Message).values(due_at=None).execution_options(all_tenants="a test looks at all there is")
        )
    assert await worker.look() == []
    assert len(worker.queues._known()) == 2 * len(Priority)


async def test_a_full_look_follows_soon_after_every_other_look(engine: AsyncEngine, worker: Worker) -> None:
    await worker.look()
    assert worker.queues.full_look_in() == float("inf")
    worker.queues._full_look_at = asyncio.get_running_loop().time() + 0.01
    await worker.look()
    assert worker.queues.full_look_in() <= 0.01
    await until(worker.look, lambda _: worker.queues.full_look_in() == float("inf"))


async def test_a_full_look_that_fails_is_not_repeated_at_once(engine: AsyncEngine, worker: Worker) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError, match="division"):
            await connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(DBAPIError, match="aborted"):
            await worker.queues.look(connection, CHANNELS)
    assert await worker.look() == []
    assert 0 < worker.queues.full_look_in() <= queues._LONGEST_SECONDS


# Every way to become due, while the queue is known to begin later than that message.


async def retried(engine: AsyncEngine, idle: httpx.AsyncClient, claim: Claim) -> None:
    refused = Decision(AttemptOutcome.PERMANENT, MessageStatus.FAILED, "refused")
    await record(engine, claim, refused)
    assert (await idle.post(f"/api/messages/{claim.message_id}/retry")).status_code == 200


async def requeued(engine: AsyncEngine, _: httpx.AsyncClient, claim: Claim) -> None:
    await record(engine, claim, Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "busy", retry_in=0))


async def rescued(engine: AsyncEngine, _: httpx.AsyncClient, claim: Claim) -> None:
    async with engine.begin() as connection:
        await end_leases(connection, 1, "sms", "test")
        again = Decision(AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN, "dead", retry_in=0)
        assert await rescue(connection, 1, "sms", lambda *_: again) == 1


async def resumed(engine: AsyncEngine, idle: httpx.AsyncClient, claim: Claim) -> None:
    await record(engine, claim, Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "busy", retry_in=0))
    async with engine.begin() as connection:  # as a pause has it
        held = {"due_at": text("now() + interval '1 hour'"), "attempt_count": 0}
        await connection.execute(update(Message).where(Message.tenant_id == 1).values(held))
        await connection.execute(text("DELETE FROM delivery_attempts").execution_options(all_tenants="a test"))
        await connection.execute(
            text("UPDATE conversations SET paused_until = now() + interval '1 hour'").execution_options(
                all_tenants="a test"
            )
        )
    assert (await idle.post("/api/conversations/1/resume")).status_code in {200, 204}


async def record(engine: AsyncEngine, claim: Claim, decision: Decision) -> None:
    async with engine.begin() as connection:
        await record_outcomes(connection, [AttemptResult(1, claim.message_id, claim.number, "sms", *decision)])


@pytest.fixture
async def idle(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """A client of an application that delivers nothing."""
    return await serve(settings.model_copy(update={"worker_enabled": False}))


@pytest.mark.parametrize("becomes_due", [retried, requeued, rescued, resumed])
async def test_a_message_that_becomes_due_again_is_found(
    engine: AsyncEngine,
    idle: httpx.AsyncClient,
    worker: Worker,
    becomes_due: Callable[[AsyncEngine, httpx.AsyncClient, Claim], Awaitable[None]],
) -> None:
    async with engine.begin() as connection:
        ids = await make_messages(connection)
    [claim] = await worker.claim()
    assert await worker.claim() == []  # it knows by now that there is nothing before this moment
    await becomes_due(engine, idle, claim)
    await worker.claims_all(ids)


async def test_a_scheduled_message_is_found_at_its_time(
    engine: AsyncEngine, idle: httpx.AsyncClient, worker: Worker
) -> None:
    async with engine.begin() as connection:
        now, soon = await make_messages(connection, 2, status=MessageStatus.SCHEDULED)
        await due(connection, [soon], seconds=0.2)
    await worker.claims_all([now, soon])


@pytest.mark.parametrize("seconds", [0.0, -1.0, -3600.0])
async def test_a_message_of_a_slow_transaction_or_a_slow_clock_is_found_however_early_its_time_is(
    engine: AsyncEngine, worker: Worker, seconds: float
) -> None:
    async with engine.begin() as connection:
        first, *late = await make_messages(connection, 3)
        await connection.execute(
            update(Message).where(Message.tenant_id == 1, Message.id != first).values(due_at=None)
        )
    await worker.claims_all([first])
    async with engine.begin() as slow:
        await due(slow, late, seconds=seconds)
        assert await worker.claim() == []  # looks while the transaction is open
    await worker.claims_all(late)


async def test_a_new_tenant_s_first_message_is_found(engine: AsyncEngine, worker: Worker, database_url: str) -> None:
    async with engine.begin() as connection:
        await make_messages(connection)
    assert len(await worker.claim()) == 1
    other = make_tenant(database_url)
    async with engine.begin() as connection:
        [new] = await make_messages(connection, tenant_id=other)
    await worker.claims_all([new])


async def test_messages_of_a_conversation_keep_their_order_wherever_the_queue_begins(
    engine: AsyncEngine, idle: httpx.AsyncClient, worker: Worker
) -> None:
    for body in ("first", "second"):
        await idle.post("/api/messages/sms", json=sms(body=body))
    [first] = await worker.claim()
    assert await worker.claim() == []
    await record(engine, first, Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "busy", retry_in=0))
    [again] = await worker.claim()
    assert again.message_id == first.message_id  # the second is due earlier, and waits
    await record(engine, again, ACCEPTED)
    [second] = await worker.claim()
    assert second.message_id == first.message_id + 1
