"""The health of each provider: breaker, throttle, pace, and the pauses by refused credentials and by people.

It is stored in PostgreSQL, so that all workers agree, and goes by the database's clock. A provider without a row has
had no trouble yet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    DateTime,
    Float,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    delete,
    extract,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.config import Settings
from app.db.models import ProviderPause, ProviderState
from app.db.statements.batches import SECOND, TENANT
from app.db.tenant_guard import ALL_TENANTS
from app.redaction import redacted
from app.services.delivery.pacing.pace import UNLIMITED, Decision, Pace

_NAME = bindparam("provider", type_=Text())
_UPDATE = update(ProviderState).where(ProviderState.provider_type == _NAME)


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """A provider as the workers see it.

    `paused_reason` is set where it refused our credentials. The operator has paused it if it `is_stopped`, and the
    tenants `paused_for` have done so for themselves. Its rate is booked for `slot_in` seconds. With `probing`, its
    breaker is half open: one message may try it. The learned `pace` was last changed at `pace_changed_at`.
    """

    paused_reason: str | None = None
    is_open: bool = False
    is_throttled: bool = False
    slot_in: float = 0.0
    probing: bool = False
    pace: Pace = UNLIMITED
    pace_changed_at: datetime | None = None
    is_stopped: bool = False
    paused_for: frozenset[int] = frozenset()

    @property
    def trouble(self) -> str | None:
        """The reason to pass it over for the next provider of the route; None if it is well."""
        if self.paused_reason is not None:
            return "is paused"
        if self.is_stopped:
            return "is paused by the operator"
        if self.is_open:
            return "has failed repeatedly"
        return "asked for a pause" if self.is_throttled else None

    def trouble_for(self, tenant_id: int) -> str | None:
        """The same for the messages of a tenant."""
        return self.trouble or ("is paused by the tenant" if tenant_id in self.paused_for else None)


WELL = ProviderHealth()

_paused_for = (
    select(func.array_agg(ProviderPause.tenant_id))
    .where(ProviderPause.provider_type == ProviderState.provider_type)
    .scalar_subquery()
)
_since_change = extract("epoch", func.now() - ProviderState.rate_changed_at)
_HEALTH = select(
    ProviderState.provider_type,
    ProviderState.paused_reason,
    func.coalesce(ProviderState.open_until > func.now(), False).label("is_open"),
    func.coalesce(ProviderState.throttled_until > func.now(), False).label("is_throttled"),
    # `greatest` ignores a provider without a slot.
    cast(func.greatest(extract("epoch", ProviderState.next_slot_at - func.now()), 0), Float).label("slot_in"),
    func.coalesce(ProviderState.open_until <= func.now(), False).label("probing"),
    ProviderState.learned_rate,
    ProviderState.rate_ceiling,
    func.coalesce(cast(_since_change, Float), math.inf).label("since_change"),
    ProviderState.rate_changed_at,
    ProviderState.stopped_at.is_not(None).label("is_stopped"),
    _paused_for.label("paused_for"),
).execution_options(**{ALL_TENANTS: "a worker serves the queues of all tenants"})


async def health_of_providers(connection: AsyncConnection) -> dict[str, ProviderHealth]:
    """The providers that have had trouble, by name; one that is missing is well."""
    found = await connection.execute(_HEALTH)
    return {
        row.provider_type: ProviderHealth(
            row.paused_reason,
            row.is_open,
            row.is_throttled,
            row.slot_in,
            row.probing,
            Pace(row.learned_rate, row.rate_ceiling, row.since_change),
            row.rate_changed_at,
            row.is_stopped,
            frozenset(row.paused_for or ()),
        )
        for row in found
    }


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


async def draw_from_rate(connection: AsyncConnection, provider_type: str, seconds: float) -> float:
    """Book so much of the provider's time, behind all earlier bookings.

    Returns the seconds until it begins. Other bookings wait for the end of the transaction.
    """
    booked = await connection.execute(_DRAW, {"provider": provider_type, "span": seconds})
    return max(float(booked.scalar_one()), 0.0)


_booked_for = extract("epoch", ProviderState.next_slot_at - func.clock_timestamp())
_LOCK_RATE = (
    select(cast(func.greatest(_booked_for, 0), Float))
    .where(ProviderState.provider_type == _NAME)
    .with_for_update(key_share=True)
)


async def lock_rate(connection: AsyncConnection, provider_type: str) -> float:
    """The seconds for which the provider's rate is booked. Other bookings wait for the end of the transaction."""
    return (await connection.execute(_LOCK_RATE, {"provider": provider_type})).scalar() or 0.0


_RESUMED = _UPDATE.values(
    failure_count=0,
    open_until=null(),
    throttled_until=null(),
    paused_at=null(),
    paused_reason=null(),
    learned_rate=null(),
    rate_ceiling=null(),
    rate_changed_at=null(),
    stopped_at=null(),
    stopped_reason=null(),
)


async def resume(connection: AsyncConnection, provider_type: str) -> bool:
    """Clear a provider's pauses but those of tenants, its throttle, rate and failures; False if it has no state."""
    return (await connection.execute(_RESUMED, {"provider": provider_type})).rowcount > 0


@dataclass(slots=True)
class ProviderSignals:
    """The effect of a batch of results on the health of one provider."""

    successes: int = 0
    failures: int = 0
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
_reason = bindparam("reason", type_=Text())
_PAUSED = _upsert(
    {"paused_at": func.now(), "paused_reason": _reason},
    {"paused_at": func.coalesce(ProviderState.paused_at, func.now()), "paused_reason": _reason},
)


async def record_signals(
    connection: AsyncConnection, signals: Mapping[str, ProviderSignals], settings: Settings
) -> None:
    """Open and close breakers and pause, in the order of the providers' names.

    A pause keeps the provider's own reason, without secrets and whole addresses.
    """
    breaker = {"threshold": settings.breaker_failures, "pause": settings.breaker_seconds}
    for name, own in sorted(signals.items()):
        if own.refused is not None:
            await connection.execute(_PAUSED, {"provider": name, "reason": redacted(own.refused)})
        if own.successes:
            await connection.execute(_RECOVERED, {"provider": name})
        elif own.failures:
            await connection.execute(_FAILED, {"provider": name, "failures": own.failures, **breaker})


_KNOW = insert(ProviderState).values(provider_type=_NAME).on_conflict_do_nothing()
_until = func.now() + bindparam("seconds", type_=Float()) * SECOND
_THROTTLED = _UPDATE.values(throttled_until=func.greatest(ProviderState.throttled_until, _until))
_seen = bindparam("seen", type_=DateTime(timezone=True))
_CHANGE_PACE = _UPDATE.where(ProviderState.rate_changed_at.is_not_distinct_from(_seen)).values(
    learned_rate=bindparam("rate", type_=Float()),
    rate_ceiling=bindparam("ceiling", type_=Float()),
    rate_changed_at=func.now(),
)


async def change_pace(
    connection: AsyncConnection, provider_type: str, decision: Decision, *, seen: ProviderHealth
) -> None:
    """Pause a provider, and change its pace unless a worker has done so since it was `seen`.

    A pause never ends an earlier and longer one.
    """
    await connection.execute(_KNOW, {"provider": provider_type})
    if decision.pause:
        await connection.execute(_THROTTLED, {"provider": provider_type, "seconds": decision.pause})
    pace = {"rate": decision.pace.rate, "ceiling": decision.pace.ceiling, "seen": seen.pace_changed_at}
    await connection.execute(_CHANGE_PACE, {"provider": provider_type, **pace})


_STOPPED = _upsert(
    {"stopped_at": func.now(), "stopped_reason": _reason},
    {"stopped_at": func.coalesce(ProviderState.stopped_at, func.now()), "stopped_reason": _reason},
)


async def pause_for_all(connection: AsyncConnection, provider_type: str, reason: str) -> None:
    """Hand nothing to a provider until `resume`; apart from the pause that refused credentials cause."""
    await connection.execute(_STOPPED, {"provider": provider_type, "reason": reason})


_pause = insert(ProviderPause).values(tenant_id=TENANT, provider_type=_NAME, reason=_reason)
_PAUSE = _pause.on_conflict_do_update(
    index_elements=["tenant_id", "provider_type"], set_={"reason": _pause.excluded.reason}
)
_UNPAUSE = delete(ProviderPause).where(ProviderPause.tenant_id == TENANT, ProviderPause.provider_type == _NAME)
_PAUSES = select(ProviderPause.provider_type, ProviderPause.reason).where(ProviderPause.tenant_id == TENANT)


async def pause_for_tenant(connection: AsyncConnection, tenant_id: int, provider_type: str, reason: str) -> None:
    """Hand no messages of a tenant to a provider, until `resume_for_tenant`. A second pause has another reason."""
    await connection.execute(_KNOW, {"provider": provider_type})  # workers read the pauses of the providers in it
    await connection.execute(_PAUSE, {"tenant": tenant_id, "provider": provider_type, "reason": reason})


async def resume_for_tenant(connection: AsyncConnection, tenant_id: int, provider_type: str) -> None:
    """End a tenant's own pause of a provider, if there is one."""
    await connection.execute(_UNPAUSE, {"tenant": tenant_id, "provider": provider_type})


class PauseReasons(NamedTuple):
    """The reasons of people for pausing providers, by provider: those of the operator, and those of a tenant."""

    operator: dict[str, str]
    tenant: dict[str, str]


_STOPS = select(ProviderState.provider_type, ProviderState.stopped_reason).where(
    ProviderState.stopped_at.is_not(None)
)


async def reasons_of_pauses(connection: AsyncConnection, tenant_id: int) -> PauseReasons:
    """The reasons that a tenant may read."""
    stops = {name: reason or "" for name, reason in await connection.execute(_STOPS)}
    own = await connection.execute(_PAUSES, {"tenant": tenant_id})
    return PauseReasons(stops, {row.provider_type: row.reason for row in own})
