"""The periodic work of a worker: a table of tasks, and the tasks that concern the delivery queue."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import structlog
from sqlalchemy import BigInteger, Float, Integer, Select, Update, and_, bindparam, exists, func, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.batches import CHANNEL, SECOND, TENANT, by_tenant, given, rows
from app.db.engine import is_unavailable
from app.db.models import DeliveryAttempt, Message, Tenant
from app.db.outage import outage
from app.db.process_lock import HERE, ProcessLock
from app.db.statistics import learn_sizes
from app.domain import EventType, MessageStatus
from app.providers.registry import provider_registry
from app.routing import channels_served
from app.services.delivery.claims import LEASE_END, Claim, DueWork, due_work
from app.services.delivery.outcomes import AttemptResult, note, record_outcomes
from app.services.delivery.receipts import sweep_parked
from app.services.delivery.retry_policy import Attempt, Decision, in_doubt
from app.services.event_log.entries import NewEvent, write_entries
from app.services.limits.daily_caps import forget_daily_budgets

log = structlog.get_logger(__name__)

#: Messages that are rescued or expired in one transaction, which delays readers of the event log while it lasts.
_AT_ONCE = 100
_WATCH_SECONDS = 0.2  # between two looks for dead workers of this host
_RETURN_SECONDS = 30.0  # for a worker of this host to come back

#: The reason of an attempt whose worker died.
WORKER_LOST = "The worker that had it went away before it could say what came of this attempt."


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """A piece of work that is done every so many seconds; an exception is logged as `on_failure`."""

    name: str
    seconds: float
    run: Callable[[], Awaitable[object]]
    on_failure: str


class Housekeeping:
    """Runs periodic tasks until its context is left: its own, and those that it is given.

    The leases of the claims in `in_flight`, a live view, are renewed. `on_change` is called when messages may have
    become due, and when risky ones may be claimed again; `on_logged` with a tenant whose log has grown.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        presence: ProcessLock,
        in_flight: Collection[Claim],
        *,
        on_change: Callable[[], None],
        on_logged: Callable[[int], None],
        tasks: Iterable[PeriodicTask] = (),
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._presence = presence
        self._in_flight = in_flight
        self._on_change = on_change
        self._on_logged = on_logged
        self._has_neighbours = False
        self._left_alone_at: float | None = None
        self._table = [
            PeriodicTask("watch-workers", _WATCH_SECONDS, self._watch_workers, "dead_not_rescued"),
            PeriodicTask("rescue", 1, self.rescue_and_expire, "dead_not_rescued"),
            PeriodicTask("parked-receipts", 1, self._attach_parked, "receipts_not_attached"),
            # Often enough that one failure does no harm.
            PeriodicTask("lease-renewal", settings.lease_seconds / 3, self._renew, "leases_not_renewed"),
            PeriodicTask("statistics", 1, self._learn_sizes, "not_analyzed"),
            PeriodicTask("keys-and-budgets", 30, self._forget, "not_cleaned"),
            *tasks,
        ]
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._running = [asyncio.create_task(_repeat(task), name=task.name) for task in self._table]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def is_last_worker(self) -> bool:
        """True if all other workers of this host have died and one is expected back.

        Until then this worker must not try messages that workers died with: no worker would be left for the rest.
        """
        if self._has_neighbours or self._left_alone_at is None:
            return False
        return asyncio.get_running_loop().time() - self._left_alone_at < _RETURN_SECONDS

    async def _watch_workers(self) -> None:
        """Look for dead workers of this host. Those of other hosts are found when their leases end."""
        try:
            found = self._presence.living_and_dead()
        except OSError:
            return
        had_neighbours, self._has_neighbours = self._has_neighbours, len(found.living) > 1
        if had_neighbours and not self._has_neighbours:
            self._left_alone_at = asyncio.get_running_loop().time()
        if self._has_neighbours and not had_neighbours:
            self._on_change()  # risky messages may be tried again
        if dead := [name for name in found.dead if name.rsplit("-", 2)[0] == HERE]:
            await self.rescue_and_expire(dead)

    async def rescue_and_expire(self, dead: Sequence[str] = ()) -> None:
        """Rescue messages whose worker died, those of the `dead` at once, and expire overdue ones."""
        async with self._engine.connect() as connection:
            work = await due_work(connection, channels_served(self._settings))
        for item in work:
            if item.wait_seconds > 0 and not dead:
                continue
            for name in dead:
                async with self._engine.begin() as connection:
                    await end_leases(connection, item.tenant_id, item.channel, name)
            rescued, expired = await self._look_after(item)
            if rescued or expired:
                log.warning("messages_looked_after", taken_over=rescued, expired=expired, channel=item.channel)
                self._on_change()
                self._on_logged(item.tenant_id)
        for name in dead:
            self._presence.forget_dead(name)

    async def _look_after(self, queue: DueWork) -> tuple[int, int]:
        """Rescue and expire the messages of a queue in short transactions; returns how many of each."""
        rescued = expired = 0
        while True:
            async with self._engine.begin() as connection:
                saved = await rescue(connection, queue.tenant_id, queue.channel, self._decide)
                over = await expire_overdue(connection, queue.tenant_id, queue.channel)
            rescued, expired = rescued + saved, expired + over
            if max(saved, over) < _AT_ONCE:
                return rescued, expired

    def _decide(self, provider_type: str, attempt: Attempt) -> Decision:
        return in_doubt(WORKER_LOST, attempt, provider_registry.get(provider_type), self._settings)

    async def _attach_parked(self) -> None:
        async with self._engine.begin() as connection:
            attached = await sweep_parked(connection)
        for tenant_id in attached:
            self._on_logged(tenant_id)

    async def _renew(self) -> None:
        await renew_leases(self._engine, self._in_flight, self._settings.lease_seconds)

    async def _learn_sizes(self) -> None:
        if names := await learn_sizes(self._engine):
            log.debug("tables_analyzed", tables=names)

    async def _forget(self) -> None:
        """Forget old idempotency keys and the daily budgets of past days."""
        await forget_daily_budgets(self._engine)
        age = self._settings.idempotency_hours * 3600
        async with self._engine.connect() as connection:
            tenants = (await connection.execute(_WITH_OLD_KEYS, {"age": age})).scalars().all()
        for tenant_id in tenants:
            await forget_idempotency_keys(self._engine, tenant_id, age)


async def _repeat(task: PeriodicTask) -> None:
    while True:
        await asyncio.sleep(task.seconds)
        try:
            await task.run()
        except Exception as error:
            if is_unavailable(error):
                outage.note(error, batch=task.name)
            else:
                log.warning(task.on_failure, error=type(error).__name__)


_held = rows(message_id=BigInteger(), number=Integer())
_RENEW = (
    update(Message)
    .where(
        Message.tenant_id == TENANT,
        Message.id == _held.c.message_id,
        Message.attempt_count == _held.c.number,
        Message.status == MessageStatus.SENDING.value,
    )
    .values(due_at=LEASE_END)
)


async def renew_leases(engine: AsyncEngine, claims: Iterable[Claim], lease_seconds: float) -> None:
    """Extend the leases of claims that are still in flight, those of each tenant in a transaction."""
    for tenant_id, own in by_tenant(claims):
        held = given(tenant_id, ("message_id", "number"), [(claim.message_id, claim.number) for claim in own])
        async with engine.begin() as connection:
            await connection.execute(_RENEW, held | {"lease": lease_seconds})


_attempt_of = and_(
    DeliveryAttempt.tenant_id == TENANT,
    DeliveryAttempt.message_id == Message.id,
    DeliveryAttempt.number == Message.attempt_count,
)
_sending = and_(
    Message.tenant_id == TENANT,
    Message.channel == CHANNEL,
    Message.attempt_count > 0,  # lets the partial index serve
    Message.status == MessageStatus.SENDING.value,
)
_END_LEASES = (
    update(Message)
    .where(_sending, Message.due_at.is_not(None), _attempt_of, DeliveryAttempt.worker == bindparam("dead_worker"))
    .values(due_at=func.now())
)


async def end_leases(connection: AsyncConnection, tenant_id: int, channel: str, worker: str) -> None:
    """End the leases of a dead worker now."""
    await connection.execute(_END_LEASES, {"tenant": tenant_id, "on_channel": channel, "dead_worker": worker})


def _update_unlocked(found: Select[int]) -> Update:
    """An update of the messages that `found` selects, without those that another transaction has locked."""
    locked = found.with_for_update(skip_locked=True, key_share=True).cte("locked")
    return update(Message).where(Message.tenant_id == TENANT, Message.id == locked.c.id)


_RESCUE = (
    _update_unlocked(
        select(Message.id).where(_sending, Message.due_at <= func.now()).order_by(Message.id).limit(_AT_ONCE)
    )
    .where(_attempt_of)
    .values(worker_deaths=Message.worker_deaths + 1)
    .returning(
        Message.id, Message.attempt_count, Message.attempt_limit, Message.worker_deaths, DeliveryAttempt.provider_type
    )
)


async def rescue(
    connection: AsyncConnection, tenant_id: int, channel: str, decide: Callable[[str, Attempt], Decision]
) -> int:
    """Close the attempts whose leases have ended, as `decide(provider, attempt)` says; returns how many."""
    abandoned = await connection.execute(_RESCUE, {"tenant": tenant_id, "on_channel": channel})
    results = []
    for row in abandoned:
        attempt = Attempt(row.attempt_count, row.attempt_limit, cut_off=True, worker_deaths=row.worker_deaths)
        decision = decide(row.provider_type, attempt)
        results.append(AttemptResult(tenant_id, row.id, attempt.number, row.provider_type, *decision))
    await record_outcomes(connection, results)
    return len(results)


_overdue = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.channel == CHANNEL,
        Message.due_at.is_not(None),
        Message.expires_at <= func.now(),
        Message.status.in_([MessageStatus.QUEUED.value, MessageStatus.SCHEDULED.value]),
    )
    .order_by(Message.id)
    .limit(_AT_ONCE)
)
_EXPIRE = (
    _update_unlocked(_overdue)
    .values(status=MessageStatus.EXPIRED.value, due_at=null())
    .returning(Message.id, Message.conversation_id)
)


async def expire_overdue(connection: AsyncConnection, tenant_id: int, channel: str) -> int:
    """Expire messages that had not left by their `expires_at`; returns how many."""
    expired = (await connection.execute(_EXPIRE, {"tenant": tenant_id, "on_channel": channel})).all()
    if expired:
        await note(connection, tenant_id, MessageStatus.EXPIRED, [row.id for row in expired])
        entries = [NewEvent(EventType.MESSAGE_EXPIRED, row.id, row.conversation_id) for row in expired]
        await write_entries(connection, tenant_id, entries)
    return len(expired)


_KEYS_AT_ONCE = 500
_has_old_key = and_(
    Message.idempotency_key.is_not(None),
    Message.created_at < func.now() - bindparam("age", type_=Float()) * SECOND,
)
_WITH_OLD_KEYS = select(Tenant.id).where(exists().where(Message.tenant_id == Tenant.id, _has_old_key))
_forgotten = select(Message.id).where(Message.tenant_id == TENANT, _has_old_key).limit(_KEYS_AT_ONCE)
_FORGET_KEYS = _update_unlocked(_forgotten).values(idempotency_key=null(), request_fingerprint=null())


async def forget_idempotency_keys(engine: AsyncEngine, tenant_id: int, age_seconds: float) -> int:
    """Free the keys that are older than `age_seconds`, some hundreds in a transaction; returns how many."""
    freed = 0
    while True:
        async with engine.begin() as connection:
            found = (await connection.execute(_FORGET_KEYS, {"tenant": tenant_id, "age": age_seconds})).rowcount
        freed += found
        if found < _KEYS_AT_ONCE:
            return freed
