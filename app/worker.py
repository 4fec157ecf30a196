"""The delivery loop: claims what is due, calls the provider, records what came of it.

Runs in the background of the web process, or by itself as `python -m app worker`, in any number.
"""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Self

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.database import is_unavailable
from app.domain import AttemptOutcome, Channel, MessageStatus
from app.errors import DatabaseUnavailable, Overloaded
from app.models import Tenant
from app.providers.base import CredentialsRefused, ProviderFailure, ProviderResult, TemporaryFailure, call
from app.providers.registry import provider_registry
from app.segments import segment_count
from app.services.batching import GroupCommit
from app.services.delivery import (
    TAKEN_OVER,
    Claim,
    DueWork,
    Outcome,
    claim_due,
    due_work,
    expire_overdue,
    forget_idempotency_keys,
    record_outcomes,
    renew_leases,
    take_over,
)
from app.services.policy import ACCEPTED, Verdict, after_failure, can_be_asked, in_doubt
from app.services.provider_states import (
    WELL,
    Health,
    Tally,
    draw_from_rate,
    health_of_providers,
    record_tallies,
    take_probe,
)
from app.services.receipts import sweep_parked

log = structlog.get_logger(__name__)

_CLEAN_SECONDS = 30.0
_LOOK_SECONDS = 1.0  # how often leases, expiries and parked receipts are looked at


@dataclass(frozen=True, slots=True)
class _Record:
    """What is written about one attempt: its outcome, and what it says about the provider."""

    outcome: Outcome
    error: Exception | None


class DeliveryWorker:
    """Delivers until its context is left; then finishes what is in hand, within the grace period."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._settings = settings
        self._bell = asyncio.Event()
        self._closing = False
        self._in_hand: dict[asyncio.Task[None], Claim] = {}
        self._calls: Counter[str] = Counter()
        self._looked_at = 0.0
        self._health: dict[str, Health] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._recorder: GroupCommit[_Record, bool] = GroupCommit(
            engine,
            self._record,
            batch_size=settings.accept_batch_size,
            queue_limit=max(settings.accept_queue_limit, settings.worker_concurrency),
            deadline_seconds=settings.database_statement_timeout_seconds,
            tenant_of=lambda record: record.outcome.tenant_id,
            name="outcomes",
        )

    def ring(self) -> None:
        """Say that something may be due. Who forgets to ring is found by polling."""
        self._bell.set()

    async def __aenter__(self) -> Self:
        await self._recorder.__aenter__()
        self._tasks = [
            asyncio.create_task(self._run(), name="delivery-worker"),
            asyncio.create_task(self._renew(), name="lease-renewal"),
            asyncio.create_task(self._forget(), name="key-cleaning"),
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
        channels = {*self._settings.routes, *provider_registry}
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
                for item in due:
                    claimed += await self._claim_in_doubt(connection, item, share=len(due))
                await self._look_after(due)
        return claimed, min(later, poll)

    async def _look_after(self, due: list[DueWork]) -> None:
        """What nobody has claimed: the messages of the dead, what has expired, receipts that missed their attempt."""
        for item in due:
            async with self._engine.begin() as connection:
                taken = await take_over(connection, item.tenant_id, item.channel, self._judge_abandoned)
                expired = await expire_overdue(connection, item.tenant_id, item.channel)
            if taken or expired:
                log.warning("messages_looked_after", taken_over=taken, expired=expired, channel=item.channel)
        async with self._engine.begin() as connection:
            await sweep_parked(connection)

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
        route = self._settings.route(item.channel)
        passed_over = [f"{other} {self._health_of(other).trouble}" for other in route[: route.index(name)]]
        because = "; ".join(passed_over) or None
        return await self._claim(connection, item, name, share=share, because=because)

    async def _claim_in_doubt(self, connection: AsyncConnection, item: DueWork, *, share: int) -> int:
        """Claim what the other providers may have already: it waits for them, wherever new messages go by now."""
        first = self._first_well(item.channel)
        claimed = 0
        for name in {*self._settings.route(item.channel), *provider_registry}:
            if name != first and self._health_of(name).trouble is None:
                claimed += await self._claim(connection, item, name, share=share, because=None, fresh=False)
        return claimed

    def _first_well(self, channel: str) -> str | None:
        """The first provider of a channel's route that nothing keeps from being handed messages."""
        route = self._settings.route(channel)
        return next((name for name in route if self._health_of(name).trouble is None), None)

    async def _claim(
        self,
        connection: AsyncConnection,
        item: DueWork,
        name: str,
        *,
        share: int,
        because: str | None,
        fresh: bool = True,
    ) -> int:
        """Claim for a provider, as much as it has hands for; every message gets a task of its own."""
        health, limit = self._health_of(name), self._hands_for(name, share)
        if limit <= 0 or health.is_at_its_rate:
            return 0
        if health.probing:
            if not await take_probe(connection, name, self._settings):
                return 0
            limit = 1
        claims = await claim_due(
            connection,
            item.tenant_id,
            item.channel,
            limit=limit,
            lease_seconds=self._settings.lease_seconds,
            provider_type=name,
            routed_because=because,
            fresh=fresh,
        )
        for claim in claims:
            self._calls[claim.provider_type] += 1
            task = asyncio.create_task(self._deliver(claim))
            self._in_hand[task] = claim
            task.add_done_callback(self._laid_down)
        rate = self._settings.provider_rates.get(name)
        if rate and claims:
            await draw_from_rate(connection, name, sum(_units(claim) for claim in claims), rate)
            self._health[name] = replace(health, is_at_its_rate=True)  # until it is looked at again
        return len(claims)

    def _health_of(self, provider_type: str) -> Health:
        return self._health.get(provider_type, WELL)

    def _hands_for(self, provider_type: str, share: int) -> int:
        """How many more messages may be taken for a provider: a slow one uses up its own hands, not everybody's."""
        settings = self._settings
        free = settings.worker_concurrency - len(self._in_hand)
        free_here = settings.provider_concurrency - self._calls[provider_type]
        limit = min(settings.worker_batch_size, max(free // share, 1) if free > 0 else 0, free_here)
        rate = settings.provider_rates.get(provider_type)
        return min(limit, max(int(rate), 1)) if rate else limit

    def _laid_down(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        self._bell.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("delivery_not_recorded", error=type(error).__name__, exc_info=error)

    async def _deliver(self, claim: Claim) -> None:
        try:
            record = await self._hand_over(claim)
        finally:
            self._calls[claim.provider_type] -= 1
        await self._write_down(record)

    async def _hand_over(self, claim: Claim) -> _Record:
        """Call the provider, and say what came of it; never raises."""
        try:
            result = await self._call(claim)
        except asyncio.CancelledError:
            detail = "The service was stopped before the provider answered."
            verdict = self._judge_cut_off(detail, claim.provider_type, claim.number, claim.limit)
            return _Record(_outcome(claim, verdict), None)
        except Exception as error:
            if not isinstance(error, ProviderFailure | TimeoutError):
                log.exception("provider_raised", provider=claim.provider_type, message_id=claim.message_id)
            verdict = after_failure(
                error,
                attempt=claim.number,
                limit=claim.limit or self._settings.max_attempts,
                provider=provider_registry.get(claim.provider_type),
                settings=self._settings,
            )
            return _Record(_outcome(claim, verdict), error)
        return _Record(_outcome(claim, ACCEPTED, result.provider_message_id), None)

    async def _call(self, claim: Claim) -> ProviderResult:
        provider = provider_registry.get(claim.provider_type)
        if provider is None:
            raise TemporaryFailure(f"No provider is registered as {claim.provider_type!r}.")
        async with asyncio.timeout(self._settings.provider_timeout_seconds):
            if claim.in_doubt and can_be_asked(provider):
                earlier = await provider.look_up(claim.payload)
                if earlier is not None:
                    return earlier
            return await call(provider, claim.payload)

    async def _write_down(self, record: _Record) -> None:
        """Record an outcome, however long that takes: what a provider has said must not be forgotten."""
        outcome = record.outcome
        while True:
            try:
                counted = await self._recorder.submit(record)
                break
            except DatabaseUnavailable:
                await asyncio.sleep(self._settings.worker_poll_seconds)
            except Overloaded:  # the recorder is closing, or full: the lease ends, and the attempt is in doubt
                log.warning("outcome_not_recorded", message_id=outcome.message_id, attempt=outcome.number)
                return
        tell = log.debug if outcome.verdict is ACCEPTED else log.info
        tell(
            "message_" + outcome.verdict.status if counted else "outcome_came_late",
            message_id=outcome.message_id,
            provider=outcome.provider_type,
            attempt=outcome.number,
            outcome=outcome.verdict.outcome,
        )

    async def _record(self, connection: AsyncConnection, records: list[_Record]) -> list[bool]:
        """Record a batch, and what it says about the providers."""
        counted = await _record_outcomes(connection, [record.outcome for record in records])
        tallies: dict[str, Tally] = {}
        for record in records:
            _count(tallies.setdefault(record.outcome.provider_type, Tally()), record, self._settings)
        for name, tally in tallies.items():
            if name not in self._health:
                tally.successes = 0  # nothing to recover from
            if tally.refused is not None:
                log.error(
                    "provider_paused",
                    provider=name,
                    reason=tally.refused,
                    resume=f"POST /api/providers/{name}/resume",
                )
        await record_tallies(connection, tallies, self._settings)
        return counted

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
        """Free idempotency keys whose time is over, a few at a time."""
        while True:
            await asyncio.sleep(_CLEAN_SECONDS)
            try:
                async with self._engine.begin() as connection:
                    for tenant_id in (await connection.execute(select(Tenant.id))).scalars().all():
                        await forget_idempotency_keys(connection, tenant_id, self._settings.idempotency_hours * 3600)
            except Exception as error:
                log.warning("keys_not_cleaned", error=type(error).__name__)


def _units(claim: Claim) -> int:
    """What a message counts for against a rate: a text its segments, anything else one."""
    return segment_count(claim.payload.body) if claim.payload.channel == Channel.SMS else 1


def _outcome(claim: Claim, verdict: Verdict, provider_message_id: str | None = None) -> Outcome:
    return Outcome(claim.tenant_id, claim.message_id, claim.number, claim.provider_type, verdict, provider_message_id)


def _count(tally: Tally, record: _Record, settings: Settings) -> None:
    """A provider that refuses one message is well; one that can't be reached or does not answer is not."""
    error = record.error
    if isinstance(error, CredentialsRefused):
        tally.refused = str(error)
    elif isinstance(error, TemporaryFailure) and error.throttled:
        wanted = settings.retry_base_seconds if error.retry_after is None else max(error.retry_after, 0)
        tally.throttled_for = max(tally.throttled_for, min(wanted, settings.retry_after_max_seconds))
    elif record.outcome.verdict.outcome in {AttemptOutcome.TEMPORARY, AttemptOutcome.UNKNOWN}:
        tally.failures += 1
    else:
        tally.successes += 1


async def _record_outcomes(connection: AsyncConnection, outcomes: list[Outcome]) -> list[bool]:
    """Record a batch; an id that the provider has given to two messages stays with the first."""
    if len(outcomes) > 1:
        return await record_outcomes(connection, outcomes)  # if it fails, the group commit tries them one by one
    try:
        async with connection.begin_nested():
            return await record_outcomes(connection, outcomes)
    except IntegrityError:
        [outcome] = outcomes
        detail = "The provider answered with an id that it had given to another message."
        verdict = Verdict(outcome.verdict.outcome, MessageStatus.SENT, detail)
        nameless = Outcome(outcome.tenant_id, outcome.message_id, outcome.number, outcome.provider_type, verdict)
        return await record_outcomes(connection, [nameless])
