"""Metadata, named addresses and names of contacts, which few messages have when they are stored.

In the single statement each is a CTE over no row for a message without them, so that it costs others nothing.
`write_details` does the same in statements of its own.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Row,
    Select,
    Text,
    column,
    func,
    insert,
    literal,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_missing
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import Contact, MetadataEntry, NamedAddress
from app.db.statements.batches import TENANT, given, rows
from app.db.statements.json_text import constant
from app.domain import NewMessage
from app.services.search.queue import queue_contacts, queue_rows, queued_contacts

#: The lists of a message's details that name people besides its two ends.
ROLES = ("cc", "bcc", "reply_to")


def metadata_of(stored: CTE) -> CTE:
    """Write the metadata of stored messages where it is found by its pairs."""
    pairs = func.jsonb_each_text(stored.c.details[constant("metadata")])
    pair = pairs.table_valued(column("key", Text), column("value", Text), name="pair").render_derived()
    return (
        insert(MetadataEntry)
        .from_select(
            ["tenant_id", "subject", "key", "value", "subject_id"],
            select(TENANT, literal("message", Text()), pair.c.key, pair.c.value, stored.c.id).select_from(
                stored.join(pair, true())
            ),
        )
        .returning(MetadataEntry.subject_id)
        .cte("tagged")
    )


def named_in(stored: CTE) -> CTE:
    """Write the addresses that stored mails name besides their two ends."""
    each = [
        select(
            stored.c.id,
            func.lower(func.jsonb_array_elements_text(stored.c.details[constant(role)])).label("address"),
            literal(role, Text()).label("role"),
        ).where(stored.c.details.is_not(None))
        for role in ROLES
    ]
    named = union_all(*each).subquery("named")
    return (
        insert_missing(NamedAddress)
        .from_select(
            ["tenant_id", "message_id", "address", "role"],
            select(TENANT, named.c.id, named.c.address, named.c.role),
        )
        .on_conflict_do_nothing()
        .returning(NamedAddress.message_id)
        .cte("copied")
    )


def _unnamed(told: FromClause, address: ColumnElement[str]) -> Select[tuple[int, str]]:
    """Lock the contacts without a name that `told` has one for. One that another transaction holds is left out."""
    return (
        select(Contact.id, told.c.name)
        .join(told, Contact.address == address)
        .where(Contact.tenant_id == TENANT, Contact.name.is_(None))
        .order_by(Contact.id)
        .with_for_update(of=Contact, key_share=True, skip_locked=True)
    )


def names_learned(fresh: CTE) -> tuple[CTE, CTE]:
    """Name the contacts of messages that tell a name, where they have none, and have them found by it.

    A contact that another transaction holds is left for the next message, so that no two writers can deadlock.
    """
    told = (
        select(fresh.c.contact_address, func.min(fresh.c.contact_name).label("name"))
        .where(fresh.c.contact_name.is_not(None))
        .group_by(fresh.c.contact_address)
        .cte("told_names")
    )
    unnamed = _unnamed(told, told.c.contact_address).cte("unnamed")
    named = (
        update(Contact)
        .where(Contact.tenant_id == TENANT, Contact.id == unnamed.c.id)
        .values(name=unnamed.c.name)
        .returning(Contact.id.label("contact_id"))
        .cte("named_contacts")
    )
    return named, queue_rows("queued_names", [queued_contacts(named)])


_given_pairs = rows(key=Text(), value=Text(), subject_id=BigInteger())
_WRITE_PAIRS = insert(MetadataEntry).from_select(
    ["tenant_id", "subject", "key", "value", "subject_id"],
    select(TENANT, literal("message", Text()), _given_pairs.c.key, _given_pairs.c.value, _given_pairs.c.subject_id),
)
_given_named = rows(message_id=BigInteger(), address=Text(), role=Text())
_WRITE_NAMED = (
    insert_missing(NamedAddress)
    .from_select(
        ["tenant_id", "message_id", "address", "role"],
        select(TENANT, _given_named.c.message_id, _given_named.c.address, _given_named.c.role),
    )
    .on_conflict_do_nothing()
)
_told = rows(address=Text(), name=Text())
_UNNAMED = _unnamed(_told, _told.c.address)
_given_names = rows(contact_id=BigInteger(), name=Text())
_NAME = (
    update(Contact)
    .where(Contact.tenant_id == TENANT, Contact.id == _given_names.c.contact_id)
    .values(name=_given_names.c.name)
)


async def write_details(
    connection: AsyncConnection,
    tenant_id: int,
    stored: Sequence[Row[Any]],
    messages: Iterable[NewMessage],
    name_of: Callable[[NewMessage], str | None],
) -> None:
    """Write what the `stored` rows have in `details`, and the names that the messages tell of their contacts."""
    detailed = [row for row in stored if row.details]
    pairs = [(key, value, row.id) for row in detailed for key, value in row.details.get("metadata", {}).items()]
    if pairs:
        await connection.execute(_WRITE_PAIRS, given(tenant_id, ("key", "value", "subject_id"), pairs))
    named = [(row.id, each.lower(), role) for row in detailed for role in ROLES for each in row.details.get(role, [])]
    if named:
        await connection.execute(_WRITE_NAMED, given(tenant_id, ("message_id", "address", "role"), named))
    told: dict[str, str] = {}
    for message in messages:
        if name := name_of(message):
            told[message.contact.value] = min(name, told.get(message.contact.value, name))
    if told:
        found = await connection.execute(_UNNAMED, given(tenant_id, ("address", "name"), sorted(told.items())))
        names = [(row.id, row.name) for row in found]
        await connection.execute(_NAME, given(tenant_id, ("contact_id", "name"), names))
        await queue_contacts(connection, tenant_id, [id for id, _ in names])
