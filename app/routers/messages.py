"""Sending messages, reading them, and cancelling or retrying one."""

import re
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from app.config import Settings
from app.db.models import Message
from app.dependencies import Id, MessageId, MessagesDep, PagesDep, TenantDep, preferred_wait, services_of, tenant_id
from app.domain import KeyScope, MessageStatus, MessageType, NewMessage, StoredMessage
from app.errors import ChannelNotFound, FieldError, InvalidRequest
from app.http.access import client_address
from app.http.hot_route import HotRoute
from app.http.problems import responses
from app.http.query import QueryTime
from app.http.read_route import ReadRoute
from app.routing import channels_served, kind_of_addresses, route_of
from app.schemas.fields import Words
from app.schemas.sending import ChannelSend, EmailSend, SendAccepted, SmsAccepted, SmsSend
from app.schemas.views import MessageDetail, MessageView, StepView
from app.segments import segments_of
from app.services.messages.reading import MessageFilter
from app.services.messages.timeline import Step

Accepted = TypeVar("Accepted", bound=SendAccepted)

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def _header(name: str, description: str, **schema: object) -> dict[str, object]:
    return {"name": name, "in": "header", "schema": {"type": "string", **schema}, "description": description}


_HEADERS = {
    "parameters": [
        _header("Prefer", "`wait=N` waits up to N seconds for the provider's word (RFC 7240).", examples=["wait=5"]),
        # Without an example, which a reference would fill in: everybody's messages would be the same one.
        _header(
            "Idempotency-Key",
            "A new one for each message, such as a UUID. The same key with the same body is the same message, and is "
            "answered like the first time.",
            pattern=f"^{_IDEMPOTENCY_KEY.pattern}$",
        ),
    ]
}
SEND_ERRORS = responses(413, 415, 422, 429, 503)

hot = APIRouter(prefix="/api/messages", tags=["messages"], route_class=HotRoute, responses=SEND_ERRORS)
reads = APIRouter(prefix="/api/messages", tags=["messages"], route_class=ReadRoute, responses=responses(422, 503))
router = APIRouter(prefix="/api/messages", tags=["messages"], responses=responses(422, 503))


class ChannelRoute(HotRoute):
    """A hot route that shares its path with the routes of messages; it reads addresses as its channel has them."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = APIRoute.matches(self, scope)
        is_message = match is not Match.NONE and child_scope["path_params"]["channel"].isdecimal()
        return (Match.NONE, {}) if is_message else (match, child_scope)

    def context(self, request: Request) -> dict[str, Any]:
        """Raises `ChannelNotFound` where no provider takes its messages."""
        settings, channel = request.app.state.settings, request.path_params["channel"]
        if channel not in channels_served(settings) or not route_of(settings, channel):
            raise ChannelNotFound("No provider here carries a channel of this name.")
        return super().context(request) | channel_context(settings, channel)


def channel_context(settings: Settings, channel: str) -> dict[str, str | None]:
    """The context in which pydantic reads the addresses of a channel."""
    return {"channel": channel, "kind": kind_of_addresses(settings, channel)}


channels = APIRouter(
    prefix="/api/messages", tags=["messages"], route_class=ChannelRoute, responses=SEND_ERRORS | responses(404)
)


@hot.post("/sms", response_model=SmsAccepted, openapi_extra=_HEADERS)
async def send_sms(message: SmsSend, request: Request) -> SmsAccepted:
    """Send a text or a media message. Answered once it is durably stored."""
    new = message.new_message(tenant_id(request), _idempotency_key(request))
    stored = await _sent(new, request)
    segments = segments_of(new.body) if new.type == MessageType.SMS else None
    answer = SmsAccepted(
        message_id=str(stored.id), provider_message_id=None, conversation_id=stored.conversation_id, segments=segments
    )
    return await _answer(answer, new, stored, request)


@hot.post("/email", response_model=SendAccepted, openapi_extra=_HEADERS)
async def send_email(message: EmailSend, request: Request) -> SendAccepted:
    """Send a mail. Answered once it is durably stored."""
    return await _accepted(message.new_message(tenant_id(request), _idempotency_key(request)), request)


@channels.post("/{channel}", response_model=SendAccepted, openapi_extra=_HEADERS)
async def send_on_a_channel(message: ChannelSend, request: Request) -> SendAccepted:
    """Send a message on another channel than text and mail. Answered once it is durably stored."""
    channel = request.path_params["channel"]
    new = message.new_message(channel, tenant_id(request), _idempotency_key(request))
    return await _accepted(new, request)


async def _accepted(new: NewMessage, request: Request) -> SendAccepted:
    stored = await _sent(new, request)
    answer = SendAccepted(message_id=str(stored.id), provider_message_id=None, conversation_id=stored.conversation_id)
    return await _answer(answer, new, stored, request)


def _sent(new: NewMessage, request: Request) -> Coroutine[Any, Any, StoredMessage]:
    access, client = request.scope["state"]["access"], client_address(request.scope)
    may_serve = KeyScope.SERVICE in access.scopes
    return services_of(request).messages.send(new, actor=access.prefix, client=client, may_serve=may_serve)


async def _answer(answer: Accepted, new: NewMessage, stored: StoredMessage, request: Request) -> Accepted:
    """The answer to a send, as the headers of the request ask for it."""
    service, headers = services_of(request).messages, request.scope["answer_headers"]
    prefix = (request.app.state.settings.public_url or "").rstrip("/")
    headers.append((b"location", f"{prefix}/api/messages/{stored.id}".encode()))
    if stored.duplicate:
        headers.append((b"idempotent-replayed", b"true"))
    prefers = b"prefer" in request.scope["headers_by_name"]
    if prefers and (seconds := preferred_wait(request)) and service.has_room_to_wait():
        headers.append((b"preference-applied", b"wait=%d" % seconds))
        with request.app.state.overload.not_in_flight(request.scope):
            progress = await service.progress(new.tenant_id, stored.id, wait_seconds=seconds)
        if progress is not None:
            answer.message_status, answer.status_reason, answer.provider_message_id = progress
    return answer


def _idempotency_key(request: Request) -> str | None:
    written: bytes | None = request.scope["headers_by_name"].get(b"idempotency-key")
    if written is None:
        return None
    key = written.decode("latin-1")
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        error = FieldError("header.Idempotency-Key", "1 to 255 visible ASCII characters, such as a UUID")
        raise InvalidRequest(f"The Idempotency-Key is not as it should be: {error.message}.", errors=[error])
    return key


@reads.get("", response_model=list[MessageView])
async def list_messages(
    request: Request,
    pages: PagesDep,
    status: MessageStatus | None = None,
    provider: Annotated[
        Words | None, Query(max_length=63, description="The provider that took it, or else the last that was asked.")
    ] = None,
    conversation_id: Annotated[Id | None, Query()] = None,
    since: Annotated[QueryTime | None, Query(description="Stored at this time or later.")] = None,
    until: Annotated[QueryTime | None, Query(description="Stored before this time.")] = None,
) -> Response:
    """Messages, the newest first: those that failed, those of one provider, those of a day."""
    service, wanted = services_of(request).messages, MessageFilter(status, provider, conversation_id, since, until)
    return pages.answer(await service.newest(tenant_id(request), wanted, limit=pages.limit, cursor=pages.cursor))


@reads.get("/{message_id}", response_model=MessageDetail, responses=responses(404))
async def get_message(request: Request, message_id: MessageId) -> Response:
    """A message, its status, and every attempt to deliver it."""
    detail = await services_of(request).messages.detail(tenant_id(request), message_id)
    return Response(detail, media_type="application/json")


@router.get("/{message_id}/timeline", response_model=list[StepView], responses=responses(404))
async def get_timeline(message_id: MessageId, service: MessagesDep, tenant: TenantDep) -> list[Step]:
    """Every step of a message in order, each with its time and a sentence."""
    return await service.timeline(tenant, message_id)


@router.post("/{message_id}/cancel", response_model=MessageDetail, responses=responses(404, 409))
async def cancel_message(message_id: MessageId, service: MessagesDep, tenant: TenantDep) -> Message:
    """Cancel a message that has not left."""
    return await service.cancel(tenant, message_id)


@router.post("/{message_id}/retry", response_model=MessageDetail, responses=responses(404, 409))
async def retry_message(message_id: MessageId, service: MessagesDep, tenant: TenantDep) -> Message:
    """Retry a message that has failed or whose outcome is unknown.

    It gets a full count of attempts, and counts against the daily cap again.
    """
    return await service.retry(tenant, message_id)
