"""The profile of a contact, as a person who answers it sees it: read by one statement, as JSON."""

from typing import Any

from sqlalchemy import ColumnElement, String, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.types import Text

from app.db.models import Alias, Contact, Conversation, ConversationParticipant, Suppression
from app.db.statements.batches import TENANT
from app.db.statements.json_text import constant
from app.db.statements.reads import Read, Reads

#: The conversations that are named.
_MOST_CONVERSATIONS = 20
_ADDRESS = bindparam("address", type_=Text())
_EMPTY = cast(constant("[]"), JSONB)


def _list(*pairs: Any, order: Any) -> ColumnElement[Any]:
    return func.coalesce(func.jsonb_agg(aggregate_order_by(func.jsonb_build_object(*pairs), order)), _EMPTY)


_aliases = (
    select(func.coalesce(func.jsonb_agg(aggregate_order_by(Alias.alias, Alias.alias)), _EMPTY))
    .where(Alias.tenant_id == TENANT, Alias.address == Contact.address, Alias.address_type == Contact.address_type)
    .correlate(Contact)
    .scalar_subquery()
)
_refusals = (
    select(
        _list(
            constant("scope"),
            Suppression.scope,
            constant("value"),
            Suppression.scope_value,
            constant("source"),
            Suppression.source,
            constant("since"),
            Suppression.created_at,
            order=Suppression.id,
        )
    )
    .where(
        Suppression.tenant_id == TENANT,
        Suppression.address == Contact.address,
        Suppression.address_type == Contact.address_type,
    )
    .correlate(Contact)
    .scalar_subquery()
)
_recent = (
    select(Conversation.id, Conversation.customer_address, Conversation.last_activity_at, Conversation.message_count)
    .join(ConversationParticipant, ConversationParticipant.conversation_id == Conversation.id)
    .where(
        Conversation.tenant_id == TENANT,
        ConversationParticipant.tenant_id == TENANT,
        ConversationParticipant.contact_id == Contact.id,
        ConversationParticipant.role == constant("contact"),
    )
    .order_by(Conversation.last_activity_at.desc(), Conversation.id.desc())
    .limit(_MOST_CONVERSATIONS)
    .correlate(Contact)
    .subquery()
    .lateral()
)
_conversations = (
    select(
        _list(
            constant("id"),
            _recent.c.id,
            constant("customer_address"),
            _recent.c.customer_address,
            constant("last_updated"),
            _recent.c.last_activity_at,
            constant("message_count"),
            _recent.c.message_count,
            order=_recent.c.last_activity_at.desc(),
        )
    )
    .select_from(_recent)
    .scalar_subquery()
)
_PROFILE = Read(
    select(
        cast(
            func.jsonb_build_object(
                constant("id"),
                Contact.id,
                constant("address"),
                Contact.address,
                constant("written"),
                Contact.written,
                constant("kind"),
                Contact.address_type,
                constant("name"),
                Contact.name,
                constant("metadata"),
                Contact.metadata_pairs,
                constant("since"),
                Contact.created_at,
                constant("also_known_as"),
                _aliases,
                constant("refusals"),
                _refusals,
                constant("threads"),
                _conversations,
            ),
            String(),
        )
    ).where(Contact.tenant_id == TENANT, Contact.address == _ADDRESS, Contact.erasing_since.is_(None))
)


async def read_profile(reads: Reads, tenant_id: int, address: str) -> str | None:
    """The contact with this normalised address, its refusals and conversations; None if there is no such contact."""
    found = await reads.fetch(_PROFILE, {"tenant": tenant_id, "address": address})
    if not found:
        return None
    json: str = found[0][0]
    return json
