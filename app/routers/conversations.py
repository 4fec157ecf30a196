"""Reading conversations, page by page."""

from fastapi import APIRouter, Request, Response

from app.dependencies import Id, PagesDep, conversations_of
from app.http.problems import responses
from app.http.read_route import ReadRoute
from app.schemas.views import ConversationView, MessageView

router = APIRouter(
    prefix="/api/conversations", tags=["conversations"], route_class=ReadRoute, responses=responses(422, 503)
)


@router.get("", response_model=list[ConversationView])
async def list_conversations(request: Request, pages: PagesDep) -> Response:
    """Conversations, the most recently active first."""
    return pages.answer(await conversations_of(request).recent(limit=pages.limit, cursor=pages.cursor))


@router.get("/{conversation_id}/messages", response_model=list[MessageView], responses=responses(404))
async def list_conversation_messages(request: Request, conversation_id: Id, pages: PagesDep) -> Response:
    """The messages of a conversation, on all channels, oldest first by `sent_at`."""
    service = conversations_of(request)
    return pages.answer(await service.messages(conversation_id, limit=pages.limit, cursor=pages.cursor))
