"""What is kept for a time only: messages, receipts that nobody missed, calls of providers, who did what."""

from collections import Counter

import structlog
from sqlalchemy import BigInteger, Executable, Float, bindparam, delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.batches import SECOND, TENANT
from app.db.models import AuditEvent, KeptCallback, Message, SignatureToken, StoredReceipt, Tenant
from app.domain import DEFAULT_TENANT_ID
from app.services.messages.files import remove_orphans
from app.services.people.personal_data import BATCH, finish_erasures, remove_messages

log = structlog.get_logger(__name__)

#: Of one tenant in one run, so that one with a great deal to remove does not hold up the others.
_BATCHES = 50
_DAY = 24 * 3600
#: Longer than any signature that covers no more than a token is good for.
_TOKEN_DAYS = 1

_AGE = bindparam("age", type_=Float()) * SECOND
#: Ids are drawn in about the order of time, so the old ones come first and no index on time is needed.
_OLDEST = (
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


async def remove_what_is_over(engine: AsyncEngine, settings: Settings) -> None:
    """Remove what is past its time, up to some thousands of each kind; any number of workers may do so at once.

    Finishes erasures that were cut off, too.
    """
    async with engine.connect() as connection:
        tenants = (await connection.execute(select(Tenant.id, Tenant.retention_days))).all()
    removed: Counter[str] = Counter()
    for tenant_id, days in tenants:
        await finish_erasures(engine.begin, tenant_id)
        async with engine.begin() as connection:
            removed["files"] += await remove_orphans(connection, tenant_id)
        days = days or settings.retention_days
        if days is not None:
            removed += await _remove_old_messages(engine, tenant_id, days)
        removed["webhook_calls"] += await _remove_by_age(engine, _REMOVE_CALLS, tenant_id, settings.webhook_days)
        removed["audit_events"] += await _remove_by_age(engine, _REMOVE_RECORDS, tenant_id, settings.audit_days)
    removed["parked_receipts"] += await _remove_by_age(
        engine, _REMOVE_PARKED, DEFAULT_TENANT_ID, settings.parked_days
    )
    removed["signature_tokens"] += await _remove_by_age(engine, _REMOVE_TOKENS, DEFAULT_TENANT_ID, _TOKEN_DAYS)
    if removed.total():
        log.info("retention_removed", **+removed)


async def _remove_old_messages(engine: AsyncEngine, tenant_id: int, days: int) -> Counter[str]:
    """Messages that were stored longer ago, and that nobody has anything to do with any more."""
    removed: Counter[str] = Counter()
    after = 0
    for _ in range(_BATCHES):
        async with engine.begin() as connection:
            parameters = {"tenant": tenant_id, "after": after, "age": days * _DAY}
            page = (await connection.execute(_OLDEST, parameters)).all()
            if not any(row.is_old for row in page):
                break
            over = [(row.id, row.conversation_id) for row in page if row.is_old and row.is_finished]
            removed += await remove_messages(connection, tenant_id, over, unfinished=False)
        after = page[-1].id
    return removed


_parked = (
    select(StoredReceipt.id)
    .where(
        StoredReceipt.tenant_id == TENANT,
        StoredReceipt.message_id.is_(None),
        StoredReceipt.received_at < func.now() - _AGE,
    )
    .order_by(StoredReceipt.received_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
    .cte("parked")
)
_REMOVE_PARKED = delete(StoredReceipt).where(StoredReceipt.tenant_id == TENANT, StoredReceipt.id == _parked.c.id)
_old_tokens = (
    select(SignatureToken.provider_type, SignatureToken.token)
    .where(SignatureToken.tenant_id == TENANT, SignatureToken.created_at < func.now() - _AGE)
    .order_by(SignatureToken.created_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
    .cte("old_tokens")
)
_REMOVE_TOKENS = delete(SignatureToken).where(
    SignatureToken.tenant_id == TENANT,
    SignatureToken.provider_type == _old_tokens.c.provider_type,
    SignatureToken.token == _old_tokens.c.token,
)
_first_calls = (
    select(KeptCallback.id, KeptCallback.received_at)
    .where(KeptCallback.tenant_id == TENANT)
    .order_by(KeptCallback.id)
    .limit(BATCH)
    .subquery("first_calls")
)
_old_calls = (
    select(KeptCallback.id)
    .join(_first_calls, KeptCallback.id == _first_calls.c.id)
    .where(KeptCallback.tenant_id == TENANT, _first_calls.c.received_at < func.now() - _AGE)
    .with_for_update(of=KeptCallback, skip_locked=True)
    .cte("old_calls")
)
_REMOVE_CALLS = delete(KeptCallback).where(KeptCallback.tenant_id == TENANT, KeptCallback.id == _old_calls.c.id)
_first = (
    select(AuditEvent.id, AuditEvent.created_at)
    .where(AuditEvent.tenant_id == TENANT)
    .order_by(AuditEvent.id)
    .limit(BATCH)
    .subquery("first")
)
_old_records = (
    select(AuditEvent.id)
    .join(_first, AuditEvent.id == _first.c.id)
    .where(AuditEvent.tenant_id == TENANT, _first.c.created_at < func.now() - _AGE)
    .with_for_update(of=AuditEvent, skip_locked=True)
    .cte("old_records")
)
_REMOVE_RECORDS = delete(AuditEvent).where(AuditEvent.tenant_id == TENANT, AuditEvent.id == _old_records.c.id)


async def _remove_by_age(engine: AsyncEngine, statement: Executable, tenant_id: int, days: int) -> int:
    """Run a statement that removes a batch, until there is none left."""
    removed = 0
    for _ in range(_BATCHES):
        async with engine.begin() as connection:
            batch = (await connection.execute(statement, {"tenant": tenant_id, "age": days * _DAY})).rowcount
        removed += batch
        if batch < BATCH:
            break
    return removed
