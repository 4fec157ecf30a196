"""The webhooks of a worker: takes the leases of tenants, and serves the endpoints of those that it has."""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Self

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.connectivity.outage import outage
from app.db.engine import is_unavailable
from app.services.accept.group_commit import GroupCommit
from app.services.webhooks.leases import (
    RENEW_SECONDS,
    LeaseState,
    lease_states,
    release_leases,
    renew_leases,
    take_lease,
)
from app.services.webhooks.sender import WebhookSender
from app.services.webhooks.store import Record, Recorded, record
from app.services.webhooks.tenant_delivery import TenantDelivery

log = structlog.get_logger(__name__)

_POLL_SECONDS = 1.0


class WebhookDispatcher:
    """Delivers webhooks until its context is left, then finishes the requests under way, within the grace period.

    `on_logged` is called with a tenant whose log has grown: an endpoint was disabled.
    """

    def __init__(
        self, engine: AsyncEngine, settings: Settings, sender: WebhookSender, *, on_logged: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._settings = settings
        self._sender = sender
        self._on_logged = on_logged
        self._served: dict[int, TenantDelivery] = {}
        self._renewed_at = 0.0
        self._recorder: GroupCommit[Record, Recorded] = GroupCommit(
            engine,
            settings,
            record,
            name="webhooks",
            tenant_of=lambda each: each.tenant_id,
            queue_limit=1_000_000,  # an endpoint has one at a time
        )
        self._polling: asyncio.Task[None]

    def wake(self, tenant_ids: Collection[int] | None) -> None:
        """Say that the logs of these tenants, or of all, have grown. Without it, polling finds that."""
        for tenant_id in self._served if tenant_ids is None else tenant_ids:
            if tenant_id in self._served:
                self._served[tenant_id].wake()

    async def __aenter__(self) -> Self:
        await self._recorder.__aenter__()
        self._polling = asyncio.create_task(self._poll(), name="webhook-dispatcher")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._polling.cancel()
        await asyncio.gather(self._polling, return_exceptions=True)
        grace = self._settings.shutdown_grace_seconds
        await asyncio.gather(*(each.close(grace) for each in self._served.values()))
        await self._recorder.__aexit__()
        with contextlib.suppress(Exception):  # they end by themselves
            async with self._autocommit.connect() as connection:
                await release_leases(connection, [(id, each.number) for id, each in self._served.items()])

    async def _poll(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:
                if is_unavailable(error):
                    outage.note(error, batch="webhook-leases")
                else:
                    log.exception("webhook_leases_not_read")
            await self._sender.tidy()
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> None:
        async with self._autocommit.connect() as connection:
            states = await lease_states(connection)
            for state in states:
                if (served := self._served.get(state.tenant_id)) is not None:
                    await self._look_after(state, served)
                elif (
                    state.is_free and state.has_endpoints and (taken := await take_lease(connection, state.tenant_id))
                ):
                    self._serve(state.tenant_id, *taken)
            now = asyncio.get_running_loop().time()
            if now - self._renewed_at >= RENEW_SECONDS:
                await renew_leases(connection, [(id, each.number) for id, each in self._served.items()])
                self._renewed_at = now
                for served in list(self._served.values()):
                    served.flush()

    async def _look_after(self, state: LeaseState, served: TenantDelivery) -> None:
        if state.number != served.number:  # we were taken for dead
            log.warning("webhook_lease_lost", tenant=state.tenant_id)
            del self._served[state.tenant_id]
            await served.close(0)
        elif state.changes != served.changes:
            served.reload(state.changes)
        elif state.head != served.head:
            served.wake()

    def _serve(self, tenant_id: int, number: int, changes: int) -> None:
        self._served[tenant_id] = TenantDelivery(
            self._engine,
            self._settings,
            self._sender,
            self._recorder,
            self._on_logged,
            tenant_id=tenant_id,
            number=number,
            changes=changes,
        )
