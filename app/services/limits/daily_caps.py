"""The most that a tenant sends in a day to each country, and by email. It bounds the cost of a leaked key.

PostgreSQL counts in a row for each tenant, day and destination. A process leases fewer units from it the nearer the
cap is, and one message's worth at the end. So all processes together never go beyond the cap. Units that a process
has not used are given back when it stops; those of a process that dies are not sent on that day.
"""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple, Self

import structlog
from sqlalchemy import BigInteger, Date, Text, bindparam, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import is_unavailable
from app.db.models import DailyBudget
from app.db.statements.batches import TENANT
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS
from app.domain import Address, AddressType
from app.errors import DailyCapReached
from app.phone_numbers import country_of
from app.segments import units_of
from app.services.limits.leased_budget import LeasedBudget, Row
from app.services.limits.tenant_limits import TenantLimitsCache

log = structlog.get_logger(__name__)

#: A lease takes at most 1/16 of the units that are left, and at most 1,000. The first one asks for 8.
_PARTS, _MOST, _FIRST = 16, 1000, 8

_DAY = bindparam("on_day", type_=Date())
_DESTINATION = bindparam("destination_is", type_=Text())
_CAP, _NEEDED, _WANTED = (bindparam(name, type_=BigInteger()) for name in ("cap", "needed", "wanted"))
_IS_IT = (DailyBudget.tenant_id == TENANT, DailyBudget.day == _DAY, DailyBudget.destination == _DESTINATION)

_before = select(DailyBudget.tenant_id, DailyBudget.used).where(*_IS_IT).with_for_update().cte("before")
_left = _CAP - _before.c.used
_granted = case((_left < _NEEDED, 0), else_=func.greatest(_NEEDED, func.least(_WANTED, _left // _PARTS)))
_LEASE = (
    update(DailyBudget)
    .where(*_IS_IT, DailyBudget.tenant_id == _before.c.tenant_id)
    .values(used=_before.c.used + _granted)
    .returning(_granted, _CAP - DailyBudget.used)
)
_CREATE = insert(DailyBudget).values(tenant_id=TENANT, day=_DAY, destination=_DESTINATION).on_conflict_do_nothing()
_USED = select(DailyBudget.used).where(*_IS_IT)
_GIVE_BACK = update(DailyBudget).where(*_IS_IT).values(used=DailyBudget.used - _NEEDED)
# The day before stays, for processes whose clocks are behind.
_is_over = DailyBudget.day < func.current_date() - 1
_WITH_OLD = (
    select(EACH_TENANT)
    .where(first(DailyBudget.day, _is_over).is_not(None))
    .execution_options(**{ALL_TENANTS: "the counts of all tenants are removed"})
)
_FORGET = delete(DailyBudget).where(DailyBudget.tenant_id == TENANT, _is_over)


class Account(NamedTuple):
    """The key of a count: a tenant, a day (UTC), and a country or the type of other addresses."""

    tenant_id: int
    day: date
    destination: str

    def parameters(self) -> dict[str, object]:
        return {"tenant": self.tenant_id, "on_day": self.day, "destination_is": self.destination}


class Charge(NamedTuple):
    """Units that were set aside for one message."""

    account: Account
    units: int


class DailyCaps:
    """Sets aside the cost of a message from its tenant's cap: the segments of a text, one unit for anything else.

    Each copy of a mail costs as much as the mail.

    An async context manager; leaving gives back what is left, unless PostgreSQL is away.
    """

    def __init__(
        self, engine: AsyncEngine, limits: TenantLimitsCache, *, default_region: str, deadline_seconds: float
    ) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._limits = limits
        self._default_region = default_region
        self._deadline_seconds = deadline_seconds
        self._row = Row(self._engine, _LEASE, _CREATE, deadline_seconds)
        self._leased: dict[Account, LeasedBudget] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
                for account, leased in self._leased.items():
                    if leased.units:
                        await connection.execute(_GIVE_BACK, account.parameters() | {"needed": leased.units})
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("daily_units_lost", error=type(error).__name__)

    async def set_aside(
        self, tenant_id: int, channel: str, recipient: Address, body: str, *, copies: int = 0
    ) -> Charge | None:
        """The charge for a message, to be given back if the message is not stored; None where there is no cap.

        Raises `DailyCapReached`, or the error of a PostgreSQL that is away (`db.engine.is_unavailable`).
        """
        capped = await self._capped(tenant_id, recipient)
        if capped is None:
            return None
        account, cap = capped
        units = units_of(channel, body) * (1 + copies)
        leased = self._leased.get(account) or self._opened(account)
        parameters = account.parameters() | {"cap": cap}
        if units > cap or not await leased.take(units, parameters, first=_FIRST, most=_MOST):
            raise _reached(account.destination)
        return Charge(account, units)

    async def refusal_of(
        self, tenant_id: int, channel: str, recipient: Address, body: str, *, copies: int = 0
    ) -> DailyCapReached | None:
        """The error that `set_aside` would raise for a message at this moment; nothing is set aside."""
        capped = await self._capped(tenant_id, recipient)
        if capped is None:
            return None
        account, cap = capped
        async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
            used = (await connection.execute(_USED, account.parameters())).scalar() or 0
        held = self._leased[account].units if account in self._leased else 0
        is_over = units_of(channel, body) * (1 + copies) > cap - used + held
        return _reached(account.destination) if is_over else None

    def give_back(self, charge: Charge | None) -> None:
        """Take a charge back, because its message was not stored."""
        if charge and (leased := self._leased.get(charge.account)):
            leased.units += charge.units

    async def _capped(self, tenant_id: int, recipient: Address) -> tuple[Account, int] | None:
        """The account that a message counts in, and its cap; None where there is no cap."""
        limits = await self._limits.of(tenant_id)
        if not limits.daily_caps:
            return None
        is_number = recipient.type == AddressType.PHONE
        destination = country_of(recipient.value, self._default_region) if is_number else recipient.type
        cap = limits.cap_of(destination)
        return None if cap is None else (Account(tenant_id, datetime.now(UTC).date(), destination), cap)

    def _opened(self, account: Account) -> LeasedBudget:
        self._leased = {known: leased for known, leased in self._leased.items() if known.day >= account.day}
        return self._leased.setdefault(account, LeasedBudget(self._row))


def _reached(destination: str) -> DailyCapReached:
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    place = f"by {destination}" if destination.islower() else f"to numbers of {destination}"
    return DailyCapReached(
        f"The daily cap on messages {place} is used up. The next day begins at midnight UTC.",
        retry_after=int((midnight - now).total_seconds()) + 1,
    )


async def forget_daily_budgets(engine: AsyncEngine) -> None:
    """Remove the counts of days that are over, those of each tenant in a transaction."""
    async with engine.connect() as connection:
        tenants = (await connection.execute(_WITH_OLD)).scalars().all()
    for tenant_id in tenants:
        async with engine.begin() as connection:
            await connection.execute(_FORGET, {"tenant": tenant_id})
