"""Requests a second for each tenant: one token bucket for all processes, from which each leases tokens.

The bucket is a row in PostgreSQL. A process leases a tenth of a second's worth at most and spends it locally, so a
request costs no round trip. Tokens that are not spent within a second expire.
"""

import math
import time
from typing import NamedTuple

from sqlalchemy import Float, bindparam, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.models import RateBudget
from app.db.statements.batches import TENANT
from app.errors import TooManyRequests
from app.services.limits.leased_budget import LeasedBudget, Row
from app.services.limits.tenant_limits import TenantLimits, TenantLimitsCache

#: The first lease, and the largest one, as seconds of the rate. A lease that was used up doubles the next.
_FIRST_SHARE, _LARGEST_SHARE = 0.01, 0.1
_LEASED_SECONDS = 1.0

_RATE, _BURST, _WANTED = (bindparam(name, type_=Float()) for name in ("rate", "burst", "wanted"))
# A transaction that waited for the row may have begun before the one that held it. Time never runs backwards here.
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
_CREATE = insert(RateBudget).values(tenant_id=TENANT, tokens=_BURST).on_conflict_do_nothing()


class Quota(NamedTuple):
    """A tenant's bucket after a request: of `burst` tokens `left`, filled at `rate` a second.

    `left` is an estimate, since other processes take from the bucket too.
    """

    rate: float
    burst: int
    left: int
    retry_after: int | None = None  #: seconds, where the request was refused


class RateLimited(TooManyRequests):
    """A request beyond the rate; the answer tells its `quota`."""

    def __init__(self, quota: Quota) -> None:
        assert quota.retry_after is not None
        detail = f"This tenant may make {quota.rate:g} requests a second. Try again shortly."
        super().__init__(detail, retry_after=quota.retry_after)
        self.quota = quota


class RateLimiter:
    """Lets each tenant make as many requests as its limits allow, together with all other processes."""

    def __init__(self, engine: AsyncEngine, limits: TenantLimitsCache, *, deadline_seconds: float) -> None:
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._bucket = Row(autocommit, _LEASE, _CREATE, deadline_seconds, _LEASED_SECONDS)
        self._limits = limits
        self._tokens: dict[int, LeasedBudget] = {}

    def take_at_once(self, tenant_id: int) -> Quota | None:
        """Take the token of one request from those that are leased; None where it has to be leased (`take`)."""
        limits, tokens = self._limits.remembered(tenant_id), self._tokens.get(tenant_id)
        if limits is None or tokens is None or not limits.rate:
            return None
        now = time.monotonic()
        return _quota(tokens, limits, now) if tokens.spend(1, now) else None

    async def take(self, tenant_id: int) -> Quota | None:
        """Take the token of one request; None where there is no limit.

        Raises `RateLimited`, or the error of a PostgreSQL that is away (`db.engine.is_unavailable`).
        """
        limits = await self._limits.of(tenant_id)
        if not limits.rate:
            return None
        rate, burst = limits.rate, limits.burst
        tokens = self._tokens.get(tenant_id) or self._tokens.setdefault(tenant_id, LeasedBudget(self._bucket))
        parameters = {"tenant": tenant_id, "rate": rate, "burst": burst}
        first, most = int(rate * _FIRST_SHARE), int(rate * _LARGEST_SHARE)
        is_granted = await tokens.take(1, parameters, first=first, most=most, rate=rate)
        now = time.monotonic()
        if not is_granted:
            seconds = math.ceil(tokens.leased_at + (1 - tokens.left) / rate - now)
            raise RateLimited(Quota(rate, burst, 0, retry_after=max(seconds, 1)))
        return _quota(tokens, limits, now)


def _quota(tokens: LeasedBudget, limits: TenantLimits, now: float) -> Quota:
    """The quota after a request that has just spent its token."""
    in_bucket = tokens.left + (now - tokens.leased_at) * limits.rate
    left = min(in_bucket, limits.burst - tokens.units - 1) + tokens.units
    return Quota(limits.rate, limits.burst, int(left))
