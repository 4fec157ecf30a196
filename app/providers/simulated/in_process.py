"""In-process carriers: the script behind `send`, and an outbox for receipts and inbound messages."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import count
from typing import ClassVar
from uuid import uuid4

import structlog

from app.providers import base
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.script import Arrival, CarrierAnswer, RateLimit, Script
from app.providers.toolbox.http_client import bounded

log = structlog.get_logger(__name__)

Sink = Callable[[base.CallbackItem], Awaitable[None]]

_TICK_SECONDS = 0.01
_TRIES = 8
#: A sink that never waits must not block the event loop.
_YIELD_EVERY = 100


class Outbox:
    """Delivers receipts and messages to sinks when they are due, with one heap and one timer for all.

    A sink that raises is called up to 8 times, with exponential backoff. Up to `concurrency` calls are in flight, and
    order is not promised: carriers don't promise it either. Use it within one event loop.
    """

    def __init__(self, *, concurrency: int = 64, retry_seconds: float = 0.25) -> None:
        self._concurrency = concurrency
        self._retry_seconds = retry_seconds
        self._later: list[tuple[float, int, int, base.CallbackItem, Sink]] = []
        self._numbers = count()
        self._due: deque[tuple[int, base.CallbackItem, Sink]] = deque()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def schedule(self, arrivals: Iterable[Arrival], sink: Sink) -> None:
        """Deliver each arrival when it is due, and those that precede the answer before this returns."""
        for arrival in arrivals:
            if arrival.after is None:
                await self.deliver(arrival.item, sink)
            else:
                self.put(arrival.item, arrival.after, sink)

    def put(self, item: base.CallbackItem, after: float, sink: Sink, *, tries: int = 0) -> None:
        """Deliver the item in `after` seconds, give or take a hundredth. Does nothing once closed."""
        if self._closed:
            return
        due = asyncio.get_running_loop().time() + after
        heappush(self._later, (due, next(self._numbers), tries, item, sink))
        self._set_timer()

    async def deliver(self, item: base.CallbackItem, sink: Sink, *, tries: int = 0) -> None:
        """Deliver the item now. Return when the sink has it, or has failed and a retry is scheduled."""
        try:
            await sink(item)
        except Exception as error:  # a carrier retries after any error
            if tries + 1 < _TRIES:
                self.put(item, self._retry_seconds * 2**tries, sink, tries=tries + 1)
                return
            id = item.event_id if isinstance(item, base.Receipt) else item.provider_message_id
            log.error("carrier_event_given_up", event_id=id, error=type(error).__name__)

    async def close(self) -> None:
        """Drop the items that are not due yet, and cancel deliveries in flight."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._later.clear()
        self._due.clear()

    def _set_timer(self) -> None:
        """Set the timer for the next item, at least a tick away, so that thousands a second share one timer."""
        loop = asyncio.get_running_loop()
        when = max(self._later[0][0], loop.time() + _TICK_SECONDS)
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(when, self._on_timer), when

    def _on_timer(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            self._due.append(heappop(self._later)[2:])
        if self._later:
            self._set_timer()
        for _ in range(min(self._concurrency - len(self._tasks), len(self._due))):
            self._tasks.add(asyncio.create_task(self._deliver_due()))

    async def _deliver_due(self) -> None:
        delivered = 0
        while self._due:
            tries, item, sink = self._due.popleft()
            await self.deliver(item, sink, tries=tries)
            delivered += 1
            if delivered % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        # Not in a done callback of the task: a timer before it would count this task as running, and start none.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)


@dataclass(slots=True)
class _Known:
    """A carrier's memory of one message."""

    requests: int = 0
    provider_message_id: str | None = None


class SimulatedCarrier(base.BaseProvider):
    """A carrier that follows the script. Nothing leaves the machine.

    Without a sink (`connect`) it answers by the script, and nothing comes back. It remembers the last
    `remembered_keys` messages until the process ends.
    """

    simulated: ClassVar[bool] = True
    receipts_carry_key: ClassVar = True
    prefix: str  #: the beginning of its message ids

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self._settings = settings or SimulatorSettings()
        self._script = Script(self._settings)
        self._rate_limit = RateLimit(None if self._settings.in_production else self._settings.rate)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._back: tuple[Outbox, Sink] | None = None
        self.honours_idempotency_key = self._settings.honours_idempotency_key

    def connect(self, sink: Sink) -> None:
        """Send receipts and inbound messages to `sink`. `close` first if there was another sink."""
        self._back = Outbox(), sink

    async def close(self) -> None:
        """Send nothing back any more, including scheduled items."""
        back, self._back = self._back, None
        if back is not None:
            await back[0].close()

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        """Answer by the script. For a silent recipient it never returns."""
        if self._rate_limit.is_exceeded():
            raise self._failure(CarrierAnswer.THROTTLED)
        behaviour = self._script.behaviour(payload.to_address, payload.idempotency_key)
        known = self._recall(payload.idempotency_key)
        reaction = self._script.reaction(behaviour, known.requests)
        known.requests += 1
        id = known.provider_message_id
        if reaction.accepts and (id is None or not self.honours_idempotency_key):
            id = known.provider_message_id = f"{self.prefix}-{uuid4()}"
            if self._back is not None:
                outbox, sink = self._back
                arrivals = self._script.arrivals(behaviour, payload, id, datetime.now(UTC))
                await outbox.schedule(arrivals, sink)
        if reaction.delay:
            await asyncio.sleep(reaction.delay)
        if reaction.answer is CarrierAnswer.ID:
            return base.ProviderResult(id)
        if reaction.answer is CarrierAnswer.SILENCE:
            await asyncio.Event().wait()
        raise self._failure(reaction.answer)

    def _recall(self, key: str) -> _Known:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
            if len(self._known) > self._settings.remembered_keys:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known

    def _failure(self, answer: CarrierAnswer) -> base.ProviderFailure:
        """The failure that an HTTP client would raise for the answer."""
        match answer:
            case CarrierAnswer.THROTTLED:
                wait = bounded(self._settings.retry_after_seconds)
                return base.TemporaryFailure("429 Too Many Requests", retry_after=wait, throttled=True)
            case CarrierAnswer.ERROR:
                return base.UnknownOutcome("500 Internal Server Error")
            case CarrierAnswer.REFUSED:
                return base.PermanentFailure("400 Bad Request - the carrier refuses this recipient")
            case CarrierAnswer.UNAUTHORISED:
                return base.CredentialsRefused("401 Unauthorized")
            case CarrierAnswer.CUT:
                return base.UnknownOutcome("The request left, and no answer came: the connection was reset.")
            case _:
                return base.UnknownOutcome(f"The request left, and the answer is of no use: {answer}.")
