"""The queue after a restore: what waited when the backup was made may have been sent since, so it is in doubt.

Each such message gets an attempt in doubt with the provider that it would have gone to. So a late receipt settles it,
and a retry by a client repeats the same key.
"""

from dataclasses import dataclass

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    Text,
    any_,
    bindparam,
    case,
    func,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.models import DeliveryAttempt, Message, Tenant
from app.db.statements.batches import TENANT, given, rows
from app.domain import AttemptOutcome, EventType, MessageStatus
from app.routing import route_of
from app.services.event_log.entries import NewEvent, write_entries

_AT_ONCE = 500
_WORKER = "restore"
_BECAUSE = "it was first when the backup was restored"

_doubtful_with = (
    select(DeliveryAttempt.provider_type)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == Message.id,
        or_(DeliveryAttempt.outcome.is_(None), DeliveryAttempt.outcome == AttemptOutcome.UNKNOWN.value),
    )
    .order_by(DeliveryAttempt.number.desc())
    .limit(1)
    .scalar_subquery()
)
#: All but those whose time, as their caller has set it, has not come yet: they can't have left.
_WAITING = (
    select(
        Message.id,
        Message.conversation_id,
        Message.channel,
        Message.status,
        Message.attempt_count,
        func.coalesce(_doubtful_with, Message.provider_type).label("provider_type"),
    )
    .where(
        Message.tenant_id == TENANT,
        Message.due_at.is_not(None),
        or_(Message.send_at.is_(None), Message.send_at <= func.now()),
    )
    .order_by(Message.id)
    .limit(_AT_ONCE)
    .with_for_update()
)
_REASON = bindparam("because", type_=Text())
_is_given = Message.id == any_(bindparam("messages", type_=ARRAY(BigInteger())))
_has_attempt = Message.status.in_([MessageStatus.SENDING.value, MessageStatus.UNKNOWN.value])
_DOUBT = (
    update(Message)
    .where(Message.tenant_id == TENANT, _is_given)
    .values(
        status=MessageStatus.UNKNOWN.value,
        status_reason=_REASON,
        due_at=null(),
        attempt_count=Message.attempt_count + case((_has_attempt, 0), else_=1),
    )
)
_CLOSE = (
    update(DeliveryAttempt)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == any_(bindparam("messages", type_=ARRAY(BigInteger()))),
        DeliveryAttempt.outcome.is_(None),
    )
    .values(outcome=AttemptOutcome.UNKNOWN.value, detail=_REASON, finished_at=func.now())
)
_opened = rows(message_id=BigInteger(), number=Integer(), provider_type=Text())
_OPENED = ("message_id", "number", "provider_type")
_OPEN = insert(DeliveryAttempt).from_select(
    ["tenant_id", *_OPENED, "routed_because", "worker", "outcome", "detail", "started_at", "finished_at"],
    select(
        TENANT,
        *(_opened.c[name] for name in _OPENED),
        bindparam("routed", _BECAUSE, type_=Text()),
        bindparam("worker", _WORKER, type_=Text()),
        bindparam("outcome", AttemptOutcome.UNKNOWN.value, type_=Text()),
        _REASON,
        func.now(),
        func.now(),
    ),
)


@dataclass(frozen=True)
class _Waiting:
    """A message that waited, and the provider that it may have been sent by."""

    id: int
    conversation_id: int
    status: str
    attempt_count: int
    provider_type: str


async def put_in_doubt(engine: AsyncEngine, settings: Settings, reason: str) -> int:
    """Put the messages of all tenants that may have left since a backup in doubt; returns how many.

    They stay `unknown` until a receipt or a client settles them. Interrupted, it is completed by doing it again.
    """
    async with engine.connect() as connection:
        tenants = (await connection.execute(select(Tenant.id, Tenant.test_of))).all()
    total = 0
    for tenant_id, test_of in tenants:
        done = _AT_ONCE
        while done == _AT_ONCE:
            async with engine.begin() as connection:
                done = await _put_some(connection, settings, tenant_id, reason, is_test=test_of is not None)
            total += done
    return total


async def _put_some(
    connection: AsyncConnection, settings: Settings, tenant_id: int, reason: str, *, is_test: bool
) -> int:
    waiting = [
        _Waiting(
            row.id,
            row.conversation_id,
            row.status,
            row.attempt_count,
            row.provider_type or next(iter(route_of(settings, row.channel, is_test=is_test)), row.channel),
        )
        for row in await connection.execute(_WAITING, {"tenant": tenant_id})
    ]
    if not waiting:
        return 0
    about = {"tenant": tenant_id, "messages": [each.id for each in waiting], "because": reason}
    tried = (MessageStatus.SENDING, MessageStatus.UNKNOWN)
    untried = [(each.id, each.attempt_count + 1, each.provider_type) for each in waiting if each.status not in tried]
    await connection.execute(_CLOSE, about)
    await connection.execute(_DOUBT, about)
    await connection.execute(_OPEN, given(tenant_id, _OPENED, untried) | {"because": reason})
    changed = [each for each in waiting if each.status != MessageStatus.UNKNOWN]
    entries = [NewEvent(EventType.MESSAGE_UNKNOWN, each.id, each.conversation_id) for each in changed]
    await write_entries(connection, tenant_id, entries)
    return len(waiting)
