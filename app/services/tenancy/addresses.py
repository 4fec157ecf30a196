"""Whose an address is: how what comes in finds its tenant, and what a tenant may send from."""

import asyncio

from sqlalchemy import Select, Text, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import TenantAddress
from app.domain import DEFAULT_TENANT_ID, Address
from app.short_cache import ShortCache

#: How long an address may still go to the tenant that had it before.
_KEPT_SECONDS = 3.0
_KEPT = 50_000

_BY_ADDRESS = {"all_tenants": "an address is what its tenant is found by"}
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
    """Finds the tenant of an address, as it was at most three seconds ago.

    Where no address has an owner, as in an installation without tenants, that is all there is to know, and no address
    is looked up.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline_seconds: float) -> None:
        self._sessions = sessions
        self._deadline_seconds = deadline_seconds
        self._any: ShortCache[None, bool] = ShortCache(size=1)
        self._owners: ShortCache[tuple[str, str], int] = ShortCache(size=_KEPT)

    async def tenant_of(self, address: Address) -> int:
        """The tenant that owns an address; tenant 1 where nobody does."""
        if not await self._any.get_or_load(None, self._look_for_any):
            return DEFAULT_TENANT_ID
        key = (address.type, address.value)
        return await self._owners.get_or_load(key, lambda: self._look_up(address))

    async def _look_for_any(self) -> tuple[bool, float]:
        return await self._first(_ANY, {}) is not None, _KEPT_SECONDS

    async def _look_up(self, address: Address) -> tuple[int, float]:
        owner = await self._first(_OWNER, {"address": address.value, "address_type": address.type})
        return DEFAULT_TENANT_ID if owner is None else owner, _KEPT_SECONDS

    async def _first(self, question: Select[int], parameters: dict[str, str]) -> int | None:
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            return (await session.execute(question, parameters)).scalar()
