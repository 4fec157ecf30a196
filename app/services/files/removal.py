"""Removal of files: with their messages, and of those that no message has."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    SQLColumnExpression,
    Text,
    and_,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import File, Message, MessageFile
from app.db.statements.batches import TENANT
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS

#: A file without a message is an orphan after a day. Older than three days it has been looked at often enough.
_ORPHAN_AGE, _FORGOTTEN_AGE = timedelta(days=1), timedelta(days=3)

_MESSAGES = bindparam("messages", type_=ARRAY(BigInteger()))
_FILES = bindparam("files", type_=ARRAY(Text()))
_CAME_WITH = select(File.id).where(
    File.tenant_id == TENANT,
    File.provider_type == Message.provider_type,
    File.provider_message_id == Message.provider_message_id,
    Message.tenant_id == TENANT,
    Message.id == any_(_MESSAGES),
)
_DETACH = (
    delete(MessageFile)
    .where(MessageFile.tenant_id == TENANT, MessageFile.message_id == any_(_MESSAGES))
    .returning(MessageFile.file_id)
)
_DETACH_FILES = delete(MessageFile).where(MessageFile.tenant_id == TENANT, MessageFile.file_id == any_(_FILES))
#: Nothing can be attached to a file that is locked.
_LOCK = select(File.id).where(File.tenant_id == TENANT, File.id == any_(_FILES)).order_by(File.id).with_for_update()
_REMOVE = delete(File).where(File.tenant_id == TENANT, File.id == any_(_FILES)).returning(File.path)


def _is_attached(tenant: SQLColumnExpression[int]) -> ColumnElement[bool]:
    return exists().where(MessageFile.tenant_id == tenant, MessageFile.file_id == File.id)


_REMOVE_UNATTACHED = _REMOVE.where(File.provider_type.is_(None), ~_is_attached(TENANT))


async def remove_files(connection: AsyncConnection, tenant_id: int, message_ids: Sequence[int]) -> int:
    """Remove the files of messages that are about to be removed; returns how many.

    An inbound file goes with its own message, also where it was sent on. An uploaded one goes with the last message
    that it is attached to. Files on disk are unlinked at once: the messages will be removed even if this transaction
    fails.
    """
    of_messages = {"tenant": tenant_id, "messages": message_ids}
    inbound = list((await connection.execute(_CAME_WITH, of_messages)).scalars())
    attached = list((await connection.execute(_DETACH, of_messages)).scalars())
    removed = 0
    if inbound:
        of_files = {"tenant": tenant_id, "files": inbound}
        await connection.execute(_LOCK, of_files)
        await connection.execute(_DETACH_FILES, of_files)
        removed += await _unlinked((await connection.execute(_REMOVE, of_files)).scalars())
    if attached:
        of_files = {"tenant": tenant_id, "files": sorted(set(attached))}
        await connection.execute(_LOCK, of_files)
        # A statement of its own, so that it sees what was attached until the lock.
        removed += await _unlinked((await connection.execute(_REMOVE_UNATTACHED, of_files)).scalars())
    return removed


def _is_orphan(tenant: SQLColumnExpression[int]) -> ColumnElement[bool]:
    """True of a file of a tenant that no message has."""
    has_message = exists().where(
        Message.tenant_id == tenant,
        Message.provider_type == File.provider_type,
        Message.provider_message_id == File.provider_message_id,
        Message.provider_message_id.is_not(None),
    )
    is_used = case((File.provider_type.is_(None), _is_attached(tenant)), else_=has_message)
    is_of_age = and_(File.created_at < func.now() - _ORPHAN_AGE, File.created_at > func.now() - _FORGOTTEN_AGE)
    return and_(is_of_age, ~is_used)


_WITH_ORPHANS = (
    select(EACH_TENANT)
    .where(first(File.created_at, _is_orphan(File.tenant_id)).is_not(None))
    .execution_options(**{ALL_TENANTS: "the orphans of all tenants are removed"})
)
_ORPHANS = (
    select(File.id)
    .where(File.tenant_id == TENANT, _is_orphan(TENANT))
    .limit(bindparam("limit", type_=BigInteger()))
    .with_for_update(skip_locked=True)
)
#: Once more under the lock: a message may have been stored meanwhile.
_REMOVE_ORPHANS = _REMOVE.where(_is_orphan(TENANT))


async def tenants_with_orphans(connection: AsyncConnection) -> list[int]:
    """The tenants with files that no message has."""
    return list((await connection.execute(_WITH_ORPHANS)).scalars())


async def remove_orphans(connection: AsyncConnection, tenant_id: int, *, limit: int) -> int:
    """Remove some files that no message has; returns how many.

    Their callback was cut off before the message was stored, or they were uploaded and never attached.
    """
    orphans = list((await connection.execute(_ORPHANS, {"tenant": tenant_id, "limit": limit})).scalars())
    if not orphans:
        return 0
    return await _unlinked(
        (await connection.execute(_REMOVE_ORPHANS, {"tenant": tenant_id, "files": orphans})).scalars()
    )


async def _unlinked(paths: Iterable[Any]) -> int:
    """Unlink the files on disk; returns the number of all."""
    removed = list(paths)
    lying = [path for path in removed if path is not None]
    if lying:
        await asyncio.to_thread(_unlink, lying)
    return len(removed)


def _unlink(paths: Iterable[str]) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)
