"""Reading conversations, page by page, and resuming one."""

from fastapi import APIRouter, Request, Response

from app.db.models import Conversation
from app.dependencies import Id, MessagesDep, PagesDep, TenantDep, conversations_of
from app.http.problems import responses
from app.http.read_route import ReadRoute
from app.schemas.views import ConversationView, MessageView

router = APIRouter(prefix="/api/conversations", tags=["conversations"], responses=responses(422, 503))
reads = APIRouter(
    prefix="/api/conversations", tags=["conversations"], route_class=ReadRoute, responses=responses(422, 503)
)


@reads.get("", response_model=list[ConversationView])
async def list_conversations(request: Request, pages: PagesDep) -> Response:
    """Conversations, the most recently active first."""
    return pages.answer(await conversations_of(request).recent(limit=pages.limit, cursor=pages.cursor))


@reads.get("/{conversation_id}/messages", response_model=list[MessageView], responses=responses(404))
async def list_conversation_messages(request: Request, conversation_id: Id, pages: PagesDep) -> Response:
    """The messages of a conversation, on all channels, oldest first by `sent_at`."""
    service = conversations_of(request)
    return pages.answer(await service.messages(conversation_id, limit=pages.limit, cursor=pages.cursor))


@router.post("/{conversation_id}/resume", response_model=ConversationView, responses=responses(404))
async def resume_conversation(conversation_id: Id, service: MessagesDep, tenant: TenantDep) -> Conversation:
    """End the pause of a conversation in which two programs answered each other, and send what it held."""
    return await service.resume_conversation(tenant, conversation_id)
