"""Reading conversations: all messages between one customer address and one contact address, on any channel.

They are created with their first message (`app.services.accept`).
"""

from sqlalchemy import BigInteger, bindparam, select

from app.db.batches import TENANT
from app.db.models import Conversation, Message
from app.db.paging import JsonPages, Page
from app.db.reads import Read, Reads
from app.errors import ConversationNotFound
from app.services.messages.json_views import CONVERSATION, MESSAGE

_ID = bindparam("conversation", type_=BigInteger())
_RECENT = JsonPages(
    CONVERSATION,
    Conversation.tenant_id == TENANT,
    order=(Conversation.last_activity_at, Conversation.id),
    newest_first=True,
)
_MESSAGES = JsonPages(
    MESSAGE,
    Message.tenant_id == TENANT,
    Message.conversation_id == _ID,
    order=(Message.sent_at, Message.id),
    newest_first=False,
)
_EXISTS = Read(select(Conversation.id).where(Conversation.tenant_id == TENANT, Conversation.id == _ID))


class ConversationService:
    """A tenant's conversations, as JSON (`app.schemas.views`)."""

    def __init__(self, reads: Reads, tenant_id: int) -> None:
        self._reads = reads
        self._tenant_id = tenant_id

    async def recent(self, *, limit: int, cursor: str | None = None) -> Page[str]:
        """Conversations, the most recently active first."""
        return await _RECENT.fetch(self._reads, {"tenant": self._tenant_id}, limit=limit, cursor=cursor)

    async def messages(self, conversation_id: int, *, limit: int, cursor: str | None = None) -> Page[str]:
        """The messages of a conversation in both directions and on every channel, oldest first by `sent_at`.

        Raises `ConversationNotFound`.
        """
        parameters = {"tenant": self._tenant_id, "conversation": conversation_id}
        page = await _MESSAGES.fetch(self._reads, parameters, limit=limit, cursor=cursor)
        if not page.rows and not await self._reads.fetch(_EXISTS, parameters):
            raise ConversationNotFound("There is no conversation with this id.")
        return page
