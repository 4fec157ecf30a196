"""Reading conversations, page by page."""

from collections.abc import Sequence

from fastapi import APIRouter

from app.db.models import Conversation, Message
from app.dependencies import ConversationsDep, Id, PagesDep
from app.http.problems import responses
from app.schemas.views import ConversationView, MessageView

router = APIRouter(prefix="/api/conversations", tags=["conversations"], responses=responses(422, 503))


@router.get("", response_model=list[ConversationView])
async def list_conversations(service: ConversationsDep, pages: PagesDep) -> Sequence[Conversation]:
    """Conversations, the most recently active first."""
    return pages.linked(await service.recent(limit=pages.limit, cursor=pages.cursor))


@router.get("/{conversation_id}/messages", response_model=list[MessageView], responses=responses(404))
async def list_conversation_messages(
    conversation_id: Id, service: ConversationsDep, pages: PagesDep
) -> Sequence[Message]:
    """The messages of a conversation, on all channels, oldest first by `sent_at`."""
    return pages.linked(await service.messages(conversation_id, limit=pages.limit, cursor=pages.cursor))
