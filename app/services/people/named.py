"""Removal of a person from the mails of others that name them: in `cc`, `bcc`, `reply_to`, and receipts of copies.

The texts of these mails stay as they are.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Text, any_, bindparam, cast, delete, exists, func, null, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import Message, NamedAddress, StoredReceipt
from app.db.statements.batches import TENANT

_LISTS = ("cc", "bcc", "reply_to", "left_out")
_ADDRESSES = bindparam("addresses", type_=ARRAY(Text()))
_IDS = bindparam("ids", type_=ARRAY(BigInteger()))
_is_about_them = NamedAddress.tenant_id == TENANT, NamedAddress.address == any_(_ADDRESSES)
_NAMING = select(NamedAddress.message_id).where(*_is_about_them).distinct().order_by(NamedAddress.message_id)
_sought = func.unnest(_ADDRESSES).column_valued("sought")
_FORGET_RECEIPTS = (
    update(StoredReceipt)
    .where(
        StoredReceipt.tenant_id == TENANT,
        StoredReceipt.message_id == any_(_IDS),
        exists().where(func.strpos(func.lower(cast(StoredReceipt.raw, Text())), _sought) > 0),
    )
    .values(raw=cast({}, JSONB), detail=null(), recipient=null())
)
_LOCK = (
    select(Message.id, Message.details)
    .where(Message.tenant_id == TENANT, Message.id == any_(_IDS))
    .order_by(Message.id)
    .with_for_update(skip_locked=True, key_share=True)
)
_FORGET_NAMED = delete(NamedAddress).where(*_is_about_them, NamedAddress.message_id == any_(_IDS))


async def messages_naming(connection: AsyncConnection, tenant_id: int, addresses: Sequence[str]) -> list[int]:
    """The ids of the mails of others that name one of these normalised addresses, in order."""
    found = await connection.execute(_NAMING, {"tenant": tenant_id, "addresses": list(addresses)})
    return list(found.scalars())


async def forget_named(
    connection: AsyncConnection, tenant_id: int, addresses: Sequence[str], *, limit: int
) -> tuple[int, bool]:
    """Remove addresses from some mails that name them; returns the number, and True if there may be more.

    A mail that another transaction has locked is passed over.
    """
    parameters: dict[str, Any] = {"tenant": tenant_id, "addresses": list(addresses)}
    ids = list((await connection.execute(_NAMING.limit(limit), parameters)).scalars())
    if not ids:
        return 0, False
    # Receipts first, while no message is locked: a transaction that attaches one holds it and waits for its message.
    await connection.execute(_FORGET_RECEIPTS, parameters | {"ids": ids})
    locked = (await connection.execute(_LOCK, {"tenant": tenant_id, "ids": ids})).all()
    for row in locked:
        is_it = Message.tenant_id == tenant_id, Message.id == row.id
        details = _without(row.details or {}, set(addresses))
        await connection.execute(update(Message).where(*is_it).values(details=details or None))
    await connection.execute(_FORGET_NAMED, parameters | {"ids": [row.id for row in locked]})
    return len(locked), True


def _without(details: dict[str, Any], addresses: Collection[str]) -> dict[str, Any]:
    """Details that no longer name these addresses."""
    kept = dict(details)
    for name in _LISTS:
        kept[name] = [each for each in details.get(name, []) if each.lower() not in addresses]
    kept["names"] = {each: name for each, name in details.get("names", {}).items() if each.lower() not in addresses}
    return {name: value for name, value in kept.items() if value not in ([], {})}
