"""The rows of batches, and what became of their lines."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import case, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import load_only

from app.batches import BatchState, Priority
from app.db.models import Batch, Message
from app.db.statements.paging import Page, fetch_page
from app.errors import BatchNotFound


class NewBatch(NamedTuple):
    """A batch to be opened. `priority` and `topic` are those of lines that name none."""

    key: str
    name: str | None = None
    priority: Priority = Priority.BULK
    topic: str | None = None


async def open_batch(session: AsyncSession, tenant_id: int, new: NewBatch) -> tuple[Batch, bool]:
    """The batch of this key, and True if it was there before: then it keeps its name, priority and topic."""
    added = insert(Batch).values(tenant_id=tenant_id, **new._asdict()).on_conflict_do_nothing().returning(Batch.id)
    is_new = (await session.execute(added)).scalar() is not None
    found = select(Batch).where(Batch.tenant_id == tenant_id, Batch.key == new.key)
    return (await session.scalars(found)).one(), not is_new


async def load_batch(session: AsyncSession, tenant_id: int, batch_id: int, *, for_update: bool = False) -> Batch:
    """Raises `BatchNotFound`. With `for_update`, others who change its state wait for the end of the transaction."""
    batch = await session.get(Batch, (tenant_id, batch_id), with_for_update=for_update or None)
    if batch is None:
        raise BatchNotFound("There is no batch with this id.")
    return batch


async def batches_of(session: AsyncSession, tenant_id: int, *, limit: int, cursor: str | None) -> Page[Batch]:
    """The newest first."""
    own = select(Batch).where(Batch.tenant_id == tenant_id)
    return await fetch_page(session, own, order=(Batch.id,), newest_first=True, limit=limit, cursor=cursor)


async def lines_of(
    session: AsyncSession, tenant_id: int, batch_id: int, *, limit: int, cursor: str | None
) -> Page[Message]:
    """The messages of a batch in the order of their lines."""
    shown = load_only(Message.id, Message.conversation_id, Message.batch_line, Message.status, Message.status_reason)
    own = select(Message).options(shown).where(Message.tenant_id == tenant_id, Message.batch_id == batch_id)
    return await fetch_page(session, own, order=(Message.batch_line,), newest_first=False, limit=limit, cursor=cursor)


async def count_by_status(session: AsyncSession, tenant_id: int, batch_id: int) -> Mapping[str, int]:
    """The number of messages of a batch by status."""
    counted = (
        select(Message.status, func.count())
        .where(Message.tenant_id == tenant_id, Message.batch_id == batch_id)
        .group_by(Message.status)
        .order_by(Message.status)
    )
    return {row[0]: row[1] for row in await session.execute(counted)}


async def change_state(session: AsyncSession, tenant_id: int, batch_id: int, state: BatchState) -> None:
    """Give a batch a state that it does not have."""
    is_it = Batch.tenant_id == tenant_id, Batch.id == batch_id
    await session.execute(update(Batch).where(*is_it).values(state=state.value, changed_at=func.now()))


async def complete_batch(session: AsyncSession, tenant_id: int, batch_id: int, *, lines: int, refused: int) -> None:
    """Note that all lines have been read. The first number of lines stays; a repeat with fewer says nothing."""
    last, now = func.coalesce(Batch.lines, lines), await session.scalar(select(func.now()))
    is_it = Batch.tenant_id == tenant_id, Batch.id == batch_id
    values = {
        "lines": last,
        "refused": case((last <= lines, refused), else_=Batch.refused),
        "completed_at": func.coalesce(Batch.completed_at, now),
    }
    await session.execute(update(Batch).where(*is_it).values(values))
