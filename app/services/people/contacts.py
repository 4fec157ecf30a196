"""Contacts: who they are, everything that is stored about one, and having it erased.

They come into being with their first message (`services.storing`).
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

from app.db.models import Contact, Conversation, ConversationParticipant, File, Message, MessageEvent, StoredReceipt
from app.db.paging import Page, fetch_page, rows_of_all
from app.domain import Address, Direction, ParticipantRole
from app.errors import ContactNotFound
from app.services.callbacks.kept_callbacks import count_callbacks_about
from app.services.people.personal_data import accept_erasure, erase

#: Of an export: a mail may be a megabyte, so that a page is some tens of megabytes at the very most.
_CONVERSATIONS, _MESSAGES = 100, 50


@dataclass(slots=True)
class Dossier:
    """A message, its attempts loaded, with its files, what was said about it and done with it, each in order."""

    message: Message
    files: list[File] = field(default_factory=list)
    receipts: list[StoredReceipt] = field(default_factory=list)
    history: list[MessageEvent] = field(default_factory=list)


class ContactService:
    """A tenant's contacts. Works with sessions of its own: what takes long is done in many short transactions."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], tenant_id: int) -> None:
        self._sessions = sessions
        self._tenant_id = tenant_id

    async def contacts(self, address: Address | None, *, limit: int, cursor: str | None = None) -> Page[Contact]:
        """Contacts, those known longest first; with an `address` the one that has it, if there is one."""
        statement = select(Contact).where(*self._own())
        if address is not None:
            statement = statement.where(Contact.address == address.value, Contact.address_type == address.type)
        async with self._sessions() as session:
            return await fetch_page(
                session, statement, order=(Contact.id,), newest_first=False, limit=limit, cursor=cursor
            )

    async def contact(self, contact_id: int) -> Contact:
        """Raises `ContactNotFound`, also for one that is being erased."""
        async with self._sessions() as session:
            found = (
                await session.scalars(select(Contact).where(*self._own(), Contact.id == contact_id))
            ).one_or_none()
        if found is None:
            raise ContactNotFound("There is no contact with this id.")
        return found

    async def webhook_calls(self, contact: Contact) -> int:
        """How many calls of providers are kept, as they came, that name it."""
        async with self._transaction() as connection:
            return await count_callbacks_about(connection, self._tenant_id, contact.address)

    def conversations(self, contact_id: int) -> AsyncIterator[Conversation]:
        """The conversations in which it is the contact, the oldest first."""
        statement = (
            select(Conversation)
            .join(
                ConversationParticipant,
                (ConversationParticipant.tenant_id == Conversation.tenant_id)
                & (ConversationParticipant.conversation_id == Conversation.id),
            )
            .where(
                Conversation.tenant_id == self._tenant_id,
                ConversationParticipant.contact_id == contact_id,
                ConversationParticipant.role == ParticipantRole.CONTACT.value,
            )
        )

        async def page_at(cursor: str | None) -> Page[Conversation]:
            async with self._sessions() as session:
                return await fetch_page(
                    session,
                    statement,
                    order=(Conversation.id,),
                    newest_first=False,
                    limit=_CONVERSATIONS,
                    cursor=cursor,
                )

        return rows_of_all(page_at)

    def dossiers(self, conversation_id: int) -> AsyncIterator[Dossier]:
        """What was said in a conversation, oldest first by `sent_at`; no more than a page of it is in memory."""
        statement = (
            select(Message)
            .where(Message.tenant_id == self._tenant_id, Message.conversation_id == conversation_id)
            .options(selectinload(Message.attempts))
        )

        async def page_at(cursor: str | None) -> Page[Dossier]:
            async with self._sessions() as session:
                page = await fetch_page(
                    session,
                    statement,
                    order=(Message.sent_at, Message.id),
                    newest_first=False,
                    limit=_MESSAGES,
                    cursor=cursor,
                )
                return Page(await self._completed(session, page.rows), page.next, page.previous)

        return rows_of_all(page_at)

    async def _completed(self, session: AsyncSession, messages: Sequence[Message]) -> list[Dossier]:
        ids = [message.id for message in messages]
        said = select(StoredReceipt).where(
            StoredReceipt.tenant_id == self._tenant_id, StoredReceipt.message_id.in_(ids)
        )
        done = select(MessageEvent).where(MessageEvent.tenant_id == self._tenant_id, MessageEvent.message_id.in_(ids))
        came = {
            message.provider_message_id: message for message in messages if message.direction == Direction.INBOUND
        }
        brought = select(File).where(
            File.tenant_id == self._tenant_id,
            File.provider_type.in_({message.provider_type for message in came.values()}),
            File.provider_message_id.in_(came),
        )
        files, receipts, history = defaultdict(list), defaultdict(list), defaultdict(list)
        for file in await session.scalars(brought.order_by(File.created_at, File.id)):
            if file.provider_type == came[file.provider_message_id].provider_type:
                files[came[file.provider_message_id].id].append(file)
        for receipt in await session.scalars(said.order_by(StoredReceipt.id)):
            receipts[receipt.message_id].append(receipt)
        for event in await session.scalars(done.order_by(MessageEvent.id)):
            history[event.message_id].append(event)
        return [
            Dossier(message, files[message.id], receipts[message.id], history[message.id]) for message in messages
        ]

    async def erase(self, contact_id: int, *, actor: str | None, client: str | None) -> Counter[str]:
        """Remove everything about a contact, and say how many rows of what.

        Once it is accepted nothing more is handed to a provider, and what is cut off is finished by a worker, or by
        asking again. Raises `ContactNotFound`, `NotErasable`, and `DatabaseUnavailable` before all of it is gone.
        """
        async with self._transaction() as connection:
            removed = await accept_erasure(connection, self._tenant_id, contact_id, actor=actor, client=client)
        return removed + await erase(self._transaction, self._tenant_id, contact_id)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._sessions.begin() as session:
            yield await session.connection()

    def _own(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return Contact.tenant_id == self._tenant_id, Contact.erasing_since.is_(None)
