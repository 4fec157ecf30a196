"""The tenant that owns an address: it receives inbound messages there, and only it may send from there."""

import asyncio

from sqlalchemy import Select, Text, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import TenantAddress
from app.domain import DEFAULT_TENANT_ID, Address
from app.short_cache import ShortCache

#: Seconds for which an address may still go to its former owner.
_KEPT_SECONDS = 3.0
_KEPT = 50_000

_BY_ADDRESS = {"all_tenants": "the address finds the tenant"}
_OWNER = (
    select(TenantAddress.tenant_id)
    .where(
        TenantAddress.address == bindparam("address", type_=Text()),
        TenantAddress.address_type == bindparam("address_type", type_=Text()),
    )
    .execution_options(**_BY_ADDRESS)
)
_ANY = select(TenantAddress.tenant_id).limit(1).execution_options(**_BY_ADDRESS)


class AddressOwners:
    """A cache of the owners of addresses, as they were at most three seconds ago.

    An installation without tenants owns no addresses at all. That is cached too, and no address is looked up there.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline_seconds: float) -> None:
        self._sessions = sessions
        self._deadline_seconds = deadline_seconds
        self._any: ShortCache[None, bool] = ShortCache(size=1)
        self._owners: ShortCache[tuple[str, str], int] = ShortCache(size=_KEPT)

    async def tenant_of(self, address: Address) -> int:
        """The tenant that owns an address; tenant 1 where it has no owner."""
        return await self.owner_of(address) or DEFAULT_TENANT_ID

    async def owner_of(self, address: Address) -> int | None:
        """The tenant that owns an address; None where it has no owner."""
        if not await self._any.get_or_load(None, self._look_up_any):
            return None
        key = (address.type, address.value)
        return await self._owners.get_or_load(key, lambda: self._look_up(address)) or None

    def forget(self) -> None:
        """Look every address up again: owners have changed in this process."""
        self._any.clear()
        self._owners.clear()

    async def _look_up_any(self) -> tuple[bool, float]:
        return await self._first(_ANY, {}) is not None, _KEPT_SECONDS

    async def _look_up(self, address: Address) -> tuple[int, float]:
        owner = await self._first(_OWNER, {"address": address.value, "address_type": address.type})
        return owner or 0, _KEPT_SECONDS  # the cache knows no None

    async def _first(self, query: Select[int], parameters: dict[str, str]) -> int | None:
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            return (await session.execute(query, parameters)).scalar()
