"""Soft bounces of an address, which suppress it only if they go on for long.

They are counted among the stored receipts when one arrives, so that no counter has to be kept.
"""

from datetime import datetime, timedelta

from sqlalchemy import BigInteger, DateTime, Text, and_, bindparam, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from app.consent import ReportedConsent
from app.db.models import ConversationParticipant, Message, StoredReceipt
from app.db.statements.batches import TENANT
from app.domain import Channel, Direction, MessageStatus, ParticipantRole
from app.services.consent.copies import is_of_copy

#: An address is suppressed after so many mails in a row that bounced, over at least so long a time.
IN_A_ROW, OVER = 5, timedelta(days=3)

_has_soft_bounced = StoredReceipt.consent == ReportedConsent.SOFT_BOUNCE.value
_arrived = StoredReceipt.status.in_([MessageStatus.DELIVERED.value, MessageStatus.READ.value])
_at = func.coalesce(StoredReceipt.occurred_at, StoredReceipt.received_at)
#: The last result of each mail to an address.
_last = (
    select(_at.label("at"), _has_soft_bounced.is_(True).label("has_bounced"))
    .ext(distinct_on(Message.id))
    .select_from(ConversationParticipant)
    .join(
        Message,
        and_(Message.tenant_id == TENANT, Message.conversation_id == ConversationParticipant.conversation_id),
    )
    .join(StoredReceipt, and_(StoredReceipt.tenant_id == TENANT, StoredReceipt.message_id == Message.id))
    .where(
        ConversationParticipant.tenant_id == TENANT,
        ConversationParticipant.contact_id == bindparam("contact_id", type_=BigInteger()),
        ConversationParticipant.role == ParticipantRole.CONTACT.value,
        Message.channel == Channel.EMAIL.value,
        Message.direction == Direction.OUTBOUND.value,
        Message.details["sent_to"].astext.is_not_distinct_from(bindparam("sent_to", type_=Text())),
        or_(_has_soft_bounced, _arrived),
        ~is_of_copy(Message.id, StoredReceipt.recipient),
    )
    .order_by(Message.id, _at.desc(), StoredReceipt.id.desc())
    .cte("last")
)
_never = cast(literal("-infinity"), DateTime(timezone=True))
_arrived_at = select(func.coalesce(func.max(_last.c.at), _never)).where(~_last.c.has_bounced).scalar_subquery()
_ROW_OF_BOUNCES = select(func.count(), func.max(_last.c.at) - func.min(_last.c.at)).where(
    _last.c.has_bounced,
    _last.c.at > _arrived_at,
    _last.c.at > func.coalesce(bindparam("since", type_=DateTime(timezone=True)), _never),
)


async def has_bounced_too_often(
    connection: AsyncConnection, tenant_id: int, contact_id: int, sent_to: str | None, since: datetime | None
) -> bool:
    """True if the last mails to a contact have bounced, in a row for long enough.

    A delivery begins a new row, and so does the time `since`. `sent_to` is the address that they went to in place of
    the contact's.
    """
    facts = {"tenant": tenant_id, "contact_id": contact_id, "sent_to": sent_to, "since": since}
    count, over = (await connection.execute(_ROW_OF_BOUNCES, facts)).one()
    return bool(count >= IN_A_ROW and over >= OVER)
