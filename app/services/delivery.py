"""The delivery queue: which messages are due, who has claimed them, and what came of it.

The message row is the queue. A claim and its attempt row are committed before the provider is called, and closed
after it: a crash in between leaves an attempt in doubt, never one that looks as if it had not been made. Due times
and leases go by the database's clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Float,
    Integer,
    Interval,
    Text,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import AttemptOutcome, MessageStatus
from app.models import DeliveryAttempt, Message, Tenant
from app.providers.base import OutboundMessage
from app.services.statements import TENANT, given, rows

TAKEN_OVER = "The worker that had it went away before it could say what came of this attempt."


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that this worker is to hand over, as its attempt `number`, before its lease ends."""

    tenant_id: int
    number: int
    provider_type: str
    payload: OutboundMessage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a claim. `retry_in` (seconds) puts the message back into the queue."""

    claim: Claim
    outcome: AttemptOutcome
    status: MessageStatus
    detail: str | None = None
    provider_message_id: str | None = None
    retry_in: float | None = None


_DUE = select(Message.id).where(Message.tenant_id == Tenant.id, Message.due_at <= func.now()).exists()
TENANTS_WITH_DUE_WORK = select(Tenant.id).where(_DUE).order_by(func.random())


async def tenants_with_due_work(connection: AsyncConnection) -> Sequence[int]:
    """Tenants that have something due, in no order, so that none is always last."""
    return (await connection.execute(TENANTS_WITH_DUE_WORK)).scalars().all()


_picked = (
    select(Message.id, Message.status)
    .where(Message.tenant_id == TENANT, Message.due_at <= func.now())
    .order_by(Message.due_at, Message.id)
    .limit(bindparam("limit", type_=Integer()))
    .with_for_update(skip_locked=True, key_share=True)
    .cte("picked")
)
_CLAIM = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _picked.c.id)
    .values(
        status=MessageStatus.SENDING.value,
        attempt_count=Message.attempt_count + 1,
        due_at=func.now() + bindparam("lease", type_=Interval()),
    )
    .returning(
        Message.id,
        Message.attempt_count,
        Message.channel,
        Message.type,
        Message.from_address,
        Message.to_address,
        Message.subject,
        Message.body,
        Message.attachments,
        _picked.c.status.label("status_before"),
    )
)
_lost = rows(message_id=BigInteger())
_CLOSE_TAKEN_OVER = (
    update(DeliveryAttempt)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == _lost.c.message_id,
        DeliveryAttempt.outcome.is_(None),
    )
    .values(outcome=AttemptOutcome.UNKNOWN.value, detail=TAKEN_OVER, finished_at=func.now())
)
_opened = rows(message_id=BigInteger(), number=Integer(), provider_type=Text())
_OPEN_ATTEMPTS = insert(DeliveryAttempt).from_select(
    ["tenant_id", "message_id", "number", "provider_type", "started_at"],
    select(TENANT, _opened.c.message_id, _opened.c.number, _opened.c.provider_type, func.now()),
)


async def claim_due(
    connection: AsyncConnection,
    tenant_id: int,
    *,
    limit: int,
    lease_seconds: float,
    provider_for: Callable[[str], str],
) -> list[Claim]:
    """Take up to `limit` of a tenant's due messages, oldest first, and open an attempt for each.

    Commit before calling any provider. No message is given to two workers at once; one whose worker's lease has
    run out is taken over, and its open attempt is closed as unknown. `provider_for` names a channel's provider.
    """
    parameters = {"tenant": tenant_id, "limit": limit, "lease": timedelta(seconds=lease_seconds)}
    taken = (await connection.execute(_CLAIM, parameters)).all()
    if not taken:
        return []
    if lost := [row.id for row in taken if row.status_before == MessageStatus.SENDING]:
        lost_ids = given(tenant_id, ("message_id",), [(id,) for id in lost])
        await connection.execute(_CLOSE_TAKEN_OVER, lost_ids)
    claims = [
        Claim(
            tenant_id,
            row.attempt_count,
            provider_for(row.channel),
            OutboundMessage(
                message_id=row.id,
                channel=row.channel,
                type=row.type,
                from_address=row.from_address,
                to_address=row.to_address,
                subject=row.subject,
                body=row.body,
                attachments=row.attachments,
                idempotency_key=f"{tenant_id}-{row.id}",
            ),
        )
        for row in sorted(taken, key=lambda row: row.id)
    ]
    attempts = [(claim.payload.message_id, claim.number, claim.provider_type) for claim in claims]
    opened = given(tenant_id, ("message_id", "number", "provider_type"), attempts)
    await connection.execute(_OPEN_ATTEMPTS, opened)
    return claims


_closed = rows(
    message_id=BigInteger(),
    number=Integer(),
    outcome=Text(),
    detail=Text(),
    provider_message_id=Text(),
)
_CLOSED_COLUMNS = ("message_id", "number", "outcome", "detail", "provider_message_id")
_CLOSE_ATTEMPTS = (
    update(DeliveryAttempt)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == _closed.c.message_id,
        DeliveryAttempt.number == _closed.c.number,
    )
    .values(
        outcome=_closed.c.outcome,
        detail=_closed.c.detail,
        provider_message_id=_closed.c.provider_message_id,
        finished_at=func.now(),
    )
)
_settled = rows(
    message_id=BigInteger(),
    number=Integer(),
    status=Text(),
    status_reason=Text(),
    provider_type=Text(),
    provider_message_id=Text(),
    retry_in=Float(),
)
_SETTLED_COLUMNS = (
    "message_id",
    "number",
    "status",
    "status_reason",
    "provider_type",
    "provider_message_id",
    "retry_in",
)
_SETTLE_MESSAGES = (
    update(Message)
    .where(
        Message.tenant_id == TENANT,
        Message.id == _settled.c.message_id,
        # Only the latest attempt counts: a worker that comes back after its lease must not overwrite.
        Message.attempt_count == _settled.c.number,
        Message.status == MessageStatus.SENDING.value,
    )
    .values(
        status=_settled.c.status,
        status_reason=_settled.c.status_reason,
        provider_type=_settled.c.provider_type,
        provider_message_id=_settled.c.provider_message_id,
        due_at=func.now() + _settled.c.retry_in * timedelta(seconds=1),
    )
    .returning(Message.id)
)


async def record_outcomes(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> list[bool]:
    """Close attempts and settle their messages, in the order given; False where a later attempt has taken over.

    Raises `IntegrityError` when a provider answers with an id that another of its messages already has.
    """
    settled: set[tuple[int, int]] = set()
    for tenant_id in sorted({outcome.claim.tenant_id for outcome in outcomes}):
        own = sorted(
            (outcome for outcome in outcomes if outcome.claim.tenant_id == tenant_id),
            key=lambda outcome: outcome.claim.payload.message_id,
        )
        closed = [
            (
                one.claim.payload.message_id,
                one.claim.number,
                one.outcome.value,
                one.detail,
                one.provider_message_id,
            )
            for one in own
        ]
        await connection.execute(_CLOSE_ATTEMPTS, given(tenant_id, _CLOSED_COLUMNS, closed))
        settling = given(tenant_id, _SETTLED_COLUMNS, [_settlement(one) for one in own])
        settled |= {(tenant_id, id) for id in (await connection.execute(_SETTLE_MESSAGES, settling)).scalars()}
    return [(outcome.claim.tenant_id, outcome.claim.payload.message_id) in settled for outcome in outcomes]


def _settlement(one: Outcome) -> tuple[int, int, str, str | None, str | None, str | None, float | None]:
    sent = one.status is MessageStatus.SENT
    return (
        one.claim.payload.message_id,
        one.claim.number,
        one.status.value,
        None if sent else one.detail,
        one.claim.provider_type if sent else None,
        one.provider_message_id,
        one.retry_in,
    )
