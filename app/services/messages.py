"""Messages: accepting them, in both directions, and saying what became of them."""

import asyncio

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

from app.database import is_unavailable
from app.domain import MessageStatus, NewMessage, StoredMessage
from app.errors import MessageNotFound
from app.models import Message
from app.services.writer import MessageWriter

_FIRST_LOOK, _LONGEST_PAUSE = 0.01, 0.25  # seconds


class MessageService:
    """Accepts messages through the writer, and reads them with sessions of its own."""

    def __init__(self, writer: MessageWriter, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._writer = writer
        self._sessions = sessions

    async def accept(self, message: NewMessage) -> StoredMessage:
        """Store a message durably; see `MessageWriter.write` for what happens to repeats, and for the errors."""
        return await self._writer.write(message)

    async def provider_message_id(self, tenant_id: int, message_id: int, *, wait_seconds: float) -> str | None:
        """The provider's id for a message, waiting for it at most so long; None if it is not known by then.

        Never raises because the database is away: the message was accepted, and that is what counts.
        """
        question = select(Message.status, Message.provider_message_id).where(
            Message.tenant_id == tenant_id, Message.id == message_id
        )
        pause = _FIRST_LOOK
        try:
            async with asyncio.timeout(wait_seconds):
                while True:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE)
                    async with self._sessions() as session:
                        status, provider_message_id = (await session.execute(question)).one()
                    if status not in {MessageStatus.QUEUED, MessageStatus.SENDING}:
                        return provider_message_id
        except Exception as error:
            if not is_unavailable(error):
                raise
            return None

    async def detail(self, tenant_id: int, message_id: int) -> Message:
        """A message with its attempts. Raises `MessageNotFound`."""
        question = (
            select(Message)
            .where(Message.tenant_id == tenant_id, Message.id == message_id)
            .options(selectinload(Message.attempts))
        )
        async with self._sessions() as session:
            message = (await session.execute(question)).scalar_one_or_none()
        if message is None:
            raise MessageNotFound("There is no message with this id.")
        return message
