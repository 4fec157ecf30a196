"""Conversations and messages as JSON made by PostgreSQL: the same as `app.schemas.views` makes of their rows."""

from typing import Any

from sqlalchemy import ColumnElement, and_, case, cast, exists, func, literal, literal_column, null, select
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.types import DateTime, Text

from app.batches import Priority
from app.db.models import Contact, Conversation, DeliveryAttempt, Message
from app.db.statements.batches import TENANT
from app.db.statements.json_text import (
    NOTHING,
    any_of,
    constant,
    json_list,
    json_object,
    json_of_texts,
    json_value,
    member,
)
from app.domain import Direction
from app.services.consent.check import IS_REFUSED
from app.services.files.views import FILES_OF_MESSAGE

#: The name of the contact. Asked only where the tenant knows any name.
_contact = aliased(Contact)
_has_names = select(exists().where(_contact.tenant_id == TENANT, _contact.name.is_not(None))).scalar_subquery()
_name_of_contact = (
    select(Contact.name)
    .where(Contact.tenant_id == TENANT, Contact.address == Conversation.contact_address)
    .limit(1)
    .correlate(Conversation)
    .scalar_subquery()
)
_contact_name = func.nullif(case((_has_names, _name_of_contact), else_=null()), NOTHING)
_NO_TEXTS = cast(constant("{}"), JSONB)


def _if_ahead(name: str, time: InstrumentedAttribute[Any]) -> ColumnElement[str]:
    """A time that is not over, left out of the object otherwise."""
    written = func.concat(constant(f',"{name}":'), json_value(time))
    return case((time > func.now(), written), else_=NOTHING)


def _names(name: str, column: InstrumentedAttribute[list[str]]) -> ColumnElement[str]:
    """A list of texts, left out of the object where it is empty."""
    written = func.concat(constant(f',"{name}":'), cast(func.array_to_json(column), Text()))
    return case((func.cardinality(column) > literal_column("0"), written), else_=NOTHING)


_CONVERSATION: list[Any] = [
    {
        "id": Conversation.id,
        "last_updated": Conversation.last_activity_at,
        "customer_address": Conversation.customer_address,
        "contact_address": Conversation.contact_address,
        "message_count": Conversation.message_count,
        "status": Conversation.status,
        "unread_count": Conversation.unread_count,
    },
    _if_ahead("paused_until", Conversation.paused_until),
    _if_ahead("window_until", Conversation.window_until),
    member("snoozed_until", Conversation.snoozed_until, json_value(Conversation.snoozed_until), empty=""),
    member("assignee", Conversation.assignee, func.to_json(Conversation.assignee), empty=""),
    _names("tags", Conversation.tags),
    _names("channels", Conversation.channels),
    member("metadata", Conversation.metadata_pairs, json_of_texts(Conversation.metadata_pairs), empty="{}"),
    func.coalesce(constant(',"contact_name":').concat(cast(func.to_json(_contact_name), Text())), NOTHING),
    case((IS_REFUSED, constant(',"refused":true')), else_=NOTHING),
]
CONVERSATION = json_object(*_CONVERSATION)
_last = aliased(Message)
_last_message = (
    select(
        json_object(
            {
                "id": _last.id,
                "direction": _last.direction,
                "channel": _last.channel,
                "status": _last.status,
                "subject": _last.subject,
                "text": func.left(_last.body, literal_column("200")),
                "author": _last.author,
                "sent_at": _last.sent_at,
            }
        )
    )
    .where(_last.tenant_id == TENANT, _last.conversation_id == Conversation.id)
    .order_by(_last.sent_at.desc(), _last.id.desc())
    .limit(1)
    .correlate(Conversation)
    .scalar_subquery()
)
CONVERSATION_WITH_LAST_MESSAGE = json_object(
    *_CONVERSATION, func.coalesce(constant(',"last_message":').concat(_last_message), NOTHING)
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


def _template() -> ColumnElement[str]:
    value = Message.details[constant("template")]
    header = value[constant("header")].astext
    written = json_object(
        {
            "name": value[constant("name")].astext,
            "language": value[constant("language")].astext,
            "header": cast(header, Text()),
        },
        *(
            func.concat(constant(f',"{name}":'), json_of_texts(func.coalesce(value[constant(name)], _NO_TEXTS)))
            for name in ("parameters", "buttons")
        ),
    )
    return member("template", value, written, empty="")


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
_IS_RECEIVED = Message.direction == constant(Direction.INBOUND.value)
#: Lists have the HTML of what was sent, and say where a received mail has some: 50 of these have megabytes.
_HTML_IN_LISTS = case((_IS_RECEIVED, NOTHING), else_=_HTML)
_HAS_HTML = case((and_(_IS_RECEIVED, Message.html != constant("")), constant(',"has_html":true')), else_=NOTHING)
_DETAILS = any_of(
    Message.details.is_(None),
    _text("from_name"),
    _text("to_name"),
    _list("reply_to"),
    _list("cc"),
    _list("bcc"),
    _texts("names"),
    _list("left_out"),
    _texts("headers"),
    _text("automatic"),
    _time("date"),
    _number("in_reply_to_message"),
    _text("sent_to"),
    _number("sent_with"),
    _texts("verdicts"),
    _template(),
    _time("quiet_until"),
    _texts("metadata"),
)
_TOPIC = member("topic", Message.topic, func.to_json(Message.topic), empty="")
_PURPOSE = member("purpose", Message.purpose, func.to_json(Message.purpose), empty="")
_AUTHOR = member("author", Message.author, func.to_json(Message.author), empty="")
_PRIORITY = case(
    {each.value: constant(f',"priority":"{each.word}"') for each in Priority if each is not Priority.NORMAL},
    value=Message.priority,
    else_=NOTHING,
)
_PLACE_IN_BATCH = any_of(
    Message.batch_id.is_(None),
    member("batch_id", Message.batch_id, Message.batch_id, empty="0"),
    member("batch_line", Message.batch_line, Message.batch_line, empty="0"),
)
#: The name is a parameter, because the tenant guard takes it for that of the table.
_FILES = func.coalesce(literal(',"files":').concat(FILES_OF_MESSAGE), NOTHING)
MESSAGE = json_object(
    _FIELDS, _HTML_IN_LISTS, _HAS_HTML, _TOPIC, _PURPOSE, _PRIORITY, _PLACE_IN_BATCH, _AUTHOR, _DETAILS, _FILES
)

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
    .where(DeliveryAttempt.tenant_id == TENANT, DeliveryAttempt.message_id == Message.id)
    .correlate(Message)
    .scalar_subquery()
)
#: A message with its attempts.
MESSAGE_DETAIL = json_object(
    _FIELDS,
    _HTML,
    _HAS_HTML,
    _TOPIC,
    _PURPOSE,
    _PRIORITY,
    _PLACE_IN_BATCH,
    _AUTHOR,
    _DETAILS,
    _FILES,
    constant(',"attempt_count":'),
    Message.attempt_count,
    constant(',"due_at":'),
    json_value(Message.due_at),
    constant(',"expires_at":'),
    json_value(Message.expires_at),
    constant(',"attempts":'),
    _attempts,
)
