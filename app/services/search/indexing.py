"""The indexer: it takes rows from the queue and writes the words of what they name, in one transaction.

So a crash leaves a row in the queue, and a row is never indexed in part. A worker runs it in the background.
"""

import asyncio
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    Text,
    any_,
    bindparam,
    cast,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import TSVECTOR, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import is_unavailable
from app.db.models import Contact, ContactWords, Message, MessageWords, QueuedForSearch
from app.db.statements.batches import TENANT, given, rows
from app.db.tenant_guard import ALL_TENANTS
from app.domain import Channel
from app.providers.mail.html_source import looks_like_html, text_of_html
from app.services.search.queue import MESSAGE
from app.services.search.removal import lock_index
from app.services.search.words import INDEXED_CHARACTERS, folded, grams_of, of_section, vector, words_of

log = structlog.get_logger(__name__)

#: The share of its time that the indexer works: while messages are being sent, and otherwise.
_BUSY_SHARE, _IDLE_SHARE = 0.05, 0.2
#: Rows of a transaction; their number follows the time that one should take.
_FEWEST, _FIRST, _MOST = 1, 50, 1_000
_SECONDS = 0.05
#: Characters that are read between two turns of the event loop.
_AT_ONCE = 10_000
#: Of a body in HTML so much is read: its tags take more room than its words.
_READ_CHARACTERS = 2 * INDEXED_CHARACTERS
_LONGEST_CONTACT = 600

_head = select(QueuedForSearch.tenant_id).limit(_MOST).subquery("head")
_TENANTS_WITH_ROWS = (
    select(_head.c.tenant_id)
    .distinct()
    .order_by(_head.c.tenant_id)
    .execution_options(**{ALL_TENANTS: "the indexer looks for the tenants with something to index"})
)
_LIMIT = bindparam("most", type_=Integer())
_first_rows = (
    select(QueuedForSearch.ctid)
    .where(QueuedForSearch.tenant_id == TENANT)
    .limit(_LIMIT)
    .with_for_update(skip_locked=True)
)
_TAKE = (
    delete(QueuedForSearch)
    .where(
        QueuedForSearch.tenant_id == TENANT,
        QueuedForSearch.ctid == any_(func.array(_first_rows.scalar_subquery(), type_=ARRAY(Text()))),
    )
    .returning(QueuedForSearch.subject, QueuedForSearch.subject_id)
)
_IDS = bindparam("ids", type_=ARRAY(BigInteger()))
#: The beginning of the body of a message, by which it is found.
BEGINNING = func.left(Message.body, _READ_CHARACTERS)
_MESSAGES = select(Message.id, Message.channel, Message.subject, BEGINNING.label("body")).where(
    Message.tenant_id == TENANT, Message.id == any_(_IDS)
)
_CONTACTS = select(Contact.id, Contact.address, Contact.name).where(
    Contact.tenant_id == TENANT, Contact.id == any_(_IDS), Contact.erasing_since.is_(None)
)

_new_messages = rows(message_id=BigInteger(), words=Text())
_insert_messages = insert(MessageWords).from_select(
    ["tenant_id", "message_id", "words"],
    select(TENANT, _new_messages.c.message_id, cast(_new_messages.c.words, TSVECTOR)),
)
_WRITE_MESSAGES = _insert_messages.on_conflict_do_update(
    index_elements=["tenant_id", "message_id"], set_={"words": _insert_messages.excluded.words}
)
_new_contacts = rows(contact_id=BigInteger(), content=Text(), words=Text())
_insert_contacts = insert(ContactWords).from_select(
    ["tenant_id", "contact_id", "content", "words"],
    select(TENANT, _new_contacts.c.contact_id, _new_contacts.c.content, cast(_new_contacts.c.words, TSVECTOR)),
)
_WRITE_CONTACTS = _insert_contacts.on_conflict_do_update(
    index_elements=["tenant_id", "contact_id"],
    set_={name: _insert_contacts.excluded[name] for name in ("content", "words")},
)


class Indexer:
    """Indexes what is queued. While `is_busy` it takes a twentieth of the time."""

    def __init__(self, engine: AsyncEngine, *, is_busy: Callable[[], bool] = lambda: False) -> None:
        self._engine = engine
        self._is_busy = is_busy
        self._limit = _FIRST

    async def run(self) -> None:
        """Index until the queue is empty, with pauses after each transaction.

        A tenant whose rows can't be indexed holds up no other one. Its rows are tried again at the next call.
        """
        clock = asyncio.get_running_loop().time
        failed: set[int] = set()
        while tenants := [each for each in await self._tenants() if each not in failed]:
            for tenant_id in tenants:
                began = clock()
                try:
                    await self._index_some(tenant_id)
                except Exception as error:
                    if is_unavailable(error):
                        raise
                    log.exception("texts_not_indexed", tenant=tenant_id)
                    failed.add(tenant_id)
                spent = clock() - began
                share = _BUSY_SHARE if self._is_busy() else _IDLE_SHARE
                await asyncio.sleep(spent * (1 / share - 1))

    async def _tenants(self) -> Sequence[int]:
        async with self._engine.connect() as connection:
            return (await connection.execute(_TENANTS_WITH_ROWS)).scalars().all()

    async def _index_some(self, tenant_id: int) -> None:
        """Index some rows, fewer than before where the last transaction took long or failed."""
        clock = asyncio.get_running_loop().time
        began, limit = clock(), self._limit
        self._limit = max(_FEWEST, limit // 4)
        async with self._engine.begin() as connection:
            await index_rows(connection, tenant_id, limit)
        spent = max(clock() - began, 0.001)
        self._limit = round(min(max(limit * _SECONDS / spent, _FEWEST, limit / 4), 2 * limit, _MOST))


async def index_rows(connection: AsyncConnection, tenant_id: int, limit: int = _MOST) -> int:
    """Take rows of a tenant from the queue and index what they name; returns the number of rows.

    What is gone meanwhile is left out, and what is indexed already is indexed again.
    """
    await lock_index(connection, tenant_id, to_write=True)
    taken = (await connection.execute(_TAKE, {"tenant": tenant_id, "most": limit})).all()
    messages = {row.subject_id for row in taken if row.subject == MESSAGE}
    contacts = {row.subject_id for row in taken if row.subject != MESSAGE}
    if messages:
        await _index_messages(connection, tenant_id, sorted(messages))
    if contacts:
        await _index_contacts(connection, tenant_id, sorted(contacts))
    return len(taken)


async def _index_messages(connection: AsyncConnection, tenant_id: int, ids: list[int]) -> None:
    found = (await connection.execute(_MESSAGES, {"tenant": tenant_id, "ids": ids})).all()
    new, unread = [], 0
    for row in found:
        text = f"{row.subject or ''}\n{await readable_body(row.channel, row.body)}"
        new.append((row.id, vector(of_section(tenant_id, row.id), words_of(text))))
        unread += len(text)
        if unread > _AT_ONCE:
            unread = 0
            await asyncio.sleep(0)
    await _write(connection, _WRITE_MESSAGES, tenant_id, ("message_id", "words"), new)


async def _index_contacts(connection: AsyncConnection, tenant_id: int, ids: list[int]) -> None:
    new = []
    for row in await connection.execute(_CONTACTS, {"tenant": tenant_id, "ids": ids}):
        content = unicodedata.normalize("NFC", f"{row.address}\n{row.name or ''}")[:_LONGEST_CONTACT]
        compared = folded(content)
        words = vector(of_section(tenant_id, row.id), words_of(content), sorted(grams_of(compared)))
        new.append((row.id, compared, words))
    await _write(connection, _WRITE_CONTACTS, tenant_id, ("contact_id", "content", "words"), new)


async def _write(
    connection: AsyncConnection, statement: Any, tenant_id: int, names: Sequence[str], values: Iterable[Sequence[Any]]
) -> None:
    if values:
        await connection.execute(statement, given(tenant_id, names, values))


async def readable_body(channel: str, body: str) -> str:
    """The beginning of a body (`BEGINNING`) as people read it. HTML is read in a thread, since it may take 20 ms."""
    if channel == Channel.EMAIL and looks_like_html(body):
        body = await asyncio.to_thread(text_of_html, body)
    return unicodedata.normalize("NFC", body)[:INDEXED_CHARACTERS]
