"""Removal of expired data: messages, batches, callbacks, parked receipts, event log, audit, tokens, attempts of
webhooks.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Delete,
    Float,
    Integer,
    Select,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    delete,
    exists,
    func,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from app.config import Settings
from app.db.models import (
    AuditEvent,
    Batch,
    KeptCallback,
    Message,
    SignatureToken,
    StoredReceipt,
    Tenant,
    WebhookAttempt,
)
from app.db.statements.batches import SECOND, TENANT
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS
from app.domain import DEFAULT_TENANT_ID
from app.providers.base import BaseProvider
from app.providers.registry import provider_registry
from app.services.events.trimming import trim_logs
from app.services.files.removal import remove_orphans, tenants_with_orphans
from app.services.people.erasure import finish_erasures, tenants_with_interrupted
from app.services.people.removal import BATCH, remove_messages

log = structlog.get_logger(__name__)

#: Of one tenant in one run, so that one with a great deal to remove does not hold up the others for long. A run every
#: 30 seconds keeps up with 200,000 messages a minute.
_BATCHES = 1000
_DAY = 24 * 3600
_EVERY_TENANT = {ALL_TENANTS: "retention looks for the tenants with something to remove"}

_AGE = bindparam("age", type_=Float()) * SECOND
#: Ids are drawn in about the order of time, so no index on time is needed.
_OLDEST_MESSAGES = (
    select(
        Message.id,
        Message.conversation_id,
        (Message.created_at < func.now() - _AGE).label("is_old"),
        Message.due_at.is_(None).label("is_finished"),
    )
    .where(Message.tenant_id == TENANT, Message.id > bindparam("after", type_=BigInteger()))
    .order_by(Message.id)
    .limit(BATCH)
)


def _delete_oldest(
    time: InstrumentedAttribute[Any], *only: ColumnElement[bool], by: InstrumentedAttribute[Any] | None = None
) -> Delete:
    """Delete the old rows of a batch, the first by `time`; those that are locked are passed over.

    `by` is the id of a table without an index on time: ids are drawn in about the same order.
    """
    table = time.class_.__table__
    key = table.primary_key.columns
    first = (
        select(*key, time.label("time"))
        .where(table.c.tenant_id == TENANT, *only)
        .order_by(time if by is None else by)
        .limit(BATCH)
        .subquery("first")
    )
    old = (
        select(*key)
        .join(first, and_(*(column == first.c[column.name] for column in key)))
        .where(table.c.tenant_id == TENANT, first.c.time < func.now() - _AGE)
        .with_for_update(of=table, skip_locked=True)
        .cte("old")
    )
    return delete(table).where(table.c.tenant_id == TENANT, *(column == old.c[column.name] for column in key))


_DELETE_CALLBACKS = _delete_oldest(KeptCallback.received_at, by=KeptCallback.id)
#: Of a batch, the messages go first.
_DELETE_BATCHES = _delete_oldest(
    Batch.created_at,
    ~exists().where(Message.tenant_id == Batch.tenant_id, Message.batch_id == Batch.id),
    by=Batch.id,
)
_DELETE_AUDIT_EVENTS = _delete_oldest(AuditEvent.created_at, by=AuditEvent.id)
_DELETE_ATTEMPTS = _delete_oldest(WebhookAttempt.started_at, by=WebhookAttempt.id)
_PROVIDERS = bindparam("providers", type_=ARRAY(Text()))
_DELETE_TOKENS = _delete_oldest(SignatureToken.created_at, SignatureToken.provider_type == any_(_PROVIDERS))
_DELETE_OTHER_TOKENS = _delete_oldest(SignatureToken.created_at, SignatureToken.provider_type != all_(_PROVIDERS))
_DELETE_PARKED = _delete_oldest(StoredReceipt.received_at, StoredReceipt.message_id.is_(None))


def _first_row_at(time: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """The time of a tenant's first row of a table, by the id of the row."""
    id = time.class_.id
    return first(time, id == first(id))


def _with_old(time: InstrumentedAttribute[Any]) -> Select[int]:
    """The tenants whose first row of a table is old."""
    is_old = _first_row_at(time) < func.now() - _AGE
    return select(EACH_TENANT).where(is_old).execution_options(**_EVERY_TENANT)


_days = func.coalesce(Tenant.retention_days, bindparam("days", type_=Integer()))
_WITH_OLD_MESSAGES = (
    select(EACH_TENANT, _days)
    .join(Tenant, Tenant.id == EACH_TENANT)
    .where(_first_row_at(Message.created_at) < func.now() - _days * _DAY * SECOND)
    .execution_options(**_EVERY_TENANT)
)
#: The kinds of which every tenant can have rows: the setting of their age, and how they are found and removed.
_KINDS = {
    "webhook_calls": ("webhook_days", _with_old(KeptCallback.received_at), _DELETE_CALLBACKS),
    "audit_events": ("audit_days", _with_old(AuditEvent.created_at), _DELETE_AUDIT_EVENTS),
    "webhook_attempts": ("webhook_attempt_days", _with_old(WebhookAttempt.started_at), _DELETE_ATTEMPTS),
}


async def remove_what_is_over(engine: AsyncEngine, settings: Settings) -> None:
    """Remove expired data, up to 100,000 rows of each kind and tenant, and complete interrupted erasures.

    Any number of workers may do so at once. Tenants with nothing to remove cost no statement.
    """
    async with engine.connect() as connection:
        erasing = await tenants_with_interrupted(connection)
        losing_files = await tenants_with_orphans(connection)
        losing_messages = (await connection.execute(_WITH_OLD_MESSAGES, {"days": settings.retention_days})).all()
    for tenant_id in erasing:
        await finish_erasures(engine.begin, tenant_id)
    removed: Counter[str] = Counter()
    for tenant_id in losing_files:
        removed["files"] += await _in_batches(engine, partial(remove_orphans, tenant_id=tenant_id, limit=BATCH))
    for tenant_id, days in losing_messages:
        removed += await _remove_old_messages(engine, tenant_id, days)
        removed["batches"] += await _remove_by_age(engine, _DELETE_BATCHES, tenant_id, days)
    for kind, (setting, with_old, deletion) in _KINDS.items():
        days = getattr(settings, setting)
        async with engine.connect() as connection:
            tenants = (await connection.execute(with_old, {"age": days * _DAY})).scalars().all()
        for tenant_id in tenants:
            removed[kind] += await _remove_by_age(engine, deletion, tenant_id, days)
    removed["parked_receipts"] += await _remove_by_age(
        engine, _DELETE_PARKED, DEFAULT_TENANT_ID, settings.parked_days
    )
    removed["events"] += await trim_logs(engine, settings.event_days * _DAY)
    removed["signature_tokens"] += await _remove_tokens(engine)
    if removed.total():
        log.info("retention_removed", **+removed)


async def _in_batches(engine: AsyncEngine, remove: Callable[[AsyncConnection], Awaitable[int]]) -> int:
    """Remove batches, each in a transaction, until none is left; returns how many rows."""
    removed = 0
    for _ in range(_BATCHES):
        async with engine.begin() as connection:
            batch = await remove(connection)
        removed += batch
        if batch < BATCH:
            break
    return removed


async def _remove_old_messages(engine: AsyncEngine, tenant_id: int, days: int) -> Counter[str]:
    """Remove messages that were stored longer ago, except those that are still to be sent."""
    removed: Counter[str] = Counter()
    after = 0
    for _ in range(_BATCHES):
        async with engine.begin() as connection:
            parameters = {"tenant": tenant_id, "after": after, "age": days * _DAY}
            page = (await connection.execute(_OLDEST_MESSAGES, parameters)).all()
            if not any(row.is_old for row in page):
                break
            over = [(row.id, row.conversation_id) for row in page if row.is_old and row.is_finished]
            removed += await remove_messages(connection, tenant_id, over, unfinished=False)
        after = page[-1].id
    return removed


async def _remove_tokens(engine: AsyncEngine) -> int:
    """Remove tokens whose signatures are out of date. Those of providers that are gone count as the usual ones."""
    lasting = {name: days for name, each in provider_registry.items() if (days := each.token_days) > 1}
    usual = {"providers": list(lasting)}
    removed = await _remove_by_age(engine, _DELETE_OTHER_TOKENS, DEFAULT_TENANT_ID, BaseProvider.token_days, **usual)
    for name, days in lasting.items():
        removed += await _remove_by_age(engine, _DELETE_TOKENS, DEFAULT_TENANT_ID, days, providers=[name])
    return removed


async def _remove_by_age(engine: AsyncEngine, statement: Delete, tenant_id: int, days: int, **more: object) -> int:
    """Run a statement that removes a batch until none is left."""

    async def batch(connection: AsyncConnection) -> int:
        return (await connection.execute(statement, {"tenant": tenant_id, "age": days * _DAY, **more})).rowcount

    return await _in_batches(engine, batch)
