"""Writes the figures of a process to the database, and keeps in memory those that all processes share.

So the status page is right for any number of processes and hosts, and a scrape asks the database nothing. One process
of all looks at the queue each time.
"""

import asyncio
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from time import monotonic
from typing import Any, Self

import structlog
from sqlalchemy import Float, Text, bindparam, delete, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.connectivity.outage import outage
from app.db.engine import is_unavailable
from app.db.models import Figures
from app.db.process_lock import HERE
from app.db.statements.batches import SECOND
from app.metrics.catalogue import (
    ACCEPT_SECONDS,
    ATTEMPT_SECONDS,
    ATTEMPTS,
    DATABASE_UP,
    PROVIDER_STATE,
    QUEUE_AGE,
    QUEUE_DUE,
    RECEIPTS,
    REQUESTS,
    WEBHOOKS,
)
from app.metrics.snapshot import Snapshot
from app.metrics.values import Labels
from app.providers.registry import provider_registry
from app.routing import channels_served
from app.services.delivery.pacing.provider_states import WELL, ProviderHealth, health_of_providers
from app.services.delivery.periodic import take_turn
from app.services.figures.queue_sample import sample_queue

log = structlog.get_logger(__name__)

WRITE_SECONDS = 5.0
#: A process with nothing to tell writes all the same after so long, so that it counts as living.
ALIVE_SECONDS = 30.0
#: The source of the rows about the queue.
QUEUE = "queue"
_KEPT_SECONDS = 90 * 60
#: After so long without the database, shared figures are not shown: they may be wrong by now.
_FRESH_SECONDS = 30.0
_CHARTED = (ACCEPT_SECONDS, ATTEMPTS, ATTEMPT_SECONDS, RECEIPTS, WEBHOOKS)

_WRITE = insert(Figures).values(source=bindparam("by", type_=Text()), content=bindparam("figures", type_=JSONB()))
_FORGET = delete(Figures).where(Figures.taken_at < func.now() - bindparam("age", type_=Float()) * SECOND)
_NEWEST = (
    select(Figures.content)
    .where(Figures.source == QUEUE, Figures.taken_at > func.now() - timedelta(seconds=_FRESH_SECONDS))
    .order_by(Figures.taken_at.desc())
    .limit(1)
)


class FiguresRecorder:
    """Records until its context is left; `role` is the kind of the process, `web` or `worker`."""

    pause_seconds = WRITE_SECONDS

    def __init__(self, engine: AsyncEngine, settings: Settings, *, role: str) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._channels = channels_served(settings)
        self._role = role
        self._source = f"{HERE}-{os.getpid()}-{secrets.token_hex(2)}"
        self._written = Snapshot.take()
        self._written_at = -ALIVE_SECONDS
        self._queue: Mapping[str, tuple[int, float]] = {}
        self._health: Mapping[str, ProviderHealth] = {}
        self._read_at = -_FRESH_SECONDS
        self._is_up = True
        self._running: asyncio.Task[None]
        self._gauges = ExitStack()

    async def __aenter__(self) -> Self:
        for gauge, read in (
            (QUEUE_DUE, self._due),
            (QUEUE_AGE, self._ages),
            (PROVIDER_STATE, self._states),
            (DATABASE_UP, self._up),
        ):
            self._gauges.enter_context(gauge.read_by(read))
        self._running = asyncio.create_task(self._run(), name="figures")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._gauges.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.pause_seconds)
            try:
                await self.record()
            except Exception as error:
                self._is_up = False
                if is_unavailable(error):
                    outage.note(error, batch="figures")
                else:
                    log.warning("figures_not_recorded", error=type(error).__name__)

    async def record(self) -> None:
        """Write what has been counted since the last time, and read what all processes share."""
        taken, now = Snapshot.take(), monotonic()
        content = _content(taken.since(self._written), self._role)
        async with asyncio.timeout(self._deadline_seconds), self._autocommit.connect() as connection:
            if await take_turn(self._engine, "figures", self.pause_seconds):
                sample = await sample_queue(connection, self._channels)
                await connection.execute(_WRITE, {"by": QUEUE, "figures": sample})
                await connection.execute(_FORGET, {"age": _KEPT_SECONDS})
            if content is not None or now - self._written_at >= ALIVE_SECONDS:
                figures = content or {"role": self._role}
                await connection.execute(_WRITE, {"by": self._source, "figures": figures})
                self._written_at = now
            self._written = taken
            newest = (await connection.execute(_NEWEST)).scalar() or {}
            self._health = await health_of_providers(connection)
        self._queue = {channel: (due, age) for channel, (due, age) in newest.items()}
        self._read_at = monotonic()
        self._is_up = True

    def _up(self) -> dict[Labels, float]:
        return {(): float(self._is_up)}

    def _is_fresh(self) -> bool:
        return monotonic() - self._read_at < _FRESH_SECONDS

    def _due(self) -> dict[Labels, float]:
        return {(channel,): due for channel, (due, _) in self._queue.items()} if self._is_fresh() else {}

    def _ages(self) -> dict[Labels, float]:
        return {(channel,): age for channel, (_, age) in self._queue.items()} if self._is_fresh() else {}

    def _states(self) -> dict[Labels, float]:
        if not self._is_fresh():
            return {}
        states: dict[Labels, float] = {}
        for name in {*provider_registry, *self._health}:
            health = self._health.get(name, WELL)
            states[name, "open"] = health.is_open
            states[name, "half_open"] = health.probing
            states[name, "throttled"] = health.is_throttled
            states[name, "paused"] = health.is_stopped or health.paused_reason is not None
        return states


def _content(grown: Snapshot, role: str) -> dict[str, Any] | None:
    """The part of the figures of some seconds that the status page shows; None if there is nothing."""
    requests: dict[Labels, float] = {}
    for (_, _, status), number in grown.counters.get(REQUESTS.name, {}).items():
        requests[status,] = requests.get((status,), 0.0) + number
    names = {each.name for each in _CHARTED}
    counters = {name: numbers for name, numbers in grown.counters.items() if name in names}
    if requests:
        counters[REQUESTS.name] = requests
    histograms = {name: numbers for name, numbers in grown.histograms.items() if name in names}
    if not counters and not histograms:
        return None
    return {"role": role, **Snapshot(counters, histograms).document()}
