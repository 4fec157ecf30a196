"""The health of each provider (breaker, throttle, rate, pause) and the sends that a worker may begin with it.

Health is stored in PostgreSQL, so that all workers agree, and goes by the database's clock. A provider without a row
has had no trouble yet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from sqlalchemy import Float, Integer, Text, bindparam, case, cast, extract, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.config import Settings
from app.db.batches import SECOND
from app.db.models import ProviderState
from app.redaction import redacted
from app.routing import route_of
from app.segments import units_of
from app.services.delivery.claims import Claim

_NAME = bindparam("provider", type_=Text())
_UPDATE = update(ProviderState).where(ProviderState.provider_type == _NAME)


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """A provider as the workers see it.

    Its rate is booked for `slot_in` seconds. With `probing`, its breaker is half open: one message may try it.
    `seconds_since_pause` counts from the end of the last pause that it asked for.
    """

    paused_reason: str | None = None
    is_open: bool = False
    is_throttled: bool = False
    slot_in: float = 0.0
    probing: bool = False
    seconds_since_pause: float | None = None

    @property
    def trouble(self) -> str | None:
        """The reason to pass it over for the next provider of the route; None if it is well."""
        if self.paused_reason is not None:
            return "is paused"
        if self.is_open:
            return "has failed repeatedly"
        return "asked for a pause" if self.is_throttled else None

    @property
    def slow_start_limit(self) -> int | None:
        """The most sends that a worker may have in flight shortly after a throttle; None for no limit.

        Full load at once would be throttled again. The limit starts at one and doubles every half second.
        """
        if self.seconds_since_pause is None or self.seconds_since_pause > _SLOW_START_SECONDS:
            return None
        return int(2 ** (self.seconds_since_pause / _DOUBLING_SECONDS))


_DOUBLING_SECONDS = 0.5
_SLOW_START_SECONDS = 5.0  # a thousand calls at once by then
WELL = ProviderHealth()

_since_pause = extract("epoch", func.now() - ProviderState.throttled_until)
_HEALTH = select(
    ProviderState.provider_type,
    ProviderState.paused_reason,
    func.coalesce(ProviderState.open_until > func.now(), False).label("is_open"),
    func.coalesce(ProviderState.throttled_until > func.now(), False).label("is_throttled"),
    # `greatest` ignores a provider without a slot.
    cast(func.greatest(extract("epoch", ProviderState.next_slot_at - func.now()), 0), Float).label("slot_in"),
    func.coalesce(ProviderState.open_until <= func.now(), False).label("probing"),
    case((ProviderState.throttled_until <= func.now(), cast(_since_pause, Float()))).label("seconds_since_pause"),
)


async def health_of_providers(connection: AsyncConnection) -> dict[str, ProviderHealth]:
    """The providers that have had trouble, by name; one that is missing is well."""
    found = await connection.execute(_HEALTH)
    return {row.provider_type: ProviderHealth(*row[1:]) for row in found}


_in_a_pause = func.now() + bindparam("pause", type_=Float()) * SECOND
_PROBE = _UPDATE.where(ProviderState.open_until <= func.now()).values(open_until=_in_a_pause)


async def take_probe(connection: AsyncConnection, provider_type: str, settings: Settings) -> bool:
    """Take the right to try a provider whose breaker is half open; False if another worker has it for this pause."""
    parameters = {"provider": provider_type, "pause": settings.breaker_seconds}
    return (await connection.execute(_PROBE, parameters)).rowcount > 0


_GIVE_BACK = _UPDATE.values(open_until=func.now())


async def give_back_probe(connection: AsyncConnection, provider_type: str) -> None:
    """Return the right to try a provider: this worker found no message for it."""
    await connection.execute(_GIVE_BACK, {"provider": provider_type})


def _upsert(given: Mapping[str, Any], changed: Mapping[str, Any]) -> Insert:
    added = insert(ProviderState).values(provider_type=_NAME, **given)
    return added.on_conflict_do_update(index_elements=["provider_type"], set_=changed)


_span = bindparam("span", type_=Float()) * SECOND
_DRAW = _upsert(
    {"next_slot_at": func.now() + _span},
    {"next_slot_at": func.greatest(ProviderState.next_slot_at, func.now()) + _span},
).returning(cast(extract("epoch", ProviderState.next_slot_at - func.clock_timestamp() - _span), Float))


async def draw_from_rate(connection: AsyncConnection, provider_type: str, units: int, rate: float) -> float:
    """Book `units` (messages, or segments of texts) at `rate` a second, behind all earlier bookings.

    Returns the seconds until the first of them may be sent. Other bookings wait for the end of the transaction.
    """
    booked = await connection.execute(_DRAW, {"provider": provider_type, "span": units / rate})
    return max(float(booked.scalar_one()), 0.0)


_RESUMED = _UPDATE.values(
    failure_count=0, open_until=null(), throttled_until=null(), paused_at=null(), paused_reason=null()
)


async def resume(connection: AsyncConnection, provider_type: str) -> bool:
    """Clear a provider's pause, throttle and failures; False if it has no state to clear."""
    return (await connection.execute(_RESUMED, {"provider": provider_type})).rowcount > 0


@dataclass(slots=True)
class ProviderSignals:
    """The effect of a batch of results on the health of one provider."""

    successes: int = 0
    failures: int = 0
    throttled_for: float = 0  #: seconds
    refused: str | None = None


_failing = bindparam("failures", type_=Integer())
_threshold = bindparam("threshold", type_=Integer())
_failed = ProviderState.failure_count + _failing
_FAILED = _upsert(
    {"failure_count": _failing, "open_until": case((_failing >= _threshold, _in_a_pause), else_=null())},
    {
        "failure_count": _failed,
        "open_until": case((_failed >= _threshold, _in_a_pause), else_=ProviderState.open_until),
    },
)
_had_failures = or_(ProviderState.failure_count > 0, ProviderState.open_until.is_not(None))
_RECOVERED = _UPDATE.where(_had_failures).values(failure_count=0, open_until=null())
_until = func.now() + bindparam("seconds", type_=Float()) * SECOND
_THROTTLED = _upsert(
    {"throttled_until": _until}, {"throttled_until": func.greatest(ProviderState.throttled_until, _until)}
)
_reason = bindparam("reason", type_=Text())
_PAUSED = _upsert(
    {"paused_at": func.now(), "paused_reason": _reason},
    {"paused_at": func.coalesce(ProviderState.paused_at, func.now()), "paused_reason": _reason},
)


async def record_signals(
    connection: AsyncConnection, signals: Mapping[str, ProviderSignals], settings: Settings
) -> None:
    """Open and close breakers, throttle and pause, in the order of the providers' names.

    A pause keeps the provider's own reason, without secrets and whole addresses.
    """
    breaker = {"threshold": settings.breaker_failures, "pause": settings.breaker_seconds}
    for name, own in sorted(signals.items()):
        if own.refused is not None:
            await connection.execute(_PAUSED, {"provider": name, "reason": redacted(own.refused)})
        if own.throttled_for:
            await connection.execute(_THROTTLED, {"provider": name, "seconds": own.throttled_for})
        if own.successes:
            await connection.execute(_RECOVERED, {"provider": name})
        elif own.failures:
            await connection.execute(_FAILED, {"provider": name, "failures": own.failures, **breaker})


AHEAD_SECONDS = 0.25  # a provider with a rate gets its messages claimed this long before their turn


class Capacity:
    """The providers' health as last read, and the concurrency slots that this worker has left for each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._health: dict[str, ProviderHealth] = {}
        self.in_flight: Counter[str] = Counter()  #: sends by provider

    async def refresh(self, connection: AsyncConnection) -> None:
        self._health = await health_of_providers(connection)

    def health_of(self, provider_type: str) -> ProviderHealth:
        return self._health.get(provider_type, WELL)

    def is_flawless(self, provider_type: str) -> bool:
        """True if a success has no earlier failure to clear."""
        return provider_type not in self._health

    def can_serve(self, provider_type: str) -> bool:
        return self.health_of(provider_type).trouble is None

    def first_well(self, channel: str) -> tuple[str | None, str | None]:
        """The first provider of a channel's route that is well, and the reasons to pass over those before it."""
        passed_over: list[str] = []
        for name in route_of(self._settings, channel):
            trouble = self.health_of(name).trouble
            if trouble is None:
                return name, "; ".join(passed_over) or None
            passed_over.append(f"{name} {trouble}")
        return None, None

    def next_slots_in(self) -> list[float]:
        """Seconds until messages can be claimed again for each provider whose rate is booked."""
        slots = [health.slot_in - AHEAD_SECONDS for health in self._health.values()]
        return [slot for slot in slots if slot > 0]

    def free_slots(self, provider_type: str, used: int, *, share: int) -> int:
        """The number of messages to claim for a provider; `share` queues divide what is not `used` of the worker.

        Each provider has slots of its own, so that a slow one does not take those of the others.
        """
        settings, health = self._settings, self.health_of(provider_type)
        free = settings.worker_concurrency - used
        if free <= 0 or health.slot_in > AHEAD_SECONDS:
            return 0
        own = settings.concurrency_of(provider_type)
        if health.slow_start_limit is not None:
            own = min(own, health.slow_start_limit)
        limit = min(settings.worker_batch_size, max(free // share, 1), own - self.in_flight[provider_type])
        if health.probing:
            limit = min(limit, 1)
        rate = settings.provider_rates.get(provider_type)
        return min(limit, max(int(rate * AHEAD_SECONDS), 1)) if rate else limit

    async def book(self, connection: AsyncConnection, provider_type: str, claims: Sequence[Claim]) -> list[float]:
        """Book turns at the provider's rate, which all workers share; returns the seconds until each."""
        if not claims:
            return []
        rate = self._settings.provider_rates[provider_type]
        units = [units_of(claim.row.channel, claim.row.body) for claim in claims]
        first = await draw_from_rate(connection, provider_type, sum(units), rate)
        *turns, end = [first + before / rate for before in accumulate(units, initial=0)]
        self._health[provider_type] = replace(self.health_of(provider_type), slot_in=end)  # until the next refresh
        return turns
