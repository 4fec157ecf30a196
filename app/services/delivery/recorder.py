"""Writing down what came of attempts: many in one transaction, and with them what they say about the providers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.engine import is_unavailable, sqlstate_of
from app.domain import AttemptOutcome
from app.errors import DatabaseUnavailable, Overloaded
from app.providers.base import CredentialsRefused, NotBegun, ProviderFailure, TemporaryFailure
from app.services.accept.group_commit import GroupCommit
from app.services.delivery.outcomes import Outcome, record_outcomes
from app.services.delivery.provider_states import Tally, record_tallies
from app.services.delivery.retry_policy import ACCEPTED

log = structlog.get_logger(__name__)

_LOST_A_RACE = {"40001", "40P01"}  # the same once more can succeed
_STANDS_ALREADY = "23505"


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
            except DBAPIError as error:
                if sqlstate_of(error) not in _LOST_A_RACE:
                    raise
            except Overloaded:  # the recorder is closing, or full: the lease ends, and the attempt is in doubt
                log.warning(
                    "outcome_not_recorded",
                    tenant=outcome.tenant_id,
                    message_id=outcome.message_id,
                    attempt=outcome.number,
                )
                return
        tell = log.debug if outcome.verdict is ACCEPTED else log.info
        tell(
            "message_" + outcome.verdict.status if counted else "outcome_came_late",
            tenant=outcome.tenant_id,
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
    """A provider that refuses one message is well; one that can't be reached or does not answer is not.

    What our own end cut off says nothing about it, and neither does a bug in its file: that may be about one message.
    """
    error = record.error
    if isinstance(error, CredentialsRefused):
        tally.refused = record.outcome.verdict.reason
    elif isinstance(error, TemporaryFailure) and error.throttled:
        wanted = min(error.retry_after or 0, settings.retry_after_max_seconds)
        tally.throttled_for = max(tally.throttled_for, wanted, settings.retry_base_seconds)
    elif record.outcome.verdict.outcome in {AttemptOutcome.ACCEPTED, AttemptOutcome.PERMANENT}:
        tally.successes += 1
    elif isinstance(error, ProviderFailure | OSError) and not isinstance(error, NotBegun):
        tally.failures += 1  # an OSError is a connection that failed, and a time that ran out


async def _record_outcomes(connection: AsyncConnection, outcomes: list[Outcome]) -> list[bool]:
    """Record a batch; of an outcome that PostgreSQL won't take, what it came to is recorded all the same."""
    if len(outcomes) > 1:
        return await record_outcomes(connection, outcomes)  # if it fails, the group commit tries them one by one
    try:
        async with connection.begin_nested():
            return await record_outcomes(connection, outcomes)
    except DBAPIError as error:
        if is_unavailable(error) or sqlstate_of(error) in _LOST_A_RACE:
            raise
        [outcome] = outcomes
        log.warning("outcome_not_storable", message_id=outcome.message_id, sqlstate=sqlstate_of(error))
        return await record_outcomes(connection, [_in_our_words(outcome, error)])


def _in_our_words(outcome: Outcome, error: DBAPIError) -> Outcome:
    """The outcome without a word of the provider's. An id that it has given to two messages stays with the first."""
    detail = "What the provider said can't be stored."
    if sqlstate_of(error) == _STANDS_ALREADY:
        detail = "The provider answered with an id that it had given to another message."
    elif outcome.provider_message_id is not None:
        detail = "The provider answered with an id that can't be stored."
    return replace(outcome, verdict=replace(outcome.verdict, reason=detail), provider_message_id=None)
