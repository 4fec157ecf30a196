"""Sending, what became of what was sent, and changing one's mind about it."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import Scope

from app.config import Settings
from app.db.models import Message
from app.dependencies import (
    Cursor,
    Id,
    Limit,
    MessagesDep,
    TenantDep,
    link_pages,
    message_service,
    preferred_wait,
    tenant_id,
)
from app.domain import MessageStatus, MessageType, NewMessage, StoredMessage
from app.errors import (
    ChannelNotFound,
    ChannelNotServed,
    DailyCapReached,
    FieldError,
    IdempotencyConflict,
    InvalidRequest,
    Overloaded,
)
from app.http.hot_route import HotRoute
from app.http.problems import responses
from app.routing import channels_served, kind_of_addresses, route_of
from app.schemas.fields import Timestamp, Words
from app.schemas.sending import ChannelSend, EmailSend, SendAccepted, SmsAccepted, SmsSend
from app.schemas.views import MessageDetail, MessageView, StepView
from app.segments import segments_of
from app.services.limits.daily_caps import SpendGuard
from app.services.messages.service import MessageFilter, MessageService
from app.services.messages.timeline import Step
from app.wiring import Services

Accepted = TypeVar("Accepted", bound=SendAccepted)
Send = SmsSend | EmailSend | ChannelSend

#: Said of a sender that belongs to somebody else, and to nobody.
NOT_YOURS = FieldError("body.from", "this address is not one of yours")

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def _header(name: str, description: str, example: str, **schema: str) -> dict[str, object]:
    schema = {"type": "string", **schema}
    return {"name": name, "in": "header", "schema": schema, "description": description, "example": example}


_HEADERS = {
    "parameters": [
        _header("Prefer", "`wait=N` waits up to N seconds for the provider's id (RFC 7240).", "wait=5"),
        _header(
            "Idempotency-Key",
            "The same key with the same body is the same message, and is answered like the first time.",
            "8e03978e-40d5-43e8-bc93-6894a57f9324",
            pattern=f"^{_IDEMPOTENCY_KEY.pattern}$",
        ),
    ]
}
_CHANNEL = {
    "name": "channel",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^(?!(?:sms|email|preview)$)[a-z][a-z0-9_-]{0,62}$"},
    "description": "Text and mail have routes of their own, with bodies of their own.",
    "example": "whatsapp",
}
_SEND_ERRORS = responses(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)

hot = APIRouter(prefix="/api/messages", tags=["messages"], route_class=HotRoute, responses=_SEND_ERRORS)
router = APIRouter(
    prefix="/api/messages",
    tags=["messages"],
    responses=responses(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)


class ChannelRoute(HotRoute):
    """Shares its path with the routes of messages, and reads bodies as its channel's addresses are."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return APIRoute.matches(self, scope)

    def context(self, request: Request) -> dict[str, Any]:
        """Raises `ChannelNotFound` where nobody is there to take its messages."""
        settings, channel = request.app.state.settings, request.path_params["channel"]
        if channel not in channels_served(settings) or not route_of(settings, channel):
            raise ChannelNotFound("No provider here carries a channel of this name.")
        return super().context(request) | channel_context(settings, channel)


def channel_context(settings: Settings, channel: str) -> dict[str, str | None]:
    """What reading the addresses of a channel needs to know."""
    return {"channel": channel, "kind": kind_of_addresses(settings, channel)}


channels = APIRouter(
    prefix="/api/messages",
    tags=["messages"],
    route_class=ChannelRoute,
    responses=_SEND_ERRORS | responses(HTTPStatus.NOT_FOUND),
)


@hot.post("/sms", response_model=SmsAccepted, openapi_extra=_HEADERS)
async def send_sms(message: SmsSend, request: Request) -> SmsAccepted | Response:
    """Send a text or a media message. Answered once it is durably stored."""
    new = message.new_message(tenant_id(request), _idempotency_key(request))
    stored = await _stored(message, new, request)
    answer = SmsAccepted(
        message_id=str(stored.id),
        provider_message_id=None,
        conversation_id=stored.conversation_id,
        segments=segments_of(new.body) if new.type == MessageType.SMS else None,
    )
    return await _answer(answer, new, stored, request)


@hot.post("/email", response_model=SendAccepted, openapi_extra=_HEADERS)
async def send_email(message: EmailSend, request: Request) -> SendAccepted | Response:
    """Send a mail. Answered once it is durably stored."""
    new = message.new_message(tenant_id(request), _idempotency_key(request))
    return await _accepted(message, new, request)


@channels.post(
    "/{channel}",
    response_model=SendAccepted,
    openapi_extra={"parameters": [_CHANNEL, *_HEADERS["parameters"]]},
)
async def send_on_a_channel(message: ChannelSend, request: Request) -> SendAccepted | Response:
    """Send a message on any other channel that a provider here carries, such as `whatsapp` or `slack`. Answered once
    it is durably stored."""
    channel = request.path_params["channel"]
    new = message.new_message(channel, tenant_id(request), _idempotency_key(request))
    return await _accepted(message, new, request)


async def _accepted(message: Send, new: NewMessage, request: Request) -> SendAccepted | Response:
    stored = await _stored(message, new, request)
    answer = SendAccepted(message_id=str(stored.id), provider_message_id=None, conversation_id=stored.conversation_id)
    return await _answer(answer, new, stored, request)


async def _stored(message: Send, new: NewMessage, request: Request) -> StoredMessage:
    state = request.app.state
    services: Services = state.services
    if not route_of(state.settings, new.channel):
        raise ChannelNotServed(
            f"Nobody is there to take messages for {new.channel}: this installation has no provider."
        )
    if await services.addresses.tenant_of(new.sender) != new.tenant_id:
        actor, client = request.scope["state"]["access"].prefix, request.client.host if request.client else None
        services.refusals.refused(
            "sender_denied", tenant_id=new.tenant_id, actor=actor, client=client, channel=new.channel
        )
        raise InvalidRequest("A message is sent from an address of one's own.", errors=[NOT_YOURS])
    if over := message.is_over():
        await _must_be_a_repeat(new, over, services.messages)
    return await _accept(new, services.messages, services.spending)


async def _answer(answer: Accepted, new: NewMessage, stored: StoredMessage, request: Request) -> Accepted | Response:
    """The answer, with what the headers of the request ask for."""
    headers = {}
    if stored.duplicate:
        headers["Idempotent-Replayed"] = "true"
    service = message_service(request)
    prefers = b"prefer" in request.scope["headers_by_name"]
    if prefers and (seconds := preferred_wait(request)) and service.has_room_to_wait():
        headers["Preference-Applied"] = f"wait={seconds}"
        with request.app.state.overload.waiting_for_provider(request.scope):
            id_ = await service.provider_message_id(new.tenant_id, stored.id, wait_seconds=seconds)
        answer.provider_message_id = id_
    return JSONResponse(answer.model_dump(), headers=headers) if headers else answer


async def _accept(new: NewMessage, service: MessageService, spending: SpendGuard) -> StoredMessage:
    """Store a message that its tenant's daily cap allows. A repeat costs nothing, and is answered also beyond it."""
    try:
        charge = await spending.set_aside(new)
    except DailyCapReached:
        if not await service.is_repeat(new):
            raise
        charge = None
    if charge is None:
        return await service.accept(new)
    try:
        stored = await service.accept(new)
    except (IdempotencyConflict, Overloaded):  # other errors leave open whether it was stored
        spending.give_back(charge)
        raise
    if stored.duplicate:
        spending.give_back(charge)
    return stored


async def _must_be_a_repeat(new: NewMessage, over: dict[str, str], service: MessageService) -> None:
    if not await service.is_repeat(new):
        errors = [FieldError(f"body.{name}", sentence) for name, sentence in over.items()]
        raise InvalidRequest("A time in this request has passed.", errors=errors)


def _idempotency_key(request: Request) -> str | None:
    written = request.scope["headers_by_name"].get(b"idempotency-key")
    if written is None:
        return None
    key: str = written.decode("latin-1")
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        error = FieldError("header.Idempotency-Key", "1 to 255 visible ASCII characters, such as a UUID")
        raise InvalidRequest("The Idempotency-Key is not as it should be.", errors=[error])
    return key


@router.get("", response_model=list[MessageView])
async def list_messages(
    service: MessagesDep,
    tenant: TenantDep,
    request: Request,
    response: Response,
    status: MessageStatus | None = None,
    provider: Annotated[
        Words | None, Query(max_length=63, description="Who took it, or, while nobody has, who was handed it last.")
    ] = None,
    conversation_id: Annotated[Id | None, Query()] = None,
    since: Annotated[Timestamp | None, Query(description="Stored at this time or later.")] = None,
    until: Annotated[Timestamp | None, Query(description="Stored before this time.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Sequence[Message]:
    """Messages, the newest first: those that failed, those of one provider, those of a day."""
    wanted = MessageFilter(status, provider, conversation_id, since, until)
    page = await service.newest(tenant, wanted, limit=limit, cursor=cursor)
    link_pages(request, response, page)
    return page.rows


@router.get("/{message_id}", response_model=MessageDetail, responses=responses(HTTPStatus.NOT_FOUND))
async def get_message(message_id: Id, service: MessagesDep, tenant: TenantDep) -> Message:
    """A message, its status, and every attempt to deliver it."""
    return await service.detail(tenant, message_id)


@router.get("/{message_id}/timeline", response_model=list[StepView], responses=responses(HTTPStatus.NOT_FOUND))
async def get_timeline(message_id: Id, service: MessagesDep, tenant: TenantDep) -> list[Step]:
    """What happened to a message, step by step, each with its time and a sentence."""
    return await service.timeline(tenant, message_id)


@router.post(
    "/{message_id}/cancel",
    response_model=MessageDetail,
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
async def cancel_message(message_id: Id, service: MessagesDep, tenant: TenantDep) -> Message:
    """Call a message back while nothing has left."""
    return await service.cancel(tenant, message_id)


@router.post(
    "/{message_id}/retry",
    response_model=MessageDetail,
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
async def retry_message(message_id: Id, service: MessagesDep, tenant: TenantDep) -> Message:
    """Try a message again that has failed, or whose outcome is unknown; it gets a full count of attempts, and counts
    against the daily cap once more."""
    return await service.retry(tenant, message_id)
