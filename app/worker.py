"""The delivery loop: claims what is due, calls the provider, records what came of it.

Runs in the background of the web process, or by itself as `python -m app worker`, in any number.
"""

import asyncio
import random
from dataclasses import replace
from functools import partial
from typing import Self

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.database import is_unavailable
from app.domain import AttemptOutcome, MessageStatus
from app.errors import DatabaseUnavailable
from app.providers.base import (
    PermanentFailure,
    ProviderFailure,
    ProviderResult,
    TemporaryFailure,
    UnknownOutcome,
    call,
)
from app.providers.registry import provider_registry
from app.services.batching import GroupCommit
from app.services.delivery import Claim, Outcome, claim_due, record_outcomes, tenants_with_due_work

log = structlog.get_logger(__name__)


class DeliveryWorker:
    """Delivers until its context is left; then finishes what is in hand, within the grace period."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._bell = asyncio.Event()
        self._closing = False
        self._in_hand: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None
        self._recorder: GroupCommit[Outcome, bool] = GroupCommit(
            engine,
            _record,
            batch_size=settings.accept_batch_size,
            queue_limit=settings.accept_queue_limit,
            deadline_seconds=settings.database_statement_timeout_seconds,
            name="outcomes",
        )

    def ring(self) -> None:
        """Say that something may be due. Who forgets to ring is found by polling."""
        self._bell.set()

    async def __aenter__(self) -> Self:
        await self._recorder.__aenter__()
        self._loop_task = asyncio.create_task(self._run(), name="delivery-worker")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._bell.set()
        assert self._loop_task is not None
        await self._loop_task
        if self._in_hand:
            _done, late = await asyncio.wait(self._in_hand, timeout=self._settings.shutdown_grace_seconds)
            for task in late:  # their leases run out, and another worker takes them over
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._recorder.__aexit__()

    async def _run(self) -> None:
        while not self._closing:
            self._bell.clear()
            try:
                claimed = await self._claim()
            except Exception as error:
                if not is_unavailable(error):
                    log.exception("claim_failed")
                else:
                    log.warning("database_unavailable", batch="claims", error=type(error).__name__)
                claimed = 0
            if not claimed:
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        try:
            async with asyncio.timeout(self._settings.worker_poll_seconds):
                await self._bell.wait()
        except TimeoutError:
            pass

    async def _claim(self) -> int:
        """Take as much as there are hands for, fairly over the tenants; every message gets a task of its own."""
        free = self._settings.worker_concurrency - len(self._in_hand)
        if free <= 0:
            return 0
        async with self._engine.begin() as connection:
            tenants = await tenants_with_due_work(connection)
        claimed = 0
        for tenant_id in tenants:
            async with self._engine.begin() as connection:
                claims = await claim_due(
                    connection,
                    tenant_id,
                    limit=max(1, min(self._settings.worker_batch_size, free // len(tenants))),
                    lease_seconds=self._settings.lease_seconds,
                    provider_for=self._settings.provider_for,
                )
            claimed += len(claims)
            for claim in claims:
                task = asyncio.create_task(self._deliver(claim))
                self._in_hand.add(task)
                task.add_done_callback(self._laid_down)
        return claimed

    def _laid_down(self, task: asyncio.Task[None]) -> None:
        self._in_hand.discard(task)
        self._bell.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("delivery_not_recorded", error=type(error).__name__, exc_info=error)

    async def _deliver(self, claim: Claim) -> None:
        outcome = await self._hand_over(claim)
        while True:
            try:
                counted = await self._recorder.submit(outcome)
                break
            except DatabaseUnavailable:  # what the provider said must not be forgotten
                await asyncio.sleep(self._settings.worker_poll_seconds)
        log.info(
            "message_" + outcome.status if counted else "outcome_came_late",
            message_id=claim.payload.message_id,
            provider=claim.provider_type,
            attempt=claim.number,
            outcome=outcome.outcome,
        )

    async def _hand_over(self, claim: Claim) -> Outcome:
        settle = partial(Outcome, claim)
        try:
            result = await self._call(claim)
        except PermanentFailure as error:
            return settle(AttemptOutcome.PERMANENT, MessageStatus.FAILED, str(error))
        except UnknownOutcome as error:
            return settle(AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN, str(error))
        except TimeoutError:
            detail = f"No answer within {self._settings.provider_timeout_seconds:g} seconds."
            return settle(AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN, detail)
        except Exception as error:
            if not isinstance(error, ProviderFailure):
                log.exception("provider_raised", provider=claim.provider_type, message_id=claim.payload.message_id)
            detail = str(error) if isinstance(error, ProviderFailure) else f"{type(error).__name__} in the provider."
            if claim.number >= self._settings.max_attempts:
                reason = f"Given up after {claim.number} attempts. The last: {detail}"
                return settle(AttemptOutcome.TEMPORARY, MessageStatus.FAILED, reason)
            delay = self._delay(claim.number, error)
            return settle(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, detail, retry_in=delay)
        return settle(AttemptOutcome.ACCEPTED, MessageStatus.SENT, provider_message_id=result.provider_message_id)

    async def _call(self, claim: Claim) -> ProviderResult:
        provider = provider_registry.get(claim.provider_type)
        if provider is None:
            raise TemporaryFailure(f"No provider is registered as {claim.provider_type!r}.")
        async with asyncio.timeout(self._settings.provider_timeout_seconds):
            return await call(provider, claim.payload)

    def _delay(self, attempt: int, error: Exception) -> float:
        """Seconds until the next try: what the provider asked for, else exponential with full jitter."""
        longest = self._settings.retry_max_seconds
        if isinstance(error, TemporaryFailure) and error.retry_after is not None:
            return min(max(error.retry_after, 0), longest)
        jitter = random.uniform(0.5, 1)  # noqa: S311 - it spreads load, it keeps no secret
        delay: float = jitter * min(self._settings.retry_base_seconds * 2.0 ** min(attempt - 1, 64), longest)
        return delay


async def _record(connection: AsyncConnection, outcomes: list[Outcome]) -> list[bool]:
    """Record a batch; an id that the provider has given out twice is kept with the attempt alone."""
    try:
        async with connection.begin_nested():
            return await record_outcomes(connection, outcomes)
    except IntegrityError:
        if len(outcomes) > 1:
            raise  # the group commit tries them one by one
        detail = "The provider answered with an id that it had given to another message."
        nameless = replace(outcomes[0], provider_message_id=None, detail=detail)
        return await record_outcomes(connection, [nameless])
