"""Messages: accepting them in both directions, saying what became of them, calling them back, trying again."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

from app.addresses import any_address
from app.config import Settings
from app.db.engine import is_unavailable
from app.db.models import DeliveryAttempt, Message, MessageEvent, StoredReceipt
from app.db.paging import Page, fetch_page
from app.domain import AttemptOutcome, Direction, MessageStatus, NewMessage, StoredMessage
from app.errors import IdempotencyConflict, MessageNotFound, NotCancelable, NotRetriable
from app.routing import route_of
from app.services.accept.writer import MessageWriter
from app.services.delivery.claims import first_before
from app.services.delivery.message_events import note
from app.services.delivery.provider_states import WELL, health_of_providers
from app.services.limits.daily_caps import SpendGuard
from app.services.messages.timeline import Step, timeline_of

_FIRST_LOOK, _LONGEST_PAUSE = 0.01, 0.25  # seconds
_RETRIABLE = (MessageStatus.FAILED.value, MessageStatus.UNKNOWN.value)


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which messages to list; None stands for all. Times are those of storing, from inclusive to exclusive.

    `provider_type` is whom a message came from or who took it, or, while nobody has, who was handed it last.
    """

    status: MessageStatus | None = None
    provider_type: str | None = None
    conversation_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None


class MessageService:
    """Accepts messages through the writer, and works on stored ones with sessions of its own."""

    def __init__(
        self,
        writer: MessageWriter,
        sessions: async_sessionmaker[AsyncSession],
        settings: Settings,
        *,
        spending: SpendGuard,
        on_due: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._sessions = sessions
        self._spending = spending
        self._settings = settings
        self._on_due = on_due
        self._waiting = 0
        self._most_waiting = settings.max_requests_in_flight // 2

    async def accept(self, message: NewMessage) -> StoredMessage:
        """Store a message durably; see `MessageWriter.write` for what happens to repeats, and for the errors.

        Raises `IdempotencyConflict` when the key was used for another request.
        """
        stored = await self._writer.write(message)
        if stored.conflict and message.direction is Direction.OUTBOUND:
            raise IdempotencyConflict("This Idempotency-Key was used for a request with another body.")
        return stored

    async def is_repeat(self, message: NewMessage) -> bool:
        """Whether a message with this idempotency key has been accepted before."""
        if message.idempotency_key is None:
            return False
        question = select(Message.id).where(
            Message.tenant_id == message.tenant_id,
            Message.channel == message.channel,
            Message.idempotency_key == message.idempotency_key,
        )
        async with self._sessions() as session:
            return (await session.execute(question)).scalar() is not None

    def has_room_to_wait(self) -> bool:
        """Whether one more may wait for a provider: those who wait take up places that others need to be let in."""
        return self._waiting < self._most_waiting

    async def provider_message_id(self, tenant_id: int, message_id: int, *, wait_seconds: float) -> str | None:
        """The provider's id for a message, waiting for it at most so long; None if it is not known by then.

        Never raises because the database is away: the message was accepted, and that is what counts.
        """
        question = select(Message.status, Message.provider_message_id).where(*_is(tenant_id, message_id))
        pause = _FIRST_LOOK
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_seconds):
                while True:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE)
                    async with self._sessions() as session:
                        row = (await session.execute(question)).one_or_none()
                    if row is None:
                        return None  # it was erased meanwhile
                    status, provider_message_id = row
                    if status not in {MessageStatus.QUEUED, MessageStatus.SENDING} or provider_message_id:
                        return provider_message_id
        except Exception as error:
            if not is_unavailable(error):
                raise
            return None
        finally:
            self._waiting -= 1

    async def detail(self, tenant_id: int, message_id: int) -> Message:
        """A message with its attempts. Raises `MessageNotFound`."""
        async with self._sessions() as session:
            return await _load(session, tenant_id, message_id)

    async def newest(
        self, tenant_id: int, wanted: MessageFilter, *, limit: int, cursor: str | None = None
    ) -> Page[Message]:
        """Messages, the newest first."""
        conditions: list[ColumnElement[bool]] = [Message.tenant_id == tenant_id]
        if wanted.status is not None:
            conditions.append(Message.status == wanted.status.value)
        if wanted.provider_type is not None:
            handed_last = (
                select(DeliveryAttempt.provider_type)
                .where(
                    DeliveryAttempt.tenant_id == tenant_id,
                    DeliveryAttempt.message_id == Message.id,
                    DeliveryAttempt.number == Message.attempt_count,
                )
                .scalar_subquery()
            )
            conditions.append(func.coalesce(Message.provider_type, handed_last) == wanted.provider_type)
        if wanted.conversation_id is not None:
            conditions.append(Message.conversation_id == wanted.conversation_id)
        if wanted.since is not None:
            conditions.append(Message.created_at >= wanted.since)
        if wanted.until is not None:
            conditions.append(Message.created_at < wanted.until)
        async with self._sessions() as session:
            statement = select(Message).where(*conditions)
            return await fetch_page(
                session, statement, order=(Message.id,), newest_first=True, limit=limit, cursor=cursor
            )

    async def timeline(self, tenant_id: int, message_id: int) -> list[Step]:
        """Every step of a message in order, with its time and a sentence. Raises `MessageNotFound`."""
        async with self._sessions() as session:
            # One snapshot: what happens between the questions must not show in half of the answers.
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            message = await _load(session, tenant_id, message_id)
            said = select(StoredReceipt).where(
                StoredReceipt.tenant_id == tenant_id, StoredReceipt.message_id == message_id
            )
            done = select(MessageEvent).where(
                MessageEvent.tenant_id == tenant_id, MessageEvent.message_id == message_id
            )
            events = (await session.scalars(said.order_by(StoredReceipt.id))).all()
            deeds = (await session.scalars(done.order_by(MessageEvent.id))).all()
            waits_for = await self._waits_for(await session.connection(), message)
        return timeline_of(message, message.attempts, events, deeds, waits_for)

    async def _waits_for(self, connection: AsyncConnection, message: Message) -> list[str]:
        """What keeps a message from being tried: an earlier one, or that nobody may be asked who could have it."""
        if message.due_at is None:
            return []
        before = await first_before(connection, message.tenant_id, message.id)
        waits = [f"message {before} of its conversation has to leave first"] if before else []
        doubtful = [each.provider_type for each in message.attempts if each.outcome == AttemptOutcome.UNKNOWN]
        asked = doubtful[-1:] or route_of(self._settings, message.channel)
        health = await health_of_providers(connection)
        troubles = [(name, health.get(name, WELL).trouble) for name in asked]
        if all(trouble for _, trouble in troubles):
            waits += [f"{name} {trouble}" for name, trouble in troubles]
        return waits

    async def cancel(self, tenant_id: int, message_id: int) -> Message:
        """Call a message back while nothing has left. Raises `MessageNotFound` and `NotCancelable`."""
        may_have_left = (
            select(DeliveryAttempt.number)
            .where(
                DeliveryAttempt.tenant_id == tenant_id,
                DeliveryAttempt.message_id == Message.id,
                DeliveryAttempt.outcome.in_([AttemptOutcome.UNKNOWN.value, AttemptOutcome.ACCEPTED.value]),
            )
            .exists()
        )
        canceled = (
            update(Message)
            .where(*_is(tenant_id, message_id), ~may_have_left)
            .where(Message.status.in_([MessageStatus.SCHEDULED.value, MessageStatus.QUEUED.value]))
            .values(status=MessageStatus.CANCELED.value, due_at=null())
            .returning(Message.id)
        )
        async with self._sessions.begin() as session:
            if (await session.execute(canceled)).scalar() is None:
                message = await _load(session, tenant_id, message_id)
                raise NotCancelable(
                    f"The message is {message.status}: only one that has not left can be called back."
                )
            await note(await session.connection(), tenant_id, MessageStatus.CANCELED, [message_id])
            return await _load(session, tenant_id, message_id)

    async def retry(self, tenant_id: int, message_id: int) -> Message:
        """Queue a message again that has failed, or whose outcome is unknown, with a full count of attempts.

        The provider gets it under a new key, unless it may have gone out under the old one, and it counts against the
        daily cap once more. Raises `MessageNotFound`, `NotRetriable`, and `DailyCapReached` where the cap is used up;
        nothing is changed then.
        """
        async with self._sessions() as session:
            message = await _load(session, tenant_id, message_id)
        if message.status not in _RETRIABLE:
            raise _not_retriable(message)
        charge = await self._spending.set_aside(self._written_again(message))
        try:
            message = await self._queue_again(tenant_id, message_id)
        except (MessageNotFound, NotRetriable):  # somebody was faster; other errors leave open whether it is queued
            if charge is not None:
                self._spending.give_back(charge)
            raise
        self._on_due()
        return message

    def _written_again(self, message: Message) -> NewMessage:
        """A stored message as one that is about to be sent."""
        sender, recipient = (
            any_address(address, region=self._settings.default_region)
            for address in (message.from_address, message.to_address)
        )
        return NewMessage(
            Direction.OUTBOUND,
            message.channel,
            message.type,
            sender,
            recipient,
            message.body,
            tenant_id=message.tenant_id,
        )

    async def _queue_again(self, tenant_id: int, message_id: int) -> Message:
        # "Not now" tells nothing of the attempts before it; an answer for good does, and one that came too late.
        in_doubt = (
            select(
                and_(
                    DeliveryAttempt.outcome == AttemptOutcome.UNKNOWN.value,
                    DeliveryAttempt.provider_message_id.is_(None),
                )
            )
            .where(
                DeliveryAttempt.tenant_id == tenant_id,
                DeliveryAttempt.message_id == Message.id,
                DeliveryAttempt.outcome != AttemptOutcome.TEMPORARY.value,
            )
            .order_by(DeliveryAttempt.number.desc())
            .limit(1)
            .scalar_subquery()
        )
        queued = (
            update(Message)
            .where(*_is(tenant_id, message_id))
            .where(Message.status.in_(_RETRIABLE))
            .values(
                status=MessageStatus.QUEUED.value,
                status_reason=null(),
                due_at=func.now(),
                expires_at=null(),
                attempt_limit=Message.attempt_count + self._settings.max_attempts,
                worker_deaths=0,
                retry_count=Message.retry_count + case((func.coalesce(in_doubt, False), 0), else_=1),
            )
            .returning(Message.id)
        )
        async with self._sessions.begin() as session:
            if (await session.execute(queued)).scalar() is None:
                raise _not_retriable(await _load(session, tenant_id, message_id))
            await note(await session.connection(), tenant_id, "retried", [message_id])
            return await _load(session, tenant_id, message_id)


def _not_retriable(message: Message) -> NotRetriable:
    return NotRetriable(f"The message is {message.status}: only failed and unknown ones can be retried.")


def _is(tenant_id: int, message_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return Message.tenant_id == tenant_id, Message.id == message_id


async def _load(session: AsyncSession, tenant_id: int, message_id: int) -> Message:
    question = select(Message).where(*_is(tenant_id, message_id)).options(selectinload(Message.attempts))
    message = (await session.execute(question)).scalar_one_or_none()
    if message is None:
        raise MessageNotFound("There is no message with this id.")
    return message
