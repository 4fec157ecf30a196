"""The ledger of receipts: each is stored once, and only its message may become known later.

A receipt raises its message's status, or changes nothing: a mail's bounce outranks `delivered`. It also fills in the
provider and its id, if no reply has. A receipt for an id that no attempt has yet is parked, and attached when the
attempt is recorded. A sweep finds those that were stored at the same moment.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, DateTime, Executable, Row, Text
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlalchemy.sql import (
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.types import TypeEngine

from app.addresses import InvalidAddress, sender_address
from app.consent import ReportedConsent
from app.db.models import DeliveryAttempt, EventLog, Message, StoredReceipt
from app.db.statements.batches import TENANT, exact_rank_of, given, rows
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS
from app.domain import DEFAULT_TENANT_ID, STATUS_RANK, Channel, Direction, MessageStatus
from app.providers.base import Receipt
from app.redaction import redacted
from app.references import parse_reference
from app.services.consent.copies import is_of_copy
from app.services.consent.reports import Report, act_on_reports
from app.services.event_log.entries import entries_of_changed

#: The sweep covers receipts of this age; older ones still attach when an attempt is recorded.
_SWEEP_BACK = timedelta(days=1)
_AT_ONCE = 200

_referring = rows(message_id=BigInteger(), created_at=DateTime(timezone=True), provider_type=Text())
_REFERRING = [column.name for column in _referring.c][:-1]
#: Locks the message until its receipt is stored, so that an erasure comes either before or after.
#: Our reference is only trusted if the message had an attempt with this provider.
_BY_REFERENCE = (
    select(_referring.c.position, Message.id)
    .join(_referring, and_(Message.id == _referring.c.message_id, Message.created_at == _referring.c.created_at))
    .where(
        Message.tenant_id == TENANT,
        exists().where(
            DeliveryAttempt.tenant_id == TENANT,
            DeliveryAttempt.message_id == Message.id,
            DeliveryAttempt.provider_type == _referring.c.provider_type,
        ),
    )
    .order_by(Message.id)
    .with_for_update(of=Message, read=True, key_share=True)
)


def _is_id_of(
    row: type[DeliveryAttempt | Message], theirs: type[StoredReceipt] | ReadOnlyColumnCollection[str, Any]
) -> ColumnElement[bool]:
    """True of an attempt or message that has the provider's id in `theirs`."""
    return and_(
        row.provider_type == theirs.provider_type,
        row.provider_message_id == theirs.provider_message_id,
        row.provider_message_id.is_not(None),  # says that the partial index will do
    )


_naming = rows(provider_type=Text(), provider_message_id=Text())
#: A message that was sent elsewhere has no attempt. It is looked for only where no attempt was found.
_message_named = func.coalesce(
    first(DeliveryAttempt.message_id, _is_id_of(DeliveryAttempt, _naming.c), beside=_naming),
    first(Message.id, _is_id_of(Message, _naming.c), Message.direction == Direction.OUTBOUND.value, beside=_naming),
)
_found = (
    select(_naming.c.position, EACH_TENANT, _message_named.label("message_id"))
    .select_from(EventLog.__table__.join(_naming, true()))
    .subquery("found")
)
_BY_THEIR_ID = (
    select(_found)
    .where(_found.c.message_id.is_not(None))
    .execution_options(**{ALL_TENANTS: "a provider's id may be that of any tenant's message"})
)
_LOCK = (
    select(Message.id)
    .where(Message.tenant_id == TENANT, Message.id == any_(bindparam("ids", type_=ARRAY(BigInteger()))))
    .order_by(Message.id)
    .with_for_update(read=True, key_share=True)
)
_CONTENT: dict[str, TypeEngine[Any]] = {
    "provider_type": Text(),
    "event_id": Text(),
    "provider_message_id": Text(),
    "status": Text(),
    "detail": Text(),
    "consent": Text(),
    "recipient": Text(),
    "raw": Text(),
    "occurred_at": DateTime(timezone=True),
}
_Attached = Row[int, int, int | None, str | None, str | None, datetime | None, str | None]
#: What the statements that store or attach receipts return of each.
_ATTACHED = (
    StoredReceipt.tenant_id,
    StoredReceipt.id,
    StoredReceipt.message_id,
    StoredReceipt.consent,
    StoredReceipt.detail,
    StoredReceipt.occurred_at,
    StoredReceipt.recipient,
)


def _insert(**more: TypeEngine[Any]) -> tuple[list[str], Executable]:
    """The columns of an INSERT of receipts, and the statement."""
    new = rows(**_CONTENT, message_id=BigInteger(), **more)
    columns = [column.name for column in new.c][:-1]
    values = [cast(new.c.raw, JSONB) if name == "raw" else new.c[name] for name in columns]
    return columns, (
        insert(StoredReceipt)
        .from_select(["tenant_id", *columns], select(TENANT, *values).order_by(new.c.position))
        .on_conflict_do_nothing(index_elements=["tenant_id", "provider_type", "event_id"])
        .returning(*_ATTACHED)
    )


_NEW, _INSERT = _insert()


async def store_receipts(connection: AsyncConnection, receipts: Sequence[tuple[str, Receipt]]) -> set[int]:
    """Store receipts, given with their providers' names, raise the status of their messages, and act on consent.

    Returns the tenants of those messages.

    A duplicate is stored once. A receipt belongs to the tenant of its message; a parked one belongs to tenant 1 until
    its message is known. `detail` is stored without secrets and whole addresses, `raw` as it came.
    """
    once = {(provider_type, receipt.event_id): receipt for provider_type, receipt in receipts}
    ordered = [(name, receipt) for (name, _), receipt in sorted(once.items(), key=itemgetter(0))]
    places = await _places_of(connection, ordered)
    by_tenant: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for number, (provider_type, receipt) in enumerate(ordered):
        tenant_id, message_id = places.get(number, (DEFAULT_TENANT_ID, None))
        by_tenant[tenant_id].append((*_content_of(provider_type, receipt), message_id))
    attached: list[_Attached] = []
    for tenant_id, values in sorted(by_tenant.items()):
        inserted = await connection.execute(_INSERT, given(tenant_id, _NEW, values))
        attached += [row for row in inserted if row.message_id is not None]
    await _act_on(connection, attached)
    return {row.tenant_id for row in attached}


async def _places_of(
    connection: AsyncConnection, receipts: Sequence[tuple[str, Receipt]]
) -> dict[int, tuple[int, int]]:
    """The tenant and the message of receipts, by their number; the messages are locked."""
    referring: defaultdict[int, list[tuple[int, tuple[Any, ...]]]] = defaultdict(list)
    for number, (provider_type, receipt) in enumerate(receipts):
        if reference := parse_reference(receipt.idempotency_key):
            referring[reference[0]].append((number, (*reference[1:], provider_type)))
    places: dict[int, tuple[int, int]] = {}
    for tenant_id, asked in sorted(referring.items()):
        numbers, values = zip(*asked, strict=True)
        for position, id in await connection.execute(_BY_REFERENCE, given(tenant_id, _REFERRING, values)):
            places[numbers[position - 1]] = tenant_id, id
    naming = [
        (number, (provider_type, receipt.provider_message_id))
        for number, (provider_type, receipt) in enumerate(receipts)
        if number not in places and receipt.provider_message_id is not None
    ]
    return places | await _places_by_their_id(connection, naming) if naming else places


async def _places_by_their_id(
    connection: AsyncConnection, naming: Sequence[tuple[int, tuple[str, str]]]
) -> dict[int, tuple[int, int]]:
    """Of the provider's ids, those that messages have; of several tenants' the first one's."""
    numbers, values = zip(*naming, strict=True)
    asked = {
        f"given_{name}": list(column)
        for name, column in zip(("provider_type", "provider_message_id"), zip(*values, strict=True), strict=True)
    }
    found: dict[int, tuple[int, int]] = {}
    for position, tenant_id, message_id in await connection.execute(_BY_THEIR_ID, asked):
        number, place = numbers[position - 1], (tenant_id, message_id)
        found[number] = min(place, found.get(number, place))
    return await _locked_of(connection, found)


async def _locked_of(
    connection: AsyncConnection, places: Mapping[int, tuple[int, int]]
) -> dict[int, tuple[int, int]]:
    """The places whose message is still there; it is locked, so that an erasure comes after the receipt."""
    messages: defaultdict[int, set[int]] = defaultdict(set)
    for tenant_id, message_id in places.values():
        messages[tenant_id].add(message_id)
    there: set[tuple[int, int]] = set()
    for tenant_id, ids in sorted(messages.items()):
        locked = await connection.execute(_LOCK, {"tenant": tenant_id, "ids": sorted(ids)})
        there |= {(tenant_id, id) for id in locked.scalars()}
    return {number: place for number, place in places.items() if place in there}


def _content_of(provider_type: str, receipt: Receipt) -> tuple[Any, ...]:
    """The values of `_CONTENT`, in their order."""
    return (
        provider_type,
        receipt.event_id,
        receipt.provider_message_id,
        receipt.status.value if receipt.status else None,
        receipt.detail and redacted(receipt.detail),
        receipt.consent.value if receipt.consent else None,
        _mailbox_of(receipt.recipient),
        json.dumps(dict(receipt.raw)),
        receipt.occurred_at,
    )


def _mailbox_of(recipient: str | None) -> str | None:
    """The normalised address of a mail's recipient, by which a receipt of a copy is told; None for any other."""
    if not recipient or "@" not in recipient:
        return None
    try:
        return sender_address(recipient, region="US", is_mail=True).value
    except InvalidAddress:
        return None


_recorded = rows(message_id=BigInteger(), provider_type=Text(), provider_message_id=Text())
_PARKED = (StoredReceipt.tenant_id == TENANT, StoredReceipt.message_id.is_(None))
#: Of a receipt of tenant 1.
_PARKED_FOR = select(StoredReceipt.id, _recorded.c.message_id).join(
    _recorded,
    and_(
        *_PARKED,
        StoredReceipt.provider_type == _recorded.c.provider_type,
        StoredReceipt.provider_message_id == _recorded.c.provider_message_id,
    ),
)
_attaching = rows(receipt_id=BigInteger(), message_id=BigInteger())
_ATTACH = (
    update(StoredReceipt)
    .where(*_PARKED, StoredReceipt.id == _attaching.c.receipt_id)
    .values(message_id=_attaching.c.message_id)
    .returning(*_ATTACHED)
)
_TAKE = (
    delete(StoredReceipt)
    .where(*_PARKED, StoredReceipt.id == any_(bindparam("ids", type_=ARRAY(BigInteger()))))
    .returning(StoredReceipt.id, StoredReceipt.received_at, *(getattr(StoredReceipt, name) for name in _CONTENT))
)
_MOVED, _MOVE = _insert(received_at=DateTime(timezone=True))


async def attach_parked(
    connection: AsyncConnection, tenant_id: int, recorded: Iterable[tuple[int, str, str]]
) -> None:
    """Attach parked receipts to messages whose provider ids are recorded in the same transaction.

    `recorded` holds message id, provider and the provider's id.
    """
    asked = given(DEFAULT_TENANT_ID, ("message_id", "provider_type", "provider_message_id"), recorded)
    if found := (await connection.execute(_PARKED_FOR, asked)).all():
        await _act_on(connection, await _attach(connection, {row.id: (tenant_id, row.message_id) for row in found}))


async def _attach(connection: AsyncConnection, places: Mapping[int, tuple[int, int]]) -> list[_Attached]:
    """Attach parked receipts, by id, to the messages of tenants. A message may have been erased during the send.

    A receipt of another tenant than 1 moves, as the key of a row can't be updated.
    """
    there = await _locked_of(connection, places)
    attached: list[_Attached] = []
    for tenant_id in sorted({tenant_id for tenant_id, _ in there.values()}):
        own = {id: message_id for id, (owner, message_id) in sorted(there.items()) if owner == tenant_id}
        if tenant_id == DEFAULT_TENANT_ID:
            values = given(tenant_id, ("receipt_id", "message_id"), own.items())
            attached += (await connection.execute(_ATTACH, values)).all()
            continue
        taken = await connection.execute(_TAKE, {"tenant": DEFAULT_TENANT_ID, "ids": list(own)})
        moved = [
            tuple(
                own[row.id] if name == "message_id" else json.dumps(row.raw) if name == "raw" else getattr(row, name)
                for name in _MOVED
            )
            for row in sorted(taken, key=attrgetter("received_at", "id"))
        ]
        if moved:
            attached += (await connection.execute(_MOVE, given(tenant_id, _MOVED, moved))).all()
    return attached


_of_late = StoredReceipt.received_at > func.now() - _SWEEP_BACK
_parked = (
    select(StoredReceipt.id, StoredReceipt.provider_type, StoredReceipt.provider_message_id)
    .where(*_PARKED, _of_late)
    .cte("parked")
    .prefix_with("MATERIALIZED")
)
_crossed = (
    select(
        _parked.c.id,
        EACH_TENANT,
        first(DeliveryAttempt.message_id, _is_id_of(DeliveryAttempt, _parked.c), beside=_parked).label("message_id"),
    )
    .select_from(EventLog.__table__.join(_parked, true()))
    .subquery("crossed")
)
#: Some of them: the next sweep, a second later, takes others.
_CROSSED = (
    select(_crossed)
    .where(_crossed.c.message_id.is_not(None))
    .limit(_AT_ONCE)
    .execution_options(**{ALL_TENANTS: "a parked receipt may be about any tenant's message"})
)
_ANY_PARKED = select(StoredReceipt.id).where(*_PARKED, _of_late).limit(1)


async def sweep_parked(connection: AsyncConnection) -> list[int]:
    """Attach receipts that were parked while their attempt was being recorded; returns the tenant of each."""
    parked = {"tenant": DEFAULT_TENANT_ID}
    if (await connection.execute(_ANY_PARKED, parked)).scalar() is None:
        return []
    crossed = await connection.execute(_CROSSED, parked)
    places: dict[int, tuple[int, int]] = {}
    for id, tenant_id, message_id in crossed:
        places[id] = min((tenant_id, message_id), places.get(id, (tenant_id, message_id)))
    attached = await _attach(connection, places)
    await _act_on(connection, attached)
    return [row.tenant_id for row in attached]


_FAILURES = [MessageStatus.UNDELIVERED.value, MessageStatus.FAILED.value]
_attempt_of_receipt = (
    select(func.max(DeliveryAttempt.number))
    .where(
        DeliveryAttempt.message_id == StoredReceipt.message_id,
        DeliveryAttempt.tenant_id == TENANT,
        _is_id_of(DeliveryAttempt, StoredReceipt),
    )
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
    .where(StoredReceipt.status.is_not(None), ~is_of_copy(StoredReceipt.message_id, StoredReceipt.recipient))
    .cte("told")
)
# It joins nothing: a distributed database misreads rows that are locked beside those of a function.
_locked = (
    select(Message.id, Message.channel, Message.status, Message.attempt_count)
    .where(Message.tenant_id == TENANT, Message.id == any_(bindparam("ids", type_=ARRAY(BigInteger()))))
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
    select(_other.id)
    .where(_other.tenant_id == TENANT, _is_id_of(_other, _best.c))
    .limit(1)
    .correlate(_best)
    .scalar_subquery()
)
_has_no_id = Message.provider_message_id.is_(None)
_is_failure = _best.c.status.in_(_FAILURES)
_is_late_bounce = and_(
    _is_failure, Message.channel == Channel.EMAIL.value, Message.status == MessageStatus.DELIVERED.value
)
_bounced_late = literal("It bounced after it was delivered", Text()) + func.coalesce(
    literal(": ", Text()) + _best.c.detail, ""
)
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
        messages = {"ids": sorted({row.message_id for row in own if row.message_id is not None})}
        await connection.execute(_RAISE, given(tenant_id, ("receipt_id",), [(row.id,) for row in own]) | messages)
    # Afterwards, so that no message is locked after an address.
    for tenant_id, own in by_tenant:
        reports = [
            Report(row.message_id, ReportedConsent(row.consent), row.detail, row.id, row.occurred_at, row.recipient)
            for row in own
            if row.consent is not None
        ]
        await act_on_reports(connection, tenant_id, reports)
