"""The sends that a worker may begin with each provider, and the pace that it learns from their answers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from time import monotonic

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.batches import Priority
from app.config import Settings
from app.domain import AttemptOutcome
from app.providers.base import NotBegun, TemporaryFailure
from app.segments import units_of
from app.services.delivery.claiming.claims import Claim
from app.services.delivery.pacing.pace import RecentCalls, decide
from app.services.delivery.pacing.provider_states import (
    WELL,
    ProviderHealth,
    change_pace,
    draw_from_rate,
    health_of_providers,
    lock_rate,
)
from app.services.delivery.results.outcomes import AttemptResult

log = structlog.get_logger(__name__)

#: A provider with a rate gets its messages claimed this long before their turn.
AHEAD_SECONDS = 0.25
#: A rate is used up when so many bookings in a row came behind earlier ones.
_QUEUED_BOOKINGS = 2
#: Of the slots of a provider and of a worker, the part that bulk messages leave to others.
_KEPT_FROM_BULK = 10


class Capacity:
    """The providers' health as last read, and the concurrency slots that this worker has left for each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._health: dict[str, ProviderHealth] = {}
        self._calls: defaultdict[str, RecentCalls] = defaultdict(RecentCalls)
        self._queued: Counter[str] = Counter()  # the bookings in a row that came behind earlier ones, by provider
        self._booked_each: defaultdict[str, float] = defaultdict(float)  # seconds of a message in the last booking
        self.in_flight: Counter[str] = Counter()  #: sends by provider

    async def refresh(self, connection: AsyncConnection) -> None:
        """Read the health of all providers, and adapt the pace of those that answered 429 to this worker."""
        before, self._health = self._health, await health_of_providers(connection)
        now = monotonic()
        for name, health in list(self._health.items()):
            if health.pace_changed_at != before.get(name, WELL).pace_changed_at or health.is_throttled:
                self._calls[name].restart(now)
        for name in {*self._calls, *self._health}:
            await self._adapt(connection, name, now)

    async def _adapt(self, connection: AsyncConnection, name: str, now: float) -> None:
        health = self.health_of(name)
        calls = self._calls[name].calls(now, self.in_flight[name])
        decision = decide(calls, health.pace, is_used_up=self._is_used_up(name))
        if decision is None:
            return
        await change_pace(connection, name, decision, seen=health)
        self._calls[name].restart(now)
        self._health[name] = replace(
            health, is_throttled=health.is_throttled or decision.pause > 0, pace=decision.pace
        )
        facts = {"rate": decision.pace.rate, "throttled": calls.throttled, "of": calls.ended}
        tell = log.warning if decision.pause or health.pace.rate is None else log.debug
        tell("provider_pace_changed", provider=name, pause=decision.pause or None, **facts)

    def saw(self, result: AttemptResult, claimed_at: float) -> None:
        """Count the answer to a call; `claimed_at` is by the monotonic clock.

        A call that was claimed before the last change of the pace says nothing about the pace of today.
        """
        error, settings = result.error, self._settings
        if isinstance(error, NotBegun):
            return
        pause = 0.0
        if isinstance(error, TemporaryFailure) and error.throttled:
            pause = max(min(error.retry_after or 0, settings.retry_after_max_seconds), settings.retry_base_seconds)
        now, accepted = monotonic(), result.outcome is AttemptOutcome.ACCEPTED
        self._calls[result.provider_type].add(claimed_at, now, accepted=accepted, pause=pause)

    def _is_used_up(self, name: str) -> bool:
        """True if messages wait for the learned rate, and not for the one of the settings, or for this worker."""
        configured, learned = self._settings.provider_rates.get(name), self.health_of(name).pace.rate
        return self._queued[name] >= _QUEUED_BOOKINGS and (not configured or (learned or 0) < configured)

    def health_of(self, provider_type: str) -> ProviderHealth:
        return self._health.get(provider_type, WELL)

    def is_flawless(self, provider_type: str) -> bool:
        """True if a success has no earlier failure to clear."""
        return provider_type not in self._health

    def can_serve(self, provider_type: str, tenant_id: int) -> bool:
        return self.health_of(provider_type).trouble_for(tenant_id) is None

    def first_well(self, route: Iterable[str], tenant_id: int) -> tuple[str | None, str | None]:
        """The first provider of a route that is well for a tenant, and the reasons to pass over those before it."""
        passed_over: list[str] = []
        for name in route:
            trouble = self.health_of(name).trouble_for(tenant_id)
            if trouble is None:
                return name, "; ".join(passed_over) or None
            passed_over.append(f"{name} {trouble}")
        return None, None

    def next_slots_in(self) -> list[float]:
        """Seconds until messages can be claimed again for each provider whose rate is booked."""
        slots = [health.slot_in - AHEAD_SECONDS for health in self._health.values()]
        return [slot for slot in slots if slot > 0]

    def free_slots(self, provider_type: str, used: int, *, share: int, priority: Priority = Priority.NORMAL) -> int:
        """The number of messages to claim for a provider; `share` queues divide what is not `used` of the worker.

        Each provider has slots of its own, so that a slow one does not take those of the others. Bulk messages leave
        a tenth of the slots to others, and one at least, unless there is only one.
        """
        settings, health = self._settings, self.health_of(provider_type)
        most, own = settings.worker_concurrency, settings.concurrency_of(provider_type)
        if priority is Priority.BULK:
            most, own = (each - max(each // _KEPT_FROM_BULK, min(each - 1, 1)) for each in (most, own))
        free = most - used
        if free <= 0 or health.slot_in > AHEAD_SECONDS:
            return 0
        limit = min(settings.worker_batch_size, max(free // share, 1), own - self.in_flight[provider_type])
        if health.probing:
            limit = min(limit, 1)
        rate = self.rate_of(provider_type)
        if not rate:
            return limit
        seconds_each = max(1 / rate, self._booked_each[provider_type])
        return min(limit, max(int(AHEAD_SECONDS / seconds_each), 1))

    def rate_of(self, provider_type: str) -> float | None:
        """Messages a second at most: the lower of the configured and the learned rate."""
        rates = (self._settings.provider_rates.get(provider_type), self.health_of(provider_type).pace.rate)
        return min((rate for rate in rates if rate), default=None)

    async def has_turn(self, connection: AsyncConnection, provider_type: str) -> bool:
        """True if the provider's rate is not booked too far ahead; no other worker books until the transaction ends.

        So however many workers there are, a message of high priority has few bookings before it.
        """
        slot_in = await lock_rate(connection, provider_type)
        self._health[provider_type] = replace(self.health_of(provider_type), slot_in=slot_in)
        return slot_in <= AHEAD_SECONDS

    async def book(self, connection: AsyncConnection, provider_type: str, claims: Sequence[Claim]) -> list[float]:
        """Book turns at the provider's rate, which all workers share; returns the seconds until each.

        A configured rate counts the segments of texts, a learned one counts calls.
        """
        if not claims:
            return []
        configured = self._settings.provider_rates.get(provider_type)
        learned = self.health_of(provider_type).pace.rate
        of_a_call = 1 / learned if learned else 0.0
        spans = [of_a_call] * len(claims)
        if configured:
            units = (units_of(claim.row.channel, claim.row.body) for claim in claims)
            spans = [max(each / configured, of_a_call) for each in units]
        self._booked_each[provider_type] = sum(spans) / len(spans)
        first = await draw_from_rate(connection, provider_type, sum(spans))
        self._queued[provider_type] = self._queued[provider_type] + 1 if first else 0
        *turns, end = [first + before for before in accumulate(spans, initial=0)]
        self._health[provider_type] = replace(self.health_of(provider_type), slot_in=end)  # until the next refresh
        return turns
