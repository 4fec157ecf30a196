"""Reads of a replica, for callers whose own writes it is known to have.

A replica lags. From time to time the position of the primary is noted together with the time. When the replica has
replayed up to there, it has all that was committed before.
"""

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Self

import asyncpg
import structlog

from app.config import Settings
from app.db.connectivity.connections import connect
from app.db.engine import serving_options
from app.db.statements.reads import Read, Reads, Rows
from app.domain import DEFAULT_TENANT_ID
from app.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

#: The time of the last write of the caller; None where the primary has to answer, such as within a write.
written_at: ContextVar[float | None] = ContextVar("written_at", default=None)

#: Seconds between two looks at the positions, while there are reads.
LOOK_SECONDS = 0.2
#: Seconds for an answer of the replica, after which the primary is asked.
_PATIENCE_SECONDS = 1.0
#: A replica that follows another primary than ours has another generation (`app.db.connectivity.event_generation`).
_GENERATION = f"(SELECT generation FROM event_logs WHERE tenant_id = {DEFAULT_TENANT_ID})"  # noqa: S608 - a constant
_WRITTEN = f"SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint, {_GENERATION}"
_REPLAYED = f"""
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint END,
    {_GENERATION}
"""


class _Position(NamedTuple):
    """A position of the primary in the write-ahead log, and the time when it was asked for."""

    asked_at: float
    written: int
    generation: int


class _Server:
    """One connection to a server, opened again when it is lost."""

    def __init__(self, url: str, settings: Settings) -> None:
        options = serving_options(settings) | {"timeout": _PATIENCE_SECONDS, "command_timeout": _PATIENCE_SECONDS}
        self._open = functools.partial(connect, url, **options)
        self._connection: asyncpg.Connection | None = None

    async def ask(self, question: str) -> tuple[int | None, int | None]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._open()
        try:
            row = await self._connection.fetchrow(question)
        except BaseException:
            self.close()
            raise
        return (None, None) if row is None else (row[0], row[1])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class Replica:
    """The state of a replica: an async context manager, which looks at it while there are reads."""

    def __init__(self, url: str, settings: Settings, primary_url: str, primary_settings: Settings) -> None:
        self._primary = _Server(primary_url, primary_settings)
        self._replica = _Server(url, settings)
        self._most_seconds = settings.database_read_lag_seconds
        self._awaited: deque[_Position] = deque(maxlen=2 + int(2 * self._most_seconds / LOOK_SECONDS))
        self._has_all_before = 0.0
        self._reason: str | None = "not looked at"
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow(), name="replica")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._primary.close()
        self._replica.close()

    def has_all_before(self, moment: float) -> bool:
        """True if the replica has what was committed before a time, and is not too far behind."""
        self._wanted.set()
        return moment < self._has_all_before and time.time() - self._has_all_before <= self._most_seconds

    def give_up(self) -> None:
        """Leave the replica alone until it has answered again."""
        self._has_all_before = 0.0
        self._awaited.clear()

    async def _follow(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                self._tell(await self._look())
            except Exception as error:
                self.give_up()
                self._tell(type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> str | None:
        """Compare the positions; returns the reason why the replica is not read, if there is one."""
        asked_at = time.time()
        written, generation = await self._primary.ask(_WRITTEN)
        if written is None or generation is None:
            return "the primary has no event log"
        self._awaited.append(_Position(asked_at, written, generation))
        replayed, generation = await self._replica.ask(_REPLAYED)
        if replayed is None:
            return "it is no standby"
        reason = None
        while self._awaited and self._awaited[0].written <= replayed:
            reached = self._awaited.popleft()
            if reached.generation == generation:
                self._has_all_before = reached.asked_at
            else:
                reason = "it follows another primary"
        is_late = self._awaited and asked_at - self._awaited[0].asked_at > self._most_seconds
        return "it is too far behind" if is_late else reason

    def _tell(self, reason: str | None) -> None:
        """Log a change between being read and being left alone."""
        if reason == self._reason:
            return
        self._reason = reason
        if reason is None:
            log.info("replica_in_use")
        else:
            log.warning("replica_left_alone", reason=reason)


class ReadsWithReplica(Reads):
    """Executes reads on the replica where it has the caller's writes, and on the primary otherwise.

    What the replica does not have, or does not answer in time, is read on the primary.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        replica_url: str,
        replica_settings: Settings,
        *,
        is_distributed: bool = False,
    ) -> None:
        super().__init__(url, settings, is_distributed=is_distributed)
        self._replica = Replica(replica_url, replica_settings, url, settings)
        brief = {"database_statement_timeout_seconds": _PATIENCE_SECONDS}
        self._of_replica = Reads(
            replica_url, replica_settings.model_copy(update=brief), is_distributed=is_distributed
        )
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._replica)
        await self._stack.enter_async_context(self._of_replica)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()
        await super().__aexit__(*exception)

    async def fetch(self, read: Read, parameters: Mapping[str, Any]) -> Rows:
        moment = written_at.get()
        if moment is not None and self._replica.has_all_before(moment):
            try:
                if rows := await self._of_replica.fetch(read, parameters):
                    return rows
            except (DatabaseUnavailable, asyncpg.PostgresError):
                self._replica.give_up()
        return await super().fetch(read, parameters)
