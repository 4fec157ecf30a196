"""Removal of messages with all rows that depend on them.

A row that another transaction has locked is passed over, never waited for, so no deadlock is possible. Callers come
back for it, in short transactions of a few hundred messages.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Executable,
    Integer,
    Select,
    Text,
    any_,
    bindparam,
    delete,
    exists,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import (
    Alias,
    Contact,
    Conversation,
    ConversationParticipant,
    DeliveryAttempt,
    Message,
    MessageEvent,
    NamedAddress,
    StoredReceipt,
    WebhookAttempt,
)
from app.db.statements.batches import TENANT, given, rows, same
from app.domain import DEFAULT_TENANT_ID, ParticipantRole
from app.services.accept.beginnings import without
from app.services.files.removal import remove_files
from app.services.messages.conversation_state import REMOVE_TAGS
from app.services.messages.metadata import REMOVE_PAIRS, SUBJECTS
from app.services.search.removal import forget_contacts, forget_messages, lock_index

#: Messages of one transaction: their conversations are locked for some tens of milliseconds, and readers of the event
#: log wait for as long.
BATCH = 100

_IDS = bindparam("ids", type_=ARRAY(BigInteger()))

_NAMED = select(DeliveryAttempt.provider_type, DeliveryAttempt.provider_message_id).where(
    DeliveryAttempt.tenant_id == TENANT,
    DeliveryAttempt.message_id == any_(_IDS),
    DeliveryAttempt.provider_message_id.is_not(None),
)
_named = rows(provider_type=Text(), provider_message_id=Text())
#: Receipts that arrived before the result of their send was recorded. They are about the same message.
_REMOVE_PARKED = delete(StoredReceipt).where(
    StoredReceipt.message_id.is_(None), same(StoredReceipt, _named, "provider_type", "provider_message_id")
)


def _these(model: type[Conversation | Contact | Message]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return model.tenant_id == TENANT, model.id == any_(_IDS)


def _lock(model: type[Conversation | Contact | Message]) -> Select[int]:
    return select(model.id).where(*_these(model)).order_by(model.id).with_for_update(skip_locked=True)


_LOCK_MESSAGES = _lock(Message).where(
    Message.conversation_id == any_(bindparam("conversations", type_=ARRAY(BigInteger()))),
    or_(Message.due_at.is_(None), bindparam("unfinished", type_=Boolean())),
)
_LOCK_CONVERSATIONS = _lock(Conversation)
_LOCK_CONTACTS = _lock(Contact)
_DEPENDENTS: dict[str, type[StoredReceipt | MessageEvent | DeliveryAttempt | WebhookAttempt | NamedAddress]] = {
    "receipts": StoredReceipt,
    "events": MessageEvent,
    "attempts": DeliveryAttempt,
    "webhook_attempts": WebhookAttempt,
    "named_addresses": NamedAddress,
}
_REMOVE_DEPENDENTS = {
    name: delete(model).where(model.tenant_id == TENANT, model.message_id == any_(_IDS))
    for name, model in _DEPENDENTS.items()
}
_REMOVE_MESSAGES = delete(Message).where(*_these(Message)).returning(Message.conversation_id)
_gone = rows(conversation_id=BigInteger(), messages=Integer())
_COUNT_DOWN = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.id == _gone.c.conversation_id)
    .values(without(_gone.c.messages))
)
_EMPTY = select(Conversation.id).where(
    *_these(Conversation),
    ~exists().where(Message.tenant_id == TENANT, Message.conversation_id == Conversation.id),
)
_REMOVE_PARTICIPANTS = (
    delete(ConversationParticipant)
    .where(ConversationParticipant.tenant_id == TENANT, ConversationParticipant.conversation_id == any_(_IDS))
    .returning(ConversationParticipant.role, ConversationParticipant.contact_id)
)
_REMOVE_CONVERSATIONS = delete(Conversation).where(*_these(Conversation))
_REMOVE_UNUSED_CONTACTS = (
    delete(Contact)
    .where(
        *_these(Contact),
        ~exists().where(
            ConversationParticipant.tenant_id == TENANT, ConversationParticipant.contact_id == Contact.id
        ),
    )
    .returning(Contact.id, Contact.address)
)
_ADDRESSES = bindparam("addresses", type_=ARRAY(Text()))
_REMOVE_ALIASES = (
    delete(Alias)
    .where(Alias.tenant_id == TENANT, or_(Alias.address == any_(_ADDRESSES), Alias.alias == any_(_ADDRESSES)))
    .returning(Alias.alias)
)


async def remove_messages(
    connection: AsyncConnection, tenant_id: int, places: Sequence[tuple[int, int]], *, unfinished: bool
) -> Counter[str]:
    """Remove messages, each given with its conversation's id, in the transaction open on `connection`.

    Their attempts, receipts, history and files go with them. So do conversations that are left without a message,
    and contacts that are left without a conversation. A message whose row is locked is passed over; a message that is
    still to be sent only goes with `unfinished`. Returns the number of rows removed, by kind.
    """
    removed: Counter[str] = Counter()
    # Before any row is locked, so that none is held while this waits.
    await lock_index(connection, tenant_id)
    message_ids = [message_id for message_id, _ in places]
    # Before any message is locked: a transaction that attaches such a receipt holds it and waits for the message.
    removed["receipts"] += await _remove_parked(connection, tenant_id, message_ids)
    conversations = await _ids(connection, _LOCK_CONVERSATIONS, tenant_id, {place[1] for place in places})
    parameters = {"tenant": tenant_id, "ids": message_ids, "conversations": conversations, "unfinished": unfinished}
    locked = list((await connection.execute(_LOCK_MESSAGES, parameters)).scalars())
    removed["files"] += await remove_files(connection, tenant_id, locked)
    # A statement for each table, so that it sees the rows that were added until the lock.
    for name, statement in _REMOVE_DEPENDENTS.items():
        removed[name] += await _execute(connection, statement, tenant_id, locked)
    await forget_messages(connection, tenant_id, locked)
    await _forget_pairs(connection, Message, tenant_id, locked)
    gone = Counter(await _ids(connection, _REMOVE_MESSAGES, tenant_id, locked))
    removed["messages"] += gone.total()
    await connection.execute(_COUNT_DOWN, given(tenant_id, ("conversation_id", "messages"), gone.items()))
    return removed + await remove_empty(connection, tenant_id, conversations)


async def _remove_parked(connection: AsyncConnection, tenant_id: int, message_ids: Sequence[int]) -> int:
    named = (await connection.execute(_NAMED, {"tenant": tenant_id, "ids": message_ids})).all()
    if not named:
        return 0
    parked = given(DEFAULT_TENANT_ID, ("provider_type", "provider_message_id"), sorted(map(tuple, named)))
    return (await connection.execute(_REMOVE_PARKED, parked)).rowcount


async def remove_empty(connection: AsyncConnection, tenant_id: int, conversations: Sequence[int]) -> Counter[str]:
    """Remove locked conversations that have no message, and their contacts that have no other conversation."""
    empty = await _ids(connection, _EMPTY, tenant_id, conversations)
    if not empty:
        return Counter()
    participants = await connection.execute(_REMOVE_PARTICIPANTS, {"tenant": tenant_id, "ids": empty})
    contacts = {row.contact_id for row in participants if row.role == ParticipantRole.CONTACT}
    await _forget_pairs(connection, Conversation, tenant_id, empty)
    await _execute(connection, REMOVE_TAGS, tenant_id, empty)
    removed = Counter(conversations=await _execute(connection, _REMOVE_CONVERSATIONS, tenant_id, empty))
    return removed + await remove_unused(connection, tenant_id, contacts)


async def remove_unused(connection: AsyncConnection, tenant_id: int, contacts: Iterable[int]) -> Counter[str]:
    """Remove contacts that take part in no conversation."""
    free = await _ids(connection, _LOCK_CONTACTS, tenant_id, contacts)
    removed = await connection.execute(_REMOVE_UNUSED_CONTACTS, {"tenant": tenant_id, "ids": free})
    gone = removed.all()
    await _forget_pairs(connection, Contact, tenant_id, [row.id for row in gone])
    await forget_contacts(connection, tenant_id, [row.id for row in gone])
    addresses = [row.address for row in gone]
    await remove_aliases(connection, tenant_id, addresses)
    return Counter(contacts=len(addresses))


async def remove_aliases(connection: AsyncConnection, tenant_id: int, addresses: Sequence[str]) -> list[str]:
    """Remove the aliases of addresses, and those that are among them; returns the aliases."""
    if not addresses:
        return []
    aliases = await connection.execute(_REMOVE_ALIASES, {"tenant": tenant_id, "addresses": addresses})
    return list(aliases.scalars())


async def _ids(connection: AsyncConnection, statement: Executable, tenant_id: int, ids: Iterable[int]) -> list[int]:
    """The numbers that a statement about the rows of these ids returns, one a row."""
    return list((await connection.execute(statement, {"tenant": tenant_id, "ids": list(ids)})).scalars())


async def _execute(connection: AsyncConnection, statement: Executable, tenant_id: int, ids: Sequence[int]) -> int:
    """The number of rows of these ids that a statement changed."""
    return (await connection.execute(statement, {"tenant": tenant_id, "ids": ids})).rowcount


async def _forget_pairs(
    connection: AsyncConnection, model: type[Contact | Conversation | Message], tenant_id: int, ids: Sequence[int]
) -> None:
    """Remove that by which rows are found by their metadata."""
    if ids:
        await connection.execute(REMOVE_PAIRS, {"tenant": tenant_id, "subject": SUBJECTS[model], "ids": list(ids)})
