"""Queueing messages again that have failed or whose outcome is unknown: one, or all that a filter finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, null, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.addresses import sender_address
from app.config import Settings
from app.db.models import DeliveryAttempt, Message
from app.db.statements.batches import TENANT
from app.db.statements.json_text import constant
from app.db.statements.reads import Reads
from app.domain import AttemptOutcome, MessageStatus
from app.errors import DailyCapReached
from app.providers.mail.fields import MailFields
from app.services.delivery.claiming.leases import update_unlocked
from app.services.delivery.results.outcomes import note
from app.services.limits.daily_caps import Charge, DailyCaps
from app.services.messages.reading import ids_within

RETRIABLE = (MessageStatus.FAILED.value, MessageStatus.UNKNOWN.value)
#: Messages of one transaction.
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class RetryFilter:
    """The messages to be retried; None stands for all. Times are those of storing, from inclusive to exclusive."""

    status: MessageStatus
    provider_type: str | None = None
    batch_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, tenant_id: int) -> list[ColumnElement[bool]]:
        found = [Message.tenant_id == tenant_id, Message.status == constant(self.status.value)]
        if self.batch_id is not None:
            found.append(Message.batch_id == self.batch_id)
        if self.provider_type is not None:
            found.append(
                or_(Message.provider_type == self.provider_type, _was_tried_by(tenant_id, self.provider_type))
            )
        if self.since is not None:
            found.append(Message.created_at >= self.since)
        if self.until is not None:
            found.append(Message.created_at < self.until)
        return found


class Retried(NamedTuple):
    """The numbers of messages that are queued again, and that a daily cap kept back; `more` if some may be left."""

    retried: int
    capped: int
    more: bool


def values_of_retry(settings: Settings) -> dict[str, Any]:
    """Values that make a message wait again, with a full count of attempts; for a statement about the `tenant`.

    It gets a new key, unless it may have left under the old one.
    """
    # A temporary failure says nothing of the attempts before it; a permanent one and a late answer do.
    is_in_doubt = and_(
        DeliveryAttempt.outcome == AttemptOutcome.UNKNOWN.value, DeliveryAttempt.provider_message_id.is_(None)
    )
    last_in_doubt = (
        select(is_in_doubt)
        .where(
            DeliveryAttempt.tenant_id == TENANT,
            DeliveryAttempt.message_id == Message.id,
            DeliveryAttempt.outcome != AttemptOutcome.TEMPORARY.value,
        )
        .order_by(DeliveryAttempt.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    return {
        "status": MessageStatus.QUEUED.value,
        "status_reason": null(),
        "due_at": func.now(),
        "expires_at": null(),
        "attempt_limit": Message.attempt_count + settings.max_attempts,
        "worker_deaths": 0,
        "retry_count": Message.retry_count + case((func.coalesce(last_in_doubt, False), 0), else_=1),
    }


def _was_tried_by(tenant_id: int, provider_type: str) -> ColumnElement[bool]:
    """True for a message of no known provider whose last attempt was with this one."""
    last = exists().where(
        DeliveryAttempt.tenant_id == tenant_id,
        DeliveryAttempt.message_id == Message.id,
        DeliveryAttempt.number == Message.attempt_count,
        DeliveryAttempt.provider_type == provider_type,
    )
    return and_(Message.provider_type.is_(None), last)


class Retries:
    """Retries many messages, some hundred in a transaction. Each counts against the daily cap again."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        reads: Reads,
        caps: DailyCaps,
        settings: Settings,
        *,
        on_due: Callable[[], None],
    ) -> None:
        self._sessions = sessions
        self._reads = reads
        self._caps = caps
        self._settings = settings
        self._on_due = on_due

    async def retry_all(self, tenant_id: int, wanted: RetryFilter, *, limit: int) -> Retried:
        """Retry up to `limit` messages, the oldest first. After an error, ask again for the others."""
        first, end = await ids_within(self._reads, tenant_id, wanted.since, wanted.until)
        retried = capped = 0
        while (room := min(limit - retried - capped, _AT_ONCE)) > 0:
            found = await self._found(tenant_id, wanted, first, end, room)
            allowed = await self._charged(tenant_id, found)
            queued = await self._queued(tenant_id, allowed)
            retried, capped = retried + queued, capped + len(found) - len(allowed)
            if len(found) < room:
                return Retried(retried, capped, more=False)
            first = found[-1].id + 1
        return Retried(retried, capped, more=True)

    async def _found(
        self, tenant_id: int, wanted: RetryFilter, first: int | None, end: int | None, limit: int
    ) -> Sequence[Any]:
        negated_id = -Message.id  # as the index has it
        columns = Message.id, Message.channel, Message.to_address, Message.body, Message.details
        found = select(*columns).where(*wanted.conditions(tenant_id))
        if first is not None:
            found = found.where(negated_id <= -first)
        if end is not None:
            found = found.where(negated_id > -end)
        async with self._sessions() as session:
            return (await session.execute(found.order_by(negated_id.desc()).limit(limit))).all()

    async def _charged(self, tenant_id: int, found: Sequence[Any]) -> dict[int, Charge | None]:
        """Those that a daily cap allows, by id, each with what it takes of the cap."""
        allowed = {}
        for row in found:
            recipient = sender_address(row.to_address, region=self._settings.default_region)
            try:
                copies = len(MailFields.of(row.details).copies)
                allowed[row.id] = await self._caps.set_aside(
                    tenant_id, row.channel, recipient, row.body, copies=copies
                )
            except DailyCapReached:
                continue
        return allowed

    async def _queued(self, tenant_id: int, allowed: dict[int, Charge | None]) -> int:
        """Queue messages again that have not been queued, removed or locked by others meanwhile; returns how many."""
        if not allowed:
            return 0
        these = (
            select(Message.id)
            .where(Message.tenant_id == TENANT, Message.id.in_(list(allowed)), Message.status.in_(RETRIABLE))
            .order_by(Message.id)
        )
        queue = update_unlocked(these).values(values_of_retry(self._settings)).returning(Message.id)
        async with self._sessions.begin() as session:
            queued = list((await session.execute(queue, {"tenant": tenant_id})).scalars())
            await note(await session.connection(), tenant_id, "retried", queued)
        for id_ in allowed.keys() - set(queued):
            self._caps.give_back(allowed[id_])
        self._on_due()
        return len(queued)
