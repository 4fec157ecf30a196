"""Sends some events to one endpoint, as far as its state allows, and works out its new state."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from app.services.events.cursors import Position
from app.services.events.reading import Entry
from app.services.webhooks.sender import Answer, WebhookSender
from app.services.webhooks.slots import SLOW_SECONDS
from app.services.webhooks.state import EndpointState, Result, after_result, reached
from app.services.webhooks.store import Attempt, StoredEndpoint

log = structlog.get_logger(__name__)

#: A batch begins no further request after so many seconds, so that what has come of it is recorded soon.
_BATCH_SECONDS = 1.0
#: An endpoint that takes longer gets one request at a time.
_TOO_SLOW_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class ServedEndpoint:
    """An endpoint in the memory of the worker that serves it. `saved` is the part of `state` that is recorded.

    `generation` is that of the log when the endpoint was read.
    `width` is the number of requests at once: one at first, more with each success. `probes` counts those that have
    failed with the event after the cursor.
    """

    stored: StoredEndpoint
    generation: int
    state: EndpointState
    saved: EndpointState
    width: int = 1
    probes: int = 0
    is_slow: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """An event to be sent. `tries` have failed before."""

    entry: Entry
    body: bytes
    tries: int
    is_retry: bool


@dataclass(slots=True, eq=False)
class Batch:
    """Events for one endpoint: retries, and then the next ones after its cursor.

    With these the log is read to `end`.
    """

    endpoint: ServedEndpoint
    jobs: Sequence[Job]
    end: Position
    sender: WebhookSender
    concurrency: int
    may_go_on: Callable[[], bool]
    attempts: list[Attempt] = field(default_factory=list)
    _running: dict[asyncio.Task[Answer], tuple[Job, bool]] = field(default_factory=dict)
    _settled: set[Position] = field(default_factory=set)

    async def send(self) -> None:
        """Send what may be sent within about a second; the state of the endpoint is then the new one."""
        deadline = asyncio.get_running_loop().time() + _BATCH_SECONDS
        waiting = deque(self.jobs)
        while True:
            while waiting and self._may_start(waiting[0], deadline):
                self._start(waiting.popleft())
            if not self._running:
                break
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                job, is_probe = self._running.pop(task)
                if not task.cancelled():
                    self._take(job, task.result(), is_probe)
        after_cursor = [job.entry.position for job in self.jobs if not job.is_retry]
        tried = [(position, position in self._settled) for position in after_cursor]
        state = self.endpoint.state
        self.endpoint.state = replace(state, cursor=reached(state.cursor, self.end, tried))

    def give_up(self) -> None:
        """Leave the requests that are under way. They are repeated by the next worker."""
        for task in self._running:
            task.cancel()

    def _may_start(self, job: Job, deadline: float) -> bool:
        state, now = self.endpoint.state, datetime.now(UTC)
        if asyncio.get_running_loop().time() > deadline or not self.may_go_on() or not state.may_send(now):
            return False
        if len(self._running) >= self.endpoint.width:
            return False
        new = sum(not running.is_retry for running, _ in self._running.values())
        if job.is_retry or state.room > new:
            return True
        return not self._running and state.may_read(now)

    def _start(self, job: Job) -> None:
        receiver, is_slow = self.endpoint.stored.receiver, self.endpoint.is_slow
        entry = job.entry
        sending = self.sender.post(receiver, entry.id, job.body, position=entry.position, is_slow=is_slow)
        is_probe = not job.is_retry and self.endpoint.state.room <= 0
        self._running[asyncio.create_task(sending, name="webhook")] = job, is_probe

    def _take(self, job: Job, answer: Answer, is_probe: bool) -> None:
        endpoint, entry = self.endpoint, job.entry
        result = Result(entry.position, datetime.now(UTC), answer.status, answer.retry_after, is_probe)
        endpoint.state = after_result(endpoint.state, result, random.random())  # noqa: S311 - jitter is no secret
        if not job.is_retry:
            endpoint.probes = endpoint.probes + 1 if is_probe and not result.succeeded else 0
        if result.succeeded or not is_probe:
            self._settled.add(entry.position)
            if not result.succeeded and entry.position not in endpoint.state.retries:
                log.warning("webhook_event_given_up", tenant=entry.tenant_id, endpoint_id=endpoint.stored.id)
        is_good = result.succeeded and answer.seconds <= _TOO_SLOW_SECONDS
        endpoint.width = min(2 * endpoint.width, self.concurrency) if is_good else 1
        endpoint.is_slow = not result.succeeded or answer.seconds > SLOW_SECONDS
        self.attempts.append(Attempt(entry.id, entry.type, entry.message_id, job.tries + 1, answer))
