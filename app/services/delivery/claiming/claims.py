"""The delivery queue: due messages, their claims, and the leases of these.

The message row is the queue. A claim and its attempt row are committed before the send, and the attempt is closed
after it. So a crash in between leaves an attempt in doubt, never one that seems not to have been made. `due_at` is
the time of the next attempt, and for a message in flight the end of its lease, by the database's clock.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, DateTime, Float, Integer, Row, Select, SmallInteger, Text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import bindparam, case, false, func, null, or_, select, true, update

from app.batches import Priority
from app.db.models import DeliveryAttempt, Message
from app.db.statements.batches import CHANNEL, SECOND, TENANT
from app.domain import EARLIEST_DATE, AttemptOutcome, Channel, MessageStatus
from app.providers.base import OutboundMessage
from app.providers.chat.templates import FilledTemplate
from app.providers.mail.fields import MailFields
from app.references import reference_of
from app.services.consent.check import HAS_HASHED, REFUSED_BY, suppress
from app.services.consent.links import UnsubscribeLinks
from app.services.delivery.claiming.mail_threads import Thread, threads_of_claimed
from app.services.delivery.claiming.order import is_next
from app.services.delivery.results.retry_policy import DEATHS_BEFORE_SUSPICION, Attempt

_NO_THREAD = Thread()


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that this worker has to send, as its attempt `number`, before the lease ends.

    `checked_at` is the time of the last check against refusals, by the monotonic clock; 0 where that was not
    enough.
    """

    tenant_id: int
    provider_type: str
    row: Row[Any]  #: as `_claim` returns it
    callback_url: str | None
    thread: Thread
    checked_at: float = 0.0
    links: UnsubscribeLinks | None = None

    @property
    def message_id(self) -> int:
        return int(self.row.id)

    @property
    def number(self) -> int:
        return int(self.row.attempt_count)

    @property
    def may_have_left(self) -> bool:
        """True if an earlier attempt may have left."""
        return self.row.in_doubt_with is not None

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.number, self.row.attempt_limit, may_have_left=self.may_have_left)

    def payload(self, give_up_at: float | None = None, left_out: Collection[str] = ()) -> OutboundMessage:
        """The message as the provider gets it; the send times out at `give_up_at`, by the event loop's clock."""
        row = self.row
        return OutboundMessage(
            message_id=row.id,
            channel=row.channel,
            type=row.type,
            from_address=row.from_address,
            to_address=self.thread.sent_to or row.to_address,
            subject=self.thread.subject if row.subject is None else row.subject,
            body=row.body,
            html=row.html,
            attachments=row.attachments,
            idempotency_key=reference_of(self.tenant_id, row.id, row.created_at, row.retry_count),
            callback_url=self.callback_url,
            thread=self.thread.references,
            headers=self.links.headers_for(self.tenant_id, row, self.thread.sent_to) if self.links else {},
            mail=MailFields.of(row.details, left_out),
            template=FilledTemplate.of(row.details),
            give_up_at=give_up_at,
        )


_WAITING = [MessageStatus.QUEUED.value, MessageStatus.SCHEDULED.value, MessageStatus.UNKNOWN.value]
_in_doubt_with = (
    select(DeliveryAttempt.provider_type)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == Message.id,
        DeliveryAttempt.outcome == AttemptOutcome.UNKNOWN.value,
    )
    .order_by(DeliveryAttempt.number.desc())
    .limit(1)
    .scalar_subquery()
)
_PROVIDER = bindparam("provider", type_=Text())
_was_tried = Message.attempt_count > 0
#: The end of a lease that begins now.
LEASE_END = func.now() + bindparam("lease", type_=Float()) * SECOND


class Wanted(Enum):
    """The kind of due messages to claim for a provider."""

    ANYTHING = "anything"  #: all that may be sent by it
    IN_DOUBT = "in doubt"  #: only those that it may already have
    POISON_SUSPECTS = "poison suspects"  #: of these, only those that several workers died with


class Claimed(NamedTuple):
    """The result of a claim: what this worker has to send, and the number of messages that refusals have stopped."""

    claims: list[Claim]
    suppressed: int


def _claim(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Pick messages, lease them and open their attempts, in one statement.

    tests/services/delivery/claiming/claim.sql shows it as it is executed.
    """
    picked = (
        select(
            Message.id,
            case((_was_tried, _in_doubt_with), else_=null()).label("in_doubt_with"),
            REFUSED_BY.label("refused_by"),
        )
        .where(
            Message.tenant_id == TENANT,
            Message.channel == CHANNEL,
            Message.priority == bindparam("of_priority", type_=SmallInteger()),
            Message.due_at >= bindparam("begins_at", type_=DateTime(timezone=True)),
            Message.due_at <= func.now(),
            Message.status.in_(_WAITING),
            or_(
                Message.expires_at.is_(None),
                Message.expires_at > func.now(),
                Message.status == MessageStatus.UNKNOWN.value,  # it may have left in time
            ),
            *conditions,
            # Without CASE, PostgreSQL makes a slow join of it while it has no statistics.
            case((Message.due_at.is_not(None), is_next(TENANT)), else_=false()),
        )
        .order_by(Message.due_at, Message.id)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(of=Message, skip_locked=True, key_share=True)
        .cte("picked")
    )
    taken = (
        update(Message)
        .where(Message.tenant_id == TENANT, Message.id == picked.c.id, picked.c.refused_by.is_(None))
        .values(status=MessageStatus.SENDING.value, attempt_count=Message.attempt_count + 1, due_at=LEASE_END)
        .returning(
            Message.id,
            Message.attempt_count,
            Message.attempt_limit,
            Message.channel,
            Message.type,
            Message.from_address,
            Message.to_address,
            Message.subject,
            Message.body,
            Message.html,
            Message.attachments,
            Message.created_at,
            Message.retry_count,
            Message.topic,
            Message.purpose,
            Message.details,
            picked.c.in_doubt_with,
        )
        .cte("taken")
    )
    opened = (
        insert(DeliveryAttempt)
        .from_select(
            ["tenant_id", "message_id", "number", "provider_type", "routed_because", "worker", "started_at"],
            select(
                TENANT,
                taken.c.id,
                taken.c.attempt_count,
                _PROVIDER,
                case(
                    (taken.c.in_doubt_with.is_not(None), "it may have it already"),
                    else_=bindparam("because", type_=Text()),
                ),
                bindparam("by_worker", type_=Text()),
                func.clock_timestamp(),
            ),
        )
        .returning(DeliveryAttempt.message_id)
        .cte("opened")
    )
    suppressed, *told = suppress(picked)
    # A row also where all are suppressed, so that their number is known.
    number = select(func.count().label("suppressed")).select_from(suppressed).subquery("number")
    return (
        select(number.c.suppressed, HAS_HASHED.label("has_hashed"), taken)
        .select_from(number.outerjoin(taken, true()))
        .add_cte(opened, *told)
        .order_by(taken.c.id)
    )


_is_low_risk = Message.worker_deaths < bindparam("deaths", type_=Integer())
# A message that a provider may already have waits for that provider.
_CLAIMS = {
    Wanted.ANYTHING: _claim(
        _is_low_risk, case((_was_tried, func.coalesce(_in_doubt_with == _PROVIDER, true())), else_=true())
    ),
    Wanted.IN_DOUBT: _claim(_was_tried, _is_low_risk, _in_doubt_with == _PROVIDER),
    Wanted.POISON_SUSPECTS: _claim(
        _was_tried, Message.worker_deaths >= DEATHS_BEFORE_SUSPICION, _in_doubt_with == _PROVIDER
    ),
}


async def claim_due(
    connection: AsyncConnection,
    tenant_id: int,
    channel: str,
    priority: Priority = Priority.NORMAL,
    *,
    limit: int,
    lease_seconds: float,
    provider_type: str,
    worker: str,
    routed_because: str | None = None,
    wanted: Wanted = Wanted.ANYTHING,
    skip_risky: bool = False,
    callback_url: str | None = None,
    begins_at: datetime = EARLIEST_DATE,
    links: UnsubscribeLinks | None = None,
) -> Claimed:
    """Claim up to `limit` due messages of a queue for a provider, oldest first, and open an attempt for each.

    Commit before the send. No two workers get the same message, and none gets one before an earlier message of its
    conversation has left. A message in doubt is only claimed for the provider that may have it. Messages that several
    workers died with are left to `POISON_SUSPECTS`; with `skip_risky`, one death is enough. `callback_url` is our
    address for the provider, and mails of a topic get `links`. Messages due before `begins_at` are not looked for.
    Those that a refusal of their recipient stops end as suppressed, and count.
    Costs one statement, for mail two, and a third for an answer that takes a part of an earlier mail.
    """
    parameters = {
        "tenant": tenant_id,
        "on_channel": channel,
        "of_priority": priority.value,
        "limit": limit,
        "lease": lease_seconds,
        "provider": provider_type,
        "by_worker": worker,
        "begins_at": begins_at,
        "because": routed_because,
        "deaths": 1 if skip_risky else DEATHS_BEFORE_SUSPICION,
    }
    checked_at = monotonic()
    rows = (await connection.execute(_CLAIMS[wanted], parameters)).all()
    taken = [row for row in rows if row.id is not None]
    is_mail = channel == Channel.EMAIL and bool(taken)
    threads = await threads_of_claimed(connection, tenant_id, taken) if is_mail else {}
    claims = []
    for row in taken:
        thread = threads.get(row.id, _NO_THREAD)
        holds = not row.has_hashed and thread.sent_to is None
        claims.append(Claim(tenant_id, provider_type, row, callback_url, thread, checked_at if holds else 0.0, links))
    return Claimed(claims, rows[0].suppressed)
