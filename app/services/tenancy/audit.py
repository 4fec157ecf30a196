"""The record of who changed what about the installation, and of who was turned away."""

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

#: More refusals of one kind and of one tenant are only counted, so that nobody can fill the table from outside, nor
#: hide in it what somebody else does.
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
    """Add an event to the transaction that is open, so that it is kept if and only if the deed is."""
    values = {"tenant_id": tenant_id, "kind": kind, "actor": actor, "client": client, "detail": detail}
    await on.execute(insert(AuditEvent).values(values))


def network_of(address: str | None) -> str | None:
    """An IP address without what tells one machine from another: the last 8 bits, or 80 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    length = 24 if parsed.version == 4 else 48
    return str(ipaddress.ip_network((parsed, length), strict=False))


def _minute() -> int:
    return int(time.monotonic() // 60)


class RefusalLog:
    """Records who was turned away, behind the answer and as far as it goes: of each kind and tenant up to
    `REFUSALS_A_MINUTE` a process.

    Those above are counted, and the count stands in the next such one that is recorded, as `unrecorded`. An async
    context manager; leaving it waits for what is being written.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._minute = 0
        # Tenants are who shows a key of theirs, and kinds are few: strangers can't make these grow.
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
        """Record it soon. Of somebody unknown it is kept with tenant 1's, whatever tenant they named."""
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
        except Exception as error:  # whatever it is, the refusal stands without its record
            log.warning("refusal_not_recorded", kind=kind, error=type(error).__name__)
