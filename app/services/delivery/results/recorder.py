"""Records the results of attempts, many in one transaction, and with them the health of the providers."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.connectivity.outage import sqlstate_of
from app.db.engine import is_unavailable
from app.domain import AttemptOutcome
from app.errors import DatabaseUnavailable, Overloaded
from app.providers.base import CredentialsRefused, NotBegun, ProviderFailure, TemporaryFailure
from app.services.accept.group_commit import GroupCommit
from app.services.delivery.pacing.provider_states import ProviderSignals, record_signals
from app.services.delivery.results.outcomes import AttemptResult, record_outcomes

log = structlog.get_logger(__name__)

_UNIQUE_VIOLATION = "23505"


class OutcomeRecorder(GroupCommit[AttemptResult, bool]):
    """Records results in batches; an async context manager, which writes everything before it ends.

    `is_flawless` says of a provider that a success has no earlier failure to clear. `on_logged` is called with the
    tenant after each commit.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        *,
        is_flawless: Callable[[str], bool],
        on_logged: Callable[[int], None],
    ) -> None:
        super().__init__(
            engine,
            settings,
            self._record,
            name="outcomes",
            tenant_of=lambda result: result.tenant_id,
            queue_limit=max(settings.accept_queue_limit, settings.worker_concurrency),
        )
        self._settings = settings
        self._is_flawless = is_flawless
        self._on_logged = on_logged

    async def write_down(self, result: AttemptResult) -> None:
        """Record a result, however long that takes: a provider's answer must not be lost."""
        facts = {"tenant": result.tenant_id, "message_id": result.message_id, "attempt": result.number}
        while True:
            try:
                counted = await self.submit(result)
                break
            except DatabaseUnavailable:
                await asyncio.sleep(self._settings.worker_poll_seconds)
            except Overloaded:  # the recorder is closing, or full: the lease ends, and the attempt is in doubt
                log.warning("outcome_not_recorded", **facts)
                return
        self._on_logged(result.tenant_id)
        tell = log.debug if result.outcome is AttemptOutcome.ACCEPTED else log.info
        event = "message_" + result.status if counted else "outcome_came_late"
        tell(event, **facts, provider=result.provider_type, outcome=result.outcome)

    async def _record(self, connection: AsyncConnection, results: list[AttemptResult]) -> list[bool]:
        counted = await _record_outcomes(connection, results)
        signals: dict[str, ProviderSignals] = {}
        for result in results:
            _count(signals.setdefault(result.provider_type, ProviderSignals()), result)
        for name, own in signals.items():
            if self._is_flawless(name):
                own.successes = 0
            if own.refused is not None:
                resume = f"POST /api/providers/{name}/resume"
                log.error("provider_paused", provider=name, reason=own.refused, resume=resume)
        await record_signals(connection, signals, self._settings)
        return counted


async def _record_outcomes(connection: AsyncConnection, results: list[AttemptResult]) -> list[bool]:
    """Record a batch. If PostgreSQL refuses the words of a single result, record it without them."""
    if len(results) > 1:
        return await record_outcomes(connection, results)  # if it fails, the group commit tries them one by one
    try:
        async with connection.begin_nested():
            return await record_outcomes(connection, results)
    except DBAPIError as error:
        if is_unavailable(error):
            raise
        [result] = results
        log.warning("outcome_not_storable", message_id=result.message_id, sqlstate=sqlstate_of(error))
        return await record_outcomes(connection, [_in_our_words(result, error)])


def _in_our_words(result: AttemptResult, error: DBAPIError) -> AttemptResult:
    """The result without the provider's words and id. An id that it reused stays with the first message."""
    reason = "What the provider said can't be stored."
    if sqlstate_of(error) == _UNIQUE_VIOLATION:
        reason = "The provider answered with an id that it had given to another message."
    elif result.provider_message_id is not None:
        reason = "The provider answered with an id that can't be stored."
    return replace(result, reason=reason, provider_message_id=None)


def _count(own: ProviderSignals, result: AttemptResult) -> None:
    """Count a result for its provider's health.

    A provider that refuses one message is well; one that can't be reached or does not answer is not. A send that we
    cut off says nothing about it, and neither does a bug in its file, which may concern one message only.
    """
    error = result.error
    if isinstance(error, NotBegun):
        return
    if isinstance(error, CredentialsRefused):
        own.refused = result.reason
    elif isinstance(error, TemporaryFailure) and error.throttled:
        return  # the pace of the provider follows from its recent calls
    elif result.outcome in {AttemptOutcome.ACCEPTED, AttemptOutcome.PERMANENT}:
        own.successes += 1
    elif isinstance(error, ProviderFailure | OSError):
        own.failures += 1  # an OSError is a failed connection or a timeout
