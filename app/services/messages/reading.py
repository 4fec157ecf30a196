"""Reading stored messages: which ones to list, one with its attempts, and its timeline."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import selectinload

from app.config import Settings
from app.db.models import DeliveryAttempt, Message, MessageEvent, StoredReceipt
from app.domain import AttemptOutcome, MessageStatus
from app.errors import MessageNotFound
from app.routing import route_of
from app.services.delivery.claims import first_before
from app.services.delivery.provider_states import WELL, health_of_providers
from app.services.messages.timeline import Step, timeline_of


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """The messages to list; None stands for all. Times are those of storing, from inclusive to exclusive.

    `provider_type` is the provider that a message came from or that took it, or else the last that was asked.
    """

    status: MessageStatus | None = None
    provider_type: str | None = None
    conversation_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def of(self, tenant_id: int) -> Select[Message]:
        """The statement that selects a tenant's messages, in no order."""
        statement = select(Message).where(Message.tenant_id == tenant_id)
        if self.status is not None:
            statement = statement.where(Message.status == self.status.value)
        if self.provider_type is not None:
            asked_last = select(DeliveryAttempt.provider_type).where(
                DeliveryAttempt.tenant_id == tenant_id,
                DeliveryAttempt.message_id == Message.id,
                DeliveryAttempt.number == Message.attempt_count,
            )
            provider_type = func.coalesce(Message.provider_type, asked_last.scalar_subquery())
            statement = statement.where(provider_type == self.provider_type)
        if self.conversation_id is not None:
            statement = statement.where(Message.conversation_id == self.conversation_id)
        if self.since is not None:
            statement = statement.where(Message.created_at >= self.since)
        if self.until is not None:
            statement = statement.where(Message.created_at < self.until)
        return statement


async def load_message(session: AsyncSession, tenant_id: int, message_id: int) -> Message:
    """A message with its attempts. Raises `MessageNotFound`."""
    message = await session.get(Message, (tenant_id, message_id), options=[selectinload(Message.attempts)])
    if message is None:
        raise MessageNotFound("There is no message with this id.")
    return message


async def load_timeline(session: AsyncSession, settings: Settings, tenant_id: int, message_id: int) -> list[Step]:
    """Every step of a message in order. Raises `MessageNotFound`."""
    message = await load_message(session, tenant_id, message_id)
    receipts = select(StoredReceipt).where(
        StoredReceipt.tenant_id == tenant_id, StoredReceipt.message_id == message_id
    )
    deeds = select(MessageEvent).where(MessageEvent.tenant_id == tenant_id, MessageEvent.message_id == message_id)
    said = (await session.scalars(receipts.order_by(StoredReceipt.id))).all()
    done = (await session.scalars(deeds.order_by(MessageEvent.id))).all()
    blockers = await _blockers(await session.connection(), message, settings)
    return timeline_of(message, said, done, blockers)


async def _blockers(connection: AsyncConnection, message: Message, settings: Settings) -> list[str]:
    """The reasons why a message is not tried: an earlier one, or trouble with each provider that could take it."""
    if message.due_at is None:
        return []
    before = await first_before(connection, message.tenant_id, message.id)
    blockers = [f"message {before} of its conversation has to leave first"] if before else []
    in_doubt = [each.provider_type for each in message.attempts if each.outcome == AttemptOutcome.UNKNOWN]
    asked = in_doubt[-1:] or route_of(settings, message.channel)
    health = await health_of_providers(connection)
    troubles = [(name, health.get(name, WELL).trouble) for name in asked]
    if all(trouble for _, trouble in troubles):
        blockers += [f"{name} {trouble}" for name, trouble in troubles]
    return blockers
