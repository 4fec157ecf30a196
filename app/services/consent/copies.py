"""The recipients of a mail's copies: a refusal of one leaves that copy out, and never stops the mail.

They are looked up just before the mail is handed over, and only for a mail that has copies.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    SQLColumnExpression,
    Text,
    and_,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import aliased

from app.addresses import sender_address
from app.db.models import Conversation, Message, MessageEvent, NamedAddress, Suppression
from app.db.statements.batches import TENANT, given, rows
from app.db.statements.json_text import constant
from app.providers.mail.envelope import mailbox_of
from app.providers.mail.fields import MailFields
from app.services.consent.hashes import AddressHashes
from app.services.consent.rule import stops_in_sql

#: The kind of the message event of a copy that was left out.
COPY_LEFT_OUT = "copy_left_out"

_MESSAGE = bindparam("message", type_=BigInteger())
_asked = rows(address=Text())
_FIND = (
    select(_asked.c.address, func.max(Suppression.entry_id).label("entry_id"))
    .join(Suppression, and_(Suppression.tenant_id == TENANT, Suppression.address == _asked.c.address))
    .join(Message, and_(Message.tenant_id == TENANT, Message.id == _MESSAGE))
    .join(Conversation, and_(Conversation.tenant_id == TENANT, Conversation.id == Message.conversation_id))
    .where(stops_in_sql(Message.channel, Conversation.customer_address, Message.topic, Message.purpose))
    .group_by(_asked.c.address)
)
_left = rows(entry_id=BigInteger())
_copy = func.jsonb_array_elements(cast(bindparam("left_out", type_=Text()), JSONB)).column_valued("copy")
#: Those that the message still names: an erasure may have removed one meanwhile.
_named = (
    select(func.coalesce(func.jsonb_agg(_copy), cast(constant("[]"), JSONB)))
    .where(or_(*(Message.details[constant(role)].op("@>")(_copy) for role in ("cc", "bcc"))))
    .correlate(Message)
    .scalar_subquery()
)
_shown = (
    update(Message)
    .where(Message.tenant_id == TENANT, Message.id == _MESSAGE)
    .values(details=func.jsonb_set(Message.details, constant("{left_out}"), _named))
    .returning(Message.id)
    .cte("shown")
)
_NOTED = select(MessageEvent.consent_entry_id).where(
    MessageEvent.tenant_id == TENANT, MessageEvent.message_id == _MESSAGE, MessageEvent.kind == COPY_LEFT_OUT
)
_NOTE = insert(MessageEvent).from_select(
    ["tenant_id", "message_id", "kind", "consent_entry_id"],
    select(TENANT, _shown.c.id, literal(COPY_LEFT_OUT, Text()), _left.c.entry_id).select_from(
        _shown.join(_left, true())
    ),
)


NONE_LEFT_OUT: Mapping[str, int | None] = {}


class Copies:
    """Looks for refusals of those who get copies, and records the copies that are left out."""

    def __init__(self, engine: AsyncEngine, hashes: AddressHashes) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._hashes = hashes

    async def left_out_of(
        self, tenant_id: int, message_id: int, details: Mapping[str, Any] | None
    ) -> Mapping[str, int | None]:
        """Those of a claimed message's copies that are left out, each with the entry of its refusal; recorded.

        Costs nothing for a message without copies. Raises the database's error if it can't be told.
        """
        copies = MailFields.of(details).copies
        if not details or not copies:
            return NONE_LEFT_OUT
        refused = await self.refused(tenant_id, message_id, copies)
        if refused or details.get("left_out"):
            await self.leave_out(tenant_id, message_id, refused)
        return refused

    async def refused(self, tenant_id: int, message_id: int, addresses: Sequence[str]) -> dict[str, int]:
        """Those of the addresses of a message's copies that refuse it, each with the entry of its refusal.

        Raises the database's error if it can't be told.
        """
        known_as = {name: each for each in addresses for name in self._names_of(tenant_id, each)}
        parameters = given(tenant_id, ("address",), [(name,) for name in known_as]) | {"message": message_id}
        async with self._engine.connect() as connection:
            found = (await connection.execute(_FIND, parameters)).all()
        return {known_as[row.address]: row.entry_id for row in found}

    async def leave_out(self, tenant_id: int, message_id: int, left_out: Mapping[str, int | None]) -> None:
        """Record the copies that are left out, as the function of this name does."""
        async with self._engine.connect() as connection:
            await leave_out(connection, tenant_id, message_id, left_out)

    def _names_of(self, tenant_id: int, written: str) -> Collection[str]:
        address = sender_address(written, region="US", is_mail=True).value
        return (address, *self._hashes.of(tenant_id, address))


def left_out_too(
    details: Mapping[str, Any] | None, left_out: Mapping[str, int | None], refused: Sequence[str]
) -> Mapping[str, int | None]:
    """The copies that were left out, if the provider has refused some, as `mailbox_of` writes them; or else none."""
    if not refused:
        return {}
    return {**left_out, **{each: None for each in MailFields.of(details).copies if mailbox_of(each) in refused}}


async def leave_out(
    connection: AsyncConnection, tenant_id: int, message_id: int, left_out: Mapping[str, int | None]
) -> None:
    """Record the copies that are left out, each with the entry of a refusal, or None if its server refused it.

    The message shows these and no others. Its history has each reason once.
    """
    about = {"tenant": tenant_id, "message": message_id}
    noted = set((await connection.execute(_NOTED, about)).scalars())
    entries = [(entry_id,) for entry_id in dict.fromkeys(left_out.values()) if entry_id not in noted]
    parameters = given(tenant_id, ("entry_id",), entries) | {"message": message_id}
    await connection.execute(_NOTE, parameters | {"left_out": json.dumps(sorted(left_out))})


def is_of_copy(message_id: SQLColumnExpression[Any], recipient: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """True for a receipt of a message whose recipient, a normalised address, got a copy and not the mail itself."""
    copy = exists().where(
        NamedAddress.tenant_id == TENANT,
        NamedAddress.message_id == message_id,
        NamedAddress.address == recipient,
        NamedAddress.role.in_([constant("cc"), constant("bcc")]),
    )
    mail = aliased(Message, name="copied_mail")
    is_instead = exists().where(
        mail.tenant_id == TENANT,
        mail.id == message_id,
        func.lower(mail.details[constant("sent_to")].astext) == recipient,
    )
    return and_(copy, ~is_instead)
