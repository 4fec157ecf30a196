"""What would become of a message, told without storing it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from app.dependencies import tenant_id
from app.domain import Address, Channel, MessageType, NewMessage
from app.errors import FieldError
from app.http.hot_route import HotRoute
from app.http.problems import invalid_request, responses
from app.providers.base import OutboundMessage
from app.providers.registry import provider_registry
from app.routers.messages import NOT_YOURS, Send, channel_context
from app.routing import route_of
from app.schemas.fields import ChannelRecipient, ChannelSender, EmailAddress, SmsRecipient, SmsSender
from app.schemas.sending import ChannelSend, EmailSend, Preview, PreviewView, SmsSend
from app.schemas.views import FieldProblem
from app.segments import hints, segments_of

#: What each channel's send takes, and how its two ends are read; `ChannelSend` for all others.
_SENDS: Mapping[str, type[SmsSend | EmailSend]] = {Channel.SMS: SmsSend, Channel.EMAIL: EmailSend}
_ENDS: Mapping[type[BaseModel], tuple[TypeAdapter[Address], TypeAdapter[Address]]] = {
    SmsSend: (TypeAdapter(SmsSender), TypeAdapter(SmsRecipient)),
    EmailSend: (TypeAdapter(EmailAddress), TypeAdapter(EmailAddress)),
    ChannelSend: (TypeAdapter(ChannelSender), TypeAdapter(ChannelRecipient)),
}

hot = APIRouter(
    prefix="/api/messages",
    tags=["messages"],
    route_class=HotRoute,
    responses=responses(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)


@hot.post("/preview", response_model=PreviewView)
async def preview_message(preview: Preview, request: Request) -> PreviewView:
    """What would become of a message: the addresses as they are understood, who would be asked to send it, what it is
    cut into, and why it would be refused, here or by the first who would be asked. Nothing is stored, sent or counted
    against a daily cap."""
    settings, services, channel = request.app.state.settings, request.app.state.services, preview.channel
    context = request.app.state.reading_context | channel_context(settings, channel)
    fields = preview.model_extra or {}
    message, refused = _read(fields, channel, context)
    sender, recipient = _ends(fields, channel, context)
    route = route_of(settings, channel)
    if not route:
        refused.append(FieldError("body.channel", "no provider here carries this channel"))
    owns = sender is not None and await services.addresses.tenant_of(sender) == tenant_id(request)
    if sender is not None and not owns:
        refused.append(NOT_YOURS)
    if message is not None:
        new_message = _new_message(message, channel, tenant_id(request))
        refused += [FieldError(f"body.{name}", sentence) for name, sentence in message.is_over().items()]
        if over := await services.spending.refusal_of(new_message):
            refused.append(FieldError("body.to", over.detail))
        refused += [FieldError(f"body.{name}", sentence) for name, sentence in _refusals(route, new_message).items()]
    text = _text_of(fields, channel, most=settings.max_text_length)
    return PreviewView(
        channel=channel,
        from_=sender and sender.value,
        to=recipient and recipient.value,
        route=route,
        may_send_from=owns,
        segments=None if text is None else segments_of(text),
        hints=[] if text is None else hints(text),
        refused=[FieldProblem(location=error.location, message=error.message) for error in refused],
    )


def _read(
    fields: Mapping[str, Any], channel: str, context: Mapping[str, Any]
) -> tuple[Send | None, list[FieldError]]:
    """The message, as its channel's own route reads it, or what is wrong with its fields."""
    try:
        return _SENDS.get(channel, ChannelSend).model_validate_json(to_json(fields), context=dict(context)), []
    except ValidationError as error:
        return None, invalid_request(error.errors(include_url=False, include_input=False), within="body").errors


def _ends(fields: Mapping[str, Any], channel: str, context: Mapping[str, Any]) -> list[Address | None]:
    """Both addresses, whatever is wrong with the rest."""
    found: list[Address | None] = []
    for name, end in zip(("from", "to"), _ENDS[_SENDS.get(channel, ChannelSend)], strict=True):
        try:
            found.append(end.validate_python(fields.get(name), context=dict(context)))
        except ValidationError:
            found.append(None)
    return found


def _new_message(message: Send, channel: str, tenant: int) -> NewMessage:
    return message.new_message(channel, tenant) if isinstance(message, ChannelSend) else message.new_message(tenant)


def _refusals(route: Sequence[str], message: NewMessage) -> Mapping[str, str]:
    """What the first of a route would never take, by field; a route may be ahead of its providers."""
    provider = provider_registry.get(route[0]) if route else None
    if provider is None:
        return {}
    payload = OutboundMessage(
        message_id=0,  # it has none yet, and nothing is decided by it
        channel=message.channel,
        type=message.type,
        from_address=message.sender.value,
        to_address=message.recipient.value,
        body=message.body,
        idempotency_key="",
        subject=message.subject,
        attachments=message.attachments,
    )
    return provider.refusals(payload)


def _text_of(fields: Mapping[str, Any], channel: str, *, most: int) -> str | None:
    """What is cut into segments: the body of a text that is not too long, and not of a media message."""
    body = fields.get("body")
    is_text = channel == Channel.SMS and fields.get("type") != MessageType.MMS
    return body if is_text and isinstance(body, str) and len(body) <= most else None
