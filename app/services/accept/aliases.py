"""Other addresses of people on chat channels, as vendors tell them: of one person, one conversation.

Slack's direct message `slack:D024BE91L` is that of `slack:U024BE7LH`, and WhatsApp's `whatsapp:US.1349` may have a
number. Phone numbers and mail addresses are never looked up, because they have no aliases.
"""

import asyncio

from sqlalchemy import Text, bindparam, exists, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import aliased

from app.db.models import Alias, Contact, Conversation, Tenant
from app.db.statements.batches import TENANT
from app.domain import Address, AddressType
from app.services.search.queue import queue_contacts
from app.short_cache import ShortCache

#: Seconds for which an alias that was told is not told to the database again.
_KEPT_SECONDS = 60.0
_KEPT = 50_000
_WITHOUT_ALIASES = {AddressType.PHONE.value, AddressType.EMAIL.value}

_ALIAS, _ADDRESS, _TYPE = (bindparam(name, type_=Text()) for name in ("alias_told", "address_told", "type_told"))
_FIND = select(Alias.address, Alias.address_type).where(Alias.tenant_id == TENANT, Alias.alias == _ALIAS)
#: A receipt may name a tenant that does not exist.
_insert = insert(Alias).from_select(
    ["tenant_id", "alias", "address", "address_type"],
    select(Tenant.id, _ALIAS, _ADDRESS, _TYPE).where(Tenant.id == TENANT),
)
#: Returns a row where the alias is new, or was that of another address.
_LEARN = _insert.on_conflict_do_update(
    index_elements=["tenant_id", "alias"],
    set_={"address": _insert.excluded.address, "address_type": _insert.excluded.address_type},
    where=Alias.address != _insert.excluded.address,
).returning(Alias.alias)

#: Locked first and in id order, as every writer locks them.
_LOCK_CONVERSATIONS = (
    select(Conversation.id)
    .where(Conversation.tenant_id == TENANT, Conversation.contact_address == _ALIAS)
    .order_by(Conversation.id)
    .with_for_update()
)
_known = aliased(Contact)
_RENAME_CONTACT = (
    update(Contact)
    .where(Contact.tenant_id == TENANT, Contact.address == _ALIAS, Contact.erasing_since.is_(None))
    .where(~exists().where(_known.tenant_id == TENANT, _known.address == _ADDRESS, _known.address_type == _TYPE))
    .values(address=_ADDRESS, address_type=_TYPE)
    .returning(Contact.id)
)
_RENAME_CONVERSATIONS = (
    update(Conversation)
    .where(Conversation.tenant_id == TENANT, Conversation.contact_address == _ALIAS)
    .values(contact_address=_ADDRESS)
)


class Aliases:
    """Learns and resolves the aliases of every tenant's contacts."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline_seconds: float) -> None:
        self._sessions = sessions
        self._deadline_seconds = deadline_seconds
        self._told: ShortCache[tuple[int, str, str], bool] = ShortCache(size=_KEPT)

    async def resolved(self, tenant_id: int, address: Address) -> Address:
        """The address of an alias, as the function of this name has it."""
        if address.type in _WITHOUT_ALIASES:
            return address
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            return await resolved(await session.connection(), tenant_id, address)

    async def learn(self, tenant_id: int, alias: Address, address: Address) -> None:
        """Store an alias, in place of an earlier one; returns after the commit.

        Of a thread with a person, the alias is that of the person. A contact that has the alias as its address gets
        the other one, with its conversations. If there is a contact of the other address already, the earlier
        conversations of the alias stay apart.
        """
        person = address.value if address.type in _WITHOUT_ALIASES else address.value.partition("/")[0]
        if alias.value != person:
            told = {"tenant": tenant_id, "alias_told": alias.value, "address_told": person, "type_told": address.type}
            await self._told.get_or_load((tenant_id, alias.value, person), lambda: self._learn(tenant_id, told))

    async def _learn(self, tenant_id: int, told: dict[str, object]) -> tuple[bool, float]:
        async with asyncio.timeout(self._deadline_seconds), self._sessions.begin() as session:
            connection = await session.connection()
            if (await connection.execute(_LEARN, told)).first() is not None:
                await _rename(connection, tenant_id, told)
        return True, _KEPT_SECONDS


async def resolved(connection: AsyncConnection, tenant_id: int, address: Address) -> Address:
    """The address that names the conversation of a person or, as `alias/thread`, of a thread with one.

    An address that is no alias is returned as it is. Phone numbers and mail addresses are not looked up.
    """
    if address.type in _WITHOUT_ALIASES:
        return address
    alias, slash, thread = address.value.partition("/")
    found = (await connection.execute(_FIND, {"tenant": tenant_id, "alias_told": alias})).one_or_none()
    return Address(found.address_type, found.address + slash + thread, address.written) if found else address


async def _rename(connection: AsyncConnection, tenant_id: int, told: dict[str, object]) -> None:
    """Give the contact of an alias its other address, unless that one has a contact, or gets one at this moment."""
    try:
        async with connection.begin_nested():
            await connection.execute(_LOCK_CONVERSATIONS, told)
            renamed = (await connection.execute(_RENAME_CONTACT, told)).scalars().all()
            if renamed:
                await connection.execute(_RENAME_CONVERSATIONS, told)
                await queue_contacts(connection, tenant_id, renamed)
    except IntegrityError:
        pass
