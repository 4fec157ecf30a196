"""The audit log: changes to the installation, and refused requests."""

import asyncio
import ipaddress
import time
from collections import Counter
from typing import Self

import structlog
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.db.models import AuditEvent
from app.domain import DEFAULT_TENANT_ID

log = structlog.get_logger(__name__)

#: Further refusals of one kind and tenant are only counted, so a flood can't fill the table, nor hide other events.
REFUSALS_A_MINUTE = 60


async def record(
    on: AsyncSession | AsyncConnection,
    tenant_id: int,
    kind: str,
    *,
    actor: str | None,
    client: str | None = None,
    **detail: object,
) -> None:
    """Add an event to the open transaction, so that it is kept if and only if the change is."""
    values = {"tenant_id": tenant_id, "kind": kind, "actor": actor, "client": client, "detail": detail}
    await on.execute(insert(AuditEvent).values(values))


def network_of(address: str | None) -> str | None:
    """The network of an IP address, which leaves out its last 8 bits, or the last 80 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    length = 24 if parsed.version == 4 else 48
    return str(ipaddress.ip_network((parsed, length), strict=False))


def _minute() -> int:
    return int(time.monotonic() // 60)


class RefusalLog:
    """Records refused requests after they were answered, by kind and tenant up to `REFUSALS_A_MINUTE` a process.

    Further ones are counted. The next such event that is recorded has the count as `unrecorded`. An async context
    manager; leaving it waits for open writes.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._minute = 0
        # Only a valid key counts for its tenant, and kinds are few: strangers can't make these grow.
        self._recorded: Counter[tuple[str, int]] = Counter()
        self._unrecorded: Counter[tuple[str, int]] = Counter()
        self._writing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._writing)

    def refused(
        self,
        kind: str,
        *,
        tenant_id: int = DEFAULT_TENANT_ID,
        actor: str | None = None,
        client: str | None = None,
        **detail: object,
    ) -> None:
        """Record a refusal soon. One without a valid key is tenant 1's, even if the request names another tenant."""
        minute, alike = _minute(), (kind, tenant_id)
        if minute != self._minute:
            self._minute = minute
            self._recorded.clear()
        if self._recorded[alike] >= REFUSALS_A_MINUTE:
            self._unrecorded[alike] += 1
            return
        self._recorded[alike] += 1
        if unrecorded := self._unrecorded.pop(alike, 0):
            detail["unrecorded"] = unrecorded
        task = asyncio.create_task(self._write(tenant_id, kind, actor, network_of(client), detail))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(
        self, tenant_id: int, kind: str, actor: str | None, client: str | None, detail: dict[str, object]
    ) -> None:
        try:
            async with self._sessions.begin() as session:
                await record(session, tenant_id, kind, actor=actor, client=client, **detail)
        except Exception as error:  # the refusal holds, even if it can't be recorded
            log.warning("refusal_not_recorded", kind=kind, error=type(error).__name__)
