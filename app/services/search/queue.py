"""The queue of messages and contacts that are to be indexed.

Its rows are written with what they name, by the same statement or in the same transaction. It has no index, so that a
row costs almost nothing.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import CTE, BigInteger, Select, Text, bindparam, insert, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import QueuedForSearch
from app.db.statements.batches import TENANT, given, rows

MESSAGE, CONTACT = "message", "contact"

_COLUMNS = ["tenant_id", "subject", "subject_id"]


def queued_messages(stored: CTE) -> Select[int]:
    """The rows of stored messages, by `id`."""
    return select(TENANT, literal(MESSAGE, Text()), stored.c.id)


def queued_contacts(source: CTE, *conditions: object) -> Select[int]:
    """The rows of contacts, by `contact_id`."""
    return select(TENANT, literal(CONTACT, Text()), source.c.contact_id).where(*conditions)  # type: ignore[arg-type]


def queue_rows(name: str, each: Sequence[Select[int]]) -> CTE:
    """Write rows to the queue, as a part of a larger statement."""
    chosen = each[0] if len(each) == 1 else union_all(*each)
    return insert(QueuedForSearch).from_select(_COLUMNS, chosen).returning(QueuedForSearch.subject_id).cte(name)


_given = rows(subject_id=BigInteger())
_QUEUE = insert(QueuedForSearch).from_select(
    _COLUMNS, select(TENANT, bindparam("queued", type_=Text()), _given.c.subject_id)
)


async def queue_messages(connection: AsyncConnection, tenant_id: int, ids: Iterable[int]) -> None:
    """Have messages indexed once the open transaction is committed."""
    await _queue(connection, tenant_id, MESSAGE, ids)


async def queue_contacts(connection: AsyncConnection, tenant_id: int, ids: Iterable[int]) -> None:
    """Have contacts indexed, or indexed again, once the open transaction is committed."""
    await _queue(connection, tenant_id, CONTACT, ids)


async def _queue(connection: AsyncConnection, tenant_id: int, subject: str, ids: Iterable[int]) -> None:
    if found := [(id,) for id in ids]:
        await connection.execute(_QUEUE, given(tenant_id, ("subject_id",), found) | {"queued": subject})
