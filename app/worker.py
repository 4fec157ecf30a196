"""The delivery loop: claims what is due, calls the provider, records what came of it.

Runs in the background of the web process, or by itself as `python -m app worker`, in any number.
"""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from typing import Self

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.engine import is_unavailable
from app.db.models import Tenant
from app.db.process_lock import HERE, ProcessLock
from app.db.sanitize import storable_text
from app.db.statistics import learn_sizes
from app.providers.base import NotBegun, ProviderFailure, ProviderResult, TemporaryFailure, send_through
from app.providers.registry import provider_registry
from app.routing import channels_served, route_of
from app.segments import units_of
from app.services.delivery.claims import Claim, DueWork, Wanted, claim_due, due_work, renew_leases
from app.services.delivery.housekeeping import expire_overdue, forget_idempotency_keys
from app.services.delivery.outcomes import TAKEN_OVER, Outcome, release, take_over
from app.services.delivery.provider_states import (
    WELL,
    ProviderHealth,
    draw_from_rate,
    give_back_probe,
    health_of_providers,
    take_probe,
)
from app.services.delivery.receipts import sweep_parked
from app.services.delivery.recorder import OutcomeRecorder, Record
from app.services.delivery.retry_policy import (
    ACCEPTED,
    Verdict,
    after_failure,
    can_be_asked,
    in_doubt,
    is_safe_to_repeat,
)
from app.services.limits.daily_caps import forget_daily_budgets
from app.services.people.retention import remove_what_is_over

log = structlog.get_logger(__name__)

_CLEAN_SECONDS = 30.0
_LOOK_SECONDS = 1.0  # how often leases, expiries and parked receipts are looked at
_WATCH_SECONDS = 0.2  # how soon a worker of the same machine is missed
_RETURN_SECONDS = 30.0  # how long the last other worker of this machine is expected back
_AHEAD_SECONDS = 0.25  # how long before their turn messages are claimed for a provider that has a rate


class DeliveryWorker:
    """Delivers until its context is left; then finishes what is in hand, within the grace period.

    By its `presence` the other workers of this machine see at once when it has died.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings, presence: ProcessLock) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._settings = settings
        self._presence = presence
        self._bell = asyncio.Event()
        self._closing = False
        self._in_hand: dict[asyncio.Task[None], Claim] = {}
        self._suspect: asyncio.Task[None] | None = None
        self._calls: Counter[str] = Counter()
        self._looked_at = 0.0
        self._has_company = False
        self._left_alone_at: float | None = None
        self._health: dict[str, ProviderHealth] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._recorder = OutcomeRecorder(engine, settings, is_well=lambda name: name not in self._health)

    def wake(self) -> None:
        """Say that something may be due. Who forgets to ring is found by polling."""
        self._bell.set()

    async def __aenter__(self) -> Self:
        try:
            self._presence.enter()
        except OSError as error:  # a read-only file system, say
            log.info("death_shows_by_leases_only", error=type(error).__name__)
        await self._recorder.__aenter__()
        self._tasks = [
            asyncio.create_task(self._run(), name="delivery-worker"),
            asyncio.create_task(self._watch(), name="neighbour-watch"),
            asyncio.create_task(self._renew(), name="lease-renewal"),
            asyncio.create_task(self._forget(), name="cleaning"),
            asyncio.create_task(self._learn(), name="statistics"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._bell.set()
        claiming, *others = self._tasks
        await claiming
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=self._settings.shutdown_grace_seconds)
        late = list(self._in_hand)
        for task in late:
            task.cancel()  # the call is given up, and its attempt recorded as in doubt
        await asyncio.gather(*late, return_exceptions=True)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._recorder.__aexit__()
        self._presence.leave()

    async def _run(self) -> None:
        while not self._closing:
            self._bell.clear()
            claimed, wait = 0, self._settings.worker_poll_seconds
            try:
                claimed, wait = await self._claim_what_is_due()
            except Exception as error:
                if is_unavailable(error):
                    log.warning("database_unavailable", batch="claims", error=type(error).__name__)
                else:
                    log.exception("claim_failed")
            if not claimed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._bell.wait()

    async def _claim_what_is_due(self) -> tuple[int, float]:
        """Claim as much as there are hands for; returns how much, and the seconds until it is worth looking again."""
        channels = channels_served(self._settings)
        poll = self._settings.worker_poll_seconds
        claimed = 0
        async with self._autocommit.connect() as connection:
            work = await due_work(connection, channels)
            self._health = await health_of_providers(connection)
            due = [item for item in work if item.wait_seconds <= 0]
            later = min((item.wait_seconds for item in work if item.wait_seconds > 0), default=poll)
            for item in due:
                claimed += await self._claim_for_its_route(connection, item, share=len(due))
            if asyncio.get_running_loop().time() - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = asyncio.get_running_loop().time()
                await self._look_after(work)
                for item in due:
                    claimed += await self._claim_in_doubt(connection, item, share=len(due))
                    claimed += await self._claim_suspect(connection, item)
        slots = [health.slot_in - _AHEAD_SECONDS for health in self._health.values()] if due else []
        return claimed, min(later, poll, *(slot for slot in slots if slot > 0))

    async def _look_after(self, work: list[DueWork]) -> None:
        """What nobody has claimed: the messages of the dead, what has expired, receipts that missed their attempt."""
        dead = self._dead_neighbours()
        for item in work:
            if item.wait_seconds > 0 and not dead:
                continue
            async with self._engine.begin() as connection:
                for name in dead:
                    await release(connection, item.tenant_id, item.channel, name)
                taken = await take_over(connection, item.tenant_id, item.channel, self._judge_abandoned)
                expired = await expire_overdue(connection, item.tenant_id, item.channel)
            if taken or expired:
                log.warning("messages_looked_after", taken_over=taken, expired=expired, channel=item.channel)
        for name in dead:
            self._presence.forget_dead(name)
        async with self._engine.begin() as connection:
            await sweep_parked(connection)

    def _dead_neighbours(self) -> list[str]:
        """Workers of this machine that have died; those of others show by their leases."""
        try:
            roll = self._presence.living_and_dead()
        except OSError:
            return []
        had_company, self._has_company = self._has_company, len(roll.living) > 1
        if had_company and not self._has_company:
            self._left_alone_at = asyncio.get_running_loop().time()
        if self._has_company and not had_company:
            self._look_at_once()  # what was left alone until then may be tried
        return [name for name in roll.gone if name.rsplit("-", 2)[0] == HERE]

    def _look_at_once(self) -> None:
        self._looked_at = 0.0
        self._bell.set()

    def _has_to_live(self) -> bool:
        """Whether this worker is the only one left, and another is expected back.

        Until then it tries nothing that workers have died with, or nobody would be there for all the rest.
        """
        if self._has_company or self._left_alone_at is None:
            return False
        return asyncio.get_running_loop().time() - self._left_alone_at < _RETURN_SECONDS

    def _judge_abandoned(self, provider_type: str, attempt: int, limit: int | None, deaths: int) -> Verdict:
        return self._judge_cut_off(TAKEN_OVER, provider_type, attempt, limit, deaths=deaths)

    def _judge_cut_off(
        self, detail: str, provider_type: str, attempt: int, limit: int | None, *, deaths: int = 0
    ) -> Verdict:
        """What follows when a worker, this one or a dead one, did not live to see the provider's answer."""
        return in_doubt(
            detail,
            attempt=attempt,
            limit=limit or self._settings.max_attempts,
            provider=provider_registry.get(provider_type),
            policy=self._settings.in_doubt_after_crash,
            settings=self._settings,
            deaths=deaths,
        )

    async def _claim_for_its_route(self, connection: AsyncConnection, item: DueWork, *, share: int) -> int:
        """Claim for the first provider of the route that is well."""
        name = self._first_well(item.channel)
        if name is None:
            return 0
        route = route_of(self._settings, item.channel)
        passed_over = [f"{other} {self._health_of(other).trouble}" for other in route[: route.index(name)]]
        because = "; ".join(passed_over) or None
        return await self._claim(connection, item, name, share=share, because=because)

    async def _claim_in_doubt(self, connection: AsyncConnection, item: DueWork, *, share: int) -> int:
        """Claim what the other providers may have already: it waits for them, wherever new messages go by now."""
        first = self._first_well(item.channel)
        claimed = 0
        for name in {*route_of(self._settings, item.channel), *provider_registry}:
            if name != first and self._health_of(name).trouble is None:
                claimed += await self._claim(
                    connection, item, name, share=share, because=None, wanted=Wanted.IN_DOUBT
                )
        return claimed

    async def _claim_suspect(self, connection: AsyncConnection, item: DueWork) -> int:
        """Claim one message that workers have died with, if none is in hand: a further death tells which it was."""
        for name in {*route_of(self._settings, item.channel), *provider_registry}:
            if self._suspect is not None or self._has_to_live():
                return 0
            if self._health_of(name).trouble is None and await self._claim(
                connection, item, name, share=1, because=None, wanted=Wanted.SUSPECTS
            ):
                return 1
        return 0

    def _first_well(self, channel: str) -> str | None:
        """The first provider of a channel's route that nothing keeps from being handed messages."""
        route = route_of(self._settings, channel)
        return next((name for name in route if self._health_of(name).trouble is None), None)

    async def _claim(
        self,
        connection: AsyncConnection,
        item: DueWork,
        name: str,
        *,
        share: int,
        because: str | None,
        wanted: Wanted = Wanted.ANYTHING,
    ) -> int:
        """Claim for a provider, as much as it has hands for; every message gets a task of its own."""
        health, limit = self._health_of(name), self._hands_for(name, share)
        if limit <= 0 or health.slot_in > _AHEAD_SECONDS:
            return 0
        if health.probing and not await take_probe(connection, name, self._settings):
            return 0
        rate = self._settings.provider_rates.get(name)
        # With a rate it is claimed and booked, or neither.
        async with self._engine.begin() if rate else contextlib.nullcontext(connection) as claiming:
            claims = await claim_due(
                claiming,
                item.tenant_id,
                item.channel,
                limit=1 if health.probing or wanted is Wanted.SUSPECTS else limit,
                lease_seconds=self._settings.lease_seconds,
                provider_type=name,
                worker=self._presence.name,
                routed_because=because,
                wanted=wanted,
                careful=self._has_to_live(),
                callback_url=self._settings.callback_url(name),
            )
            waits = await self._book(claiming, name, claims, rate) if rate and claims else [0.0] * len(claims)
        if health.probing and not claims:
            await give_back_probe(connection, name)
        for claim, wait in zip(claims, waits, strict=True):
            self._calls[claim.provider_type] += 1
            task = asyncio.create_task(self._deliver(claim, wait))
            self._in_hand[task] = claim
            if wanted is Wanted.SUSPECTS:
                self._suspect = task
            task.add_done_callback(self._laid_down)
        return len(claims)

    async def _book(self, connection: AsyncConnection, name: str, claims: list[Claim], rate: float) -> list[float]:
        """The seconds until the turn of each, one after the other at the rate that all workers share."""
        units = [units_of(claim.row.channel, claim.row.body) for claim in claims]
        first = await draw_from_rate(connection, name, sum(units), rate)
        *turns, end = [first + before / rate for before in accumulate(units, initial=0)]
        self._health[name] = replace(self._health_of(name), slot_in=end)  # until it is looked at again
        return turns

    def _health_of(self, provider_type: str) -> ProviderHealth:
        return self._health.get(provider_type, WELL)

    def _hands_for(self, provider_type: str, share: int) -> int:
        """How many more messages may be taken for a provider: a slow one uses up its own hands, not everybody's."""
        settings = self._settings
        free = settings.worker_concurrency - len(self._in_hand)
        hands = settings.concurrency_of(provider_type)
        most = self._health_of(provider_type).most_hands
        free_here = (hands if most is None else min(hands, most)) - self._calls[provider_type]
        limit = min(settings.worker_batch_size, max(free // share, 1) if free > 0 else 0, free_here)
        rate = settings.provider_rates.get(provider_type)
        return min(limit, max(int(rate * _AHEAD_SECONDS), 1)) if rate else limit

    def _laid_down(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        if task is self._suspect:
            self._suspect = None
            self._looked_at = 0.0  # there may be another
        self._bell.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("delivery_not_recorded", error=type(error).__name__, exc_info=error)

    async def _deliver(self, claim: Claim, wait: float) -> None:
        # What was handed over and is not written down goes out twice if we die now, where it can't be repeated: each
        # hand has one such message, and takes the next when that is written down.
        is_safe = is_safe_to_repeat(provider_registry.get(claim.provider_type))
        try:
            record = await self._hand_over(claim, wait)
            if not is_safe:
                await self._recorder.write_down(record)
        finally:
            self._calls[claim.provider_type] -= 1
        if is_safe:
            await self._recorder.write_down(record)

    async def _hand_over(self, claim: Claim, wait: float) -> Record:
        """Call the provider, after so many seconds, and say what came of it; never raises."""
        try:
            if wait:
                await _its_turn(wait)
            result = await self._call(claim)
        except asyncio.CancelledError:
            detail = "The service was stopped before the provider answered."
            verdict = self._judge_cut_off(detail, claim.provider_type, claim.number, claim.limit)
            return Record(_outcome(claim, verdict), None)
        except Exception as error:
            if not isinstance(error, ProviderFailure | TimeoutError):
                log.exception(
                    "provider_raised",
                    provider=claim.provider_type,
                    tenant=claim.tenant_id,
                    message_id=claim.message_id,
                )
            verdict = after_failure(
                error,
                attempt=claim.number,
                limit=claim.limit or self._settings.max_attempts,
                provider=provider_registry.get(claim.provider_type),
                settings=self._settings,
                may_have_left=claim.in_doubt,
            )
            return Record(_outcome(claim, verdict), error)
        return Record(_outcome(claim, ACCEPTED, result.provider_message_id), None)

    async def _call(self, claim: Claim) -> ProviderResult:
        provider = provider_registry.get(claim.provider_type)
        if provider is None:
            raise TemporaryFailure(f"No provider is registered as {claim.provider_type!r}.")
        async with asyncio.timeout(self._settings.provider_timeout_seconds) as patience:
            payload = claim.payload(give_up_at=patience.when())
            if claim.in_doubt and can_be_asked(provider):
                earlier = await provider.look_up(payload)
                if earlier is not None:
                    return earlier
            hands = self._settings.concurrency_of(claim.provider_type)
            return await send_through(provider, payload, threads=hands)

    async def _watch(self) -> None:
        """Look at once when a worker of this machine has died."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._dead_neighbours():
                self._look_at_once()

    async def _renew(self) -> None:
        """Renew the leases of what is in hand, often enough that one failure to do so does no harm."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            try:
                async with self._engine.begin() as connection:
                    await renew_leases(connection, list(self._in_hand.values()), self._settings.lease_seconds)
            except Exception as error:
                log.warning("leases_not_renewed", error=type(error).__name__)

    async def _forget(self) -> None:
        """Remove what has had its time, a little at a time: idempotency keys, yesterday's counts, old messages."""
        while True:
            await asyncio.sleep(_CLEAN_SECONDS)
            try:
                async with self._engine.begin() as connection:
                    tenants = (await connection.execute(select(Tenant.id))).scalars().all()
                    for tenant_id in tenants:
                        await forget_daily_budgets(connection, tenant_id)
                for tenant_id in tenants:
                    await forget_idempotency_keys(self._engine, tenant_id, self._settings.idempotency_hours * 3600)
                await remove_what_is_over(self._engine, self._settings)
            except Exception as error:
                log.warning("not_cleaned", error=type(error).__name__)

    async def _learn(self) -> None:
        """Keep PostgreSQL's plans up with tables that grow faster than it looks at them."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if names := await learn_sizes(self._engine):
                    log.debug("tables_analyzed", tables=names)
            except Exception as error:
                if not is_unavailable(error):  # claiming says so already
                    log.warning("not_analyzed", error=type(error).__name__)


async def _its_turn(wait: float) -> None:
    """Wait so many seconds. Raises `NotBegun` where the service is stopped meanwhile: nothing has left."""
    try:
        await asyncio.sleep(wait)
    except asyncio.CancelledError:
        raise NotBegun("It was not handed over: the service was stopped before its turn.") from None


def _outcome(claim: Claim, verdict: Verdict, provider_message_id: str | None = None) -> Outcome:
    """What is recorded: the provider's words as PostgreSQL takes them, or what it said would be forgotten."""
    if verdict.reason is not None:
        verdict = replace(verdict, reason=storable_text(verdict.reason))
    if provider_message_id is not None:
        provider_message_id = storable_text(str(provider_message_id))  # some vendors number their messages
    return Outcome(claim.tenant_id, claim.message_id, claim.number, claim.provider_type, verdict, provider_message_id)
