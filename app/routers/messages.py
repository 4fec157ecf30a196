"""Sending messages, reading them, and cancelling or retrying one."""

import re
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.routing import Match
from starlette.types import Scope

from app.config import Settings
from app.dependencies import (
    Id,
    MessageId,
    MessagesDep,
    PagesDep,
    TenantDep,
    metadata_in,
    preferred_wait,
    services_of,
    tenant_id,
)
from app.domain import MessageStatus, MessageType, NewMessage, StoredMessage
from app.errors import ChannelNotFound, FieldError, InvalidRequest
from app.http.access import client_address
from app.http.hot_route import HotRoute
from app.http.problems import invalid_request, responses
from app.http.query import QueryTime
from app.http.read_route import ReadRoute
from app.installation import KeyScope
from app.routing import channels_served, kind_of_addresses, route_of
from app.schemas.fields import Words
from app.schemas.retries import RetryAnswer, RetryRequest
from app.schemas.sending import (
    ChannelSend,
    EmailAccepted,
    EmailSend,
    SendAccepted,
    SentTo,
    SmsAccepted,
    SmsSend,
    send_of,
)
from app.schemas.views import MessageDetail, MessageView, StepView
from app.segments import segments_of
from app.services.messages.reading import MessageFilter
from app.services.messages.retries import RetryFilter
from app.services.messages.timeline import Step

Accepted = TypeVar("Accepted", bound=SendAccepted)

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def _header(name: str, description: str, **schema: object) -> dict[str, object]:
    return {"name": name, "in": "header", "schema": {"type": "string", **schema}, "description": description}


IDEMPOTENT = {
    "parameters": [
        _header("Prefer", "`wait=N` waits up to N seconds for the provider's word (RFC 7240).", examples=["wait=5"]),
        # Without an example, which a reference would fill in: everybody's messages would be the same one.
        _header(
            "Idempotency-Key",
            "A new one for each message, such as a UUID. The same key with the same body is the same message, and is "
            "answered like the first time.",
            pattern=f"^{IDEMPOTENCY_KEY.pattern}$",
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


@hot.post("/sms", response_model=SmsAccepted, openapi_extra=IDEMPOTENT)
async def send_sms(message: SmsSend, request: Request) -> SmsAccepted:
    """Send a text or a media message. Answered once it is durably stored."""
    new = message.new_message(tenant_id(request), idempotency_key(request))
    stored = await sent(new, request)
    segments = segments_of(new.body) if new.type == MessageType.SMS else None
    answer = SmsAccepted(
        message_id=str(stored.id), provider_message_id=None, conversation_id=stored.conversation_id, segments=segments
    )
    return await answer_to(answer, new, stored, request)


@hot.post("/email", response_model=EmailAccepted, openapi_extra=IDEMPOTENT)
async def send_email(message: EmailSend, request: Request) -> EmailAccepted:
    """Send a mail, or one to each of several recipients. Answered once all are durably stored."""
    new = message.new_messages(tenant_id(request), idempotency_key(request))
    if not isinstance(message.to, list):
        return await _accepted(new[0], request, EmailAccepted)
    stored = await services_of(request).messages.send_all(new, **sender_of(request))
    sent_to = [
        SentTo(message_id=str(place.id), conversation_id=place.conversation_id, to=each.recipient.spelling)
        for each, place in zip(new, stored, strict=True)
    ]
    answer = EmailAccepted(
        message_id=str(stored[0].id),
        provider_message_id=None,
        conversation_id=stored[0].conversation_id,
        messages=sent_to,
    )
    repeats = all(each.duplicate for each in stored)
    return await answer_to(answer, new[0], replace(stored[0], duplicate=repeats), request)


@channels.post("/{channel}", response_model=SendAccepted, openapi_extra=IDEMPOTENT)
async def send_on_a_channel(message: ChannelSend, request: Request) -> SendAccepted:
    """Send a message on another channel than text and mail. Answered once it is durably stored."""
    channel = request.path_params["channel"]
    new = message.new_message(channel, tenant_id(request), idempotency_key(request))
    return await _accepted(new, request, SendAccepted)


@hot.post("/retry", response_model=RetryAnswer)
async def retry_messages(wanted: RetryRequest, request: Request) -> RetryAnswer:
    """Retry the messages that a filter finds, the oldest first, each as if it were retried alone.

    Those for which the daily cap is reached stay as they are. If `more` is true, ask again.
    """
    found = RetryFilter(wanted.status, wanted.provider, wanted.batch_id, wanted.since, wanted.until)
    outcome = await services_of(request).messages.retry_all(tenant_id(request), found, limit=wanted.limit)
    return RetryAnswer.model_validate(outcome._asdict())


async def _accepted(new: NewMessage, request: Request, kind: type[Accepted]) -> Accepted:
    stored = await sent(new, request)
    answer = kind(message_id=str(stored.id), provider_message_id=None, conversation_id=stored.conversation_id)
    return await answer_to(answer, new, stored, request)


def message_in(
    request: Request, channel: str, fields: Mapping[str, Any], idempotency_key: str | None = None
) -> NewMessage:
    """The message in the fields of a send, read as the route of its channel reads them. Raises `InvalidRequest`."""
    context = request.app.state.reading_context | channel_context(request.app.state.settings, channel)
    try:
        read = send_of(channel).model_validate_json(to_json(fields), context=context)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False), within="body") from None
    tenant = tenant_id(request)
    if isinstance(read, ChannelSend):
        return read.new_message(channel, tenant, idempotency_key)
    return read.new_message(tenant, idempotency_key)


def sent(new: NewMessage, request: Request) -> Coroutine[Any, Any, StoredMessage]:
    """Send a message for the caller of a request."""
    return services_of(request).messages.send(new, **sender_of(request))


def sender_of(request: Request) -> dict[str, Any]:
    """The arguments of a send that tell who asks for it."""
    access = request.scope["state"]["access"]
    may_serve = KeyScope.SERVICE in access.scopes
    return {
        "actor": access.prefix,
        "author": access.name,
        "client": client_address(request.scope),
        "may_serve": may_serve,
    }


async def answer_to(answer: Accepted, new: NewMessage, stored: StoredMessage, request: Request) -> Accepted:
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


def idempotency_key(request: Request) -> str | None:
    """The key of a request, if it has one. Raises `InvalidRequest` for one that is malformed."""
    written: bytes | None = request.scope["headers_by_name"].get(b"idempotency-key")
    if written is None:
        return None
    key = written.decode("latin-1")
    if not IDEMPOTENCY_KEY.fullmatch(key):
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
    """Messages, the newest first: those that failed, those of one provider, those of a day.

    `metadata.order=17` finds those with this pair of metadata; several pairs combine.
    """
    service, pairs = services_of(request).messages, metadata_in(request)
    wanted = MessageFilter(status, provider, conversation_id, since, until, pairs)
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
async def cancel_message(message_id: MessageId, service: MessagesDep, tenant: TenantDep) -> Response:
    """Cancel a message that has not left."""
    await service.cancel(tenant, message_id)
    return Response(await service.detail(tenant, message_id), media_type="application/json")


@router.post("/{message_id}/retry", response_model=MessageDetail, responses=responses(404, 409))
async def retry_message(message_id: MessageId, service: MessagesDep, tenant: TenantDep) -> Response:
    """Retry a message that has failed or whose outcome is unknown.

    It gets a full count of attempts, and counts against the daily cap again.
    """
    await service.retry(tenant, message_id)
    return Response(await service.detail(tenant, message_id), media_type="application/json")
