"""The outcomes of attempts: closes the attempts, updates their messages, and writes message events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    Float,
    Integer,
    Select,
    Text,
    and_,
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
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import DeliveryAttempt, Message, MessageEvent
from app.db.schema.distribution import is_distributed
from app.db.statements.batches import SECOND, TENANT, by_tenant, given, rank_of, rows
from app.domain import STATUS_RANK, AttemptOutcome, MessageStatus
from app.providers.base import RecipientRefused
from app.redaction import redacted
from app.services.consent.copies import leave_out
from app.services.consent.reports import Report, act_on_reports
from app.services.delivery.results.receipts import attach_parked
from app.services.event_log.entries import entries_of_changed


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of an attempt, as it is recorded: which attempt, the decision after it, and the provider's part."""

    tenant_id: int
    message_id: int
    number: int
    provider_type: str
    outcome: AttemptOutcome
    status: MessageStatus
    reason: str | None = None  #: may quote the provider; recorded without secrets and whole addresses
    retry_in: float | None = None  #: seconds until the message is due again
    limit: int | None = None  #: the new number of the message's last attempt
    provider_message_id: str | None = None
    error: Exception | None = None  #: not recorded; tells how the provider fares, and who has opted out there
    refused_by: int | None = None  #: the consent entry for which it was not handed over.
    #: The copies that were left out, where the provider has refused one.
    left_out: Mapping[str, int | None] | None = None


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
_COLUMNS = [column.name for column in _given.c][:-1]
# A distributed database computes no times where columns are set.
_settled = select(_given, func.clock_timestamp().label("moment")).cte("settled")
_closed = (
    update(DeliveryAttempt)
    .where(
        DeliveryAttempt.tenant_id == TENANT,
        DeliveryAttempt.message_id == _settled.c.message_id,
        DeliveryAttempt.number == _settled.c.number,
    )
    # A closed attempt keeps its outcome, so that the doubt stays visible. A late result may still bring the id.
    .values(
        outcome=func.coalesce(DeliveryAttempt.outcome, _settled.c.outcome),
        detail=case((DeliveryAttempt.outcome.is_(None), _settled.c.reason), else_=DeliveryAttempt.detail),
        provider_message_id=func.coalesce(DeliveryAttempt.provider_message_id, _settled.c.provider_message_id),
        finished_at=func.coalesce(DeliveryAttempt.finished_at, _settled.c.moment),
    )
    .returning(DeliveryAttempt.message_id)
    .cte("closed")
)
_FACTS = (
    (func.now() + _settled.c.retry_in * SECOND).label("next_try"),
    *(each for each in _settled.c if each.name not in {"message_id", "position", "moment"}),
)
_EARLIER = Message.id, Message.status.label("earlier_status")
_SENT = MessageStatus.SENT.value


def _locked_and_settled() -> CTE:
    """The messages, locked in order, with the facts of their attempts."""
    return (
        select(*_EARLIER, *_FACTS)
        .join(_settled, and_(Message.tenant_id == TENANT, Message.id == _settled.c.message_id))
        .order_by(Message.id)
        .with_for_update(of=Message, key_share=True)
        .cte("settling")
    )


def _locked_then_settled() -> CTE:
    """The same, where what locks joins nothing: a distributed database misreads rows that are locked beside those of
    a function. The second join compares each row with each, which takes 20 us a message in a batch of 100.
    """
    ids = bindparam("given_message_id", type_=ARRAY(BigInteger()))
    locked = (
        select(*_EARLIER)
        .where(Message.tenant_id == TENANT, Message.id == any_(ids))
        .order_by(Message.id)
        .with_for_update(key_share=True)
        .cte("locked")
    )
    return select(locked, *_FACTS).join(_settled, _settled.c.message_id == locked.c.id).cte("settling")


def _settle(settling: CTE) -> Select[int]:
    # A failure only counts for the latest attempt. An acceptance counts for any attempt, however late.
    is_latest = and_(Message.attempt_count == settling.c.number, Message.status == MessageStatus.SENDING.value)
    # An id from an earlier attempt is kept, together with its provider.
    has_no_id = Message.provider_message_id.is_(None)
    raises = rank_of(Message.status) < STATUS_RANK[MessageStatus.SENT]
    updated = (
        update(Message)
        .where(Message.tenant_id == TENANT, Message.id == settling.c.id)
        .where(or_(is_latest, and_(settling.c.status == _SENT, or_(raises, has_no_id))))
        .values(
            status=case((or_(is_latest, raises), settling.c.status), else_=Message.status),
            status_reason=case((or_(is_latest, raises), settling.c.reason), else_=Message.status_reason),
            provider_type=case(
                (or_(settling.c.status == _SENT, has_no_id), settling.c.provider_type), else_=Message.provider_type
            ),
            provider_message_id=case(
                (is_latest, func.coalesce(settling.c.provider_message_id, Message.provider_message_id)),
                else_=func.coalesce(Message.provider_message_id, settling.c.provider_message_id),
            ),
            due_at=case(
                (or_(~is_latest, settling.c.retry_in.is_(None)), null()),
                (settling.c.status == MessageStatus.UNKNOWN.value, settling.c.next_try),
                # `least` ignores a message without an `expires_at`.
                else_=func.least(settling.c.next_try, Message.expires_at),
            ),
            attempt_limit=case(
                (is_latest, func.coalesce(settling.c.attempt_limit, Message.attempt_limit)),
                else_=Message.attempt_limit,
            ),
        )
        .returning(Message.id, Message.conversation_id, Message.status, settling.c.earlier_status)
        .cte("updated")
    )
    changed = select(updated).where(updated.c.status != updated.c.earlier_status).cte("changed")
    return select(updated.c.id).add_cte(_closed, entries_of_changed(changed))


#: By whether the database is distributed.
_SETTLE = {False: _settle(_locked_and_settled()), True: _settle(_locked_then_settled())}


async def record_outcomes(connection: AsyncConnection, results: Sequence[AttemptResult]) -> list[bool]:
    """Close attempts and update their messages; False for a result that came too late to change anything.

    A refusal of the provider's because its recipient has opted out there revokes consent. Attaches parked receipts
    that waited for the provider's id of a message. Raises `IntegrityError` when a provider reuses the id of another
    message.
    """
    settled: set[tuple[int, int]] = set()
    settle = _SETTLE[is_distributed(connection)]
    for tenant_id, own in by_tenant(results):
        parameters = given(tenant_id, _COLUMNS, [_settlement(each) for each in own])
        settled |= {(tenant_id, id) for (id,) in await connection.execute(settle, parameters)}
    # All messages are locked by now. Consent comes last, as with receipts.
    for tenant_id, own in by_tenant(results):
        named = [
            (each.message_id, each.provider_type, each.provider_message_id)
            for each in own
            if each.provider_message_id is not None
        ]
        if named:
            await attach_parked(connection, tenant_id, named)
        refused = [(each.message_id, each.status.value, each.refused_by) for each in own if each.refused_by]
        for each in own:
            if each.left_out:
                await leave_out(connection, tenant_id, each.message_id, each.left_out)
        if refused:
            await connection.execute(_NOTE, given(tenant_id, _NOTED, refused))
        reports = [
            Report(each.message_id, each.error.consent, redacted(f"{each.provider_type} {each.reason}"))
            for each in own
            if isinstance(each.error, RecipientRefused) and (tenant_id, each.message_id) in settled
        ]
        await act_on_reports(connection, tenant_id, reports)
    return [(each.tenant_id, each.message_id) in settled for each in results]


def _settlement(each: AttemptResult) -> tuple[Any, ...]:
    return (
        each.message_id,
        each.number,
        each.outcome.value,
        each.status.value,
        each.reason and redacted(each.reason),
        each.provider_type,
        each.provider_message_id,
        each.retry_in,
        each.limit,
    )


_noted = rows(message_id=BigInteger(), kind=Text(), consent_entry_id=BigInteger())
_NOTED = ("message_id", "kind", "consent_entry_id")
_NOTE = insert(MessageEvent).from_select(["tenant_id", *_NOTED], select(TENANT, *(_noted.c[name] for name in _NOTED)))


async def note(connection: AsyncConnection, tenant_id: int, kind: str, message_ids: Iterable[int]) -> None:
    """Record what happened to messages besides their attempts: canceled, retried, expired, recovered."""
    noted = given(tenant_id, _NOTED, [(id, str(kind), None) for id in message_ids])
    await connection.execute(_NOTE, noted)
