"""Removal from the index, in the transaction that removes what was indexed.

A transaction-level lock of the tenant keeps the indexer from writing meanwhile what it has read before.
"""

from collections.abc import Sequence

from sqlalchemy import ARRAY, BigInteger, Integer, any_, bindparam, delete, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import ContactWords, MessageWords
from app.db.statements.batches import TENANT

#: The first number of this lock; the second one is the tenant's.
_CLASS = literal(7_347, Integer())
_TENANTS = 2**31
_KEY = (_CLASS, bindparam("lock", type_=Integer()))
_SHARE = select(func.pg_advisory_xact_lock_shared(*_KEY))
_HOLD = select(func.pg_advisory_xact_lock(*_KEY))

_IDS = bindparam("ids", type_=ARRAY(BigInteger()))
_FORGET_MESSAGES = delete(MessageWords).where(MessageWords.tenant_id == TENANT, MessageWords.message_id == any_(_IDS))
_FORGET_CONTACTS = delete(ContactWords).where(ContactWords.tenant_id == TENANT, ContactWords.contact_id == any_(_IDS))


async def lock_index(connection: AsyncConnection, tenant_id: int, *, to_write: bool = False) -> None:
    """Wait for a transaction that indexes this tenant's rows, and keep others out until the end of this one.

    Transactions that remove do not wait for each other.
    """
    await connection.execute(_HOLD if to_write else _SHARE, {"lock": tenant_id % _TENANTS})


async def forget_messages(connection: AsyncConnection, tenant_id: int, ids: Sequence[int]) -> None:
    """Remove messages from the index. The caller has the lock."""
    await connection.execute(_FORGET_MESSAGES, {"tenant": tenant_id, "ids": list(ids)})


async def forget_contacts(connection: AsyncConnection, tenant_id: int, ids: Sequence[int]) -> None:
    """Remove contacts from the index."""
    if ids:
        await lock_index(connection, tenant_id)
        await connection.execute(_FORGET_CONTACTS, {"tenant": tenant_id, "ids": list(ids)})
