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
    SmallInteger,
    Text,
    Update,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.selectable import LateralFromClause
from sqlalchemy.types import TypeEngine

from app.batches import HOLDING, BatchState, Priority
from app.db.models import Batch, Conversation, Message
from app.db.statements.batches import AT_HELD, TENANT, rows, same
from app.details import LONGEST_NAME, NO_DETAILS
from app.domain import ConversationStatus, Direction, MessageStatus, NewMessage
from app.services.accept.beginnings import BEGINNING_COLUMNS, Beginnings, beginnings
from app.services.accept.details import metadata_of, named_in, names_learned
from app.services.accept.loops import COMPUTED, HELD_UNTIL, PAUSE_FACTS, Moments, counted_answers, is_paused_now
from app.services.event_log.entries import entries_of_begun, entries_of_counted, entries_of_stored
from app.services.search.queue import queue_rows, queued_messages


class Outcome(IntEnum):
    """The kind of a row that tells of a message, or of a conversation."""

    STORED = 0
    REPEAT = 1  #: `id`, `conversation_id` and `fingerprint` are those of the message that was there
    BEGUN = 2  #: a conversation; `id` is the number of messages that it was made for


#: The columns by which a message of a batch is told from the others.
SHOWN = (
    "channel",
    "from_address",
    "to_address",
    "provider_type",
    "provider_message_id",
    "idempotency_key",
    "batch_id",
    "batch_line",
)
#: The two ends of a message's conversation, and the name of the contact where the message tells it.
END_COLUMNS: dict[str, TypeEngine[Any]] = {
    "customer_address": Text(),
    "contact_address": Text(),
    "contact_name": Text(),
}
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
    "priority": SmallInteger(),
    "batch_id": BigInteger(),
    "batch_line": Integer(),
    "author": Text(),
}
#: All that both statements take; each names a value of `values_of`.
COLUMNS = END_COLUMNS | MESSAGE_COLUMNS


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
        message.priority,
        message.batch_id,
        message.batch_line,
        message.author or message.details.author,
    )


def values_of(message: NewMessage) -> tuple[Any, ...]:
    """The values of `COLUMNS`, in their order."""
    return message.customer.value, message.contact.value, contact_name_of(message), *message_values(message)


def contact_name_of(message: NewMessage) -> str | None:
    """The name of the contact, where the message tells it; the author of a group's message is not its contact."""
    details = message.details
    if details is NO_DETAILS:
        return None
    inbound = None if details.author else details.from_name
    name = details.to_name if message.direction is Direction.OUTBOUND else inbound
    return name[:LONGEST_NAME] if name else None


def _has_provider_id_of(other: FromClause) -> ColumnElement[bool]:
    has_id = Message.provider_message_id.is_not(None)  # lets PostgreSQL use the partial index
    return and_(same(Message, other, "provider_type", "provider_message_id"), has_id)


def _has_key_of(other: FromClause) -> ColumnElement[bool]:
    return and_(same(Message, other, "channel", "idempotency_key"), Message.idempotency_key.is_not(None))


def _is_line_of(other: FromClause) -> ColumnElement[bool]:
    return and_(same(Message, other, "batch_id", "batch_line"), Message.batch_id.is_not(None))


_wanted_ids = rows(provider_type=Text(), provider_message_id=Text())
FIND_BY_PROVIDER_ID: Executable = select(
    Message.provider_type, Message.provider_message_id, Message.id, Message.conversation_id
).join(_wanted_ids, _has_provider_id_of(_wanted_ids))
_wanted_keys = rows(channel=Text(), idempotency_key=Text())
FIND_BY_KEY: Executable = select(
    Message.channel, Message.idempotency_key, Message.id, Message.conversation_id, Message.request_fingerprint
).join(_wanted_keys, _has_key_of(_wanted_keys))
_wanted_lines = rows(batch_id=BigInteger(), batch_line=Integer())
FIND_BY_LINE: Executable = select(
    Message.batch_id, Message.batch_line, Message.id, Message.conversation_id, Message.request_fingerprint
).join(_wanted_lines, _is_line_of(_wanted_lines))


def _earlier(arriving: FromClause) -> LateralFromClause:
    """The message that an arriving one repeats."""
    place = Message.id, Message.conversation_id
    by_provider_id = select(*place, cast(null(), Text()).label("request_fingerprint"))
    by_key = select(*place, Message.request_fingerprint)
    return (
        union_all(
            by_provider_id.where(_has_provider_id_of(arriving)).correlate(arriving),
            by_key.where(_has_key_of(arriving)).correlate(arriving),
            by_key.where(_is_line_of(arriving)).correlate(arriving),
        )
        .limit(1)
        .lateral("earlier")
    )


def lock_conversations(pairs: FromClause, *further: ColumnElement[Any]) -> Select[Any]:
    """Lock the conversations of pairs in id order, as every writer does; with `further` columns."""
    return (
        select(
            Conversation.id,
            Conversation.customer_address,
            Conversation.contact_address,
            HELD_UNTIL.label("held_until"),
            (Conversation.status != ConversationStatus.OPEN.value).label("is_put_away"),
            *further,
        )
        .join(pairs, same(Conversation, pairs, "customer_address", "contact_address"))
        .order_by(Conversation.id)
        .with_for_update(of=Conversation, key_share=True)
    )


def _locked(arriving: FromClause, begun: Beginnings | None) -> CTE:
    """Lock the conversations of messages, after new ones have been inserted."""
    found = lock_conversations(
        select(arriving.c.customer_address, arriving.c.contact_address).distinct().subquery("pairs")
    )
    return (found if begun is None else found.where(begun.are_inserted)).cte("locked")


def _fresh(seen: CTE, places: FromClause) -> CTE:
    """The messages to be stored, with their conversations."""
    is_its = and_(
        places.c.customer_address == seen.c.customer_address, places.c.contact_address == seen.c.contact_address
    )
    columns = *seen.c, places.c.id.label("conversation_id"), places.c.held_until
    return select(*columns).join(places, is_its).where(seen.c.earlier_id.is_(None)).cte("fresh")


def _has_holding_batch(fresh: CTE) -> ColumnElement[bool]:
    """True for a line of a batch that is paused or canceled."""
    leaves = or_(*(Batch.state == each.value for each in BatchState if each not in HOLDING))
    its_batch = select(Batch.id).where(Batch.tenant_id == TENANT, Batch.id == fresh.c.batch_id, not_(leaves))
    return its_batch.correlate(fresh).exists()


def message_insert(fresh: FromClause, is_held: ColumnElement[bool]) -> ReturningInsert[Any]:
    """An INSERT of messages with `MESSAGE_COLUMNS`, `conversation_id` and `held_until`, in the order of `position`.

    `is_held` is true for a line of a batch that does not leave. Messages that are there already are left out.
    """
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
        "priority": func.coalesce(fresh.c.priority, Priority.NORMAL.value),
        "status": case(
            (~is_outbound, MessageStatus.RECEIVED.value),
            (was_sent, MessageStatus.SENT.value),
            (fresh.c.send_at.is_not(None), MessageStatus.SCHEDULED.value),
            else_=MessageStatus.QUEUED.value,
        ),
        "due_at": case(
            (is_held, AT_HELD),
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
            *(getattr(Message, name) for name in SHOWN),
            Message.sent_at,
            Message.status,
            Message.details,
        )
    )


def _stored(fresh: CTE) -> CTE:
    # Only for a line of a batch PostgreSQL looks at the batch.
    is_held = case((fresh.c.batch_id.is_not(None), _has_holding_batch(fresh)), else_=false())
    return message_insert(fresh, is_held).cte("stored")


def _both(channels: ColumnElement[Any]) -> ColumnElement[Any]:
    """The channels of a conversation and these, each once."""
    each = func.unnest(func.array_cat(Conversation.channels, channels)).column_valued("each_channel")
    return select(func.array_agg(each.distinct())).scalar_subquery()


def _counted(stored: CTE, locked: CTE) -> CTE:
    """Count the messages of conversations that existed, and open those that receive. New ones begin with counts."""
    is_to_be_sent = or_(
        stored.c.status == MessageStatus.QUEUED.value, stored.c.status == MessageStatus.SCHEDULED.value
    )
    added = (
        select(
            stored.c.conversation_id,
            func.count().label("added"),
            func.max(stored.c.sent_at).label("newest"),
            func.count().filter(stored.c.status == MessageStatus.RECEIVED.value).label("received"),
            func.bool_or(is_to_be_sent).label("sends"),
            func.array_agg(stored.c.channel.distinct()).label("channels"),
        )
        .group_by(stored.c.conversation_id)
        .subquery("added")
    )
    updated = count_messages(added, COMPUTED).where(locked.c.id == added.c.conversation_id)
    is_opened_now = and_(added.c.received > 0, locked.c.is_put_away)
    return updated.returning(
        Conversation.id, is_paused_now(COMPUTED).label("is_paused_now"), is_opened_now.label("is_opened_now")
    ).cte("counted")


def count_messages(added: FromClause, at: Moments) -> Update:
    """An UPDATE that counts new messages in their conversations, and opens those that receive.

    `added` has for each `conversation_id` the number `added`, the time of the `newest`, the number `received`, if it
    `sends` any, and their `channels`.
    """
    receives = added.c.received > 0
    return (
        update(Conversation)
        .where(Conversation.tenant_id == TENANT, Conversation.id == added.c.conversation_id)
        .values(
            message_count=Conversation.message_count + added.c.added,
            # A caller's clock that is ahead must not hold a conversation at the top of the list.
            last_activity_at=func.greatest(Conversation.last_activity_at, func.least(added.c.newest, at.now)),
            unread_count=Conversation.unread_count + added.c.received,
            status=case((receives, ConversationStatus.OPEN.value), else_=Conversation.status),
            snoozed_until=case((receives, null()), else_=Conversation.snoozed_until),
            channels=case(
                (Conversation.channels.contains(added.c.channels), Conversation.channels),
                else_=_both(added.c.channels),
            ),
            **counted_answers(receives, added.c.sends, at),
        )
    )


def _statement(*, begins: bool, has_details: bool) -> Executable:
    """A row for each message that is stored, and for each that is a repeat (`Outcome`).

    With `begins`, conversations that are missing are created, and a row tells how many messages each was made for.
    Without `has_details`, no message may have details: PostgreSQL prepares each part of a statement, also for no row.
    """
    ends = END_COLUMNS | (BEGINNING_COLUMNS if begins else {})
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
    found = select(locked.c.id, locked.c.customer_address, locked.c.contact_address, locked.c.held_until)
    places = locked if begun is None else union_all(found, begun.places).subquery("places")
    fresh = _fresh(seen, places)
    stored = _stored(fresh)
    counted = _counted(stored, locked)
    outcomes = [
        _outcome(Outcome.STORED, stored.c.id, stored.c.conversation_id, null(), stored),
        _outcome(
            Outcome.REPEAT, seen.c.earlier_id, seen.c.earlier_conversation_id, seen.c.earlier_fingerprint, seen
        ).where(seen.c.earlier_id.is_not(None)),
    ]
    if begun is None:
        written = [entries_of_stored(stored), queue_rows("queued", [queued_messages(stored)])]
    else:
        outcomes.append(_outcome(Outcome.BEGUN, begun.made.c.message_count, begun.made.c.id, null(), None))
        queued = queue_rows("queued", [queued_messages(stored), begun.contacts_for_search])
        written = [begun.participants, entries_of_begun(begun.contacts, begun.made, stored), queued]
    changed = entries_of_counted(counted, PAUSE_FACTS)
    details = (metadata_of(stored), named_in(stored), *names_learned(fresh)) if has_details else ()
    return union_all(*outcomes).add_cte(counted, *written, changed, *details)


def _outcome(
    kind: Outcome, id: Any, conversation_id: Any, fingerprint: Any, message: FromClause | None
) -> Select[Any]:
    shown = [null() if message is None else message.c[name] for name in SHOWN]
    return select(
        literal(kind.value, Integer()).label("kind"),
        cast(id, BigInteger()).label("id"),
        conversation_id.label("conversation_id"),
        cast(fingerprint, Text()).label("fingerprint"),
        *(cast(column, Text()).label(name) for name, column in zip(SHOWN, shown, strict=True)),
    )


#: For messages whose conversation exists; one whose does not has no row. By whether a message has details.
STORE_KNOWN = {has_details: _statement(begins=False, has_details=has_details) for has_details in (False, True)}
#: For messages that may be the first of their conversations. One that another writer began meanwhile has no row.
STORE_FIRST = {has_details: _statement(begins=True, has_details=has_details) for has_details in (False, True)}
