"""The limits of a tenant on requests and on messages: its own, or else those of the settings."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.config import SLOWEST_RATE, Settings
from app.db.models import Tenant
from app.short_cache import ShortCache

#: Seconds for which limits still hold after they were changed.
_KEPT_SECONDS = 3.0
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Requests a second and at once, no limit where `rate` is 0; units a day by destination, `*` for any other."""

    rate: float
    burst: int
    daily_caps: Mapping[str, int]

    def cap_of(self, destination: str) -> int | None:
        """Units a day; None where there is no cap."""
        return self.daily_caps.get(destination, self.daily_caps.get("*"))


class TenantLimitsCache:
    """The limits of each tenant, as they were at most three seconds ago."""

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], settings: Settings, *, deadline_seconds: float
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._deadline_seconds = deadline_seconds
        self._cached: ShortCache[int, TenantLimits] = ShortCache(size=_KEPT)

    def remembered(self, tenant_id: int) -> TenantLimits | None:
        """Its limits, if they are cached."""
        return self._cached.get(tenant_id)

    async def of(self, tenant_id: int) -> TenantLimits:
        """Its limits. Raises the error of a PostgreSQL that is away (`db.engine.is_unavailable`)."""
        return await self._cached.get_or_load(tenant_id, lambda: self._look_up(tenant_id))

    async def _look_up(self, tenant_id: int) -> tuple[TenantLimits, float]:
        settings = self._settings
        own = select(Tenant.rate_limit_per_second, Tenant.rate_limit_burst, Tenant.daily_caps)
        own = own.where(Tenant.id == tenant_id)
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            rate, burst, caps = (await session.execute(own)).one_or_none() or (None,) * 3
        if rate:
            rate = max(rate, SLOWEST_RATE)  # slower ones were accepted once
        limits = TenantLimits(
            settings.rate_limit_per_second if rate is None else rate,
            burst or settings.rate_limit_burst,
            settings.daily_caps if caps is None else caps,
        )
        return limits, _KEPT_SECONDS
