"""What came of attempts: they are closed, their messages settled, and what dead workers left is taken over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import CHANNEL, SECOND, TENANT, by_tenant, given, rank_of, rows
from app.db.models import DeliveryAttempt, Message
from app.domain import STATUS_RANK, MessageStatus
from app.redaction import redacted
from app.services.delivery.receipts import attach_parked
from app.services.delivery.retry_policy import Verdict

TAKEN_OVER = "The worker that had it went away before it could say what came of this attempt."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt, and where its message goes. The verdict's reason, which may quote a provider, is kept
    without secrets and whole addresses."""

    tenant_id: int
    message_id: int
    number: int
    provider_type: str
    verdict: Verdict
    provider_message_id: str | None = None


_given = rows(
    message_id=BigInteger(),
    number=Integer(),
    outcome=Text(),
    status=Text(),
    reason=Text(),
    provider_type=Text(),
    provider_message_id=Text(),
    retry_in=Float(),
    attempt_limit=Integer(),
)
_settled = select(_given).cte("settled")
_closed = (
    update(DeliveryAttempt)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == _settled.c.message_id,
        DeliveryAttempt.number == _settled.c.number,
    )
    # What was closed stays as it was, so that a doubt can be seen; whoever comes late may still know the id.
    .values(
        outcome=func.coalesce(DeliveryAttempt.outcome, _settled.c.outcome),
        detail=case((DeliveryAttempt.outcome.is_(None), _settled.c.reason), else_=DeliveryAttempt.detail),
        provider_message_id=func.coalesce(DeliveryAttempt.provider_message_id, _settled.c.provider_message_id),
        finished_at=func.coalesce(DeliveryAttempt.finished_at, func.clock_timestamp()),
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
#: An id that an earlier attempt has left stays with its provider.
_is_nameless = Message.provider_message_id.is_(None)
_raises = rank_of(Message.status) < STATUS_RANK[MessageStatus.SENT]
_next_try = func.now() + _locked.c.retry_in * SECOND
_SETTLE = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _locked.c.id)
    .where(or_(_is_latest, and_(_locked.c.status == _SENT, or_(_raises, _is_nameless))))
    .values(
        status=case((or_(_is_latest, _raises), _locked.c.status), else_=Message.status),
        status_reason=case((or_(_is_latest, _raises), _locked.c.reason), else_=Message.status_reason),
        provider_type=case(
            (or_(_locked.c.status == _SENT, _is_nameless), _locked.c.provider_type), else_=Message.provider_type
        ),
        provider_message_id=case(
            (_is_latest, func.coalesce(_locked.c.provider_message_id, Message.provider_message_id)),
            else_=func.coalesce(Message.provider_message_id, _locked.c.provider_message_id),
        ),
        due_at=case(
            (or_(~_is_latest, _locked.c.retry_in.is_(None)), null()),
            (_locked.c.status == MessageStatus.UNKNOWN.value, _next_try),
            # `least` passes over a message without an `expires_at`.
            else_=func.least(_next_try, Message.expires_at),
        ),
        attempt_limit=case(
            (_is_latest, func.coalesce(_locked.c.attempt_limit, Message.attempt_limit)), else_=Message.attempt_limit
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
    for tenant_id, own in by_tenant(outcomes):
        columns = [each.name for each in _given.c][:-1]
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
        each.verdict.reason and redacted(each.verdict.reason),
        each.provider_type,
        each.provider_message_id,
        each.verdict.retry_in,
        each.verdict.limit,
    )


_attempt_of = and_(
    DeliveryAttempt.tenant_id == TENANT,
    DeliveryAttempt.message_id == Message.id,
    DeliveryAttempt.number == Message.attempt_count,
)
_RELEASE = (
    update(Message)
    .where(
        Message.tenant_id == TENANT,
        Message.channel == CHANNEL,
        Message.due_at.is_not(None),
        Message.attempt_count > 0,
        Message.status == MessageStatus.SENDING.value,
        _attempt_of,
        DeliveryAttempt.worker == bindparam("dead_worker", type_=Text()),
    )
    .values(due_at=func.now())
)


async def release(connection: AsyncConnection, tenant_id: int, channel: str, worker: str) -> None:
    """End the leases of a worker that is known to be dead, so that nobody has to wait for them."""
    await connection.execute(_RELEASE, {"tenant": tenant_id, "on_channel": channel, "dead_worker": worker})


_abandoned = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.channel == CHANNEL,
        Message.due_at <= func.now(),
        Message.attempt_count > 0,  # as the index has it
        Message.status == MessageStatus.SENDING.value,
    )
    .order_by(Message.id)
    .limit(500)
    .with_for_update(of=Message, skip_locked=True, key_share=True)
    .cte("abandoned")
)
_TAKE_OVER = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _abandoned.c.id, _attempt_of)
    .values(worker_deaths=Message.worker_deaths + 1)
    .returning(
        Message.id,
        Message.attempt_count,
        Message.attempt_limit,
        Message.worker_deaths,
        DeliveryAttempt.provider_type,
    )
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
    abandoned = (await connection.execute(_TAKE_OVER, {"tenant": tenant_id, "on_channel": channel})).all()
    outcomes = [
        Outcome(
            tenant_id,
            row.id,
            row.attempt_count,
            row.provider_type,
            judge(row.provider_type, row.attempt_count, row.attempt_limit, row.worker_deaths),
        )
        for row in abandoned
    ]
    await record_outcomes(connection, outcomes)
    return len(outcomes)
