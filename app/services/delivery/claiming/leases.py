"""The leases of messages in flight: their renewal, and what happens to messages whose lease or time has ended."""

from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Integer, Select, Text, Update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql import and_, any_, bindparam, exists, func, null, or_, select, true, update

from app.db.models import DeliveryAttempt, EventLog, Message
from app.db.statements.batches import CHANNEL, TENANT, by_tenant, given, rows
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS
from app.domain import EventType, MessageStatus
from app.services.delivery.claiming.claims import LEASE_END, Claim
from app.services.delivery.results.outcomes import AttemptResult, note, record_outcomes
from app.services.delivery.results.retry_policy import Attempt, Decision
from app.services.event_log.entries import NewEvent, write_entries

#: Messages that are rescued or expired in one transaction, which delays readers of the event log while it lasts.
AT_ONCE = 100

_PENDING = Message.due_at.is_not(None)
_IS_TRIED = Message.attempt_count > 0  # lets the partial index serve
_IS_SENDING = Message.status == MessageStatus.SENDING.value
_IS_WAITING = Message.status.in_([MessageStatus.QUEUED.value, MessageStatus.SCHEDULED.value])
_attempt_of = and_(
    DeliveryAttempt.tenant_id == Message.tenant_id,
    DeliveryAttempt.message_id == Message.id,
    DeliveryAttempt.number == Message.attempt_count,
)
_served = (
    func.unnest(bindparam("channels", type_=ARRAY(Text()))).table_valued("channel", name="served").render_derived()
)
_OF_CHANNEL = Message.channel == _served.c.channel


def _queues(*conditions: ColumnElement[bool]) -> Select[int, str]:
    """The queues of all tenants, on the channels that are served, for which one of the conditions holds."""
    every = select(EACH_TENANT, _served.c.channel).select_from(EventLog).join(_served, true())
    return every.where(or_(*conditions)).execution_options(
        **{ALL_TENANTS: "a worker serves the queues of all tenants"}
    )


#: The beginnings of two indexes, so that rows behind them cost nothing.
_is_left = first(Message.due_at, _OF_CHANNEL, _IS_TRIED, Message.due_at <= func.now(), _IS_SENDING, beside=_served)
_is_over = first(
    Message.expires_at, _OF_CHANNEL, _PENDING, Message.expires_at <= func.now(), _IS_WAITING, beside=_served
)
_WITH_WORK = _queues(_is_left.is_not(None), _is_over.is_not(None))
_LEFT_BY = _queues(
    first(
        Message.due_at,
        _OF_CHANNEL,
        _PENDING,
        _IS_TRIED,
        _IS_SENDING,
        exists().where(_attempt_of, DeliveryAttempt.worker == any_(bindparam("dead_workers", type_=ARRAY(Text())))),
        beside=_served,
    ).is_not(None)
)


async def queues_with_work(connection: AsyncConnection, channels: Iterable[str]) -> set[tuple[int, str]]:
    """The queues with leases that have ended, or with messages that have to expire; each by tenant and channel."""
    found = await connection.execute(_WITH_WORK, {"channels": list(channels)})
    return {(tenant_id, channel) for tenant_id, channel in found}


async def queues_left_by(
    connection: AsyncConnection, channels: Iterable[str], workers: Sequence[str]
) -> set[tuple[int, str]]:
    """The queues of which one of these workers has messages."""
    found = await connection.execute(_LEFT_BY, {"channels": list(channels), "dead_workers": list(workers)})
    return {(tenant_id, channel) for tenant_id, channel in found}


_held = rows(message_id=BigInteger(), number=Integer())
_RENEW = (
    update(Message)
    .where(
        Message.tenant_id == TENANT,
        Message.id == _held.c.message_id,
        Message.attempt_count == _held.c.number,
        Message.status == MessageStatus.SENDING.value,
    )
    .values(due_at=LEASE_END)
)


async def renew_leases(engine: AsyncEngine, claims: Iterable[Claim], lease_seconds: float) -> None:
    """Extend the leases of claims that are still in flight, those of each tenant in a transaction."""
    for tenant_id, own in by_tenant(claims):
        held = given(tenant_id, ("message_id", "number"), [(claim.message_id, claim.number) for claim in own])
        async with engine.begin() as connection:
            await connection.execute(_RENEW, held | {"lease": lease_seconds})


_sending = and_(Message.tenant_id == TENANT, Message.channel == CHANNEL, _IS_TRIED, _IS_SENDING)
_END_LEASES = (
    update(Message)
    .where(_sending, Message.due_at.is_not(None), _attempt_of, DeliveryAttempt.worker == bindparam("dead_worker"))
    .values(due_at=func.now())
)


async def end_leases(connection: AsyncConnection, tenant_id: int, channel: str, worker: str) -> None:
    """End the leases of a dead worker now."""
    await connection.execute(_END_LEASES, {"tenant": tenant_id, "on_channel": channel, "dead_worker": worker})


def update_unlocked(found: Select[int]) -> Update:
    """An update of the messages that `found` selects, without those that another transaction has locked."""
    locked = found.with_for_update(skip_locked=True, key_share=True).cte("locked")
    return update(Message).where(Message.tenant_id == TENANT, Message.id == locked.c.id)


_RESCUE = (
    update_unlocked(
        select(Message.id).where(_sending, Message.due_at <= func.now()).order_by(Message.id).limit(AT_ONCE)
    )
    .where(_attempt_of)
    .values(worker_deaths=Message.worker_deaths + 1)
    .returning(
        Message.id, Message.attempt_count, Message.attempt_limit, Message.worker_deaths, DeliveryAttempt.provider_type
    )
)


async def rescue(
    connection: AsyncConnection, tenant_id: int, channel: str, decide: Callable[[str, Attempt], Decision]
) -> int:
    """Close the attempts whose leases have ended, as `decide(provider, attempt)` says; returns how many."""
    abandoned = await connection.execute(_RESCUE, {"tenant": tenant_id, "on_channel": channel})
    results = []
    for row in abandoned:
        attempt = Attempt(row.attempt_count, row.attempt_limit, cut_off=True, worker_deaths=row.worker_deaths)
        decision = decide(row.provider_type, attempt)
        results.append(AttemptResult(tenant_id, row.id, attempt.number, row.provider_type, *decision))
    await record_outcomes(connection, results)
    return len(results)


_overdue = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.channel == CHANNEL,
        _PENDING,
        Message.expires_at <= func.now(),
        _IS_WAITING,
    )
    .order_by(Message.id)
    .limit(AT_ONCE)
)
_EXPIRE = (
    update_unlocked(_overdue)
    .values(status=MessageStatus.EXPIRED.value, due_at=null())
    .returning(Message.id, Message.conversation_id)
)


async def expire_overdue(connection: AsyncConnection, tenant_id: int, channel: str) -> int:
    """Expire messages that had not left by their `expires_at`; returns how many."""
    expired = (await connection.execute(_EXPIRE, {"tenant": tenant_id, "on_channel": channel})).all()
    if expired:
        await note(connection, tenant_id, MessageStatus.EXPIRED, [row.id for row in expired])
        entries = [NewEvent(EventType.MESSAGE_EXPIRED, row.id, row.conversation_id) for row in expired]
        await write_entries(connection, tenant_id, entries)
    return len(expired)
