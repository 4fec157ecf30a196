"""The earlier mails of an outgoing mail's conversation: what it answers, under which subject, and at which address.

Looked up after the claim and only for mail, so that other channels pay nothing for it.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Row, Text, and_, case, cast, column, exists, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.db.models import Conversation, Message, TenantAddress
from app.db.statements.batches import TENANT, given, rows
from app.domain import Channel, Direction, MessageStatus
from app.providers.mail.envelope import mailbox_of
from app.providers.mail.outbound import MOST_REFERENCES, message_id_of
from app.providers.mail.subjects import answer_to
from app.references import reference_of

_LEFT = [MessageStatus.SENT.value, MessageStatus.DELIVERED.value, MessageStatus.READ.value]
#: Without this limit, a mail dated into the future would be the latest of its conversation for years.
_AHEAD = timedelta(days=1)


@dataclass(slots=True)
class Thread:
    """The mails before a mail in its conversation.

    `references` are their Message-IDs, the latest last. `subject` is the one that an answer without a subject gets.
    `sent_to` is the address that an answer goes to, if it is not the contact's.
    """

    references: list[str] = field(default_factory=list)
    subject: str | None = None
    sent_to: str | None = None


_claimed = rows(message_id=BigInteger())
_mail = aliased(Message)
_wanted = (
    func.jsonb_array_elements_text(Message.details["reply_to"])
    .table_valued(column("address", Text), with_ordinality="place", name="wanted")
    .render_derived()
)
_is_ours = or_(
    exists().where(Conversation.tenant_id == TENANT, Conversation.customer_address == func.lower(_wanted.c.address)),
    exists().where(TenantAddress.tenant_id == TENANT, TenantAddress.address == func.lower(_wanted.c.address)),
)
#: The addresses that a mail wants its answer at, without our own: an answer to these would come back to us.
_reply_to = (
    select(func.array_agg(aggregate_order_by(_wanted.c.address, _wanted.c.place)))
    .where(~_is_ours)
    .correlate(Message)
    .scalar_subquery()
)
# Ordered by time and not by id, as the index on conversations is.
_before = (
    select(
        Message.id,
        Message.direction,
        Message.from_address,
        Message.subject,
        Message.details,
        case((Message.details.has_key("reply_to"), _reply_to), else_=null()).label("reply_to"),
        Message.provider_message_id,
        Message.created_at,
        Message.retry_count,
        Message.sent_at,
    )
    .where(
        Message.tenant_id == TENANT,
        Message.conversation_id == _mail.conversation_id,
        Message.channel == Channel.EMAIL.value,
        Message.id < _mail.id,
        Message.sent_at < Message.created_at + _AHEAD,
        or_(
            Message.direction == Direction.INBOUND.value,
            and_(Message.direction == Direction.OUTBOUND.value, Message.status.in_(_LEFT)),
        ),
    )
    .order_by(Message.sent_at.desc(), Message.id.desc())
    .limit(MOST_REFERENCES)
    .lateral("before")
)
_THREADS = (
    select(_claimed.c.message_id.label("following"), _mail.details["sent_to"].astext.label("kept"), _before)
    .join(_mail, and_(_mail.tenant_id == TENANT, _mail.id == _claimed.c.message_id))
    .join(_before, _mail.id > _before.c.id)
    .order_by(_before.c.sent_at, _before.c.id)
)


async def threads_of(connection: AsyncConnection, tenant_id: int, message_ids: Sequence[int]) -> dict[int, Thread]:
    """For each mail with earlier ones, the last ten of its conversation.

    An inbound mail has the Message-ID that it came with, if any, and an outbound one the id that we gave it.
    """
    threads: defaultdict[int, Thread] = defaultdict(Thread)
    parameters = given(tenant_id, ("message_id",), [(message_id,) for message_id in message_ids])
    for row in await connection.execute(_THREADS, parameters):
        thread = threads[row.following]
        _add(thread, row, tenant_id)
        thread.sent_to = row.kept or thread.sent_to  # every attempt goes to the same address
    return threads


def _add(thread: Thread, row: Row[Any], tenant_id: int) -> None:
    """Add the next mail to the thread."""
    details = row.details or {}
    is_by_a_person = "automatic" not in details
    if is_by_a_person:
        thread.subject = answer_to(row.subject) or thread.subject
    if row.direction == Direction.OUTBOUND:
        key = reference_of(tenant_id, row.id, row.created_at, row.retry_count)
        thread.references.append(message_id_of(key, row.from_address))
        # So that a long series of answers keeps the address when the mail that named it is not among the last ten.
        thread.sent_to = details.get("sent_to", thread.sent_to)
        return
    if row.provider_message_id.startswith("<"):
        thread.references.append(row.provider_message_id.partition(" ")[0])
    if is_by_a_person:
        is_rejected = "fail" in details.get("verdicts", {}).values()
        thread.sent_to = None if is_rejected else _other_than(row.from_address, row.reply_to)


def _other_than(contact: str, reply_to: Sequence[str] | None) -> str | None:
    """The first address of `reply_to` that a mail can go to; None if the contact is among them."""
    addresses = reply_to or []
    if contact.lower() in (address.lower() for address in addresses):
        return None
    return next((address for address in addresses if mailbox_of(address)), None)


#: `kept` is the JSON that the details get.
_answers = rows(message_id=BigInteger(), subject=Text(), kept=Text())
_KEEP = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _answers.c.message_id)
    .values(
        subject=func.coalesce(Message.subject, _answers.c.subject),
        details=case(
            (
                _answers.c.kept.is_not(None),
                func.coalesce(Message.details, cast({}, JSONB)).concat(cast(_answers.c.kept, JSONB)),
            ),
            else_=Message.details,
        ),
    )
)


async def threads_of_claimed(
    connection: AsyncConnection, tenant_id: int, mails: Sequence[Row[Any]]
) -> dict[int, Thread]:
    """The threads of mails that are about to be sent; those that take something of their thread keep it."""
    threads = await threads_of(connection, tenant_id, [mail.id for mail in mails])
    unnamed = {mail.id for mail in mails if mail.subject is None}
    kept = {id_: each for id_, each in threads.items() if each.sent_to or (each.subject and id_ in unnamed)}
    if kept:
        await keep_answers(connection, tenant_id, kept)
    return threads


async def keep_answers(connection: AsyncConnection, tenant_id: int, threads: dict[int, Thread]) -> None:
    """Store on each mail the subject and the address that its thread gives it, so that both are shown.

    A subject of its own stays.
    """
    values = [
        (id_, thread.subject, thread.sent_to and json.dumps({"sent_to": thread.sent_to}))
        for id_, thread in threads.items()
    ]
    await connection.execute(_KEEP, given(tenant_id, ("message_id", "subject", "kept"), values))
