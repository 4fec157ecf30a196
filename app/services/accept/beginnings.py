"""The part of the statement that stores messages which begins conversations, with their contacts and participants.

Rows are inserted in key order, contacts before conversations, as `make_conversations` does it. What another writer
inserts at the same moment is left out; its messages are stored in another way.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal,
    null,
    select,
    union,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_missing
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from app.db.models import Contact, Conversation, ConversationParticipant
from app.db.statements.batches import TENANT, same
from app.domain import Direction, ParticipantRole, StoredMessage
from app.services.search.queue import queued_contacts

#: The kinds of a message's ends, and the addresses as they were written, if that differs.
BEGINNING_COLUMNS: dict[str, TypeEngine[Any]] = {
    "customer_type": Text(),
    "contact_type": Text(),
    "customer_written": Text(),
    "contact_written": Text(),
}


@dataclass(frozen=True, slots=True)
class Beginnings:
    """The inserts: of contacts, of conversations with their counts, and of participants."""

    contacts: CTE
    made: CTE
    participants: CTE

    @property
    def are_inserted(self) -> ColumnElement[bool]:
        """A condition that is true, once all conversations have been inserted."""
        return _are_inserted(self.made)

    @property
    def contacts_for_search(self) -> Select[Any]:
        """The rows of the search queue for the contacts of new conversations."""
        return queued_contacts(self.participants, self.participants.c.role == ParticipantRole.CONTACT.value)

    @property
    def places(self) -> Select[Any]:
        """The new conversations, in the form of those that are found."""
        made = self.made.c
        return select(made.id, made.customer_address, made.contact_address, cast(null(), DateTime(timezone=True)))


def _are_inserted(rows: CTE) -> ColumnElement[bool]:
    return select(func.count()).select_from(rows).scalar_subquery() >= 0


def beginnings(seen: CTE) -> Beginnings:
    """Begin the conversations of messages where they are missing. `seen` has a null `earlier_id` for new messages."""
    missing = _missing(seen)
    ends = _ends(missing)
    found = (
        select(Contact.id, Contact.address, Contact.address_type)
        .join(ends, same(Contact, ends, "address", "address_type"))
        .with_for_update(of=Contact, read=True, key_share=True)
        .cte("found_contacts")
    )
    is_found = exists().where(found.c.address == ends.c.address, found.c.address_type == ends.c.address_type)
    written = func.coalesce(ends.c.written, ends.c.address)
    new_contacts = select(TENANT, ends.c.address, ends.c.address_type, written, ends.c.name).where(~is_found)
    contacts = (
        insert_missing(Contact)
        .from_select(
            ["tenant_id", "address", "address_type", "written", "name"],
            new_contacts.order_by(ends.c.address, ends.c.address_type),
        )
        .on_conflict_do_nothing()
        .returning(Contact.id, Contact.address, Contact.address_type)
        .cte("made_contacts")
    )
    people = union_all(select(found), select(contacts)).cte("people")
    made = _conversations(missing, contacts, people)
    return Beginnings(contacts, made, _participants(made, missing, people))


def _missing(seen: CTE) -> CTE:
    """The pairs that have no conversation, with what its row begins with."""
    is_known = exists().where(same(Conversation, seen, "customer_address", "contact_address"))
    inbound = seen.c.direction == Direction.INBOUND.value
    return (
        select(
            seen.c.customer_address,
            seen.c.contact_address,
            *(func.min(seen.c[name]).label(name) for name in (*BEGINNING_COLUMNS, "contact_name")),
            func.count().label("message_count"),
            func.least(func.max(func.coalesce(seen.c.sent_at, func.now())), func.now()).label("last_activity_at"),
            func.bool_or(inbound).label("awaits_answer"),
            func.count().filter(inbound).label("unread_count"),
            func.array_agg(seen.c.channel.distinct()).label("channels"),
        )
        .where(seen.c.earlier_id.is_(None), ~is_known)
        .group_by(seen.c.customer_address, seen.c.contact_address)
        .cte("missing")
    )


def _ends(missing: CTE) -> CTE:
    """The addresses of both ends, each once."""
    each = union(
        *(
            select(
                missing.c[f"{role}_address"].label("address"),
                missing.c[f"{role}_type"].label("address_type"),
                missing.c[f"{role}_written"].label("written"),
                (missing.c.contact_name if role is ParticipantRole.CONTACT else cast(null(), Text())).label("name"),
            )
            for role in ParticipantRole
        )
    ).subquery("each_end")
    key = each.c.address, each.c.address_type
    told = (func.min(each.c[name]).label(name) for name in ("written", "name"))
    return select(*key, *told).group_by(*key).cte("ends")


def _has_end(people: FromClause, missing: CTE, role: ParticipantRole) -> ColumnElement[bool]:
    return and_(people.c.address == missing.c[f"{role}_address"], people.c.address_type == missing.c[f"{role}_type"])


def _conversations(missing: CTE, contacts: CTE, people: CTE) -> CTE:
    values = {
        "tenant_id": TENANT,
        **{name: missing.c[name] for name in ("customer_address", "contact_address", "last_activity_at")},
        **{name: missing.c[name] for name in ("message_count", "awaits_answer", "unread_count", "channels")},
    }
    have_ends = [exists().where(_has_end(people, missing, role)) for role in ParticipantRole]
    new = select(*values.values()).where(_are_inserted(contacts), *have_ends)
    return (
        insert_missing(Conversation)
        .from_select(list(values), new.order_by(missing.c.customer_address, missing.c.contact_address))
        .on_conflict_do_nothing()
        .returning(
            Conversation.id,
            Conversation.customer_address,
            Conversation.contact_address,
            Conversation.message_count,
        )
        .cte("made_conversations")
    )


def _participants(made: CTE, missing: CTE, people: CTE) -> CTE:
    is_made = and_(
        made.c.customer_address == missing.c.customer_address, made.c.contact_address == missing.c.contact_address
    )
    new = union_all(
        *(
            select(TENANT, made.c.id, literal(role.value, Text()), people.c.id)
            .select_from(made)
            .join(missing, is_made)
            .join(people, _has_end(people, missing, role))
            for role in ParticipantRole
        )
    )
    columns = ["tenant_id", "conversation_id", "role", "contact_id"]
    return (
        insert(ConversationParticipant)
        .from_select(columns, new)
        .returning(ConversationParticipant.contact_id, ConversationParticipant.role)
        .cte("made_participants")
    )


def without(messages: Any) -> dict[str, ColumnElement[Any]]:
    """The new counts of a conversation that has so many messages less."""
    left = Conversation.message_count - messages
    return {"message_count": left, "unread_count": func.least(Conversation.unread_count, left)}


_CORRECT = update(Conversation).where(
    Conversation.tenant_id == TENANT, Conversation.id == bindparam("conversation", type_=BigInteger())
)


async def correct_counts(
    connection: AsyncConnection, tenant_id: int, begun: Mapping[int, int], places: Iterable[StoredMessage | None]
) -> None:
    """Correct the counts of new conversations that lack a message which they were made for.

    That happens if another writer stores the same message in another conversation at this moment.
    """
    stored = Counter(place.conversation_id for place in places if place is not None)
    for conversation_id, expected in begun.items():
        if lacking := expected - stored[conversation_id]:
            values = {"tenant": tenant_id, "conversation": conversation_id}
            await connection.execute(_CORRECT.values(without(lacking)), values)
