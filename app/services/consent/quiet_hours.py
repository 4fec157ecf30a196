"""Quiet hours: the span of a day in which a tenant does not write to people, by the time where they are."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.db.models import QuietHours
from app.phone_numbers import time_zone_of
from app.services.tenancy.audit import record
from app.short_cache import ShortCache

#: Begins the sentence about a message that is held.
IN_QUIET_HOURS = "It is quiet at its recipient"
#: Seconds for which the spans still hold after they were changed.
_KEPT_SECONDS = 3.0
_KEPT = 10_000
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Span:
    """From `begins` to `ends`, by the clocks of a zone; past midnight where it ends before it begins."""

    begins: time
    ends: time
    time_zone: str  #: for recipients whose own zone is not certain

    def holds_until(self, moment: datetime, recipient: str) -> datetime | None:
        """The end of the span in which an aware time lies for a recipient, in UTC; None outside of it.

        `recipient` is a normalised address. Of numbers the zone is known, where all of a number's zones agree.
        """
        local = moment.astimezone(time_zone_of(recipient, moment) or ZoneInfo(self.time_zone))
        clock = local.time()
        if self.begins < self.ends:
            is_quiet = self.begins <= clock < self.ends
        else:
            is_quiet = clock >= self.begins or clock < self.ends
        if not is_quiet:
            return None
        end = datetime.combine(local.date(), self.ends, local.tzinfo)
        if clock >= self.ends:
            end = datetime.combine(local.date() + _DAY, self.ends, local.tzinfo)
        return end.astimezone(UTC)


def sentence_of_hold(until: datetime) -> str:
    """The sentence for people about a message that is held until an aware time."""
    return f"{IN_QUIET_HOURS}: it waits until {until:%Y-%m-%d %H:%M} UTC."


Spans = Mapping[str, Span]  # by topic; the empty one is for all others


class QuietHoursRule:
    """Tells until when messages are held. The spans of a tenant are cached for three seconds."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline_seconds: float) -> None:
        self._sessions = sessions
        self._deadline_seconds = deadline_seconds
        self._cached: ShortCache[int, Spans] = ShortCache(size=_KEPT)

    def forget(self, tenant_id: int) -> None:
        """Look the spans of a tenant up again: they have changed in this process."""
        self._cached.forget(tenant_id)

    def may_hold(self, tenant_id: int, purpose: str | None) -> bool:
        """False where a message is not held, as far as is cached; asked before the others, since it does not wait."""
        return purpose is None and self._cached.get(tenant_id) != {}

    async def holds_until(
        self, tenant_id: int, recipient: str, *, topic: str | None, purpose: str | None, moment: datetime
    ) -> datetime | None:
        """The time until which a message that would leave at `moment` is held, in UTC; None if it may leave.

        A message with a purpose is an answer, a code or a confirmation, and is never held. Raises the error of a
        PostgreSQL that is away.
        """
        if purpose is not None:
            return None
        spans = await self._cached.get_or_load(tenant_id, lambda: self._look_up(tenant_id))
        span = spans.get(topic or "") or spans.get("")
        return span.holds_until(moment, recipient) if span is not None else None

    async def hold_now(self, tenant_id: int, message: Any) -> datetime | None:
        """The same for a row of a message that would leave now: of `to_address`, `topic` and `purpose`."""
        address, now = message.to_address, datetime.now(UTC)
        return await self.holds_until(tenant_id, address, topic=message.topic, purpose=message.purpose, moment=now)

    async def _look_up(self, tenant_id: int) -> tuple[Spans, float]:
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            return await spans_of(await session.connection(), tenant_id), _KEPT_SECONDS


async def spans_of(connection: AsyncConnection, tenant_id: int) -> dict[str, Span]:
    """The spans of a tenant by topic, in the order of topics."""
    chosen = select(QuietHours.topic, QuietHours.begins, QuietHours.ends, QuietHours.time_zone)
    chosen = chosen.where(QuietHours.tenant_id == tenant_id).order_by(QuietHours.topic)
    return {row.topic: Span(row.begins, row.ends, row.time_zone) for row in await connection.execute(chosen)}


async def replace_spans(
    connection: AsyncConnection,
    tenant_id: int,
    spans: Sequence[tuple[str, Span]],
    *,
    actor: str | None,
    client: str | None,
) -> None:
    """Put these spans, each with its topic, in the place of all of a tenant's; the audit log records it."""
    await connection.execute(delete(QuietHours).where(QuietHours.tenant_id == tenant_id))
    if spans:
        values = [
            {
                "tenant_id": tenant_id,
                "topic": topic,
                "begins": span.begins,
                "ends": span.ends,
                "time_zone": span.time_zone,
            }
            for topic, span in spans
        ]
        await connection.execute(insert(QuietHours), values)
    await record(connection, tenant_id, "quiet_hours_set", actor=actor, client=client, spans=len(spans))
