"""The SQL of accepting messages: two look-ups of duplicates, and two statements that store a batch.

`tests/services/accept/store_known.sql` and `store_first.sql` show those as PostgreSQL gets them.
"""

import json
from enum import IntEnum
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.selectable import LateralFromClause
from sqlalchemy.types import TypeEngine

from app.db.batches import TENANT, rows, same
from app.db.models import Conversation, Message
from app.domain import NO_DETAILS, Direction, MessageStatus, NewMessage
from app.services.accept.beginnings import BEGINNING_COLUMNS, Beginnings, beginnings
from app.services.accept.loops import HELD_UNTIL, IS_PAUSED_NOW, PAUSE_FACTS, counted_answers
from app.services.event_log.entries import entries_of_begun, entries_of_paused, entries_of_stored


class Outcome(IntEnum):
    """The kind of a row that tells of a message, or of a conversation."""

    STORED = 0
    REPEAT = 1  #: `id`, `conversation_id` and `fingerprint` are those of the message that was there
    BEGUN = 2  #: a conversation; `id` is the number of messages that it was made for


#: The columns by which a message of a batch is told from the others.
_SHOWN = ("channel", "from_address", "to_address", "provider_type", "provider_message_id", "idempotency_key")
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
    "topic": Text(),
    "purpose": Text(),
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
        message.topic,
        message.purpose,
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


def _earlier(arriving: FromClause) -> LateralFromClause:
    """The message that an arriving one repeats."""
    place = Message.id, Message.conversation_id
    by_provider_id = select(*place, cast(null(), Text()).label("request_fingerprint"))
    by_key = select(*place, Message.request_fingerprint)
    return (
        union_all(
            by_provider_id.where(_has_provider_id_of(arriving)).correlate(arriving),
            by_key.where(_has_key_of(arriving)).correlate(arriving),
        )
        .limit(1)
        .lateral("earlier")
    )


def _locked(arriving: FromClause, begun: Beginnings | None) -> CTE:
    """Lock the conversations of messages in id order, as every writer does, after new ones have been inserted."""
    pairs = select(arriving.c.customer_address, arriving.c.contact_address).distinct().subquery("pairs")
    found = (
        select(
            Conversation.id,
            Conversation.customer_address,
            Conversation.contact_address,
            HELD_UNTIL.label("held_until"),
        )
        .join(pairs, same(Conversation, pairs, "customer_address", "contact_address"))
        .order_by(Conversation.id)
        .with_for_update(of=Conversation, key_share=True)
    )
    return (found if begun is None else found.where(begun.are_inserted)).cte("locked")


def _fresh(seen: CTE, places: FromClause) -> CTE:
    """The messages to be stored, with their conversations."""
    is_its = and_(
        places.c.customer_address == seen.c.customer_address, places.c.contact_address == seen.c.contact_address
    )
    columns = *seen.c, places.c.id.label("conversation_id"), places.c.held_until
    return select(*columns).join(places, is_its).where(seen.c.earlier_id.is_(None)).cte("fresh")


def _stored(fresh: CTE) -> CTE:
    is_outbound = fresh.c.direction == Direction.OUTBOUND.value
    # An outbound message that a provider has already was sent elsewhere, and only becomes known here.
    was_sent = fresh.c.provider_message_id.is_not(None)
    leaves_at = func.greatest(func.coalesce(fresh.c.send_at, func.now()), fresh.c.held_until)
    inserted: dict[str, ColumnElement[Any]] = {
        "tenant_id": TENANT,
        "conversation_id": fresh.c.conversation_id,
        **{name: fresh.c[name] for name in MESSAGE_COLUMNS},
        "attachments": cast(fresh.c.attachments, JSONB),
        "details": cast(fresh.c.details, JSONB),
        "sent_at": func.coalesce(fresh.c.sent_at, func.now()),
        "status": case(
            (~is_outbound, MessageStatus.RECEIVED.value),
            (was_sent, MessageStatus.SENT.value),
            (fresh.c.send_at.is_not(None), MessageStatus.SCHEDULED.value),
            else_=MessageStatus.QUEUED.value,
        ),
        "due_at": case(
            (and_(is_outbound, ~was_sent), func.least(leaves_at, fresh.c.expires_at)),
            else_=null(),
        ),
    }
    return (
        insert(Message)
        .from_select(list(inserted), select(*inserted.values()).order_by(fresh.c.position))
        .on_conflict_do_nothing()
        .returning(
            Message.id,
            Message.conversation_id,
            *(getattr(Message, name) for name in _SHOWN),
            Message.sent_at,
            Message.status,
        )
        .cte("stored")
    )


def _counted(stored: CTE) -> CTE:
    """Count the messages of conversations that existed. New ones begin with their counts."""
    is_to_be_sent = or_(
        stored.c.status == MessageStatus.QUEUED.value, stored.c.status == MessageStatus.SCHEDULED.value
    )
    added = (
        select(
            stored.c.conversation_id,
            func.count().label("added"),
            func.max(stored.c.sent_at).label("newest"),
            func.bool_or(stored.c.status == MessageStatus.RECEIVED.value).label("receives"),
            func.bool_or(is_to_be_sent).label("sends"),
        )
        .group_by(stored.c.conversation_id)
        .subquery("added")
    )
    return (
        update(Conversation)
        .where(Conversation.tenant_id == TENANT, Conversation.id == added.c.conversation_id)
        .values(
            message_count=Conversation.message_count + added.c.added,
            # A caller's clock that is ahead must not hold a conversation at the top of the list.
            last_activity_at=func.greatest(Conversation.last_activity_at, func.least(added.c.newest, func.now())),
            **counted_answers(added.c.receives, added.c.sends),
        )
        .returning(Conversation.id, IS_PAUSED_NOW.label("is_paused_now"))
        .cte("counted")
    )


def _statement(*, begins: bool) -> Executable:
    """A row for each message that is stored, and for each that is a repeat (`Outcome`).

    With `begins`, conversations that are missing are created, and a row tells how many messages each was made for.
    """
    ends = {"customer_address": Text(), "contact_address": Text(), **(BEGINNING_COLUMNS if begins else {})}
    arriving = rows(**ends, **MESSAGE_COLUMNS).render_derived(name="arriving")
    earlier = _earlier(arriving)
    seen = (
        select(
            *arriving.c,
            earlier.c.id.label("earlier_id"),
            earlier.c.conversation_id.label("earlier_conversation_id"),
            earlier.c.request_fingerprint.label("earlier_fingerprint"),
        )
        .select_from(arriving.outerjoin(earlier, true()))
        .cte("seen")
    )
    begun = beginnings(seen) if begins else None
    locked = _locked(arriving, begun)
    places = locked if begun is None else union_all(select(locked), begun.places).subquery("places")
    stored = _stored(_fresh(seen, places))
    counted = _counted(stored)
    outcomes = [
        _outcome(Outcome.STORED, stored.c.id, stored.c.conversation_id, null(), stored),
        _outcome(
            Outcome.REPEAT, seen.c.earlier_id, seen.c.earlier_conversation_id, seen.c.earlier_fingerprint, seen
        ).where(seen.c.earlier_id.is_not(None)),
    ]
    if begun is None:
        written = [entries_of_stored(stored)]
    else:
        outcomes.append(_outcome(Outcome.BEGUN, begun.made.c.message_count, begun.made.c.id, null(), None))
        written = [begun.participants, entries_of_begun(begun.contacts, begun.made, stored)]
    paused = entries_of_paused(counted, counted.c.is_paused_now, PAUSE_FACTS)
    return union_all(*outcomes).add_cte(counted, *written, paused)


def _outcome(
    kind: Outcome, id: Any, conversation_id: Any, fingerprint: Any, message: FromClause | None
) -> Select[Any]:
    shown = [null() if message is None else message.c[name] for name in _SHOWN]
    return select(
        literal(kind.value, Integer()).label("kind"),
        cast(id, BigInteger()).label("id"),
        conversation_id.label("conversation_id"),
        cast(fingerprint, Text()).label("fingerprint"),
        *(cast(column, Text()).label(name) for name, column in zip(_SHOWN, shown, strict=True)),
    )


#: For messages whose conversation exists; one whose does not has no row.
STORE_KNOWN = _statement(begins=False)
#: For messages that may be the first of their conversations. One that another writer began meanwhile has no row.
STORE_FIRST = _statement(begins=True)
