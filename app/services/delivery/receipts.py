"""The ledger of receipts: each is stored once, and only its message may become known later.

A receipt raises its message's status, or changes nothing: a mail's bounce outranks `delivered`. It also fills in the
provider and its id, if no reply has. A receipt for an id that no attempt has yet is parked, and attached when the
attempt is recorded. A sweep finds those that were stored at the same moment.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import CTE, BigInteger, ColumnElement, DateTime, Delete, Executable, Row, SQLColumnExpression, Text
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlalchemy.sql import and_, case, cast, delete, func, literal, null, or_, select, true, update
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.consent import ReportedConsent
from app.db.batches import TENANT, exact_rank_of, given, rows
from app.db.models import DeliveryAttempt, Message, StoredReceipt, Tenant
from app.domain import DEFAULT_TENANT_ID, STATUS_RANK, Channel, Direction, MessageStatus
from app.providers.base import Receipt
from app.redaction import redacted
from app.references import parse_reference
from app.services.consent.reports import Report, act_on_reports
from app.services.event_log.entries import entries_of_changed

#: The sweep covers receipts of this age; older ones still attach when an attempt is recorded.
_SWEEP_BACK = timedelta(days=1)
_AT_ONCE = 200

_received = rows(
    provider_type=Text(),
    event_id=Text(),
    tenant_id=BigInteger(),
    message_id=BigInteger(),
    created_at=DateTime(timezone=True),
    provider_message_id=Text(),
    status=Text(),
    detail=Text(),
    consent=Text(),
    raw=Text(),
    occurred_at=DateTime(timezone=True),
)
_RECEIVED = [column.name for column in _received.c][:-1]
#: Locks the message until its receipt is stored, so that an erasure comes either before or after.
#: Our reference is only trusted if the message had an attempt with this provider.
_by_reference = (
    select(Tenant.id.label("tenant_id"), Message.id.label("message_id"))
    .join(Message, Message.tenant_id == Tenant.id)
    .join(DeliveryAttempt, and_(DeliveryAttempt.tenant_id == Tenant.id, DeliveryAttempt.message_id == Message.id))
    .where(
        Tenant.id == _received.c.tenant_id,
        Message.id == _received.c.message_id,
        Message.created_at == _received.c.created_at,
        DeliveryAttempt.provider_type == _received.c.provider_type,
    )
    .limit(1)
    .with_for_update(of=Message, read=True, key_share=True)
    .lateral("by_reference")
)


def _has_id_of(
    row: type[DeliveryAttempt | Message],
    theirs: type[StoredReceipt] | ReadOnlyColumnCollection[str, Any],
    tenant: SQLColumnExpression[int],
) -> ColumnElement[bool]:
    """True of an attempt or message that has the provider's id in `theirs`."""
    return and_(
        row.tenant_id == tenant,
        row.provider_type == theirs.provider_type,
        row.provider_message_id == theirs.provider_message_id,
        row.provider_message_id.is_not(None),  # says that the partial index will do
    )


_attempt_by_their_id = (
    select(DeliveryAttempt.message_id)
    .where(_has_id_of(DeliveryAttempt, _received.c, Tenant.id))
    .limit(1)
    .correlate(Tenant, _received)
    .scalar_subquery()
)
#: A message that was sent elsewhere has no attempt. Evaluated only where no attempt was found.
_sent_elsewhere = (
    select(Message.id)
    .where(_has_id_of(Message, _received.c, Tenant.id), Message.direction == Direction.OUTBOUND.value)
    .limit(1)
    .correlate(Tenant, _received)
    .scalar_subquery()
)
#: The limits make PostgreSQL use the indexes, even without statistics of the tables.
_message_by_their_id = (
    select(Message.id)
    .where(Message.tenant_id == Tenant.id, Message.id == func.coalesce(_attempt_by_their_id, _sent_elsewhere))
    .limit(1)
    .with_for_update(of=Message, read=True, key_share=True)
    .correlate(Tenant, _received)
    .lateral("message_by_their_id")
)
_by_their_id = (
    select(Tenant.id.label("tenant_id"), _message_by_their_id.c.id.label("message_id"))
    .select_from(Tenant)
    .join(_message_by_their_id, true())
    .order_by(Tenant.id)
    .limit(1)
    .lateral("by_their_id")
)
_COLUMNS = {
    StoredReceipt.tenant_id: func.coalesce(
        _by_reference.c.tenant_id, _by_their_id.c.tenant_id, literal(DEFAULT_TENANT_ID, BigInteger())
    ),
    StoredReceipt.provider_type: _received.c.provider_type,
    StoredReceipt.event_id: _received.c.event_id,
    StoredReceipt.message_id: func.coalesce(_by_reference.c.message_id, _by_their_id.c.message_id),
    StoredReceipt.provider_message_id: _received.c.provider_message_id,
    StoredReceipt.status: _received.c.status,
    StoredReceipt.detail: _received.c.detail,
    StoredReceipt.consent: _received.c.consent,
    StoredReceipt.raw: cast(_received.c.raw, JSONB),
    StoredReceipt.occurred_at: _received.c.occurred_at,
}
_Attached = Row[int, int, int | None, str | None, str | None, datetime | None]
#: What the statements that attach receipts return of each.
_ATTACHED = (
    StoredReceipt.tenant_id,
    StoredReceipt.id,
    StoredReceipt.message_id,
    StoredReceipt.consent,
    StoredReceipt.detail,
    StoredReceipt.occurred_at,
)
_INSERT = (
    insert(StoredReceipt)
    .from_select(
        list(_COLUMNS),
        select(*_COLUMNS.values())
        .select_from(
            _received.outerjoin(_by_reference, true()).outerjoin(_by_their_id, _by_reference.c.tenant_id.is_(None))
        )
        .order_by(_received.c.position),
    )
    .on_conflict_do_nothing(index_elements=["tenant_id", "provider_type", "event_id"])
    .returning(*_ATTACHED)
)


async def store_receipts(connection: AsyncConnection, receipts: Sequence[tuple[str, Receipt]]) -> set[int]:
    """Store receipts, given with their providers' names, raise the status of their messages, and act on consent.

    Returns the tenants of those messages.

    A duplicate is stored once. A receipt belongs to the tenant of its message; a parked one belongs to tenant 1 until
    its message is known. `detail` is stored without secrets and whole addresses, `raw` as it came.
    """
    once = {(provider_type, receipt.event_id): receipt for provider_type, receipt in receipts}
    values = [
        (
            provider_type,
            event_id,
            *(parse_reference(receipt.idempotency_key) or (None, None, None)),
            receipt.provider_message_id,
            receipt.status.value if receipt.status else None,
            receipt.detail and redacted(receipt.detail),
            receipt.consent.value if receipt.consent else None,
            json.dumps(dict(receipt.raw)),
            receipt.occurred_at,
        )
        for (provider_type, event_id), receipt in sorted(once.items(), key=itemgetter(0))
    ]
    inserted = await connection.execute(_INSERT, given(DEFAULT_TENANT_ID, _RECEIVED, values))
    attached = [row for row in inserted if row.message_id is not None]
    await _act_on(connection, attached)
    return {row.tenant_id for row in attached}


_recorded = rows(message_id=BigInteger(), provider_type=Text(), provider_message_id=Text())
_PARKED = (StoredReceipt.tenant_id == DEFAULT_TENANT_ID, StoredReceipt.message_id.is_(None))
_IS_RECORDED = (
    StoredReceipt.provider_type == _recorded.c.provider_type,
    StoredReceipt.provider_message_id == _recorded.c.provider_message_id,
    Message.tenant_id == TENANT,
    Message.id == _recorded.c.message_id,  # it may have been erased during the send
)
_ATTACH = (
    update(StoredReceipt)
    .where(*_PARKED, *_IS_RECORDED)
    .values(message_id=_recorded.c.message_id)
    .returning(*_ATTACHED)
)


def _moving(found: Delete, tenant_id: SQLColumnExpression[int], message_id: SQLColumnExpression[int]) -> Executable:
    """A statement that moves parked receipts from tenant 1 to their message's tenant, as the key can't be updated."""
    kept = [column for column in StoredReceipt.__table__.c if column.name not in {"tenant_id", "id", "message_id"}]
    taken = found.returning(tenant_id.label("its_tenant"), message_id.label("its_message"), *kept).cte("taken")
    columns = ["tenant_id", "message_id", *(column.name for column in kept)]
    values = [taken.c.its_tenant, taken.c.its_message, *(taken.c[column.name] for column in kept)]
    return (
        insert(StoredReceipt)
        .from_select(columns, select(*values).order_by(taken.c.received_at))
        .on_conflict_do_nothing(index_elements=["tenant_id", "provider_type", "event_id"])
        .returning(*_ATTACHED)
    )


_ATTACH_ELSEWHERE = _moving(delete(StoredReceipt).where(*_PARKED, *_IS_RECORDED), TENANT, _recorded.c.message_id)


async def attach_parked(
    connection: AsyncConnection, tenant_id: int, recorded: Iterable[tuple[int, str, str]]
) -> None:
    """Attach parked receipts to messages whose provider ids are recorded in the same transaction.

    `recorded` holds message id, provider and the provider's id.
    """
    statement = _ATTACH if tenant_id == DEFAULT_TENANT_ID else _ATTACH_ELSEWHERE
    parameters = given(tenant_id, ("message_id", "provider_type", "provider_message_id"), recorded)
    await _act_on(connection, (await connection.execute(statement, parameters)).all())


_CROSSED = (
    *_PARKED,
    StoredReceipt.received_at > func.now() - _SWEEP_BACK,
    _has_id_of(DeliveryAttempt, StoredReceipt, Tenant.id),
)


def _crossed(*tenants: ColumnElement[bool]) -> CTE:
    """Some of them: the next sweep, a second later, takes others."""
    found = select(StoredReceipt.id, Tenant.id.label("its_tenant"), DeliveryAttempt.message_id)
    return found.where(*_CROSSED, *tenants).limit(_AT_ONCE).cte("crossed")


_here, _elsewhere = _crossed(Tenant.id == DEFAULT_TENANT_ID), _crossed(Tenant.id != DEFAULT_TENANT_ID)
_SWEEP = (
    update(StoredReceipt)
    .where(*_PARKED, StoredReceipt.id == _here.c.id)
    .values(message_id=_here.c.message_id)
    .returning(*_ATTACHED)
)
_SWEEP_ELSEWHERE = _moving(
    delete(StoredReceipt).where(*_PARKED, StoredReceipt.id == _elsewhere.c.id),
    _elsewhere.c.its_tenant,
    _elsewhere.c.message_id,
)
_ANY_PARKED = select(StoredReceipt.id).where(*_PARKED, StoredReceipt.received_at > func.now() - _SWEEP_BACK).limit(1)


async def sweep_parked(connection: AsyncConnection) -> list[int]:
    """Attach receipts that were parked while their attempt was being recorded; returns the tenant of each."""
    if (await connection.execute(_ANY_PARKED)).scalar() is None:
        return []
    found: list[_Attached] = []
    for statement in (_SWEEP, _SWEEP_ELSEWHERE):
        found += (await connection.execute(statement)).all()
    await _act_on(connection, found)
    return [row.tenant_id for row in found]


_FAILURES = [MessageStatus.UNDELIVERED.value, MessageStatus.FAILED.value]
_attempt_of_receipt = (
    select(func.max(DeliveryAttempt.number))
    .where(DeliveryAttempt.message_id == StoredReceipt.message_id, _has_id_of(DeliveryAttempt, StoredReceipt, TENANT))
    .correlate(StoredReceipt)
    .scalar_subquery()
)
_failed_attempt = case((StoredReceipt.status.in_(_FAILURES), _attempt_of_receipt), else_=null())
_stored = rows(receipt_id=BigInteger())
_told = (
    select(
        StoredReceipt.id,
        StoredReceipt.message_id,
        StoredReceipt.status,
        StoredReceipt.detail,
        StoredReceipt.provider_type,
        StoredReceipt.provider_message_id,
        _failed_attempt.label("failed_attempt"),
    )
    .join(_stored, and_(StoredReceipt.tenant_id == TENANT, StoredReceipt.id == _stored.c.receipt_id))
    .where(StoredReceipt.status.is_not(None))
    .cte("told")
)
_locked = (
    select(Message.id, Message.channel, Message.status, Message.attempt_count)
    .where(Message.tenant_id == TENANT, Message.id.in_(select(_told.c.message_id)))
    .order_by(Message.id)
    .with_for_update(key_share=True)
    .cte("locked")
)
_rank = exact_rank_of(_told.c.status, _locked.c.channel, _told.c.detail)
#: The failure of an earlier attempt changes nothing once another attempt was made or requested.
_is_outdated = or_(_told.c.failed_attempt < _locked.c.attempt_count, _locked.c.status == MessageStatus.QUEUED.value)
_best = (
    select(
        _locked.c.id,
        _rank.label("rank"),
        _told.c.status,
        _told.c.detail,
        _told.c.provider_type,
        _told.c.provider_message_id,
    )
    .ext(distinct_on(_locked.c.id))
    .join(_told, _told.c.message_id == _locked.c.id)
    .where(or_(_told.c.failed_attempt.is_(None), ~_is_outdated))
    .order_by(_locked.c.id, _rank.desc(), _told.c.failed_attempt.desc(), _told.c.id)
    .cte("best")
)
_other = aliased(Message)
_other_with_id = (
    select(_other.id).where(_has_id_of(_other, _best.c, TENANT)).limit(1).correlate(_best).scalar_subquery()
)
_has_no_id = Message.provider_message_id.is_(None)
_is_failure = _best.c.status.in_(_FAILURES)
_is_late_bounce = and_(
    _is_failure, Message.channel == Channel.EMAIL.value, Message.status == MessageStatus.DELIVERED.value
)
_bounced_late = func.concat_ws(": ", "It bounced after it was delivered", _best.c.detail)
_raised = (
    update(Message)
    .where(
        Message.tenant_id == TENANT,
        Message.id == _best.c.id,
        _best.c.rank > exact_rank_of(Message.status, Message.channel, Message.status_reason),
        # A receipt that reports less than `sent` must not change what is tried next.
        _best.c.rank >= STATUS_RANK[MessageStatus.SENT],
    )
    .values(
        status=_best.c.status,
        status_reason=case((_is_late_bounce, _bounced_late), (_is_failure, _best.c.detail), else_=null()),
        due_at=null(),  # no further attempt
        # Filled in for a reply that was lost. An id that another message has stays with that message.
        provider_type=case((_has_no_id, _best.c.provider_type), else_=Message.provider_type),
        provider_message_id=case(
            (and_(_has_no_id, _other_with_id.is_(None)), _best.c.provider_message_id),
            else_=Message.provider_message_id,
        ),
    )
    .returning(Message.id, Message.conversation_id, Message.status)
    .cte("raised")
)
_RAISE = select(_raised.c.id).add_cte(entries_of_changed(_raised))


async def _act_on(connection: AsyncConnection, attached: Sequence[_Attached]) -> None:
    """Raise the statuses of the messages of receipts, and do what they mean for consent."""
    by_tenant = [(id, list(own)) for id, own in groupby(sorted(attached, key=itemgetter(0, 1)), key=itemgetter(0))]
    for tenant_id, own in by_tenant:
        await connection.execute(_RAISE, given(tenant_id, ("receipt_id",), [(row.id,) for row in own]))
    # Afterwards, so that no message is locked after an address.
    for tenant_id, own in by_tenant:
        reports = [
            Report(row.message_id, ReportedConsent(row.consent), row.detail, row.id, row.occurred_at)
            for row in own
            if row.consent is not None
        ]
        await act_on_reports(connection, tenant_id, reports)
