"""Units of one row in PostgreSQL, which each process leases in advance and spends without a round trip.

Every unit comes from the row. So all processes together never spend more than it grants.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncEngine

from app.short_cache import ignore_exception

#: A caller that others overtake again and again waits for this many deadlines at most.
_LONGEST_WAIT = 3
#: A refusal is remembered until the row has refilled, and for 0.05 to 1 s: its limit may have been changed.
_SHORTEST_REFUSAL, _LONGEST_REFUSAL = 0.05, 1.0


class Row(NamedTuple):
    """The statements about a row. Both get the same parameters, `wanted` and `needed` units among them.

    `lease` grants units, and returns how many and how many are left. `create` adds the row where it is missing.
    """

    engine: AsyncEngine  #: in autocommit mode
    lease: Executable
    create: Executable
    deadline_seconds: float
    lasts_seconds: float = math.inf  #: after which units that were leased and not spent expire


class LeasedBudget:
    """The units of a row that this process holds."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._under_way: asyncio.Task[None] | None = None
        self._waiting = 0  # callers
        self._size = 0  # of the last lease
        self._refused_until = 0.0
        self.units = 0
        self.ends_at = math.inf
        self.left = 0.0  # in the row, at `leased_at`
        self.leased_at = 0.0

    def spend(self, units: int, now: float) -> bool:
        """Spend units that are leased already; False where there are too few of them."""
        if self.units < units or now >= self.ends_at:
            return False
        self.units -= units
        return True

    async def take(
        self, units: int, parameters: Mapping[str, Any], *, first: int, most: int, rate: float = 0.0
    ) -> bool:
        """Spend units, leased now if need be; False where the row has too few, or had a moment ago.

        A lease that was used up doubles the next, from `first` to `most` units. `rate` refills the row each second.
        Raises the error of a PostgreSQL that is away (`db.engine.is_unavailable`).
        """
        async with asyncio.timeout(_LONGEST_WAIT * self._row.deadline_seconds):
            while not self.spend(units, now := time.monotonic()):
                needed = units - self.units if now < self.ends_at else units
                if needed > self.left and now < self._refused_until:
                    return False
                await self._renew(needed, parameters, first, most, rate)
        return True

    async def _renew(self, *arguments: Any) -> None:
        """Lease once for all callers that wait. When one of them is cancelled, the others still get it."""
        self._waiting += 1
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._lease(*arguments))
            self._under_way.add_done_callback(ignore_exception)
        try:
            await asyncio.shield(self._under_way)
        finally:
            self._waiting -= 1

    async def _lease(self, needed: int, parameters: Mapping[str, Any], first: int, most: int, rate: float) -> None:
        try:
            await asyncio.sleep(0)  # lets concurrent callers be counted
            wanted = max(min(max(2 * (self._size - self.units), first), most), self._waiting, needed)
            granted, self.left = await self._granted({**parameters, "needed": needed, "wanted": wanted})
            now = time.monotonic()
            if not granted:
                seconds = (needed - self.left) / rate if rate else _LONGEST_REFUSAL
                self._refused_until = now + min(max(seconds, _SHORTEST_REFUSAL), _LONGEST_REFUSAL)
            self.units = granted + (self.units if now < self.ends_at else 0)
            self._size, self.leased_at, self.ends_at = granted, now, now + self._row.lasts_seconds
        finally:
            self._under_way = None

    async def _granted(self, parameters: Mapping[str, Any]) -> tuple[int, float]:
        async with asyncio.timeout(self._row.deadline_seconds), self._row.engine.connect() as connection:
            row = (await connection.execute(self._row.lease, parameters)).one_or_none()
            if row is None:
                await connection.execute(self._row.create, parameters)
                row = (await connection.execute(self._row.lease, parameters)).one()
        return int(row[0]), float(row[1])
