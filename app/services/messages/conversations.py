"""Reading conversations: all messages between one customer address and one contact address, on any channel.

They are created with their first message (`app.services.accept`).
"""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import Conversation, Message
from app.db.paging import Page, fetch_page
from app.errors import ConversationNotFound


class ConversationService:
    """A tenant's conversations."""

    def __init__(self, session: AsyncSession, tenant_id: int) -> None:
        self._session = session
        self._tenant_id = tenant_id

    async def recent(self, *, limit: int, cursor: str | None = None) -> Page[Conversation]:
        """Conversations, the most recently active first."""
        return await fetch_page(
            self._session,
            select(Conversation).where(Conversation.tenant_id == self._tenant_id),
            order=(Conversation.last_activity_at, Conversation.id),
            newest_first=True,
            limit=limit,
            cursor=cursor,
        )

    async def messages(self, conversation_id: int, *, limit: int, cursor: str | None = None) -> Page[Message]:
        """The messages of a conversation in both directions and on every channel, oldest first by `sent_at`.

        Raises `ConversationNotFound`.
        """
        page = await fetch_page(
            self._session,
            select(Message).where(Message.tenant_id == self._tenant_id, Message.conversation_id == conversation_id),
            order=(Message.sent_at, Message.id),
            newest_first=False,
            limit=limit,
            cursor=cursor,
        )
        if not page.rows and await self._session.get(Conversation, (self._tenant_id, conversation_id)) is None:
            raise ConversationNotFound("There is no conversation with this id.")
        return page
