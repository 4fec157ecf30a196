"""Holding, releasing and canceling the messages of a batch that have not left.

The state of the batch is stored first. Then its messages follow, some hundred in a transaction. A worker completes
what was interrupted, and looks after messages that return to the queue or arrive at that moment.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial

from sqlalchemy import BigInteger, ColumnElement, Update, and_, bindparam, exists, func, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.batches import BatchState
from app.db.models import Batch, DeliveryAttempt, Message
from app.db.statements.batches import AT_HELD, TENANT
from app.db.tenant_guard import ALL_TENANTS
from app.domain import AttemptOutcome, EventType, MessageStatus
from app.services.delivery.claiming.leases import update_unlocked
from app.services.delivery.results.outcomes import note
from app.services.event_log.entries import NewEvent, write_entries

#: Opens a transaction, which is committed at the end.
Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

#: Messages of one transaction. Cancellations write events, whose readers wait for the transaction.
_AT_ONCE, _CANCELED_AT_ONCE = 1000, 200
#: A transaction that has seen an earlier state of the batch has ended by then.
_SETTLED_AFTER = timedelta(minutes=1)

_BATCH = bindparam("batch", type_=BigInteger())
_is_batch = and_(Batch.tenant_id == TENANT, Batch.id == _BATCH)
_is_waiting = and_(
    Message.tenant_id == TENANT,
    Message.batch_id == _BATCH,
    Message.status.in_([MessageStatus.QUEUED.value, MessageStatus.SCHEDULED.value]),
)
_may_have_left = exists().where(
    DeliveryAttempt.tenant_id == TENANT,
    DeliveryAttempt.message_id == Message.id,
    DeliveryAttempt.outcome.in_([AttemptOutcome.UNKNOWN.value, AttemptOutcome.ACCEPTED.value]),
)


def _while(state: BatchState) -> ColumnElement[bool]:
    """True while the batch has this state: a later request may have given it another."""
    return exists().where(_is_batch, Batch.state == state.value)


_some = select(Message.id).order_by(Message.due_at).limit(_AT_ONCE)
_HOLD = update_unlocked(_some.where(_is_waiting, Message.due_at < AT_HELD, _while(BatchState.PAUSED))).values(
    due_at=AT_HELD
)
_its_time = func.least(func.greatest(func.now(), Message.send_at), Message.expires_at)
_is_held = and_(_is_waiting, Message.due_at >= AT_HELD)
_RELEASE = update_unlocked(_some.where(_is_held, _while(BatchState.RESUMING))).values(due_at=_its_time)
_LET_GO = update_unlocked(_some.where(_is_held, _may_have_left, _while(BatchState.CANCELING))).values(
    due_at=_its_time
)
_CANCEL = (
    update_unlocked(
        select(Message.id)
        .where(_is_waiting, Message.due_at.is_not(None), ~_may_have_left, _while(BatchState.CANCELING))
        .limit(_CANCELED_AT_ONCE)
    )
    .values(status=MessageStatus.CANCELED.value, due_at=null())
    .returning(Message.id, Message.conversation_id)
)
_is_over = Batch.changed_at < func.now() - _SETTLED_AFTER
_has_pending = exists().where(Message.tenant_id == TENANT, Message.batch_id == _BATCH, Message.due_at.is_not(None))
_END_RESUMING = (
    update(Batch)
    .where(_is_batch, Batch.state == BatchState.RESUMING.value, _is_over)
    .values(state=BatchState.RUNNING.value)
)
_END_CANCELING = (
    update(Batch)
    .where(_is_batch, Batch.state == BatchState.CANCELING.value, _is_over, ~_has_pending)
    .values(state=BatchState.CANCELED.value)
)
_UNSETTLED = (
    select(Batch.tenant_id, Batch.id, Batch.state)
    .where(Batch.state.not_in([BatchState.RUNNING.value, BatchState.CANCELED.value]))
    .order_by(Batch.tenant_id, Batch.id)
    .execution_options(**{ALL_TENANTS: "a worker completes the batches of all tenants"})
)


async def settle(begin: Begin, tenant_id: int, batch_id: int, state: BatchState) -> int:
    """Have the messages of a batch follow its state; returns how many were changed.

    `begin` opens a transaction. One that is interrupted is completed by asking again.
    """
    about = {"tenant": tenant_id, "batch": batch_id}
    changed = 0
    match state:
        case BatchState.PAUSED:
            changed = await _repeated(begin, partial(_changed, _HOLD, about), _AT_ONCE)
        case BatchState.RESUMING:
            changed = await _repeated(begin, partial(_changed, _RELEASE, about), _AT_ONCE)
            async with begin() as connection:
                await connection.execute(_END_RESUMING, about)
        case BatchState.CANCELING:
            changed = await _repeated(begin, partial(_canceled, about), _CANCELED_AT_ONCE)
            changed += await _repeated(begin, partial(_changed, _LET_GO, about), _AT_ONCE)
            async with begin() as connection:
                await connection.execute(_END_CANCELING, about)
    return changed


async def settle_batches(
    engine: AsyncEngine, *, on_due: Callable[[], None], on_logged: Callable[[int], None]
) -> None:
    """Complete what was asked of the batches of all tenants."""
    async with engine.connect() as connection:
        unsettled = (await connection.execute(_UNSETTLED)).all()
    for tenant_id, batch_id, state in unsettled:
        if await settle(engine.begin, tenant_id, batch_id, BatchState(state)):
            on_due()
            on_logged(tenant_id)


async def _repeated(begin: Begin, work: Callable[[AsyncConnection], Awaitable[int]], at_once: int) -> int:
    """Do some work in transactions of their own, until one finds less than `at_once` to do; returns the sum."""
    total, done = 0, at_once
    while done == at_once:
        async with begin() as connection:
            done = await work(connection)
        total += done
    return total


async def _changed(statement: Update, about: dict[str, int], connection: AsyncConnection) -> int:
    return (await connection.execute(statement, about)).rowcount


async def _canceled(about: dict[str, int], connection: AsyncConnection) -> int:
    canceled = (await connection.execute(_CANCEL, about)).all()
    if canceled:
        tenant_id = about["tenant"]
        await note(connection, tenant_id, MessageStatus.CANCELED, [row.id for row in canceled])
        entries = [NewEvent(EventType.MESSAGE_CANCELED, row.id, row.conversation_id) for row in canceled]
        await write_entries(connection, tenant_id, entries)
    return len(canceled)
