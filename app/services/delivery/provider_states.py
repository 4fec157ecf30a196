"""How each provider fares: breaker, throttle, rate and pause, in PostgreSQL so that all workers agree.

Times are compared by the database's clock. Rows appear with a provider's first trouble; until then it is healthy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import (
    Float,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    extract,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.config import Settings
from app.db.batches import SECOND
from app.db.models import ProviderState
from app.redaction import redacted

_NAME = bindparam("provider", type_=Text())


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """A provider as the workers see it; `probing` when its breaker's pause is over and one message may try it.

    `slot_in` is how many seconds ahead its rate is booked out.
    """

    paused_reason: str | None = None
    is_open: bool = False
    is_throttled: bool = False
    slot_in: float = 0.0
    probing: bool = False
    seconds_since_pause: float | None = None  #: since the last pause that it asked for was over

    @property
    def trouble(self) -> str | None:
        """Why the next provider of the route is asked in its place; None if it is well."""
        if self.paused_reason is not None:
            return "is paused"
        if self.is_open:
            return "has failed repeatedly"
        return "asked for a pause" if self.is_throttled else None

    @property
    def most_hands(self) -> int | None:
        """How many calls it gets from a worker at once; None for all that the settings allow.

        Everybody at once would only be asked for the next pause: it begins with one, and soon has twice as many.
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
    # `greatest` passes over a provider without a slot.
    cast(func.greatest(extract("epoch", ProviderState.next_slot_at - func.now()), 0), Float).label("slot_in"),
    func.coalesce(ProviderState.open_until <= func.now(), False).label("probing"),
    case((ProviderState.throttled_until <= func.now(), cast(_since_pause, Float()))).label("seconds_since_pause"),
)


async def health_of_providers(connection: AsyncConnection) -> dict[str, ProviderHealth]:
    """Everyone who has had trouble; whoever is not named is well."""
    found = await connection.execute(_HEALTH)
    return {row.provider_type: ProviderHealth(*row[1:]) for row in found}


_PROBE = (
    update(ProviderState)
    .where(ProviderState.provider_type == _NAME, ProviderState.open_until <= func.now())
    .values(open_until=func.now() + bindparam("pause", type_=Float()) * SECOND)
    .returning(ProviderState.provider_type)
)


async def take_probe(connection: AsyncConnection, provider_type: str, settings: Settings) -> bool:
    """Whether this worker may try a provider whose breaker is half open; only one gets to, each pause."""
    parameters = {"provider": provider_type, "pause": settings.breaker_seconds}
    return (await connection.execute(_PROBE, parameters)).scalar() is not None


_GIVE_BACK = update(ProviderState).where(ProviderState.provider_type == _NAME).values(open_until=func.now())


async def give_back_probe(connection: AsyncConnection, provider_type: str) -> None:
    """Let the next worker try: this one found nothing to try it with."""
    await connection.execute(_GIVE_BACK, {"provider": provider_type})


_span = bindparam("span", type_=Float()) * SECOND
_DRAW = (
    insert(ProviderState)
    .values(provider_type=_NAME, next_slot_at=func.now() + _span)
    .on_conflict_do_update(
        index_elements=["provider_type"],
        set_={"next_slot_at": func.greatest(ProviderState.next_slot_at, func.now()) + _span},
    )
    .returning(cast(extract("epoch", ProviderState.next_slot_at - func.clock_timestamp() - _span), Float))
)


async def draw_from_rate(connection: AsyncConnection, provider_type: str, units: int, rate: float) -> float:
    """Book `units` (messages, or segments of texts) against `rate` a second, after all that is booked already.

    Returns the seconds until the first of them may leave. Whoever else books waits for the end of the transaction.
    """
    booked = await connection.execute(_DRAW, {"provider": provider_type, "span": units / rate})
    return max(float(booked.scalar_one()), 0.0)


@dataclass(slots=True)
class Tally:
    """What a batch of outcomes says about one provider."""

    successes: int = 0
    failures: int = 0
    throttled_for: float = 0  #: seconds
    refused: str | None = None


_failing = bindparam("failures", type_=Integer())
_threshold = bindparam("threshold", type_=Integer())
_opened = func.now() + bindparam("pause", type_=Float()) * SECOND
_FAILED = insert(ProviderState).values(
    provider_type=_NAME,
    failure_count=_failing,
    open_until=case((_failing >= _threshold, _opened), else_=null()),
)
_FAILED = _FAILED.on_conflict_do_update(
    index_elements=["provider_type"],
    set_={
        "failure_count": ProviderState.failure_count + _failing,
        "open_until": case(
            (ProviderState.failure_count + _failing >= _threshold, _opened), else_=ProviderState.open_until
        ),
    },
)
_RECOVERED = (
    update(ProviderState)
    .where(
        ProviderState.provider_type == _NAME,
        or_(ProviderState.failure_count > 0, ProviderState.open_until.is_not(None)),
    )
    .values(failure_count=0, open_until=null())
)
_until = func.now() + bindparam("seconds", type_=Float()) * SECOND
_THROTTLED = insert(ProviderState).values(provider_type=_NAME, throttled_until=_until)
_THROTTLED = _THROTTLED.on_conflict_do_update(
    index_elements=["provider_type"],
    set_={"throttled_until": func.greatest(ProviderState.throttled_until, _until)},
)
_reason = bindparam("reason", type_=Text())
_PAUSED = insert(ProviderState).values(provider_type=_NAME, paused_at=func.now(), paused_reason=_reason)
_PAUSED = _PAUSED.on_conflict_do_update(
    index_elements=["provider_type"],
    set_={"paused_at": func.coalesce(ProviderState.paused_at, func.now()), "paused_reason": _reason},
)
_RESUMED = (
    update(ProviderState)
    .where(ProviderState.provider_type == _NAME)
    .values(failure_count=0, open_until=null(), throttled_until=null(), paused_at=null(), paused_reason=null())
    .returning(literal(1))
)


async def record_tallies(connection: AsyncConnection, tallies: Mapping[str, Tally], settings: Settings) -> None:
    """Open, close, throttle and pause as the outcomes say; providers in the order of their names.

    Why one has refused us is kept in its words, without secrets and whole addresses.
    """
    for name, tally in sorted(tallies.items()):
        if tally.refused is not None:
            await connection.execute(_PAUSED, {"provider": name, "reason": redacted(tally.refused)})
        if tally.throttled_for:
            await connection.execute(_THROTTLED, {"provider": name, "seconds": tally.throttled_for})
        if tally.successes:
            await connection.execute(_RECOVERED, {"provider": name})
        elif tally.failures:
            failed = {
                "provider": name,
                "failures": tally.failures,
                "threshold": settings.breaker_failures,
                "pause": settings.breaker_seconds,
            }
            await connection.execute(_FAILED, failed)


async def resume(connection: AsyncConnection, provider_type: str) -> bool:
    """Forget a provider's pause and its failures; False when there was nothing to forget."""
    return (await connection.execute(_RESUMED, {"provider": provider_type})).scalar() is not None
