"""A preview of a message, which is not stored."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.dependencies import services_of, tenant_id
from app.domain import Address, Channel, MessageType, NewMessage
from app.errors import FieldError, InvalidRequest
from app.http.hot_route import HotRoute
from app.installation import KeyScope
from app.routers.messages import SEND_ERRORS, channel_context, message_in
from app.schemas.fields import ChannelRecipient, ChannelSender, EmailAddress, SmsRecipient, SmsSender
from app.schemas.sending import ChannelSend, EmailSend, Preview, PreviewView, RefusalView, SmsSend, send_of
from app.schemas.views import FieldProblem
from app.segments import hints, segments_of
from app.services.consent.ledger import SENTENCES, Refusal

#: How the two ends of each send are read.
_ENDS: Mapping[type[BaseModel], tuple[TypeAdapter[Address], TypeAdapter[Address]]] = {
    SmsSend: (TypeAdapter(SmsSender), TypeAdapter(SmsRecipient)),
    EmailSend: (TypeAdapter(EmailAddress), TypeAdapter(EmailAddress)),
    ChannelSend: (TypeAdapter(ChannelSender), TypeAdapter(ChannelRecipient)),
}

hot = APIRouter(prefix="/api/messages", tags=["messages"], route_class=HotRoute, responses=SEND_ERRORS)


@hot.post("/preview", response_model=PreviewView)
async def preview_message(preview: Preview, request: Request) -> PreviewView:
    """Check a message without sending it: its normalised addresses, route and segments, and each reason to refuse it.

    The reasons are ours and those of the first provider of its route. Nothing is stored, sent or counted against a
    daily cap.
    """
    settings, channel = request.app.state.settings, preview.channel
    context = request.app.state.reading_context | channel_context(settings, channel)
    fields = preview.model_extra or {}
    message: NewMessage | None = None
    errors: Sequence[FieldError] = ()
    try:
        message = message_in(request, channel, fields)
    except InvalidRequest as refused:
        errors = refused.errors
    sender, recipient = _ends(fields, channel, context)
    may_serve = KeyScope.SERVICE in request.scope["state"]["access"].scopes
    rules = services_of(request).send_rules
    found = await rules.preview(tenant_id(request), channel, sender, message, may_serve=may_serve)
    text = _text_of(fields, channel, most=settings.max_text_length)
    return PreviewView(
        channel=channel,
        from_=sender and sender.spelling,
        to=recipient and recipient.spelling,
        route=found.route,
        may_send_from=found.may_send_from,
        segments=None if text is None else segments_of(text),
        hints=[] if text is None else hints(text),
        refused=[FieldProblem(location=each.location, message=each.message) for each in (*errors, *found.refused)],
        suppressed_by=None if found.refusal is None else _shown(found.refusal),
        quiet_until=found.quiet_until,
    )


def _shown(refusal: Refusal) -> RefusalView:
    return RefusalView(
        source=refusal.source, scope=refusal.scope, since=refusal.created_at, sentence=SENTENCES[refusal.source]
    )


def _ends(fields: Mapping[str, Any], channel: str, context: Mapping[str, Any]) -> list[Address | None]:
    """Both addresses, the first of several, also where other fields are wrong; None for one that can't be read."""
    found: list[Address | None] = []
    for name, end in zip(("from", "to"), _ENDS[send_of(channel)], strict=True):
        written = fields.get(name)
        first = written[0] if isinstance(written, list) and written else written
        try:
            found.append(end.validate_python(first, context=dict(context)))
        except ValidationError:
            found.append(None)
    return found


def _text_of(fields: Mapping[str, Any], channel: str, *, most: int) -> str | None:
    """The body that is cut into segments: that of a text that is not too long, and not of a media message."""
    body = fields.get("body")
    is_text = channel == Channel.SMS and fields.get("type") != MessageType.MMS
    return body if is_text and isinstance(body, str) and len(body) <= most else None
