"""Reading conversations, page by page."""

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from app.db.models import Conversation, Message
from app.dependencies import ConversationsDep, Cursor, Id, Limit, link_pages
from app.http.problems import responses
from app.schemas.views import ConversationView, MessageView

router = APIRouter(
    prefix="/api/conversations",
    tags=["conversations"],
    responses=responses(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)


@router.get("", response_model=list[ConversationView])
async def list_conversations(
    service: ConversationsDep, request: Request, response: Response, limit: Limit = 100, cursor: Cursor = None
) -> Sequence[Conversation]:
    """Conversations, the most recently active first."""
    page = await service.recent(limit=limit, cursor=cursor)
    link_pages(request, response, page)
    return page.rows


@router.get(
    "/{conversation_id}/messages",
    response_model=list[MessageView],
    responses=responses(HTTPStatus.NOT_FOUND),
)
async def list_messages(
    conversation_id: Id,
    service: ConversationsDep,
    request: Request,
    response: Response,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Sequence[Message]:
    """What was said in a conversation, on all channels, oldest first by `sent_at`."""
    page = await service.messages(conversation_id, limit=limit, cursor=cursor)
    link_pages(request, response, page)
    return page.rows
