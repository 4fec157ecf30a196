"""Test tenants: each belongs to the test keys of a live tenant, and no message of it reaches a person."""

import asyncio

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import Tenant
from app.domain import DEFAULT_TENANT_ID

_ALL = select(Tenant.id, Tenant.test_of)


class TestTenants:
    """The pairs of live tenants and their test tenants.

    A tenant stays what it was created as, so it is looked up once. One that is not known yet is never taken for live.
    """

    __test__ = False  # pytest takes it for a test otherwise

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline_seconds: float) -> None:
        self._sessions = sessions
        self._deadline_seconds = deadline_seconds
        #: By tenant, the tenant that it is the test tenant of; None for a live one.
        self._live_of: dict[int, int | None] = {DEFAULT_TENANT_ID: None}
        self._test_of: dict[int, int] = {}

    async def live_of(self, tenant_id: int) -> int:
        """The live tenant of a test tenant; a live tenant is its own."""
        if tenant_id not in self._live_of:
            await self._look_up()
        return self._live_of.get(tenant_id) or tenant_id

    async def is_test(self, tenant_id: int) -> bool:
        """True for a test tenant."""
        return await self.live_of(tenant_id) != tenant_id

    async def test_of(self, tenant_id: int) -> int | None:
        """The test tenant of a live tenant; None where it has none."""
        if tenant_id not in self._test_of:
            await self._look_up()
        return self._test_of.get(tenant_id)

    async def _look_up(self) -> None:
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            self._live_of.update(((id, live) for id, live in await session.execute(_ALL)))
        self._test_of = {live: id for id, live in self._live_of.items() if live is not None}
