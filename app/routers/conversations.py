"""Reading conversations, page by page, changing their state, replying in one, and resuming one."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from app.db.models import Conversation
from app.dependencies import Id, MessagesDep, PagesDep, TenantDep, conversations_of, metadata_in
from app.domain import ConversationStatus, MessageType
from app.http.json_body import JsonRoute
from app.http.problems import responses
from app.http.read_route import ReadRoute
from app.routers.messages import IDEMPOTENT, SEND_ERRORS, answer_to, idempotency_key, message_in, sent
from app.schemas.fields import Words
from app.schemas.replies import Reply
from app.schemas.sending import SendAccepted
from app.schemas.views import ConversationUpdate, ConversationView, MessageView, ReadUpTo
from app.services.messages.conversation_state import ConversationChange
from app.services.messages.conversations import ConversationFilter

#: The assignee of conversations that no one looks after, in the query.
_NONE = "none"

router = APIRouter(
    prefix="/api/conversations", tags=["conversations"], route_class=JsonRoute, responses=responses(422, 503)
)
reads = APIRouter(
    prefix="/api/conversations", tags=["conversations"], route_class=ReadRoute, responses=responses(422, 503)
)


@reads.get("", response_model=list[ConversationView])
async def list_conversations(
    request: Request,
    pages: PagesDep,
    status: ConversationStatus | None = None,
    assignee: Annotated[
        Words | None, Query(max_length=100, description="Who looks after it; `none` for those without.")
    ] = None,
    tag: Annotated[Words | None, Query(max_length=50)] = None,
    channel: Annotated[Words | None, Query(max_length=63, description="With messages on this channel.")] = None,
    unread: Annotated[bool, Query(description="Only those with unread messages.")] = False,
    include: Annotated[
        Literal["last_message"] | None, Query(description="Shows the newest message of each as well.")
    ] = None,
) -> Response:
    """Conversations, the most recently active first. Filters combine.

    `metadata.order=17` finds those with this pair of metadata; several pairs combine.
    """
    owner = "" if assignee == _NONE else assignee
    wanted = ConversationFilter(status, owner, tag, channel, unread, metadata_in(request))
    page = await conversations_of(request).recent(
        wanted, limit=pages.limit, cursor=pages.cursor, with_last_message=include is not None
    )
    return pages.answer(page)


@reads.get("/{conversation_id}", response_model=ConversationView, responses=responses(404))
async def get_conversation(request: Request, conversation_id: Id) -> Response:
    """A conversation, with its state and metadata."""
    return Response(await conversations_of(request).one(conversation_id), media_type="application/json")


@reads.get("/{conversation_id}/messages", response_model=list[MessageView], responses=responses(404))
async def list_conversation_messages(request: Request, conversation_id: Id, pages: PagesDep) -> Response:
    """The messages of a conversation, on all channels, oldest first by `sent_at`."""
    service = conversations_of(request)
    return pages.answer(await service.messages(conversation_id, limit=pages.limit, cursor=pages.cursor))


@router.post(
    "/{conversation_id}/messages",
    response_model=SendAccepted,
    responses=SEND_ERRORS | responses(404),
    openapi_extra=IDEMPOTENT,
)
async def reply_in_conversation(
    conversation_id: Id, answer: Reply, request: Request, service: MessagesDep, tenant: TenantDep
) -> SendAccepted:
    """Reply in a conversation: on the channel and to the address of its last inbound message, or as the body says.

    It is a send like any other: the same rules, limits and answers. A mail continues the thread.
    """
    key = idempotency_key(request)
    place = await service.place_of_reply(tenant, conversation_id, answer.channel, idempotency_key=key)
    given = answer.fields()
    kind = MessageType.MMS if given.get("attachments") else MessageType.SMS
    ends = {"from": place.from_address, "to": place.to_address, "type": kind.value, "body": ""}
    new = message_in(request, place.channel, ends | given, key)
    stored = await sent(new, request)
    accepted = SendAccepted(
        message_id=str(stored.id), provider_message_id=None, conversation_id=stored.conversation_id
    )
    return await answer_to(accepted, new, stored, request)


@router.post("/{conversation_id}/read", response_model=ConversationView, responses=responses(404, 413, 415))
async def read_conversation(
    conversation_id: Id, read: ReadUpTo, request: Request, service: MessagesDep, tenant: TenantDep
) -> Response:
    """Mark the messages of a conversation as read: all, or those up to an id."""
    await service.read_conversation(tenant, conversation_id, up_to=read.up_to, by=request.state.access.name)
    return Response(await conversations_of(request).one(conversation_id), media_type="application/json")


@router.patch("/{conversation_id}", response_model=ConversationView, responses=responses(404, 413, 415))
async def change_conversation(
    conversation_id: Id, change: ConversationUpdate, request: Request, service: MessagesDep, tenant: TenantDep
) -> Response:
    """Change the status, assignee, tags or metadata of a conversation. Each change is an event."""
    given = change.model_fields_set
    wanted = ConversationChange(
        change.status,
        change.snoozed_until,
        "snoozed_until" in given,
        change.assignee,
        "assignee" in given,
        change.tags,
        change.metadata,
    )
    await service.change_conversation(tenant, conversation_id, wanted, by=request.state.access.name)
    return Response(await conversations_of(request).one(conversation_id), media_type="application/json")


@router.post("/{conversation_id}/resume", response_model=ConversationView, responses=responses(404))
async def resume_conversation(conversation_id: Id, service: MessagesDep, tenant: TenantDep) -> Conversation:
    """End the pause of a conversation in which two programs answered each other, and send what it held."""
    return await service.resume_conversation(tenant, conversation_id)
