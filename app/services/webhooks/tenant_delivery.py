"""Serves the webhook endpoints of one tenant: reads the log once for all that stand at the same place."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.connectivity.outage import outage
from app.db.engine import is_unavailable
from app.errors import DatabaseUnavailable, Overloaded
from app.services.accept.group_commit import GroupCommit
from app.services.events.cursors import BEGINNING, Position
from app.services.events.reading import LogState, log_state
from app.services.webhooks.batch import Batch, Job, ServedEndpoint
from app.services.webhooks.jobs import jobs_of, next_pages
from app.services.webhooks.sender import WebhookSender
from app.services.webhooks.state import passed
from app.services.webhooks.store import Attempt, Record, Recorded, load_endpoints

log = structlog.get_logger(__name__)

#: Until the next look while a newer entry is not decided yet, and the longest such pause.
_SOON_SECONDS, _LATEST_SECONDS = 0.01, 1.0
_IDLE_SECONDS = 60.0


class TenantDelivery:
    """Sends a tenant's events to its endpoints, while this worker has the lease with this `number`."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        sender: WebhookSender,
        recorder: GroupCommit[Record, Recorded],
        on_logged: Callable[[int], None],
        *,
        tenant_id: int,
        number: int,
        changes: int,
    ) -> None:
        self.number = number
        self.changes = changes  #: of the lease, when the endpoints were read
        self.head = BEGINNING  #: of the log, as of the last look
        self._tenant_id = tenant_id
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._concurrency = settings.webhook_concurrency
        self._sender = sender
        self._recorder = recorder
        self._on_logged = on_logged
        self._endpoints: dict[int, ServedEndpoint] = {}
        self._is_stale = True
        self._generation = 0  #: of the log, when the endpoints were read
        self._closing = False
        self._woken = asyncio.Event()
        self._decided = BEGINNING
        self._undecided_seconds = _SOON_SECONDS
        self._batches: set[Batch] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = asyncio.create_task(self._run(), name="webhooks-of-tenant")

    def wake(self) -> None:
        """Say that the log may have grown."""
        self._woken.set()

    def reload(self, changes: int) -> None:
        """Read the endpoints again: a client has changed one."""
        self.changes, self._is_stale = changes, True
        self.wake()

    def flush(self) -> None:
        """Record cursors that have passed events which their endpoints do not want."""
        for endpoint in self._endpoints.values():
            if endpoint.task is None and endpoint.state != endpoint.saved:
                self._begin(endpoint, self._record(endpoint, ()))

    async def close(self, grace_seconds: float) -> None:
        """Finish the requests that are under way, or give them up after the grace period."""
        self._closing = True
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for batch in self._batches:
            batch.give_up()
        self.flush()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            pause = _LATEST_SECONDS
            try:
                pause = await self._look()
            except Exception as error:
                if is_unavailable(error):
                    outage.note(error, batch="webhooks")
                else:
                    log.exception("webhooks_not_sent", tenant=self._tenant_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _load(self, connection: AsyncConnection, generation: int) -> None:
        """Read the endpoints: those that were changed, or all if a failover may have lost a part of their state."""
        self._is_stale = False
        try:
            found = await load_endpoints(connection, self._tenant_id)
        except BaseException:
            self._is_stale = True
            raise
        known = self._endpoints if generation == self._generation else {}
        self._generation = generation
        self._endpoints = {
            stored.id: known[stored.id]
            if stored.id in known and known[stored.id].stored.version == stored.version
            else ServedEndpoint(stored, generation, stored.state, stored.state)
            for stored in found
        }

    async def _look(self) -> float:
        """Begin to send what can be sent now; returns the seconds until the next look."""
        async with self._autocommit.connect() as connection:
            state = await log_state(connection, self._tenant_id)
            self.head = state.head
            if self._is_stale or state.generation != self._generation:
                await self._load(connection, state.generation)
            now = datetime.now(UTC)
            ready = [each for each in self._endpoints.values() if each.task is None and each.state.may_send(now)]
            pages, is_more = await next_pages(connection, self._tenant_id, ready, state, now)
            jobs = await jobs_of(connection, self._tenant_id, ready, pages, now)
        for endpoint in ready:
            if endpoint.task is not None:  # it is being recorded
                continue
            end = pages[endpoint].position if endpoint in pages else endpoint.state.cursor
            if jobs[endpoint]:
                self._send(endpoint, jobs[endpoint], end)
            else:
                endpoint.state = passed(endpoint.state, end, now)
        return self._pause(state, is_more, now)

    def _pause(self, state: LogState, is_more: bool, now: datetime) -> float:
        if is_more:
            return 0.0
        times = [time for each in self._endpoints.values() if each.task is None and (time := each.state.next_time())]
        pause = min([_IDLE_SECONDS, *((time - now).total_seconds() for time in times)])
        if state.decided >= state.head or state.decided != self._decided:
            self._undecided_seconds = _SOON_SECONDS
        self._decided = state.decided
        if state.decided >= state.head:
            return max(pause, 0.0)
        # A transaction that stays open must not have us ask a hundred times a second.
        soon, self._undecided_seconds = self._undecided_seconds, min(2 * self._undecided_seconds, _LATEST_SECONDS)
        return max(min(pause, soon), 0.0)

    def _send(self, endpoint: ServedEndpoint, jobs: Sequence[Job], end: Position) -> None:
        batch = Batch(endpoint, jobs, end, self._sender, self._concurrency, lambda: not self._closing)
        self._begin(endpoint, self._serve(batch))

    def _begin(self, endpoint: ServedEndpoint, work: Coroutine[None, None, None]) -> None:
        endpoint.task = task = asyncio.create_task(work, name="webhook-endpoint")
        self._tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                log.error("webhooks_not_recorded", tenant=self._tenant_id, exc_info=error)
                asyncio.get_running_loop().call_later(_LATEST_SECONDS, release)  # or it would fail without a pause
            else:
                release()

        def release() -> None:
            endpoint.task = None
            state = endpoint.state
            if self._is_stale or state.cursor < self._decided or state.next_time() is not None:
                self.wake()

        task.add_done_callback(done)

    async def _serve(self, batch: Batch) -> None:
        self._batches.add(batch)
        try:
            await batch.send()
        finally:
            self._batches.discard(batch)
        await self._record(batch.endpoint, batch.attempts)

    async def _record(self, endpoint: ServedEndpoint, attempts: Sequence[Attempt]) -> None:
        """Record the state and the attempts, however long that takes. Until then nothing more is sent there."""
        stored, state = endpoint.stored, endpoint.state
        place = self._tenant_id, self.number, endpoint.generation, stored.id, stored.version
        record = Record(*place, endpoint.saved, state, attempts)
        while True:
            try:
                fate = await self._recorder.submit(record)
                break
            except DatabaseUnavailable:
                await asyncio.sleep(_LATEST_SECONDS)
            except Overloaded:  # it is closing: the events are sent again, with the same ids
                log.warning("webhooks_not_recorded", tenant=self._tenant_id, endpoint_id=stored.id)
                return
        if fate is not Recorded.FULLY:
            self._is_stale = True
        elif state.disabled_at is not None and endpoint.saved.disabled_at is None:
            facts = {"endpoint_id": stored.id, "reason": state.disabled_reason}
            log.warning("webhook_endpoint_disabled", tenant=self._tenant_id, **facts)
            self._on_logged(self._tenant_id)
        endpoint.saved = state
