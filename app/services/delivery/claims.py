"""The delivery queue: what is due, who has claimed it, and for how long.

The message row is the queue. A claim and its attempt row are committed before the provider is called, and closed
after it: a crash in between leaves an attempt in doubt, never one that looks as if it had not been made. Due times
and leases go by the database's clock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    column,
    extract,
    false,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.db.batches import CHANNEL, SECOND, TENANT, by_tenant, given, rows
from app.db.models import DeliveryAttempt, Message, Tenant
from app.domain import AttemptOutcome, Channel, MessageStatus
from app.providers.base import OutboundMessage
from app.services.delivery.mail_threads import threads_of
from app.services.delivery.references import reference_of


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that this worker is to hand over, as its attempt `number`, before its lease ends."""

    tenant_id: int
    provider_type: str
    row: Row[Any]  #: what `_claim` returns
    callback_url: str | None
    thread: Sequence[str]

    @property
    def message_id(self) -> int:
        return int(self.row.id)

    @property
    def number(self) -> int:
        return int(self.row.attempt_count)

    @property
    def limit(self) -> int | None:
        """The number of its last attempt, where that is not what the settings say."""
        limit: int | None = self.row.attempt_limit
        return limit

    @property
    def in_doubt(self) -> bool:
        """Whether an earlier attempt may have gone out."""
        return self.row.in_doubt_with is not None

    def payload(self, give_up_at: float | None = None) -> OutboundMessage:
        """What the provider is given, by whom it is given up at that time of the event loop's clock."""
        row = self.row
        return OutboundMessage(
            message_id=row.id,
            channel=row.channel,
            type=row.type,
            from_address=row.from_address,
            to_address=row.to_address,
            subject=row.subject,
            body=row.body,
            attachments=row.attachments,
            idempotency_key=reference_of(self.tenant_id, row.id, row.created_at, row.retry_count),
            callback_url=self.callback_url,
            thread=self.thread,
            give_up_at=give_up_at,
        )


@dataclass(frozen=True, slots=True)
class DueWork:
    """What a tenant has waiting on a channel; `wait_seconds` is zero or less when it is due."""

    tenant_id: int
    channel: str
    wait_seconds: float


_channels = (
    func.unnest(bindparam("channels", type_=ARRAY(Text())))
    .table_valued(column("channel", Text()), name="channels")
    .render_derived()
)
_next = (
    select(Message.due_at)
    .where(Message.tenant_id == Tenant.id, Message.channel == _channels.c.channel, Message.due_at.is_not(None))
    .order_by(Message.due_at)
    .limit(1)
    .lateral("next")
)
_DUE_WORK = (
    select(Tenant.id, _channels.c.channel, extract("epoch", _next.c.due_at - func.now()))
    .select_from(Tenant)
    .join(_channels, true())
    .join(_next, true())
    .order_by(func.random())
)


async def due_work(connection: AsyncConnection, channels: Iterable[str]) -> list[DueWork]:
    """Who has something waiting, in no order, so that nobody is always last."""
    found = await connection.execute(_DUE_WORK, {"channels": list(channels)})
    return [DueWork(tenant_id, channel, float(seconds)) for tenant_id, channel, seconds in found]


_earlier = aliased(Message)
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
#: In a conversation messages leave in the order in which they were accepted, those with a time of their own from then
#: on.
_goes_before = and_(
    _earlier.tenant_id == TENANT,
    _earlier.conversation_id == Message.conversation_id,
    _earlier.channel == Message.channel,
    _earlier.id < Message.id,
    _earlier.due_at.is_not(None),
    or_(_earlier.status != MessageStatus.SCHEDULED.value, _earlier.due_at <= func.now()),
)
_is_next = ~select(literal(1)).where(_goes_before).exists()
_FIRST_BEFORE = (
    select(_earlier.id)
    .join(Message, _goes_before)
    .where(Message.tenant_id == TENANT, Message.id == bindparam("message", type_=BigInteger()))
    .order_by(_earlier.id)
    .limit(1)
)


async def first_before(connection: AsyncConnection, tenant_id: int, message_id: int) -> int | None:
    """The earliest of the messages that have to leave before this one; None if it is its turn."""
    found = await connection.execute(_FIRST_BEFORE, {"tenant": tenant_id, "message": message_id})
    return found.scalar_one_or_none()


_lease_end = func.now() + bindparam("lease", type_=Float()) * SECOND
_ITS_OWN = "it may have it already"
#: After so many workers died with a message in hand it is handed over apart from others: at the next death it is the
#: one that is suspected, and nobody beside it.
DEATHS_BEFORE_SUSPICION = 2


class Wanted(Enum):
    """Which of the messages that are due are claimed for a provider."""

    ANYTHING = "anything"  #: whatever may be handed to it
    IN_DOUBT = "in doubt"  #: only what it may have already
    SUSPECTS = "suspects"  #: of that, what workers have died with


def _claim(*wanted: ColumnElement[bool]) -> Select[Any]:
    """Pick, take and open in one statement."""
    picked = (
        select(Message.id, case((_was_tried, _in_doubt_with), else_=null()).label("in_doubt_with"))
        .where(
            Message.tenant_id == TENANT,
            Message.channel == CHANNEL,
            Message.due_at <= func.now(),
            Message.status.in_(_WAITING),
            or_(
                Message.expires_at.is_(None),
                Message.expires_at > func.now(),
                Message.status == MessageStatus.UNKNOWN.value,  # it may have left in time: its outcome still matters
            ),
            *wanted,
            # Within CASE, because PostgreSQL makes a bad join of it where it has no statistics yet.
            case((Message.due_at.is_not(None), _is_next), else_=false()),
        )
        .order_by(Message.due_at, Message.id)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(of=Message, skip_locked=True, key_share=True)
        .cte("picked")
    )
    taken = (
        update(Message)
        .where(Message.tenant_id == TENANT, Message.id == picked.c.id)
        .values(status=MessageStatus.SENDING.value, attempt_count=Message.attempt_count + 1, due_at=_lease_end)
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
            Message.attachments,
            Message.created_at,
            Message.retry_count,
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
                case((taken.c.in_doubt_with.is_not(None), _ITS_OWN), else_=bindparam("because", type_=Text())),
                bindparam("by_worker", type_=Text()),
                func.clock_timestamp(),
            ),
        )
        .returning(DeliveryAttempt.message_id)
        .cte("opened")
    )
    return select(taken).add_cte(opened).order_by(taken.c.id)


_dared = Message.worker_deaths < bindparam("deaths", type_=Integer())
# What may be with a provider already stays with it, and waits for it.
_CLAIMS = {
    Wanted.ANYTHING: _claim(
        _dared,
        case((_was_tried, func.coalesce(_in_doubt_with == _PROVIDER, true())), else_=true()),
    ),
    Wanted.IN_DOUBT: _claim(_was_tried, _dared, _in_doubt_with == _PROVIDER),
    Wanted.SUSPECTS: _claim(
        _was_tried, Message.worker_deaths >= DEATHS_BEFORE_SUSPICION, _in_doubt_with == _PROVIDER
    ),
}


async def claim_due(
    connection: AsyncConnection,
    tenant_id: int,
    channel: str,
    *,
    limit: int,
    lease_seconds: float,
    provider_type: str,
    worker: str,
    routed_because: str | None = None,
    wanted: Wanted = Wanted.ANYTHING,
    careful: bool = False,
    callback_url: str | None = None,
) -> list[Claim]:
    """Take up to `limit` of a tenant's due messages for a provider, oldest first, and open an attempt for each.

    One statement, and for mail another; commit before calling the provider. No message is given to two workers at
    once, and none before an earlier one of its conversation has left. One that another provider may have is left to
    that provider, and to `SUSPECTS` what workers have died with: more than once, or, if `careful`, ever.
    `callback_url` is where the provider reaches us.
    """
    parameters = {
        "tenant": tenant_id,
        "on_channel": channel,
        "limit": limit,
        "lease": lease_seconds,
        "provider": provider_type,
        "by_worker": worker,
        "because": routed_because,
        "deaths": 1 if careful else DEATHS_BEFORE_SUSPICION,
    }
    taken = (await connection.execute(_CLAIMS[wanted], parameters)).all()
    is_mail = channel == Channel.EMAIL and bool(taken)
    threads = await threads_of(connection, tenant_id, [row.id for row in taken]) if is_mail else {}
    return [Claim(tenant_id, provider_type, row, callback_url, threads.get(row.id, ())) for row in taken]


_held = rows(message_id=BigInteger(), number=Integer())
_RENEW = (
    update(Message)
    .where(
        Message.tenant_id == TENANT,
        Message.id == _held.c.message_id,
        Message.attempt_count == _held.c.number,
        Message.status == MessageStatus.SENDING.value,
    )
    .values(due_at=_lease_end)
)


async def renew_leases(connection: AsyncConnection, claims: Iterable[Claim], lease_seconds: float) -> None:
    """Say that this worker is still at it."""
    for tenant_id, own in by_tenant(claims):
        held = given(tenant_id, ("message_id", "number"), [(claim.message_id, claim.number) for claim in own])
        await connection.execute(_RENEW, held | {"lease": lease_seconds})
