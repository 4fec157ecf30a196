"""Removal of expired data: messages, callbacks, parked receipts, event log, audit, tokens, attempts of webhooks."""

from collections import Counter
from typing import Any

import structlog
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Delete,
    Float,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    delete,
    func,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from app.config import Settings
from app.db.batches import SECOND, TENANT
from app.db.models import AuditEvent, KeptCallback, Message, SignatureToken, StoredReceipt, Tenant, WebhookAttempt
from app.domain import DEFAULT_TENANT_ID
from app.providers.base import BaseProvider
from app.providers.registry import provider_registry
from app.services.events.trimming import trim_logs
from app.services.messages.files import remove_orphans
from app.services.people.erasure import finish_erasures
from app.services.people.removal import BATCH, remove_messages

log = structlog.get_logger(__name__)

#: Of one tenant in one run, so that one with a great deal to remove does not hold up the others.
_BATCHES = 100
_DAY = 24 * 3600

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
_DELETE_AUDIT_EVENTS = _delete_oldest(AuditEvent.created_at, by=AuditEvent.id)
_DELETE_ATTEMPTS = _delete_oldest(WebhookAttempt.started_at, by=WebhookAttempt.id)
_PROVIDERS = bindparam("providers", type_=ARRAY(Text()))
_DELETE_TOKENS = _delete_oldest(SignatureToken.created_at, SignatureToken.provider_type == any_(_PROVIDERS))
_DELETE_OTHER_TOKENS = _delete_oldest(SignatureToken.created_at, SignatureToken.provider_type != all_(_PROVIDERS))
_DELETE_PARKED = _delete_oldest(StoredReceipt.received_at, StoredReceipt.message_id.is_(None))


async def remove_what_is_over(engine: AsyncEngine, settings: Settings) -> None:
    """Remove expired data, up to some thousands of rows of each kind, and complete interrupted erasures.

    Any number of workers may do so at once.
    """
    async with engine.connect() as connection:
        tenants = (await connection.execute(select(Tenant.id, Tenant.retention_days))).all()
    removed: Counter[str] = Counter()
    for tenant_id, days in tenants:
        await finish_erasures(engine.begin, tenant_id)
        for _ in range(_BATCHES):
            async with engine.begin() as connection:
                orphans = await remove_orphans(connection, tenant_id, limit=BATCH)
            removed["files"] += orphans
            if orphans < BATCH:
                break
        days = days or settings.retention_days
        if days is not None:
            removed += await _remove_old_messages(engine, tenant_id, days)
        removed["webhook_calls"] += await _remove_by_age(engine, _DELETE_CALLBACKS, tenant_id, settings.webhook_days)
        removed["audit_events"] += await _remove_by_age(engine, _DELETE_AUDIT_EVENTS, tenant_id, settings.audit_days)
        removed["webhook_attempts"] += await _remove_by_age(
            engine, _DELETE_ATTEMPTS, tenant_id, settings.webhook_attempt_days
        )
    removed["parked_receipts"] += await _remove_by_age(
        engine, _DELETE_PARKED, DEFAULT_TENANT_ID, settings.parked_days
    )
    removed["events"] += await trim_logs(engine, settings.event_days * _DAY)
    removed["signature_tokens"] += await _remove_tokens(engine)
    if removed.total():
        log.info("retention_removed", **+removed)


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
    removed = 0
    for _ in range(_BATCHES):
        async with engine.begin() as connection:
            parameters = {"tenant": tenant_id, "age": days * _DAY, **more}
            batch = (await connection.execute(statement, parameters)).rowcount
        removed += batch
        if batch < BATCH:
            break
    return removed
