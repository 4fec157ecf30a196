"""The SQL of accepting messages: two look-ups of duplicates, and one statement that stores a batch.

`tests/services/accept/store_known.sql` shows that statement as PostgreSQL gets it.
"""

import json
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Executable,
    FromClause,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.types import TypeEngine

from app.db.batches import TENANT, rows, same
from app.db.models import Conversation, Message
from app.domain import NO_DETAILS, Direction, MessageStatus, NewMessage
from app.services.accept.loops import HELD_UNTIL, IS_PAUSED_NOW, PAUSE_FACTS, counted_answers
from app.services.event_log.entries import entries_of_paused, entries_of_stored

#: Each names a value of `message_values`.
MESSAGE_COLUMNS: dict[str, TypeEngine[Any]] = {
    "direction": Text(),
    "channel": Text(),
    "type": Text(),
    "from_address": Text(),
    "to_address": Text(),
    "subject": Text(),
    "body": Text(),
    "attachments": Text(),
    "provider_type": Text(),
    "provider_message_id": Text(),
    "sent_at": DateTime(timezone=True),
    "send_at": DateTime(timezone=True),
    "expires_at": DateTime(timezone=True),
    "idempotency_key": Text(),
    "request_fingerprint": Text(),
    "quoted": Text(),
    "html": Text(),
    "details": Text(),
}


def message_values(message: NewMessage) -> tuple[Any, ...]:
    """The values of `MESSAGE_COLUMNS`, in their order."""
    document = None if message.details is NO_DETAILS else message.details.document()
    return (
        message.direction.value,
        message.channel,
        message.type,
        message.sender.spelling,
        message.recipient.spelling,
        message.subject,
        message.body,
        json.dumps(message.attachments) if message.attachments else "[]",
        message.provider_type,
        message.provider_message_id,
        message.sent_at,
        message.send_at,
        message.expires_at,
        message.idempotency_key,
        message.fingerprint,
        message.quoted,
        message.html,
        json.dumps(document) if document else None,
    )


def _has_provider_id_of(other: FromClause) -> ColumnElement[bool]:
    has_id = Message.provider_message_id.is_not(None)  # lets PostgreSQL use the partial index
    return and_(same(Message, other, "provider_type", "provider_message_id"), has_id)


def _has_key_of(other: FromClause) -> ColumnElement[bool]:
    return and_(same(Message, other, "channel", "idempotency_key"), Message.idempotency_key.is_not(None))


_wanted_ids = rows(provider_type=Text(), provider_message_id=Text())
FIND_BY_PROVIDER_ID: Executable = select(
    Message.provider_type, Message.provider_message_id, Message.id, Message.conversation_id
).join(_wanted_ids, _has_provider_id_of(_wanted_ids))
_wanted_keys = rows(channel=Text(), idempotency_key=Text())
FIND_BY_KEY: Executable = select(
    Message.channel, Message.idempotency_key, Message.id, Message.conversation_id, Message.request_fingerprint
).join(_wanted_keys, _has_key_of(_wanted_keys))

_arriving = rows(customer_address=Text(), contact_address=Text(), **MESSAGE_COLUMNS).render_derived(name="arriving")
_pairs = select(_arriving.c.customer_address, _arriving.c.contact_address).distinct().subquery("pairs")
_locked = (
    select(
        Conversation.id,
        Conversation.customer_address,
        Conversation.contact_address,
        HELD_UNTIL.label("held_until"),
    )
    .join(_pairs, same(Conversation, _pairs, "customer_address", "contact_address"))
    .order_by(Conversation.id)
    .with_for_update(of=Conversation, key_share=True)
    .cte("locked")
)
_has_identity = or_(_arriving.c.provider_message_id.is_not(None), _arriving.c.idempotency_key.is_not(None))
_is_repeat = or_(exists().where(_has_provider_id_of(_arriving)), exists().where(_has_key_of(_arriving)))
_fresh = (
    select(*_arriving.c, _locked.c.id.label("conversation_id"), _locked.c.held_until)
    .join(
        _locked,
        and_(
            _locked.c.customer_address == _arriving.c.customer_address,
            _locked.c.contact_address == _arriving.c.contact_address,
        ),
    )
    .where(case((_has_identity, ~_is_repeat), else_=true()))
    .cte("fresh")
)
_is_outbound = _fresh.c.direction == Direction.OUTBOUND.value
#: An outbound message that a provider has already was sent elsewhere, and only becomes known here.
_was_sent = _fresh.c.provider_message_id.is_not(None)
_leaves_at = func.greatest(func.coalesce(_fresh.c.send_at, func.now()), _fresh.c.held_until)
_due_at = func.least(_leaves_at, _fresh.c.expires_at)
_inserted: dict[str, ColumnElement[Any]] = {
    "tenant_id": TENANT,
    "conversation_id": _fresh.c.conversation_id,
    **{name: _fresh.c[name] for name in MESSAGE_COLUMNS},
    "attachments": cast(_fresh.c.attachments, JSONB),
    "details": cast(_fresh.c.details, JSONB),
    "sent_at": func.coalesce(_fresh.c.sent_at, func.now()),
    "status": case(
        (~_is_outbound, MessageStatus.RECEIVED.value),
        (_was_sent, MessageStatus.SENT.value),
        (_fresh.c.send_at.is_not(None), MessageStatus.SCHEDULED.value),
        else_=MessageStatus.QUEUED.value,
    ),
    "due_at": case((and_(_is_outbound, ~_was_sent), _due_at), else_=null()),
}
_stored = (
    insert(Message)
    .from_select(list(_inserted), select(*_inserted.values()).order_by(_fresh.c.position))
    .on_conflict_do_nothing()
    .returning(
        Message.id,
        Message.conversation_id,
        Message.channel,
        Message.from_address,
        Message.to_address,
        Message.provider_type,
        Message.provider_message_id,
        Message.idempotency_key,
        Message.sent_at,
        Message.status,
    )
    .cte("stored")
)
_is_to_be_sent = or_(
    _stored.c.status == MessageStatus.QUEUED.value, _stored.c.status == MessageStatus.SCHEDULED.value
)
_added = (
    select(
        _stored.c.conversation_id,
        func.count().label("added"),
        func.max(_stored.c.sent_at).label("newest"),
        func.bool_or(_stored.c.status == MessageStatus.RECEIVED.value).label("receives"),
        func.bool_or(_is_to_be_sent).label("sends"),
    )
    .group_by(_stored.c.conversation_id)
    .subquery("added")
)
_counted = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _added.c.conversation_id)
    .values(
        message_count=Conversation.message_count + _added.c.added,
        # A caller's clock that is ahead must not hold a conversation at the top of the list.
        last_activity_at=func.greatest(Conversation.last_activity_at, func.least(_added.c.newest, func.now())),
        **counted_answers(_added.c.receives, _added.c.sends),
    )
    .returning(Conversation.id, IS_PAUSED_NOW.label("is_paused_now"))
    .cte("counted")
)
#: Stores the messages whose conversation exists and that are no repeats; a row for each that it has stored.
STORE_KNOWN = select(_stored).add_cte(
    _counted, entries_of_stored(_stored), entries_of_paused(_counted, _counted.c.is_paused_now, PAUSE_FACTS)
)
