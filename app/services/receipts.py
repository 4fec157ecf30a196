"""The receipt ledger: what providers say about messages, each event once, never changed, all of it kept.

An event raises its message's status, or changes nothing. One that names a provider's id which no attempt has yet is
parked, and attached when the attempt is recorded; a sweep finds those that crossed it on the way.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, DateTime, Text, and_, case, cast, func, null, select, update
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import STATUS_RANK, MessageStatus
from app.models import DeliveryAttempt, Message, ProviderEvent, Tenant
from app.providers.base import Receipt
from app.services.ranks import rank_of
from app.services.references import parse_reference
from app.services.statements import TENANT, given, rows

#: Parked events are looked for this long; later ones still attach when an attempt is recorded.
_SWEEP_BACK = timedelta(days=1)

_received = rows(
    provider_type=Text(),
    event_id=Text(),
    message_id=BigInteger(),
    created_at=DateTime(timezone=True),
    provider_message_id=Text(),
    status=Text(),
    detail=Text(),
    raw=Text(),
    occurred_at=DateTime(timezone=True),
)
_RECEIVED = [column.name for column in _received.c][:-1]
_named_by_us = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.id == _received.c.message_id,
        Message.created_at == _received.c.created_at,
    )
    .scalar_subquery()
)
_named_by_them = (
    select(DeliveryAttempt.message_id)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.provider_type == _received.c.provider_type,
        DeliveryAttempt.provider_message_id == _received.c.provider_message_id,
        DeliveryAttempt.provider_message_id.is_not(None),
    )
    .order_by(DeliveryAttempt.message_id)
    .limit(1)
    .scalar_subquery()
)
_EVENT_VALUES = {
    ProviderEvent.tenant_id: TENANT,
    ProviderEvent.provider_type: _received.c.provider_type,
    ProviderEvent.event_id: _received.c.event_id,
    ProviderEvent.message_id: func.coalesce(_named_by_us, _named_by_them),
    ProviderEvent.provider_message_id: _received.c.provider_message_id,
    ProviderEvent.status: _received.c.status,
    ProviderEvent.detail: _received.c.detail,
    ProviderEvent.raw: cast(_received.c.raw, JSONB),
    ProviderEvent.occurred_at: _received.c.occurred_at,
}
_INSERT_EVENTS = (
    insert(ProviderEvent)
    .from_select(list(_EVENT_VALUES), select(*_EVENT_VALUES.values()).order_by(_received.c.position))
    .on_conflict_do_nothing(index_elements=["tenant_id", "provider_type", "event_id"])
    .returning(ProviderEvent.id, ProviderEvent.message_id)
)


async def store_receipts(
    connection: AsyncConnection, tenant_id: int, receipts: Sequence[tuple[str, Receipt]]
) -> None:
    """Keep receipts, each with its provider's name, and raise the status of the messages they are about.

    An event that is known already, or stands twice in the batch, is kept once.
    """
    once = {(provider_type, receipt.event_id): (provider_type, receipt) for provider_type, receipt in receipts}
    values = []
    for _, (provider_type, receipt) in sorted(once.items(), key=lambda item: item[0]):
        message_id, created_at = parse_reference(receipt.idempotency_key, tenant_id) or (None, None)
        values.append(
            (
                provider_type,
                receipt.event_id,
                message_id,
                created_at,
                receipt.provider_message_id,
                receipt.status.value if receipt.status else None,
                receipt.detail,
                json.dumps(dict(receipt.raw)),
                receipt.occurred_at,
            )
        )
    inserted = await connection.execute(_INSERT_EVENTS, given(tenant_id, _RECEIVED, values))
    attached = [row.id for row in inserted if row.message_id is not None]
    await _raise_statuses(connection, tenant_id, attached)


_recorded = rows(message_id=BigInteger(), provider_type=Text(), provider_message_id=Text())
_ATTACH = (
    update(ProviderEvent)
    .where(
        ProviderEvent.tenant_id == TENANT,
        ProviderEvent.provider_type == _recorded.c.provider_type,
        ProviderEvent.provider_message_id == _recorded.c.provider_message_id,
        ProviderEvent.message_id.is_(None),
    )
    .values(message_id=_recorded.c.message_id)
    .returning(ProviderEvent.id)
)


async def attach_parked(
    connection: AsyncConnection, tenant_id: int, recorded: Iterable[tuple[int, str, str]]
) -> None:
    """Give parked events to the messages whose provider ids have just become known, in the same transaction.

    `recorded` holds message id, provider and the provider's id.
    """
    found = await connection.execute(
        _ATTACH, given(tenant_id, ("message_id", "provider_type", "provider_message_id"), recorded)
    )
    await _raise_statuses(connection, tenant_id, [id for (id,) in found])


_SWEEP = (
    update(ProviderEvent)
    .where(
        ProviderEvent.tenant_id == TENANT,
        ProviderEvent.message_id.is_(None),
        ProviderEvent.received_at > func.now() - _SWEEP_BACK,
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.provider_type == ProviderEvent.provider_type,
        DeliveryAttempt.provider_message_id == ProviderEvent.provider_message_id,
        DeliveryAttempt.provider_message_id.is_not(None),
    )
    .values(message_id=DeliveryAttempt.message_id)
    .returning(ProviderEvent.id)
)


_parked = (
    select(ProviderEvent.id)
    .where(ProviderEvent.tenant_id == Tenant.id, ProviderEvent.message_id.is_(None))
    .where(ProviderEvent.received_at > func.now() - _SWEEP_BACK)
    .exists()
)
_TENANTS_WITH_PARKED = select(Tenant.id).where(_parked)


async def sweep_parked(connection: AsyncConnection) -> int:
    """Attach parked events that crossed the recording of their attempt on the way; returns how many there were."""
    count = 0
    for tenant_id in (await connection.execute(_TENANTS_WITH_PARKED)).scalars().all():
        found = [id for (id,) in await connection.execute(_SWEEP, {"tenant": tenant_id})]
        await _raise_statuses(connection, tenant_id, found)
        count += len(found)
    return count


_told = rows(event_id=BigInteger())
_best = (
    select(
        ProviderEvent.message_id,
        ProviderEvent.status,
        ProviderEvent.detail,
        ProviderEvent.provider_type,
    )
    .ext(distinct_on(ProviderEvent.message_id))
    .join(_told, and_(ProviderEvent.tenant_id == TENANT, ProviderEvent.id == _told.c.event_id))
    .where(ProviderEvent.status.is_not(None))
    .order_by(ProviderEvent.message_id, rank_of(ProviderEvent.status).desc(), ProviderEvent.id)
    .cte("best")
)
_locked = (
    select(Message.id, *(column for column in _best.c if column.name != "message_id"))
    .join(_best, and_(Message.tenant_id == TENANT, Message.id == _best.c.message_id))
    .order_by(Message.id)
    .with_for_update(of=Message, key_share=True)
    .cte("locked")
)
_is_failure = _locked.c.status.in_([MessageStatus.UNDELIVERED.value, MessageStatus.FAILED.value])
_RAISE = (
    update(Message)
    .where(
        Message.tenant_id == TENANT,
        Message.id == _locked.c.id,
        rank_of(_locked.c.status) > rank_of(Message.status),
        # That it is still on its way to being sent is the provider's affair: here it decides what is tried next.
        rank_of(_locked.c.status) >= STATUS_RANK[MessageStatus.SENT],
    )
    .values(
        status=_locked.c.status,
        status_reason=case((_is_failure, _locked.c.detail), else_=null()),
        due_at=null(),  # it has left: nobody has to send it any more
        provider_type=func.coalesce(Message.provider_type, _locked.c.provider_type),
    )
)


async def _raise_statuses(connection: AsyncConnection, tenant_id: int, event_ids: Sequence[int]) -> None:
    if event_ids:
        await connection.execute(_RAISE, given(tenant_id, ("event_id",), [(id,) for id in event_ids]))
