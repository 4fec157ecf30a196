"""How many requests a tenant may make: one token bucket for all processes, from which each takes in advance.

The bucket is a row in PostgreSQL. A process leases tokens from it, a tenth of a second's worth at most, and spends
them by itself: a request costs no round trip, and since every token comes from the row, all processes together never
let in more than the burst and the rate allow. What isn't spent within a second is gone.
"""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Float, bindparam, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.batches import TENANT
from app.db.models import RateBudget
from app.errors import TooManyRequests
from app.services.limits.tenant_limits import LimitBook, TenantLimits
from app.short_cache import ignore_exception

_LEASED_SECONDS = 1.0
#: The first lease, and the largest one, as seconds of the rate. A lease that was used up doubles the next.
_FIRST_SHARE, _LARGEST_SHARE = 0.01, 0.1
#: An empty bucket is asked again after this at the earliest, so that who is far above the limit costs no more, and
#: at the latest, because the limit may have been changed.
_SHORTEST_REFUSAL, _LONGEST_REFUSAL = 0.05, 1.0

_RATE, _BURST, _WANTED = (bindparam(name, type_=Float()) for name in ("rate", "burst", "wanted"))
# Who has waited for the row may have begun before whoever had it: time never runs backwards here.
_elapsed = func.greatest(extract("epoch", func.now() - RateBudget.refilled_at), 0)
_before = (
    select(
        RateBudget.tenant_id,
        func.least(_BURST, RateBudget.tokens + _elapsed * _RATE).label("available"),
        func.greatest(RateBudget.refilled_at, func.now()).label("moment"),
    )
    .where(RateBudget.tenant_id == TENANT)
    .with_for_update()
    .cte("before")
)
_granted = func.floor(func.least(_WANTED, _before.c.available))
_LEASE = (
    update(RateBudget)
    .where(RateBudget.tenant_id == TENANT, RateBudget.tenant_id == _before.c.tenant_id)
    .values(tokens=_before.c.available - _granted, refilled_at=_before.c.moment)
    .returning(_granted, RateBudget.tokens)
)
_FILL = insert(RateBudget).values(tenant_id=TENANT, tokens=_BURST).on_conflict_do_nothing()


class Standing(NamedTuple):
    """Where a tenant stands after a request: of `burst` tokens `left`, filled at `rate` a second. An estimate, since
    other processes take from the bucket too."""

    rate: float
    burst: int
    left: int
    retry_after: int | None = None  #: seconds, where the request was refused


class RateLimited(TooManyRequests):
    """Carries the `standing`, which the answer tells."""

    def __init__(self, standing: Standing) -> None:
        assert standing.retry_after is not None
        super().__init__(
            f"This tenant may make {standing.rate:g} requests a second. Try again shortly.",
            retry_after=standing.retry_after,
        )
        self.standing = standing


@dataclass(slots=True)
class _Lease:
    """What this process holds of a tenant's bucket."""

    tokens: int = 0
    ends_at: float = 0.0
    size: int = 0  # of the last one
    waiting: int = 0
    left: float = 0.0  # in the bucket itself, at `leased_at`
    leased_at: float = 0.0
    refused_until: float = 0.0  # when the bucket is asked again
    full_enough_at: float = 0.0  # when there will be a token
    under_way: asyncio.Task[None] | None = None


class RateLimiter:
    """Lets each tenant make as many requests as its limits allow, together with all other processes."""

    def __init__(self, engine: AsyncEngine, limits: LimitBook, *, deadline_seconds: float) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._limits = limits
        self._deadline_seconds = deadline_seconds
        self._leases: dict[int, _Lease] = {}

    def take_at_once(self, tenant_id: int) -> Standing | None:
        """Take the token of one request from what is leased already; None where that has to be asked for (`take`)."""
        limits, lease = self._limits.remembered(tenant_id), self._leases.get(tenant_id)
        if limits is None or lease is None or not limits.rate:
            return None
        now = time.monotonic()
        return _spend(lease, limits, now) if lease.tokens and now < lease.ends_at else None

    async def take(self, tenant_id: int) -> Standing | None:
        """Take the token of one request; None where there is no limit.

        Raises `RateLimited`, and what tells that PostgreSQL is away (`database.is_unavailable`).
        """
        limits = await self._limits.of(tenant_id)
        if not limits.rate:
            return None
        lease = self._leases.get(tenant_id)
        if lease is None:
            lease = self._leases[tenant_id] = _Lease()
        now = time.monotonic()
        while not lease.tokens or now >= lease.ends_at:
            if now < lease.refused_until:
                seconds = max(math.ceil(lease.full_enough_at - now), 1)
                raise RateLimited(Standing(limits.rate, limits.burst, 0, retry_after=seconds))
            await self._renew(lease, tenant_id, limits)
            now = time.monotonic()
        return _spend(lease, limits, now)

    async def _renew(self, lease: _Lease, tenant_id: int, limits: TenantLimits) -> None:
        """Lease once for all who wait; one of them giving up changes nothing for the others."""
        lease.waiting += 1
        if lease.under_way is None:
            lease.under_way = asyncio.create_task(self._lease(lease, tenant_id, limits))
            lease.under_way.add_done_callback(ignore_exception)
        try:
            await asyncio.shield(lease.under_way)
        finally:
            lease.waiting -= 1

    async def _lease(self, lease: _Lease, tenant_id: int, limits: TenantLimits) -> None:
        try:
            await asyncio.sleep(0)  # lets those who come in the same breath be counted
            spent = lease.size - lease.tokens
            wanted = max(2 * spent, lease.waiting, int(limits.rate * _FIRST_SHARE), 1)
            wanted = max(min(wanted, int(limits.rate * _LARGEST_SHARE)), lease.waiting, 1)
            granted, left = await self._granted(tenant_id, limits, wanted)
            now = time.monotonic()
            if not granted:
                seconds = (1 - left) / limits.rate
                lease.full_enough_at = now + seconds
                lease.refused_until = now + min(max(seconds, _SHORTEST_REFUSAL), _LONGEST_REFUSAL)
            lease.tokens = lease.size = granted
            lease.left, lease.leased_at, lease.ends_at = left, now, now + _LEASED_SECONDS
        finally:
            lease.under_way = None

    async def _granted(self, tenant_id: int, limits: TenantLimits, wanted: int) -> tuple[int, float]:
        """How many tokens were taken out of the bucket, and how many it has left."""
        parameters = {"tenant": tenant_id, "rate": limits.rate, "burst": limits.burst, "wanted": wanted}
        async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
            row = (await connection.execute(_LEASE, parameters)).one_or_none()
            if row is None:
                await connection.execute(_FILL, {"tenant": tenant_id, "burst": limits.burst})
                row = (await connection.execute(_LEASE, parameters)).one()
        return int(row[0]), float(row[1])


def _spend(lease: _Lease, limits: TenantLimits, now: float) -> Standing:
    lease.tokens -= 1
    left = min(lease.left + (now - lease.leased_at) * limits.rate, limits.burst - lease.tokens - 1) + lease.tokens
    return Standing(limits.rate, limits.burst, int(left))
