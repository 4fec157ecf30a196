"""Writing down what came of attempts: many in one transaction, and with them what they say about the providers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.domain import AttemptOutcome, MessageStatus
from app.errors import DatabaseUnavailable, Overloaded
from app.providers.base import CredentialsRefused, TemporaryFailure
from app.services.batching import GroupCommit
from app.services.outcomes import Outcome, record_outcomes
from app.services.policy import ACCEPTED, Verdict
from app.services.provider_states import Tally, record_tallies

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What is written about one attempt: its outcome, and the error that it ended with, if it did."""

    outcome: Outcome
    error: Exception | None


class OutcomeRecorder:
    """Records outcomes as they come; an async context manager, which ends with everything written.

    `is_well` tells of a provider whether there is anything that its successes could mend.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings, *, is_well: Callable[[str], bool]) -> None:
        self._settings = settings
        self._is_well = is_well
        self._commits: GroupCommit[Record, bool] = GroupCommit(
            engine,
            self._record,
            batch_size=settings.accept_batch_size,
            queue_limit=max(settings.accept_queue_limit, settings.worker_concurrency),
            deadline_seconds=settings.database_statement_timeout_seconds,
            tenant_of=lambda record: record.outcome.tenant_id,
            name="outcomes",
        )

    async def __aenter__(self) -> Self:
        await self._commits.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._commits.__aexit__(*exception)

    async def write_down(self, record: Record) -> None:
        """Record an outcome, however long that takes: what a provider has said must not be forgotten."""
        outcome = record.outcome
        while True:
            try:
                counted = await self._commits.submit(record)
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

    async def _record(self, connection: AsyncConnection, records: list[Record]) -> list[bool]:
        counted = await _record_outcomes(connection, [record.outcome for record in records])
        tallies: dict[str, Tally] = {}
        for record in records:
            _count(tallies.setdefault(record.outcome.provider_type, Tally()), record, self._settings)
        for name, tally in tallies.items():
            if self._is_well(name):
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


def _count(tally: Tally, record: Record, settings: Settings) -> None:
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
