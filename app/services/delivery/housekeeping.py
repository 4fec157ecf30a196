"""The periodic work of a worker: its table of tasks, and those that concern the delivery queue."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Self

import structlog
from sqlalchemy import Float, and_, bindparam, func, null, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.models import Message
from app.db.process_lock import HERE, ProcessLock
from app.db.schema.statistics import learn_sizes
from app.db.statements.batches import SECOND, TENANT
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS
from app.providers.registry import provider_registry
from app.routing import channels_served
from app.services.delivery.claiming.claims import Claim
from app.services.delivery.claiming.leases import (
    AT_ONCE,
    end_leases,
    expire_overdue,
    queues_left_by,
    queues_with_work,
    renew_leases,
    rescue,
    update_unlocked,
)
from app.services.delivery.periodic import PeriodicTask, repeat
from app.services.delivery.results.receipts import sweep_parked
from app.services.delivery.results.retry_policy import Attempt, Decision, in_doubt
from app.services.limits.daily_caps import forget_daily_budgets

log = structlog.get_logger(__name__)

_WATCH_SECONDS = 0.2  # between two looks for dead workers of this host
_RETURN_SECONDS = 30.0  # for a worker of this host to come back

#: The reason of an attempt whose worker died.
WORKER_LOST = "The worker that had it went away before it could say what came of this attempt."


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
            PeriodicTask("rescue", 1, self.rescue_and_expire, "dead_not_rescued", is_shared=True),
            PeriodicTask("parked-receipts", 1, self._attach_parked, "receipts_not_attached", is_shared=True),
            # Often enough that one failure does no harm.
            PeriodicTask("lease-renewal", settings.lease_seconds / 3, self._renew, "leases_not_renewed"),
            PeriodicTask("statistics", 1, self._learn_sizes, "not_analyzed", is_shared=True),
            PeriodicTask("keys-and-budgets", 30, self._forget, "not_cleaned", is_shared=True),
            *tasks,
        ]
        self._running: list[asyncio.Task[None]] = []

    def join(self) -> None:
        """Count as living from now on. Raises `OSError` where no file can be written.

        Who lives already is a neighbour, even if it dies before the first look: of a message that it took, say.
        """
        with suppress(OSError):  # the directory may be new
            self._has_neighbours = self._are_others(self._presence.living_and_dead().living)
        self._presence.enter()

    async def __aenter__(self) -> Self:
        self._running = [asyncio.create_task(repeat(self._engine, task), name=task.name) for task in self._table]
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

    def _are_others(self, living: Iterable[str]) -> bool:
        return any(name != self._presence.name for name in living)

    async def _watch_workers(self) -> None:
        """Look for dead workers of this host. Those of other hosts are found when their leases end."""
        try:
            found = self._presence.living_and_dead()
        except OSError:
            return
        had_neighbours, self._has_neighbours = self._has_neighbours, self._are_others(found.living)
        if had_neighbours and not self._has_neighbours:
            self._left_alone_at = asyncio.get_running_loop().time()
        if self._has_neighbours and not had_neighbours:
            self._on_change()  # risky messages may be tried again
        if dead := [name for name in found.dead if name.rsplit("-", 2)[0] == HERE]:
            await self.rescue_and_expire(dead)

    async def rescue_and_expire(self, dead: Sequence[str] = ()) -> None:
        """Rescue messages whose worker died, those of the `dead` at once, and expire overdue ones."""
        channels = channels_served(self._settings)
        async with self._engine.connect() as connection:
            left = await queues_left_by(connection, channels, dead) if dead else set()
            over = await queues_with_work(connection, channels)
        for tenant_id, channel in left:
            for name in dead:
                async with self._engine.begin() as connection:
                    await end_leases(connection, tenant_id, channel, name)
        for tenant_id, channel in left | over:
            rescued, expired = await self._look_after(tenant_id, channel)
            if rescued or expired:
                log.warning("messages_looked_after", taken_over=rescued, expired=expired, channel=channel)
                self._on_change()
                self._on_logged(tenant_id)
        for name in dead:
            self._presence.forget_dead(name)

    async def _look_after(self, tenant_id: int, channel: str) -> tuple[int, int]:
        """Rescue and expire the messages of a queue in short transactions; returns how many of each."""
        rescued = expired = 0
        while True:
            async with self._engine.begin() as connection:
                saved = await rescue(connection, tenant_id, channel, self._decide)
                over = await expire_overdue(connection, tenant_id, channel)
            rescued, expired = rescued + saved, expired + over
            if max(saved, over) < AT_ONCE:
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


_KEYS_AT_ONCE = 500
_has_old_key = and_(
    Message.idempotency_key.is_not(None),
    Message.created_at < func.now() - bindparam("age", type_=Float()) * SECOND,
)
_WITH_OLD_KEYS = (
    select(EACH_TENANT)
    .where(first(Message.created_at, _has_old_key).is_not(None))
    .execution_options(**{ALL_TENANTS: "the keys of all tenants are forgotten"})
)
_forgotten = select(Message.id).where(Message.tenant_id == TENANT, _has_old_key).limit(_KEYS_AT_ONCE)
_FORGET_KEYS = update_unlocked(_forgotten).values(idempotency_key=null(), request_fingerprint=null())


async def forget_idempotency_keys(engine: AsyncEngine, tenant_id: int, age_seconds: float) -> int:
    """Free the keys that are older than `age_seconds`, some hundreds in a transaction; returns how many."""
    freed = 0
    while True:
        async with engine.begin() as connection:
            found = (await connection.execute(_FORGET_KEYS, {"tenant": tenant_id, "age": age_seconds})).rowcount
        freed += found
        if found < _KEYS_AT_ONCE:
            return freed
