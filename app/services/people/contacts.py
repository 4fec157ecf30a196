"""Contacts: lists, the export of everything that is stored about one, and its erasure.

A contact is created with its first message (`services.accept.conversations`).
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import InstrumentedAttribute, selectinload

from app.db.models import (
    Alias,
    ConsentEntry,
    Contact,
    Conversation,
    ConversationParticipant,
    File,
    Message,
    MessageEvent,
    MessageFile,
    StoredReceipt,
)
from app.db.statements.paging import Page, Row, fetch_page, rows_of_all
from app.domain import Address, Direction, ParticipantRole
from app.errors import ContactNotFound
from app.services.accept.aliases import resolved
from app.services.callbacks.kept_callbacks import count_callbacks_about
from app.services.consent.hashes import AddressHashes
from app.services.messages.metadata import Pairs, change_pairs, has_pair, pair_parameters
from app.services.people.erasure import accept_erasure, erase
from app.services.people.named import messages_naming
from app.services.search.queue import queue_contacts

#: Rows in a page of an export. A mail may be a megabyte, so a page is some tens of megabytes at most.
_CONVERSATIONS, _MESSAGES = 100, 50


@dataclass(slots=True)
class MessageExport:
    """A message with its attempts, files, receipts and history, each in order."""

    message: Message
    files: list[File] = field(default_factory=list)
    receipts: list[StoredReceipt] = field(default_factory=list)
    history: list[MessageEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ContactChange:
    """A change of a contact: of its name if `sets_name`, and of pairs of metadata. None removes a name or a pair."""

    name: str | None = None
    sets_name: bool = False
    metadata: Mapping[str, str | None] = field(default_factory=dict)


class ContactService:
    """A tenant's contacts. It opens its own sessions: long tasks are done in many short transactions.

    `on_logged` is called with the tenant after a commit that its log tells.
    """

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        tenant_id: int,
        hashes: AddressHashes,
        *,
        on_logged: Callable[[int], None],
    ) -> None:
        self._sessions = sessions
        self._tenant_id = tenant_id
        self._hashes = hashes
        self._on_logged = on_logged

    async def contacts(
        self, address: Address | None, pairs: Pairs = (), *, limit: int, cursor: str | None = None
    ) -> Page[Contact]:
        """Contacts with all of these pairs, the oldest first; with an `address` only the one that has it."""
        statement = select(Contact).where(*self._own())
        if address is not None:
            async with self._transaction() as connection:
                address = await resolved(connection, self._tenant_id, address)
            statement = statement.where(Contact.address == address.value, Contact.address_type == address.type)
        if pairs:
            statement = statement.where(*(has_pair("contact", Contact.id, number) for number in range(len(pairs))))
            statement = statement.params({"tenant": self._tenant_id, **pair_parameters(pairs)})
        return await self._page(statement, (Contact.id,), limit, cursor)

    async def contact(self, contact_id: int) -> Contact:
        """Raises `ContactNotFound`, also for one that is being erased."""
        async with self._sessions() as session:
            found = await session.scalar(select(Contact).where(*self._own(), Contact.id == contact_id))
        if found is None:
            raise ContactNotFound("There is no contact with this id.")
        return found

    async def change(self, contact_id: int, change: ContactChange) -> Contact:
        """Change the name or the metadata of a contact.

        Raises:
            ContactNotFound: There is no such contact, or it is being erased.
            InvalidRequest: There would be too many pairs.
        """
        is_it = *self._own(), Contact.id == contact_id
        async with self._sessions.begin() as session:
            # The key stays free, so that messages of the contact are stored meanwhile.
            found = await session.scalar(select(Contact).where(*is_it).with_for_update(key_share=True))
            if found is None:
                raise ContactNotFound("There is no contact with this id.")
            if change.sets_name:
                found.name = change.name or ""
                await session.flush()
                await queue_contacts(await session.connection(), self._tenant_id, [contact_id])
            if change.metadata:
                connection = await session.connection()
                await change_pairs(connection, self._tenant_id, Contact, contact_id, change.metadata)
                await session.refresh(found)
            return found

    async def named_in(self, contact: Contact, aliases: Sequence[str]) -> list[int]:
        """The ids of the mails of others that name it in `cc`, `bcc` or `reply_to`, in order."""
        async with self._transaction() as connection:
            return await messages_naming(connection, self._tenant_id, [contact.address, *aliases])

    async def aliases(self, contact: Contact) -> Sequence[str]:
        """Its other addresses, in order."""
        of_contact = Alias.tenant_id == self._tenant_id, Alias.address == contact.address
        async with self._sessions() as session:
            return (await session.scalars(select(Alias.alias).where(*of_contact).order_by(Alias.alias))).all()

    async def consent(self, contact: Contact) -> Sequence[ConsentEntry]:
        """Everything that was said about its consent, in order."""
        about = ConsentEntry.tenant_id == self._tenant_id, ConsentEntry.address == contact.address
        async with self._sessions() as session:
            return (await session.scalars(select(ConsentEntry).where(*about).order_by(ConsentEntry.id))).all()

    async def webhook_calls(self, contact: Contact) -> int:
        """The number of kept callbacks that name it."""
        async with self._transaction() as connection:
            return await count_callbacks_about(connection, self._tenant_id, contact.address)

    def conversations(self, contact_id: int) -> AsyncIterator[Conversation]:
        """The conversations in which it is the contact, the oldest first."""
        statement = (
            select(Conversation)
            .join(ConversationParticipant, ConversationParticipant.conversation_id == Conversation.id)
            .where(
                Conversation.tenant_id == self._tenant_id,
                ConversationParticipant.tenant_id == self._tenant_id,
                ConversationParticipant.contact_id == contact_id,
                ConversationParticipant.role == ParticipantRole.CONTACT.value,
            )
        )
        return rows_of_all(lambda cursor: self._page(statement, (Conversation.id,), _CONVERSATIONS, cursor))

    def exported_messages(self, conversation_id: int) -> AsyncIterator[MessageExport]:
        """The messages of a conversation, oldest first by `sent_at`; at most a page of them is in memory."""
        statement = (
            select(Message)
            .where(Message.tenant_id == self._tenant_id, Message.conversation_id == conversation_id)
            .options(selectinload(Message.attempts))
        )

        async def page_at(cursor: str | None) -> Page[MessageExport]:
            page = await self._page(statement, (Message.sent_at, Message.id), _MESSAGES, cursor)
            return Page(await self._completed(page.rows), page.next, page.previous)

        return rows_of_all(page_at)

    async def _page(
        self, statement: Select[Row], order: Sequence[InstrumentedAttribute[Any]], limit: int, cursor: str | None
    ) -> Page[Row]:
        async with self._sessions() as session:
            return await fetch_page(session, statement, order=order, newest_first=False, limit=limit, cursor=cursor)

    async def _completed(self, messages: Sequence[Message]) -> list[MessageExport]:
        exports: dict[int | None, MessageExport] = {message.id: MessageExport(message) for message in messages}
        inbound = {
            (message.provider_type, message.provider_message_id): exports[message.id]
            for message in messages
            if message.direction == Direction.INBOUND
        }
        own = self._tenant_id
        came_with = tuple_(File.provider_type, File.provider_message_id).in_(inbound)
        files = select(File).where(File.tenant_id == own, came_with)
        attached = select(MessageFile.message_id, File).where(
            MessageFile.tenant_id == own,
            MessageFile.message_id.in_(exports),
            File.tenant_id == own,
            File.id == MessageFile.file_id,
        )
        receipts = select(StoredReceipt).where(StoredReceipt.tenant_id == own, StoredReceipt.message_id.in_(exports))
        events = select(MessageEvent).where(MessageEvent.tenant_id == own, MessageEvent.message_id.in_(exports))
        async with self._sessions() as session:
            for file in await session.scalars(files.order_by(File.created_at, File.id)):
                inbound[file.provider_type, file.provider_message_id].files.append(file)
            for message_id, file in await session.execute(attached.order_by(File.created_at, File.id)):
                exports[message_id].files.append(file)
            for receipt in await session.scalars(receipts.order_by(StoredReceipt.id)):
                exports[receipt.message_id].receipts.append(receipt)
            for event in await session.scalars(events.order_by(MessageEvent.id)):
                exports[event.message_id].history.append(event)
        return list(exports.values())

    async def erase(self, contact_id: int, *, actor: str | None, client: str | None) -> Counter[str]:
        """Remove everything about a contact; returns the number of rows, by kind.

        Once it is accepted, nothing more is sent to the contact. An interrupted erasure is completed by a worker, or
        by asking again.

        Raises:
            ContactNotFound: There is no such contact, or it is gone already.
            NotErasable: The address is the tenant's own.
            DatabaseUnavailable: Only a part is removed so far.
        """
        async with self._transaction() as connection:
            removed = await accept_erasure(
                connection, self._tenant_id, contact_id, self._hashes, actor=actor, client=client
            )
        self._on_logged(self._tenant_id)
        return removed + await erase(self._transaction, self._tenant_id, contact_id)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._sessions.begin() as session:
            yield await session.connection()

    def _own(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return Contact.tenant_id == self._tenant_id, Contact.erasing_since.is_(None)
