"""The delivery queue: which messages are due, who has claimed them, and what came of it.

The message row is the queue. A claim and its attempt row are committed before the provider is called, and closed
after it: a crash in between leaves an attempt in doubt, never one that looks as if it had not been made. Due times
and leases go by the database's clock.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    column,
    extract,
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

from app.domain import STATUS_RANK, AttemptOutcome, MessageStatus
from app.models import DeliveryAttempt, Message, MessageEvent, Tenant
from app.providers.base import OutboundMessage
from app.services.policy import Verdict
from app.services.ranks import rank_of
from app.services.receipts import attach_parked
from app.services.references import reference_of
from app.services.statements import SECOND, TENANT, given, rows

TAKEN_OVER = "The worker that had it went away before it could say what came of this attempt."


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that this worker is to hand over, as its attempt `number`, before its lease ends."""

    tenant_id: int
    number: int
    limit: int | None  #: the number of its last attempt, where that is not what the settings say
    provider_type: str
    in_doubt: bool  #: an earlier attempt may have gone out
    payload: OutboundMessage

    @property
    def message_id(self) -> int:
        return self.payload.message_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt, and where its message goes."""

    tenant_id: int
    message_id: int
    number: int
    provider_type: str
    verdict: Verdict
    provider_message_id: str | None = None


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


_CHANNEL = bindparam("on_channel", type_=Text())
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
_FRESH = bindparam("fresh", type_=Boolean())
_picked = (
    select(Message.id, case((Message.attempt_count > 0, _in_doubt_with), else_=null()).label("in_doubt_with"))
    .where(
        Message.tenant_id == TENANT,
        Message.channel == _CHANNEL,
        Message.due_at <= func.now(),
        Message.status.in_(_WAITING),
        or_(
            Message.expires_at.is_(None),
            Message.expires_at > func.now(),
            Message.status == MessageStatus.UNKNOWN.value,  # it may have left in time: its outcome still matters
        ),
        # What may be with a provider already stays with it, and waits for it.
        case((Message.attempt_count == 0, _FRESH), else_=func.coalesce(_in_doubt_with == _PROVIDER, _FRESH)),
        # In a conversation messages leave in the order in which they were accepted.
        ~select(literal(1))
        .where(
            _earlier.tenant_id == TENANT,
            _earlier.conversation_id == Message.conversation_id,
            _earlier.channel == Message.channel,
            _earlier.id < Message.id,
            _earlier.due_at.is_not(None),
            _earlier.status != MessageStatus.SCHEDULED.value,
        )
        .exists(),
    )
    .order_by(Message.due_at, Message.id)
    .limit(bindparam("limit", type_=Integer()))
    .with_for_update(of=Message, skip_locked=True, key_share=True)
    .cte("picked")
)
_lease_end = func.now() + bindparam("lease", type_=Float()) * SECOND
_taken = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _picked.c.id)
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
        _picked.c.in_doubt_with,
    )
    .cte("taken")
)
_ITS_OWN = "it may have it already"
_opened = (
    insert(DeliveryAttempt)
    .from_select(
        ["tenant_id", "message_id", "number", "provider_type", "routed_because", "started_at"],
        select(
            TENANT,
            _taken.c.id,
            _taken.c.attempt_count,
            _PROVIDER,
            case((_taken.c.in_doubt_with.is_not(None), _ITS_OWN), else_=bindparam("because", type_=Text())),
            func.clock_timestamp(),
        ),
    )
    .returning(DeliveryAttempt.message_id)
    .cte("opened")
)
_CLAIM = select(_taken).add_cte(_opened).order_by(_taken.c.id)


async def claim_due(
    connection: AsyncConnection,
    tenant_id: int,
    channel: str,
    *,
    limit: int,
    lease_seconds: float,
    provider_type: str,
    routed_because: str | None = None,
    fresh: bool = True,
) -> list[Claim]:
    """Take up to `limit` of a tenant's due messages for a provider, oldest first, and open an attempt for each.

    One statement; commit before calling the provider. No message is given to two workers at once, and none before an
    earlier one of its conversation has left. One that another provider may have is left to that provider, and
    without `fresh` only those are taken that this one may have.
    """
    parameters = {
        "tenant": tenant_id,
        "on_channel": channel,
        "limit": limit,
        "lease": lease_seconds,
        "provider": provider_type,
        "because": routed_because,
        "fresh": fresh,
    }
    return [
        Claim(
            tenant_id=tenant_id,
            number=row.attempt_count,
            limit=row.attempt_limit,
            provider_type=provider_type,
            in_doubt=row.in_doubt_with is not None,
            payload=OutboundMessage(
                message_id=row.id,
                channel=row.channel,
                type=row.type,
                from_address=row.from_address,
                to_address=row.to_address,
                subject=row.subject,
                body=row.body,
                attachments=row.attachments,
                idempotency_key=reference_of(tenant_id, row.id, row.created_at),
            ),
        )
        for row in await connection.execute(_CLAIM, parameters)
    ]


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
    for tenant_id, own in _by_tenant(claims):
        held = given(tenant_id, ("message_id", "number"), [(claim.message_id, claim.number) for claim in own])
        await connection.execute(_RENEW, held | {"lease": lease_seconds})


_deaths = (
    select(func.count())
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == Message.id,
        DeliveryAttempt.detail == TAKEN_OVER,
    )
    .scalar_subquery()
)
_ABANDONED = (
    select(
        Message.id,
        Message.attempt_count,
        Message.attempt_limit,
        select(DeliveryAttempt.provider_type)
        .where(
            DeliveryAttempt.tenant_id == TENANT,
            DeliveryAttempt.message_id == Message.id,
            DeliveryAttempt.number == Message.attempt_count,
        )
        .scalar_subquery()
        .label("provider_type"),
        _deaths.label("deaths"),
    )
    .where(
        Message.tenant_id == TENANT,
        Message.channel == _CHANNEL,
        Message.due_at <= func.now(),
        Message.status == MessageStatus.SENDING.value,
    )
    .order_by(Message.id)
    .limit(500)
    .with_for_update(of=Message, skip_locked=True, key_share=True)
)


async def take_over(
    connection: AsyncConnection,
    tenant_id: int,
    channel: str,
    judge: Callable[[str, int, int | None, int], Verdict],
) -> int:
    """Settle what dead workers have left behind: their attempts are closed as in doubt. Returns how many.

    `judge` decides on provider, attempt number, attempt limit, and how many workers died with the message in hand.
    """
    abandoned = (await connection.execute(_ABANDONED, {"tenant": tenant_id, "on_channel": channel})).all()
    outcomes = [
        Outcome(
            tenant_id,
            row.id,
            row.attempt_count,
            row.provider_type,
            judge(row.provider_type, row.attempt_count, row.attempt_limit, row.deaths + 1),
        )
        for row in abandoned
    ]
    await record_outcomes(connection, outcomes)
    return len(outcomes)


_overdue = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.channel == _CHANNEL,
        Message.due_at <= func.now(),
        Message.expires_at <= func.now(),
        Message.status.in_([MessageStatus.QUEUED.value, MessageStatus.SCHEDULED.value]),
    )
    .order_by(Message.id)
    .limit(500)
    .with_for_update(skip_locked=True, key_share=True)
    .cte("overdue")
)
_EXPIRE = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _overdue.c.id)
    .values(status=MessageStatus.EXPIRED.value, due_at=null())
    .returning(Message.id)
)
_noted = rows(message_id=BigInteger(), kind=Text())
_NOTE = insert(MessageEvent).from_select(
    ["tenant_id", "message_id", "kind"], select(TENANT, _noted.c.message_id, _noted.c.kind)
)


async def expire_overdue(connection: AsyncConnection, tenant_id: int, channel: str) -> int:
    """End messages whose `expires_at` came before they left; returns how many."""
    ids = (await connection.execute(_EXPIRE, {"tenant": tenant_id, "on_channel": channel})).scalars().all()
    if ids:
        await note(connection, tenant_id, MessageStatus.EXPIRED, ids)
    return len(ids)


_forgotten = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.idempotency_key.is_not(None),
        Message.created_at < func.now() - bindparam("age", type_=Float()) * SECOND,
    )
    .limit(1000)
    .with_for_update(skip_locked=True, key_share=True)
    .cte("forgotten")
)
_FORGET_KEYS = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _forgotten.c.id)
    .values(idempotency_key=null(), request_fingerprint=null())
    .returning(Message.id)
)


async def forget_idempotency_keys(connection: AsyncConnection, tenant_id: int, age_seconds: float) -> int:
    """Free up to a thousand keys that are older than that; returns how many."""
    return len((await connection.execute(_FORGET_KEYS, {"tenant": tenant_id, "age": age_seconds})).all())


async def note(connection: AsyncConnection, tenant_id: int, kind: str, message_ids: Iterable[int]) -> None:
    """Write into the history of messages what was done with them besides delivering."""
    noted = given(tenant_id, ("message_id", "kind"), [(id, str(kind)) for id in message_ids])
    await connection.execute(_NOTE, noted)


_settled = rows(
    message_id=BigInteger(),
    number=Integer(),
    outcome=Text(),
    status=Text(),
    reason=Text(),
    provider_type=Text(),
    provider_message_id=Text(),
    retry_in=Float(),
)
_closed = (
    update(DeliveryAttempt)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == _settled.c.message_id,
        DeliveryAttempt.number == _settled.c.number,
    )
    .values(
        outcome=_settled.c.outcome,
        detail=_settled.c.reason,
        provider_message_id=_settled.c.provider_message_id,
        finished_at=func.clock_timestamp(),
    )
    .returning(DeliveryAttempt.message_id)
    .cte("closed")
)
_locked = (
    select(Message.id, *(each for each in _settled.c if each.name not in {"message_id", "position"}))
    .join(_settled, and_(Message.tenant_id == TENANT, Message.id == _settled.c.message_id))
    .order_by(Message.id)
    .with_for_update(of=Message, key_share=True)
    .cte("locked")
)
_SENT = MessageStatus.SENT.value
#: A failure only counts for the latest attempt. That a provider has the message counts whoever says so, and when.
_is_latest = and_(Message.attempt_count == _locked.c.number, Message.status == MessageStatus.SENDING.value)
_raises = rank_of(Message.status) < STATUS_RANK[MessageStatus.SENT]
_SETTLE = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _locked.c.id)
    .where(or_(_is_latest, and_(_locked.c.status == _SENT, or_(_raises, Message.provider_message_id.is_(None)))))
    .values(
        status=case((or_(_is_latest, _raises), _locked.c.status), else_=Message.status),
        status_reason=case((or_(_is_latest, _raises), _locked.c.reason), else_=Message.status_reason),
        provider_type=case((_locked.c.status == _SENT, _locked.c.provider_type), else_=Message.provider_type),
        provider_message_id=case(
            (_is_latest, func.coalesce(_locked.c.provider_message_id, Message.provider_message_id)),
            else_=func.coalesce(Message.provider_message_id, _locked.c.provider_message_id),
        ),
        due_at=case(
            (
                and_(_is_latest, _locked.c.retry_in.is_not(None)),
                # `least` passes over a message without an `expires_at`.
                func.least(func.now() + _locked.c.retry_in * SECOND, Message.expires_at),
            ),
            else_=null(),
        ),
    )
    .returning(Message.id)
    .add_cte(_closed)
)


async def record_outcomes(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> list[bool]:
    """Close attempts and settle their messages; False where the word came too late to change anything.

    Receipts that came before their message's provider id was known are attached. Raises `IntegrityError` when a
    provider answers with an id that another of its messages already has.
    """
    settled: set[tuple[int, int]] = set()
    for tenant_id, own in _by_tenant(outcomes):
        columns = [each.name for each in _settled.c][:-1]
        parameters = given(tenant_id, columns, [_settlement(each) for each in own])
        settled |= {(tenant_id, id) for (id,) in await connection.execute(_SETTLE, parameters)}
        named = [
            (each.message_id, each.provider_type, each.provider_message_id)
            for each in own
            if each.provider_message_id is not None
        ]
        if named:
            await attach_parked(connection, tenant_id, named)
    return [(each.tenant_id, each.message_id) in settled for each in outcomes]


def _settlement(each: Outcome) -> tuple[Any, ...]:
    return (
        each.message_id,
        each.number,
        each.verdict.outcome.value,
        each.verdict.status.value,
        each.verdict.reason,
        each.provider_type,
        each.provider_message_id,
        each.verdict.retry_in,
    )


def _by_tenant(items: Iterable[Any]) -> list[tuple[int, list[Any]]]:
    """One group for each tenant, in the order of message ids, so that all who lock them do it in the same order."""
    groups: dict[int, list[Any]] = {}
    for item in sorted(items, key=lambda item: (item.tenant_id, item.message_id)):
        groups.setdefault(item.tenant_id, []).append(item)
    return list(groups.items())
