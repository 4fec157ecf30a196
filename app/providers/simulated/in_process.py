"""The carriers in the process: the script of `script.py` behind `send`, and an outbox for what comes back."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import count
from typing import ClassVar
from uuid import uuid4

import structlog

from app.providers.base import (
    BaseProvider,
    CallbackItem,
    CredentialsRefused,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    ProviderResult,
    Receipt,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.script import Allowance, Reply, Script
from app.providers.toolbox.http_client import bounded

log = structlog.get_logger(__name__)

Sink = Callable[[CallbackItem], Awaitable[None]]

_TICK_SECONDS = 0.01
_TRIES = 8
_BREATH = 100


class Outbox:
    """Hands events to sinks, each at its time: one heap and one timer for all, and a few tasks that call the sinks.

    A sink that raises is asked again, up to 8 times, each time after twice as long. Up to `lanes` calls are under way
    at once, and order is not promised: carriers don't either. To be used within one event loop.
    """

    def __init__(self, *, lanes: int = 64, retry_seconds: float = 0.25) -> None:
        self._most_lanes = lanes
        self._retry_seconds = retry_seconds
        self._later: list[tuple[float, int, int, CallbackItem, Sink]] = []
        self._numbers = count()
        self._due: deque[tuple[int, CallbackItem, Sink]] = deque()
        self._timer: asyncio.Handle | None = None
        self._rings_at = 0.0
        self._lanes: set[asyncio.Task[None]] = set()
        self._closed = False

    def put(self, event: CallbackItem, after: float, sink: Sink, *, tries: int = 0) -> None:
        """Hand the event over in `after` seconds, give or take a hundredth. Nothing happens once it is closed."""
        if self._closed:
            return
        due = asyncio.get_running_loop().time() + after
        heappush(self._later, (due, next(self._numbers), tries, event, sink))
        self._wind()

    async def hand_over(self, event: CallbackItem, sink: Sink, *, tries: int = 0) -> None:
        """Hand the event over now, and return when the sink has it, or has failed and will be asked again."""
        try:
            await sink(event)
        except Exception as error:  # whatever went wrong over there, a carrier tries again
            if tries + 1 < _TRIES:
                self.put(event, self._retry_seconds * 2**tries, sink, tries=tries + 1)
                return
            id = event.event_id if isinstance(event, Receipt) else event.provider_message_id
            log.error("carrier_event_given_up", event_id=id, error=type(error).__name__)

    async def close(self) -> None:
        """Forget what is not handed over yet, and stop what is being handed over."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._later.clear()
        self._due.clear()

    def _wind(self) -> None:
        """Set the timer for what is next, and not sooner than a tick, so that thousands a second share its rings."""
        loop = asyncio.get_running_loop()
        when = max(self._later[0][0], loop.time() + _TICK_SECONDS)
        if self._timer is not None:
            if self._rings_at <= when:
                return
            self._timer.cancel()
        self._timer, self._rings_at = loop.call_at(when, self._ring), when

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            self._due.append(heappop(self._later)[2:])
        if self._later:
            self._wind()
        for _ in range(min(self._most_lanes - len(self._lanes), len(self._due))):
            self._lanes.add(asyncio.create_task(self._drive()))

    async def _drive(self) -> None:
        handed = 0
        while self._due:
            tries, event, sink = self._due.popleft()
            await self.hand_over(event, sink, tries=tries)
            handed += 1
            if handed % _BREATH == 0:  # a sink that never waits must not hold up the loop
                await asyncio.sleep(0)
        # Here and not in a callback of the task: a ring in between would find no lane free, and none at work.
        lane = asyncio.current_task()
        assert lane is not None
        self._lanes.discard(lane)


@dataclass(slots=True)
class _Known:
    """What a carrier remembers of a message."""

    requests: int = 0
    provider_message_id: str | None = None


class SimulatedCarrier(BaseProvider):
    """A carrier that follows the script. Nothing leaves the machine.

    Without a sink (`connect`) it accepts and fails as the script says, and nothing comes back. It remembers the last
    `remembered_keys` messages, and only while the process lives.
    """

    simulated: ClassVar[bool] = True
    receipts_carry_key: ClassVar = True
    prefix: str  #: what its message ids begin with

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self._settings = settings or SimulatorSettings()
        self._script = Script(self._settings)
        self._allowance = Allowance(None if self._settings.in_production else self._settings.rate)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._back: tuple[Outbox, Sink] | None = None
        self.honours_idempotency_key = self._settings.honours_idempotency_key

    def connect(self, sink: Sink) -> None:
        """From now on `sink` gets the receipts and answers; `close` first, where another one had them."""
        self._back = Outbox(), sink

    async def close(self) -> None:
        """Send nothing back any more, also not what was on its way."""
        back, self._back = self._back, None
        if back is not None:
            await back[0].close()

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        """Do as the script says; for a silent recipient, never return."""
        if self._allowance.is_used_up():
            raise self._failure(Reply.THROTTLED)
        behaviour = self._script.behaviour(payload.to_address, payload.idempotency_key)
        known = self._recall(payload.idempotency_key)
        reaction = self._script.reaction(behaviour, known.requests)
        known.requests += 1
        id = known.provider_message_id
        if reaction.accepts and (id is None or not self.honours_idempotency_key):
            id = known.provider_message_id = f"{self.prefix}-{uuid4()}"
            if self._back is not None:
                outbox, sink = self._back
                for arrival in self._script.arrivals(behaviour, payload, id, datetime.now(UTC)):
                    if arrival.after is None:
                        await outbox.hand_over(arrival.event, sink)
                    else:
                        outbox.put(arrival.event, arrival.after, sink)
        if reaction.delay:
            await asyncio.sleep(reaction.delay)
        if reaction.reply is Reply.ID:
            return ProviderResult(id)
        if reaction.reply is Reply.SILENCE:
            await asyncio.Event().wait()
        raise self._failure(reaction.reply)

    def _recall(self, key: str) -> _Known:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
            if len(self._known) > self._settings.remembered_keys:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known

    def _failure(self, reply: Reply) -> ProviderFailure:
        """What a client of a carrier on the other side of a wire would make of the reply."""
        match reply:
            case Reply.THROTTLED:
                wait = bounded(self._settings.retry_after_seconds)
                return TemporaryFailure("429 Too Many Requests", retry_after=wait, throttled=True)
            case Reply.ERROR:
                return TemporaryFailure("500 Internal Server Error")
            case Reply.REFUSED:
                return PermanentFailure("400 Bad Request - the carrier refuses this recipient")
            case Reply.UNAUTHORISED:
                return CredentialsRefused("401 Unauthorized")
            case Reply.CUT:
                return UnknownOutcome("The request left, and no answer came: the connection was reset.")
            case _:
                return UnknownOutcome(f"The request left, and the answer is of no use: {reply}.")
