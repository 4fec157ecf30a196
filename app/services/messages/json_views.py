"""Conversations and messages as JSON made by PostgreSQL: the same as `app.schemas.views` makes of their rows."""

from typing import Any

from sqlalchemy import ColumnElement, case, cast, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import DateTime

from app.db.json_text import NOTHING, any_of, constant, json_list, json_object, json_of_texts, json_value, member
from app.db.models import Conversation, DeliveryAttempt, Message
from app.services.consent.check import IS_REFUSED

CONVERSATION = json_object(
    {
        "id": Conversation.id,
        "last_updated": Conversation.last_activity_at,
        "customer_address": Conversation.customer_address,
        "contact_address": Conversation.contact_address,
        "message_count": Conversation.message_count,
    },
    case(
        (
            Conversation.paused_until > func.now(),
            func.concat(constant(',"paused_until":'), json_value(Conversation.paused_until)),
        ),
        else_=NOTHING,
    ),
    case((IS_REFUSED, constant(',"refused":true')), else_=NOTHING),
)


def _text(name: str) -> ColumnElement[str]:
    value = Message.details[constant(name)].astext
    return member(name, value, func.to_json(value), empty="")


def _list(name: str) -> ColumnElement[str]:
    value = Message.details[constant(name)]
    return member(name, value, json_list(value), empty="[]")


def _texts(name: str) -> ColumnElement[str]:
    value = Message.details[constant(name)]
    return member(name, value, json_of_texts(value), empty="{}")


def _time(name: str) -> ColumnElement[str]:
    value = Message.details[constant(name)].astext
    return member(name, value, json_value(cast(value, DateTime(timezone=True))), empty="")


def _number(name: str) -> ColumnElement[str]:
    value = Message.details[constant(name)].astext
    return member(name, value, value, empty="0")


_FIELDS: dict[str, ColumnElement[Any] | InstrumentedAttribute[Any]] = {
    "id": Message.id,
    "conversation_id": Message.conversation_id,
    "direction": Message.direction,
    "channel": Message.channel,
    "type": Message.type,
    "from": Message.from_address,
    "to": Message.to_address,
    "subject": Message.subject,
    "body": Message.body,
    "quoted": Message.quoted,
    "attachments": Message.attachments,
    "status": Message.status,
    "status_reason": Message.status_reason,
    "provider_type": Message.provider_type,
    "provider_message_id": Message.provider_message_id,
    "sent_at": Message.sent_at,
    "created_at": Message.created_at,
}
_HTML = member("html", Message.html, func.to_json(Message.html), empty="")
_DETAILS = any_of(
    Message.details.is_(None),
    _text("from_name"),
    _text("author"),
    _list("reply_to"),
    _list("cc"),
    _text("automatic"),
    _time("date"),
    _number("in_reply_to_message"),
    _text("sent_to"),
    _texts("verdicts"),
)
_TOPIC = member("topic", Message.topic, func.to_json(Message.topic), empty="")
_PURPOSE = member("purpose", Message.purpose, func.to_json(Message.purpose), empty="")
MESSAGE = json_object(_FIELDS, _HTML, _TOPIC, _PURPOSE, _DETAILS)

_attempt = json_object(
    {
        name: getattr(DeliveryAttempt, name)
        for name in (
            "number",
            "provider_type",
            "routed_because",
            "outcome",
            "detail",
            "provider_message_id",
            "started_at",
            "finished_at",
        )
    }
)
_in_order = func.string_agg(_attempt, aggregate_order_by(constant(","), DeliveryAttempt.number))
_attempts = (
    select(func.concat(constant("["), _in_order, constant("]")))
    .where(DeliveryAttempt.tenant_id == Message.tenant_id, DeliveryAttempt.message_id == Message.id)
    .correlate(Message)
    .scalar_subquery()
)
#: A message with its attempts.
MESSAGE_DETAIL = json_object(
    _FIELDS,
    _HTML,
    _TOPIC,
    _PURPOSE,
    _DETAILS,
    constant(',"attempt_count":'),
    Message.attempt_count,
    constant(',"due_at":'),
    json_value(Message.due_at),
    constant(',"expires_at":'),
    json_value(Message.expires_at),
    constant(',"attempts":'),
    _attempts,
)
