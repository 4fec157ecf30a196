"""The most that a tenant sends in a day to each country, and by email: a bound on what a leaked key can cost.

What is sent is counted in PostgreSQL, in a row for each tenant, day and destination. A process takes units from it in
advance, ever fewer the nearer the cap is and one message's worth at the end, so that all processes together never go
beyond it. What it has taken and not used it gives back when it stops; when it dies, that much is not sent.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple, Self

import structlog
from sqlalchemy import BigInteger, Date, Text, bindparam, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.addresses import country_of
from app.db.batches import TENANT
from app.db.engine import is_unavailable
from app.db.models import DailyBudget
from app.domain import AddressType, NewMessage
from app.errors import DailyCapReached
from app.segments import units_of
from app.services.limits.tenant_limits import LimitBook

log = structlog.get_logger(__name__)

#: A process takes at most one part in so many of what is left, and at most so many units; at first only a few.
_PARTS, _MOST, _FIRST = 16, 1000, 8
#: So many deadlines may go by for who stands in line: with the last one's own, still an answer within five seconds.
_IN_LINE = 3
#: How long a process takes the row's no for an answer.
_REFUSED_SECONDS = 1.0

_DAY = bindparam("on_day", type_=Date())
_DESTINATION = bindparam("destination_is", type_=Text())
_CAP, _NEEDED, _WANTED = (bindparam(name, type_=BigInteger()) for name in ("cap", "needed", "wanted"))
_IS_IT = (DailyBudget.tenant_id == TENANT, DailyBudget.day == _DAY, DailyBudget.destination == _DESTINATION)

_before = select(DailyBudget.tenant_id, DailyBudget.used).where(*_IS_IT).with_for_update().cte("before")
_left = _CAP - _before.c.used
_granted = case((_left < _NEEDED, 0), else_=func.greatest(_NEEDED, func.least(_WANTED, _left // _PARTS)))
_TAKE = (
    update(DailyBudget)
    .where(*_IS_IT, DailyBudget.tenant_id == _before.c.tenant_id)
    .values(used=_before.c.used + _granted)
    .returning(_granted)
)
_USED = select(DailyBudget.used).where(*_IS_IT)
_BEGIN = insert(DailyBudget).values(tenant_id=TENANT, day=_DAY, destination=_DESTINATION).on_conflict_do_nothing()
_GIVE_BACK = update(DailyBudget).where(*_IS_IT).values(used=DailyBudget.used - _NEEDED)
# The day before stays, for processes whose clocks are behind.
_FORGET = delete(DailyBudget).where(DailyBudget.tenant_id == TENANT, DailyBudget.day < func.current_date() - 1)


class Account(NamedTuple):
    """What is counted together: a tenant's units of a day (UTC) to a country, or to another kind of address."""

    tenant_id: int
    day: date
    destination: str

    def parameters(self) -> dict[str, object]:
        return {"tenant": self.tenant_id, "on_day": self.day, "destination_is": self.destination}


class Charge(NamedTuple):
    """Units that were set aside for one message."""

    account: Account
    units: int


@dataclass(slots=True)
class _Lease:
    """What this process has taken for an account and not used; `size` is what it took last."""

    units: int = 0
    size: int = _FIRST // 2
    refused: int = 0  # units that there were not, before `refused_until`
    refused_until: float = 0.0
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)


class SpendGuard:
    """Sets aside what a message costs of its tenant's cap: a text its segments, anything else one unit.

    An async context manager; leaving gives back what is left, unless PostgreSQL is away.
    """

    def __init__(
        self, engine: AsyncEngine, limits: LimitBook, *, default_region: str, deadline_seconds: float
    ) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._limits = limits
        self._default_region = default_region
        self._deadline_seconds = deadline_seconds
        self._leases: dict[Account, _Lease] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
                for account, lease in self._leases.items():
                    if lease.units:
                        await connection.execute(_GIVE_BACK, account.parameters() | {"needed": lease.units})
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("daily_units_lost", error=type(error).__name__)

    async def set_aside(self, message: NewMessage) -> Charge | None:
        """The charge for a message, to be given back if nothing is stored for it; None where there is no cap.

        Raises `DailyCapReached`, and what tells that PostgreSQL is away (`database.is_unavailable`).
        """
        limits = await self._limits.of(message.tenant_id)
        if not limits.daily_caps:
            return None
        destination = self._destination_of(message)
        cap = limits.cap_of(destination)
        if cap is None:
            return None
        units = units_of(message.channel, message.body)
        account = Account(message.tenant_id, datetime.now(UTC).date(), destination)
        lease = self._leases.get(account) or self._opened(account)
        if lease.units < units:
            async with asyncio.timeout(_IN_LINE * self._deadline_seconds), lease.taking:
                if lease.units < units:
                    await self._take(account, lease, cap, needed=units - lease.units)
            if lease.units < units:
                raise _reached(destination)
        lease.units -= units
        return Charge(account, units)

    async def refusal_of(self, message: NewMessage) -> DailyCapReached | None:
        """What `set_aside` would raise for a message at this moment; nothing is set aside."""
        limits = await self._limits.of(message.tenant_id)
        destination = self._destination_of(message)
        cap = limits.cap_of(destination)
        if cap is None:
            return None
        account = Account(message.tenant_id, datetime.now(UTC).date(), destination)
        async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
            used = (await connection.execute(_USED, account.parameters())).scalar() or 0
        held = self._leases[account].units if account in self._leases else 0
        return _reached(destination) if units_of(message.channel, message.body) > cap - used + held else None

    def give_back(self, charge: Charge) -> None:
        """Take a charge back, because nothing was stored for it."""
        if lease := self._leases.get(charge.account):
            lease.units += charge.units

    def _destination_of(self, message: NewMessage) -> str:
        kind = message.recipient.type
        return country_of(message.recipient.value, self._default_region) if kind == AddressType.PHONE else kind

    def _opened(self, account: Account) -> _Lease:
        self._leases = {known: lease for known, lease in self._leases.items() if known.day >= account.day}
        return self._leases.setdefault(account, _Lease())

    async def _take(self, account: Account, lease: _Lease, cap: int, *, needed: int) -> None:
        """Add to a lease what is needed at least, or nothing where the cap doesn't allow it."""
        now = time.monotonic()
        if needed > cap or (needed >= lease.refused and now < lease.refused_until):
            return
        # What is used up fast is taken in larger parts, and an idle process holds little.
        wanted = max(needed, min(2 * lease.size, _MOST))
        parameters = account.parameters() | {"cap": cap, "needed": needed, "wanted": wanted}
        async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
            granted = (await connection.execute(_TAKE, parameters)).scalar()
            if granted is None:
                await connection.execute(_BEGIN, account.parameters())
                granted = (await connection.execute(_TAKE, parameters)).scalar_one()
        if granted:
            lease.units += granted
            lease.size = granted
        else:
            lease.refused, lease.refused_until = needed, now + _REFUSED_SECONDS


def _reached(destination: str) -> DailyCapReached:
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    place = f"by {destination}" if destination.islower() else f"to numbers of {destination}"
    return DailyCapReached(
        f"What may be sent {place} in a day is used up. The next day begins at midnight UTC.",
        retry_after=int((midnight - now).total_seconds()) + 1,
    )


async def forget_daily_budgets(connection: AsyncConnection, tenant_id: int) -> None:
    """Remove what was counted on days that are over."""
    await connection.execute(_FORGET, {"tenant": tenant_id})
