"""Creation of the conversations that messages belong to, with their contacts and participants."""

from collections.abc import Iterable

from sqlalchemy import BigInteger, DateTime, Text, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import Contact, Conversation, ConversationParticipant
from app.db.statements.batches import TENANT, given, rows, same
from app.domain import EventType, NewMessage, ParticipantRole
from app.services.event_log.entries import NewEvent, write_entries
from app.services.search.queue import queue_contacts

ContactKey = tuple[str, str]  #: address, address type


def conversation_key(message: NewMessage) -> tuple[str, str]:
    return message.customer.value, message.contact.value


_wanted_pairs = rows(customer_address=Text(), contact_address=Text())
#: The lock keeps an erasure from removing the rows until the end of the transaction. It blocks no other writer.
_FIND_CONVERSATIONS = (
    select(Conversation.customer_address, Conversation.contact_address)
    .join(_wanted_pairs, same(Conversation, _wanted_pairs, "customer_address", "contact_address"))
    .with_for_update(of=Conversation, read=True, key_share=True)
)

_new_pairs = rows(customer_address=Text(), contact_address=Text(), sent_at=DateTime(timezone=True))
_begun_at = func.least(_new_pairs.c.sent_at, func.now())
_new_conversations = select(TENANT, _new_pairs.c.customer_address, _new_pairs.c.contact_address, _begun_at)
_INSERT_CONVERSATIONS = (
    insert(Conversation)
    .from_select(
        ["tenant_id", "customer_address", "contact_address", "last_activity_at"],
        _new_conversations.order_by(_new_pairs.c.position),
    )
    .on_conflict_do_nothing()
    .returning(Conversation.customer_address, Conversation.contact_address, Conversation.id)
)

_new_participants = rows(conversation_id=BigInteger(), role=Text(), contact_id=BigInteger())
_INSERT_PARTICIPANTS = insert(ConversationParticipant).from_select(
    ["tenant_id", "conversation_id", "role", "contact_id"],
    select(TENANT, _new_participants.c.conversation_id, _new_participants.c.role, _new_participants.c.contact_id),
)

_wanted_contacts = rows(address=Text(), address_type=Text())
_FIND_CONTACTS = (
    select(Contact.address, Contact.address_type, Contact.id)
    .join(_wanted_contacts, same(Contact, _wanted_contacts, "address", "address_type"))
    .with_for_update(of=Contact, read=True, key_share=True)
)

_new_contacts = rows(address=Text(), address_type=Text(), written=Text())
_INSERT_CONTACTS = (
    insert(Contact)
    .from_select(
        ["tenant_id", "address", "address_type", "written"],
        select(TENANT, _new_contacts.c.address, _new_contacts.c.address_type, _new_contacts.c.written).order_by(
            _new_contacts.c.position
        ),
    )
    .on_conflict_do_nothing()
    .returning(Contact.address, Contact.address_type, Contact.id)
)


async def make_conversations(connection: AsyncConnection, tenant_id: int, messages: Iterable[NewMessage]) -> None:
    """Create the conversations of messages where they are missing, with their contacts."""
    by_key = {conversation_key(message): message for message in messages}
    parameters = given(tenant_id, ("customer_address", "contact_address"), by_key)
    found = {(customer, contact) for customer, contact in await connection.execute(_FIND_CONVERSATIONS, parameters)}
    missing = sorted(by_key.keys() - found)
    if not missing:
        return
    contacts = await _contact_ids(connection, tenant_id, [by_key[key] for key in missing])
    new = [(*key, by_key[key].sent_at) for key in missing]
    parameters = given(tenant_id, ("customer_address", "contact_address", "sent_at"), new)
    # A conversation that is not returned was created by another writer meanwhile, with its participants.
    made = (await connection.execute(_INSERT_CONVERSATIONS, parameters)).all()
    participants = [
        (id, role.value, contacts[address.value, address.type])
        for customer, contact, id in made
        for role, address in (
            (ParticipantRole.CUSTOMER, by_key[customer, contact].customer),
            (ParticipantRole.CONTACT, by_key[customer, contact].contact),
        )
    ]
    parameters = given(tenant_id, ("conversation_id", "role", "contact_id"), participants)
    await connection.execute(_INSERT_PARTICIPANTS, parameters)
    people = {contact_id for _, role, contact_id in participants if role == ParticipantRole.CONTACT.value}
    await queue_contacts(connection, tenant_id, sorted(people))
    begun = [NewEvent(EventType.CONVERSATION_CREATED, conversation_id=row.id) for row in made]
    await write_entries(connection, tenant_id, begun)


async def _contact_ids(
    connection: AsyncConnection, tenant_id: int, messages: Iterable[NewMessage]
) -> dict[ContactKey, int]:
    """The ids of the contacts of messages. Missing ones are created, with the address as it was written."""
    written = {
        (address.value, address.type): address.written
        for message in messages
        for address in (message.customer, message.contact)
    }
    found = await _find_contacts(connection, tenant_id, written)
    missing = sorted(written.keys() - found.keys())
    new = [(*key, written[key]) for key in missing]
    parameters = given(tenant_id, ("address", "address_type", "written"), new)
    made = {(row.address, row.address_type): row.id for row in await connection.execute(_INSERT_CONTACTS, parameters)}
    new_contacts = [NewEvent(EventType.CONTACT_CREATED, contact_id=id) for id in made.values()]
    await write_entries(connection, tenant_id, new_contacts)
    missed = [key for key in missing if key not in made]  # another writer committed them meanwhile
    return found | made | (await _find_contacts(connection, tenant_id, missed) if missed else {})


async def _find_contacts(
    connection: AsyncConnection, tenant_id: int, keys: Iterable[ContactKey]
) -> dict[ContactKey, int]:
    parameters = given(tenant_id, ("address", "address_type"), keys)
    return {(row.address, row.address_type): row.id for row in await connection.execute(_FIND_CONTACTS, parameters)}
