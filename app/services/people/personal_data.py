"""Taking stored data out again: messages with all that hangs on them, and everything about a contact.

Whoever removes never waits for a row of a message or of a conversation that somebody works on, but passes it over and
comes back, so that no two can wait for each other. Only short transactions are used, each for a few hundred messages.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import structlog
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Executable,
    Integer,
    Text,
    any_,
    bindparam,
    delete,
    exists,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import TENANT, given, rows
from app.db.models import (
    Contact,
    Conversation,
    ConversationParticipant,
    DeliveryAttempt,
    Message,
    MessageEvent,
    StoredReceipt,
    TenantAddress,
)
from app.domain import DEFAULT_TENANT_ID, MessageStatus, ParticipantRole
from app.errors import ContactNotFound, DatabaseUnavailable, NotErasable
from app.services.callbacks.kept_callbacks import remove_callbacks_about
from app.services.messages.files import remove_files
from app.services.tenancy.audit import record

log = structlog.get_logger(__name__)

#: Opens a transaction, which is committed at the end.
Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

#: Messages of one transaction: their conversations are locked for some tens of milliseconds.
BATCH = 200
#: Rows that others work on are free again after milliseconds.
_PAUSE_SECONDS, _PATIENCE_SECONDS = 0.02, 10.0
#: After so long without an end, whoever began an erasure is taken to have gone away.
_LEFT_BEHIND_AFTER = timedelta(minutes=1)

_IDS = bindparam("ids", type_=ARRAY(BigInteger()))
_ID = bindparam("id_", type_=BigInteger())

#: What came for an attempt on its way crosses its recording; it is about the same message, and no longer wanted.
_REMOVE_PARKED = delete(StoredReceipt).where(
    StoredReceipt.tenant_id == DEFAULT_TENANT_ID,
    StoredReceipt.message_id.is_(None),
    StoredReceipt.provider_type == DeliveryAttempt.provider_type,
    StoredReceipt.provider_message_id == DeliveryAttempt.provider_message_id,
    DeliveryAttempt.tenant_id == TENANT,
    DeliveryAttempt.message_id == any_(_IDS),
    DeliveryAttempt.provider_message_id.is_not(None),
)
_LOCK_CONVERSATIONS = (
    select(Conversation.id)
    .where(Conversation.tenant_id == TENANT, Conversation.id == any_(_IDS))
    .order_by(Conversation.id)
    .with_for_update(skip_locked=True)
)
_LOCK_MESSAGES = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.id == any_(_IDS),
        Message.conversation_id == any_(bindparam("conversations", type_=ARRAY(BigInteger()))),
        or_(Message.due_at.is_(None), bindparam("unfinished", type_=Boolean())),
    )
    .order_by(Message.id)
    .with_for_update(skip_locked=True)
)
_REMOVE_WHAT_HANGS_ON_THEM = {
    "receipts": delete(StoredReceipt).where(
        StoredReceipt.tenant_id == TENANT, StoredReceipt.message_id == any_(_IDS)
    ),
    "events": delete(MessageEvent).where(MessageEvent.tenant_id == TENANT, MessageEvent.message_id == any_(_IDS)),
    "attempts": delete(DeliveryAttempt).where(
        DeliveryAttempt.tenant_id == TENANT, DeliveryAttempt.message_id == any_(_IDS)
    ),
}
_REMOVE_MESSAGES = (
    delete(Message).where(Message.tenant_id == TENANT, Message.id == any_(_IDS)).returning(Message.conversation_id)
)
_gone = rows(conversation_id=BigInteger(), messages=Integer())
_COUNT_DOWN = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _gone.c.conversation_id)
    .values(message_count=Conversation.message_count - _gone.c.messages)
)
_EMPTY = select(Conversation.id).where(
    Conversation.tenant_id == TENANT,
    Conversation.id == any_(_IDS),
    ~exists().where(Message.tenant_id == TENANT, Message.conversation_id == Conversation.id),
)
_REMOVE_PARTICIPANTS = (
    delete(ConversationParticipant)
    .where(ConversationParticipant.tenant_id == TENANT, ConversationParticipant.conversation_id == any_(_IDS))
    .returning(ConversationParticipant.role, ConversationParticipant.contact_id)
)
_REMOVE_CONVERSATIONS = delete(Conversation).where(Conversation.tenant_id == TENANT, Conversation.id == any_(_IDS))
_LOCK_CONTACTS = (
    select(Contact.id)
    .where(Contact.tenant_id == TENANT, Contact.id == any_(_IDS))
    .order_by(Contact.id)
    .with_for_update(skip_locked=True)
)
_REMOVE_UNUSED_CONTACTS = delete(Contact).where(
    Contact.tenant_id == TENANT,
    Contact.id == any_(_IDS),
    ~exists().where(ConversationParticipant.tenant_id == TENANT, ConversationParticipant.contact_id == Contact.id),
)


async def remove_messages(
    connection: AsyncConnection, tenant_id: int, places: Sequence[tuple[int, int]], *, unfinished: bool
) -> Counter[str]:
    """Remove messages, each given with its conversation's id, in the transaction open on `connection`.

    With them go their attempts, receipts, history and files, the conversations that are left without a message, and
    their contacts that take part in no other. What somebody works on right now is passed over, and so is, unless
    `unfinished`, what is still to be sent. Returns how many of each were removed.
    """
    removed: Counter[str] = Counter()
    message_ids = [message_id for message_id, _ in places]
    # Before any message is locked: who attaches such a receipt holds it and waits for the message.
    removed["receipts"] += await _execute(connection, _REMOVE_PARKED, tenant_id, message_ids)
    conversations = await _ids(connection, _LOCK_CONVERSATIONS, tenant_id, {place[1] for place in places})
    parameters = {"tenant": tenant_id, "ids": message_ids, "conversations": conversations, "unfinished": unfinished}
    locked = list((await connection.execute(_LOCK_MESSAGES, parameters)).scalars())
    removed["files"] += await remove_files(connection, tenant_id, locked)
    # Each a statement of its own, so that it sees what was added until the lock.
    for name, statement in _REMOVE_WHAT_HANGS_ON_THEM.items():
        removed[name] += await _execute(connection, statement, tenant_id, locked)
    gone = Counter(await _ids(connection, _REMOVE_MESSAGES, tenant_id, locked))
    removed["messages"] += gone.total()
    await connection.execute(_COUNT_DOWN, given(tenant_id, ("conversation_id", "messages"), gone.items()))
    return removed + await _remove_empty(connection, tenant_id, conversations)


async def _remove_empty(connection: AsyncConnection, tenant_id: int, conversations: Sequence[int]) -> Counter[str]:
    """Of conversations that are locked, remove those without a message, and the contacts that nothing else uses."""
    empty = await _ids(connection, _EMPTY, tenant_id, conversations)
    if not empty:
        return Counter()
    participants = await connection.execute(_REMOVE_PARTICIPANTS, {"tenant": tenant_id, "ids": empty})
    contacts = {row.contact_id for row in participants if row.role == ParticipantRole.CONTACT}
    removed = Counter(conversations=await _execute(connection, _REMOVE_CONVERSATIONS, tenant_id, empty))
    return removed + await _remove_unused(connection, tenant_id, contacts)


async def _remove_unused(connection: AsyncConnection, tenant_id: int, contacts: Iterable[int]) -> Counter[str]:
    free = await _ids(connection, _LOCK_CONTACTS, tenant_id, contacts)
    return Counter(contacts=await _execute(connection, _REMOVE_UNUSED_CONTACTS, tenant_id, free))


async def _ids(connection: AsyncConnection, statement: Executable, tenant_id: int, ids: Iterable[int]) -> list[int]:
    """What a statement about the rows of these ids returns, one number for each row."""
    return list((await connection.execute(statement, {"tenant": tenant_id, "ids": list(ids)})).scalars())


async def _execute(connection: AsyncConnection, statement: Executable, tenant_id: int, ids: Sequence[int]) -> int:
    """How many rows of these ids a statement changed."""
    return (await connection.execute(statement, {"tenant": tenant_id, "ids": ids})).rowcount


_CONTACT = (
    select(Contact.address, Contact.address_type, Contact.erasing_since)
    .where(Contact.tenant_id == TENANT, Contact.id == _ID)
    .with_for_update()
)
_IS_OWN = select(
    or_(
        exists().where(
            ConversationParticipant.tenant_id == TENANT,
            ConversationParticipant.contact_id == _ID,
            ConversationParticipant.role == ParticipantRole.CUSTOMER.value,
        ),
        exists().where(
            TenantAddress.tenant_id == TENANT,
            TenantAddress.address == bindparam("address", type_=Text()),
            TenantAddress.address_type == bindparam("address_type", type_=Text()),
        ),
    )
)
_BEGIN_ERASURE = (
    update(Contact)
    .where(Contact.tenant_id == TENANT, Contact.id == _ID)
    .values(address=bindparam("nobody", type_=Text()), written="", erasing_since=func.now())
)


async def accept_erasure(
    connection: AsyncConnection, tenant_id: int, contact_id: int, *, actor: str | None, client: str | None
) -> Counter[str]:
    """Decide, for good once it is committed, that everything about a contact goes; `erase` does it.

    Its address is free from then on: what comes or is sent later belongs to a new contact. The calls of providers
    that name it go with the address, because afterwards nothing tells which they are; returns how many. One that is
    being erased already stays as it is. Raises `ContactNotFound`, and `NotErasable` for an address of the tenant's
    own.
    """
    parameters = {"tenant": tenant_id, "id_": contact_id}
    contact = (await connection.execute(_CONTACT, parameters)).one_or_none()
    if contact is None:
        raise ContactNotFound("There is no contact with this id.")
    if contact.erasing_since is not None:
        return Counter()
    # Only now that it is locked, so that nobody can begin to use it as their own meanwhile.
    address = {"address": contact.address, "address_type": contact.address_type}
    if (await connection.execute(_IS_OWN, parameters | address)).scalar_one():
        raise NotErasable("This is an address of your own, that messages are sent from or come to, not a person's.")
    await connection.execute(_BEGIN_ERASURE, parameters | {"nobody": f"erased:{contact_id}"})
    await record(connection, tenant_id, "contact_erased", actor=actor, client=client, contact_id=contact_id)
    return Counter(webhook_calls=await remove_callbacks_about(connection, tenant_id, contact.address))


_CONVERSATIONS_WITH = (
    select(ConversationParticipant.conversation_id)
    .where(ConversationParticipant.tenant_id == TENANT, ConversationParticipant.contact_id == _ID)
    .order_by(ConversationParticipant.conversation_id)
)
_CLOSE = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _ID)
    .values(contact_address=bindparam("nobody", type_=Text()))
)
_waiting = (
    select(Message.id)
    .where(
        Message.tenant_id == TENANT,
        Message.conversation_id == _ID,
        Message.due_at.is_not(None),
        Message.status != MessageStatus.SENDING.value,
    )
    .order_by(Message.id)
    .limit(BATCH)
    .with_for_update(key_share=True)
    .cte("waiting")
)
_CALL_BACK = (
    update(Message).where(Message.tenant_id == TENANT, Message.id == _waiting.c.id).values(due_at=null())
).returning(Message.id)
_SOME_OF = (
    select(Message.id, Message.conversation_id)
    .where(Message.tenant_id == TENANT, Message.conversation_id == _ID)
    .order_by(Message.sent_at, Message.id)
    .limit(BATCH)
)
_LOCK_CONVERSATION = (
    select(Conversation.id).where(Conversation.tenant_id == TENANT, Conversation.id == _ID).with_for_update()
)


async def erase(begin: Begin, tenant_id: int, contact_id: int) -> Counter[str]:
    """Remove everything about a contact whose erasure is accepted; returns how many rows of what.

    What waits to be sent is called back first, in every conversation. A message that a worker has in hand goes with
    the others: its call ends as it ends, and what came of it is written nowhere. Can be cut off anywhere and begun
    again, also by several at once. Raises `DatabaseUnavailable` where rows stay locked for too long.
    """
    async with begin() as connection:
        found = await connection.execute(_CONVERSATIONS_WITH, {"tenant": tenant_id, "id_": contact_id})
        conversations = list(found.scalars())
    for conversation_id in conversations:
        await _close(begin, tenant_id, conversation_id)
    removed: Counter[str] = Counter()
    for conversation_id in conversations:
        removed += await _empty_out(begin, tenant_id, conversation_id)
    async with begin() as connection:
        removed += await _remove_unused(connection, tenant_id, {contact_id})
    log.info("contact_erased", contact_id=contact_id, tenant_id=tenant_id, **removed)
    return removed


async def _close(begin: Begin, tenant_id: int, conversation_id: int) -> None:
    """Have a conversation take no more messages, and nothing that waits in it be sent."""
    parameters = {"tenant": tenant_id, "id_": conversation_id}
    async with begin() as connection:
        await connection.execute(_CLOSE, parameters | {"nobody": f"erased:{conversation_id}"})
    # In transactions of their own: who locks messages must not hold a conversation.
    called_back = BATCH
    while called_back == BATCH:
        async with begin() as connection:
            called_back = len((await connection.execute(_CALL_BACK, parameters)).all())


async def _empty_out(begin: Begin, tenant_id: int, conversation_id: int) -> Counter[str]:
    parameters = {"tenant": tenant_id, "id_": conversation_id}
    removed: Counter[str] = Counter()
    clock = asyncio.get_running_loop().time
    moved_at = clock()
    while clock() - moved_at < _PATIENCE_SECONDS:
        async with begin() as connection:
            found = await connection.execute(_SOME_OF, parameters)
            places = [(row.id, row.conversation_id) for row in found]
            if not places:
                locked = (await connection.execute(_LOCK_CONVERSATION, parameters)).scalars()
                return removed + await _remove_empty(connection, tenant_id, list(locked))
            batch = await remove_messages(connection, tenant_id, places, unfinished=True)
        removed += batch
        if batch["messages"]:
            moved_at = clock()
        else:
            await asyncio.sleep(_PAUSE_SECONDS)
    raise DatabaseUnavailable("Some of it is in use. What is left is erased in the background; or ask again.")


_LEFT_BEHIND = select(Contact.id).where(
    Contact.tenant_id == TENANT,
    Contact.erasing_since.is_not(None),
    Contact.erasing_since < func.now() - _LEFT_BEHIND_AFTER,
)


async def finish_erasures(begin: Begin, tenant_id: int) -> None:
    """Erase what was accepted, and cut off before its end."""
    async with begin() as connection:
        contacts = list((await connection.execute(_LEFT_BEHIND, {"tenant": tenant_id})).scalars())
    for contact_id in contacts:
        await erase(begin, tenant_id, contact_id)
