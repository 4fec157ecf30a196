"""Erasure of everything about a contact: accepted in one transaction, carried out in many short ones."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import structlog
from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import Alias, Contact, Conversation, ConversationParticipant, Message, TenantAddress
from app.db.tenant_guard import ALL_TENANTS
from app.domain import AddressType, EventType, MessageStatus, ParticipantRole
from app.errors import ContactNotFound, DatabaseUnavailable, NotErasable
from app.services.callbacks.kept_callbacks import find_callbacks_about, remove_found
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import hide_address
from app.services.event_log.entries import NewEvent, write_entries
from app.services.messages.metadata import REMOVE_PAIRS, SUBJECTS
from app.services.people.named import forget_named
from app.services.people.removal import BATCH, remove_aliases, remove_empty, remove_messages, remove_unused
from app.services.search.removal import forget_contacts
from app.services.tenancy.audit import record

log = structlog.get_logger(__name__)

#: Opens a transaction, which is committed at the end.
Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

#: Locked rows are free again after milliseconds. An erasure that removes nothing for 10 s fails.
_PAUSE_SECONDS, _PATIENCE_SECONDS = 0.02, 10.0
#: An erasure that has not ended after this time was interrupted.
_INTERRUPTED_AFTER = timedelta(minutes=1)


async def accept_erasure(
    connection: AsyncConnection,
    tenant_id: int,
    contact_id: int,
    hashes: AddressHashes,
    *,
    actor: str | None,
    client: str | None,
) -> Counter[str]:
    """Accept the erasure of a contact, which `erase` carries out. It can't be taken back once it is committed.

    A refusal of the person keeps holding, by a keyed hash of the address.

    The address is free from then on, and later messages belong to a new contact. The kept callbacks that name it are
    removed at once, because nothing else finds them later; returns their number. A contact that is being erased
    already is left as it is. Raises `ContactNotFound`, and `NotErasable` for an address of the tenant's own.
    """
    is_it = (Contact.tenant_id == tenant_id, Contact.id == contact_id)
    # Before anything is locked or written, because it takes long.
    known_as = await _known_as(connection, tenant_id, contact_id)
    callbacks = await find_callbacks_about(connection, tenant_id, known_as)
    question = select(Contact.address, Contact.address_type, Contact.erasing_since).where(*is_it).with_for_update()
    contact = (await connection.execute(question)).one_or_none()
    if contact is None:
        raise ContactNotFound("There is no contact with this id.")
    if contact.erasing_since is not None:
        return Counter()
    # Under the lock, so that the tenant can't begin to use the address as its own meanwhile.
    is_customer = exists().where(
        ConversationParticipant.tenant_id == tenant_id,
        ConversationParticipant.contact_id == contact_id,
        ConversationParticipant.role == ParticipantRole.CUSTOMER.value,
    )
    is_registered = exists().where(
        TenantAddress.tenant_id == tenant_id,
        TenantAddress.address == contact.address,
        TenantAddress.address_type == contact.address_type,
    )
    if (await connection.execute(select(or_(is_customer, is_registered)))).scalar_one():
        raise NotErasable("This is an address of your own. Only the address of a person can be erased.")
    nothing = {"name": null(), "metadata_pairs": null()}
    anonymous = {"address": f"erased:{contact_id}", "written": "", "erasing_since": func.now(), **nothing}
    await connection.execute(update(Contact).where(*is_it).values(anonymous))
    # A group is named by its members, and its messages are those of all of them.
    of_group = anonymous | {"address": literal(_groups_of(contact_id)) + cast(Contact.id, Text())}
    groups = update(Contact).where(*_is_group_with(tenant_id, contact.address)).values(of_group).returning(Contact.id)
    of_both = [contact_id, *(await connection.execute(groups)).scalars()]
    pairs = {"tenant": tenant_id, "subject": SUBJECTS[Contact], "ids": of_both}
    await connection.execute(REMOVE_PAIRS, pairs)
    await forget_contacts(connection, tenant_id, of_both)
    await write_entries(connection, tenant_id, [NewEvent(EventType.CONTACT_ERASED, contact_id=contact_id)])
    await record(connection, tenant_id, "contact_erased", actor=actor, client=client, contact_id=contact_id)
    aliases = await remove_aliases(connection, tenant_id, [contact.address])
    callbacks += await find_callbacks_about(connection, tenant_id, {contact.address, *aliases}.difference(known_as))
    known = sorted({contact.address, *aliases})
    await connection.execute(update(Contact).where(*is_it).values(erasing_addresses=known))
    for address in known:
        await hide_address(connection, tenant_id, address, hashes.of(tenant_id, address)[0])
    return Counter(webhook_calls=await remove_found(connection, tenant_id, callbacks))


async def _known_as(connection: AsyncConnection, tenant_id: int, contact_id: int) -> list[str]:
    """The addresses of a contact that is not being erased: its own, and its aliases."""
    is_it = Contact.tenant_id == tenant_id, Contact.id == contact_id, Contact.erasing_since.is_(None)
    aliases = select(Alias.alias).join(Contact, Contact.address == Alias.address).where(Alias.tenant_id == tenant_id)
    names = union_all(select(Contact.address).where(*is_it), aliases.where(*is_it))
    return list((await connection.execute(names)).scalars())


async def erase(begin: Begin, tenant_id: int, contact_id: int) -> Counter[str]:
    """Remove everything about a contact whose erasure is accepted; returns the number of rows, by kind.

    Messages that wait to be sent are cancelled first, in every conversation. A message that is being sent is removed
    too; the result of its send is not recorded. An erasure can be interrupted anywhere and started again, also by
    several processes at once. Raises `DatabaseUnavailable` where rows stay locked for too long.
    """
    is_group = and_(Contact.erasing_since.is_not(None), Contact.address.startswith(_groups_of(contact_id)))
    groups = select(Contact.id).where(Contact.tenant_id == tenant_id, is_group)
    async with begin() as connection:
        contacts = [contact_id, *(await connection.execute(groups)).scalars()]
        conversations_with = (
            select(ConversationParticipant.conversation_id)
            .where(ConversationParticipant.tenant_id == tenant_id, ConversationParticipant.contact_id.in_(contacts))
            .order_by(ConversationParticipant.conversation_id)
        )
        conversations = list((await connection.execute(conversations_with)).scalars())
    for conversation_id in conversations:
        await _close(begin, tenant_id, conversation_id)
    named = await _forget_named(begin, tenant_id, contact_id)
    removed: Counter[str] = Counter()
    for conversation_id in conversations:
        removed += await _empty(begin, tenant_id, conversation_id)
    async with begin() as connection:
        removed += await remove_unused(connection, tenant_id, contacts)
    removed["named_in"] = named
    log.info("contact_erased", contact_id=contact_id, tenant_id=tenant_id, **removed)
    return removed


def _groups_of(contact_id: int) -> str:
    """The beginning of the addresses of groups that are erased with a contact."""
    return f"erased:{contact_id}/"


def _is_group_with(tenant_id: int, address: str) -> tuple[ColumnElement[bool], ...]:
    members = func.string_to_array(func.substr(Contact.address, len("group:") + 1), ",")
    is_group = Contact.address_type == literal_column(f"'{AddressType.GROUP}'")  # as the partial index has it
    return Contact.tenant_id == tenant_id, is_group, literal(address) == func.any(members)


async def _close(begin: Begin, tenant_id: int, conversation_id: int) -> None:
    """Close a conversation to new messages, and cancel those that wait in it to be sent."""
    is_it = (Conversation.tenant_id == tenant_id, Conversation.id == conversation_id)
    close = update(Conversation).where(*is_it).values(contact_address=f"erased:{conversation_id}")
    async with begin() as connection:
        await connection.execute(close)
    waiting = (
        select(Message.id)
        .where(
            Message.tenant_id == tenant_id,
            Message.conversation_id == conversation_id,
            Message.due_at.is_not(None),
            Message.status != MessageStatus.SENDING.value,
        )
        .order_by(Message.id)
        .limit(BATCH)
        .with_for_update(key_share=True)
        .cte("waiting")
    )
    cancel = update(Message).where(Message.tenant_id == tenant_id, Message.id == waiting.c.id).values(due_at=null())
    # In transactions of their own: one that locks messages must not hold a conversation.
    cancelled = BATCH
    while cancelled == BATCH:
        async with begin() as connection:
            cancelled = (await connection.execute(cancel)).rowcount


class _Patience:
    """The time for which an erasure waits for rows that others have locked."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._progress_at = self._clock()

    async def after(self, removed: int) -> None:
        """Go on at once after progress, or else after a pause. Raises `DatabaseUnavailable` after too long a time."""
        if removed:
            self._progress_at = self._clock()
        elif self._clock() - self._progress_at < _PATIENCE_SECONDS:
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            raise DatabaseUnavailable(
                "Some of the data is in use. The rest is erased in the background, or ask again."
            )


async def _forget_named(begin: Begin, tenant_id: int, contact_id: int) -> int:
    """Remove a person from the mails of others that name them; returns the number of mails."""
    asked = select(Contact.erasing_addresses).where(Contact.tenant_id == tenant_id, Contact.id == contact_id)
    forgotten, patience = 0, _Patience()
    while True:
        async with begin() as connection:
            addresses = (await connection.execute(asked)).scalar()
            done, more = await forget_named(connection, tenant_id, addresses or [], limit=BATCH)
        forgotten += done
        if not more:
            return forgotten
        await patience.after(done)


async def _empty(begin: Begin, tenant_id: int, conversation_id: int) -> Counter[str]:
    conversation = select(Conversation.id).where(
        Conversation.tenant_id == tenant_id, Conversation.id == conversation_id
    )
    some_of_it = (
        select(Message.id)
        .where(Message.tenant_id == tenant_id, Message.conversation_id == conversation_id)
        .order_by(Message.sent_at, Message.id)
        .limit(BATCH)
    )
    removed: Counter[str] = Counter()
    patience = _Patience()
    while True:
        async with begin() as connection:
            places = [(id, conversation_id) for (id,) in await connection.execute(some_of_it)]
            if not places:
                locked = (await connection.execute(conversation.with_for_update())).scalars()
                return removed + await remove_empty(connection, tenant_id, list(locked))
            batch = await remove_messages(connection, tenant_id, places, unfinished=True)
        removed += batch
        await patience.after(batch["messages"])


_was_interrupted = Contact.erasing_since < func.now() - _INTERRUPTED_AFTER
_WITH_INTERRUPTED = (
    select(Contact.tenant_id)
    .where(_was_interrupted)
    .distinct()
    .execution_options(**{ALL_TENANTS: "the erasures of all tenants are completed"})
)


async def tenants_with_interrupted(connection: AsyncConnection) -> list[int]:
    """The tenants with erasures that were accepted and then interrupted."""
    return list((await connection.execute(_WITH_INTERRUPTED)).scalars())


async def finish_erasures(begin: Begin, tenant_id: int) -> None:
    """Complete the erasures that were accepted and then interrupted."""
    interrupted = select(Contact.id).where(Contact.tenant_id == tenant_id, _was_interrupted)
    async with begin() as connection:
        contacts = list((await connection.execute(interrupted)).scalars())
    for contact_id in contacts:
        await erase(begin, tenant_id, contact_id)
