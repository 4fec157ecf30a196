"""Metadata: pairs that clients give to messages, conversations and contacts, and find them by."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Text, any_, bindparam, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, aliased

from app.db.models import Contact, Conversation, Message, MetadataEntry
from app.db.statements.batches import TENANT
from app.db.statements.json_text import constant
from app.errors import FieldError, InvalidRequest

#: The most pairs of one message, conversation or contact.
MOST_PAIRS = 20

Pairs = Sequence[tuple[str, str]]
SUBJECTS: dict[type[Contact | Conversation | Message], str] = {
    Contact: "contact",
    Conversation: "conversation",
    Message: "message",
}


def pair_is(entry: Any, subject: str, number: int) -> tuple[ColumnElement[bool], ...]:
    """The conditions on a row of metadata: it is a subject's, and the pair of this number among the parameters."""
    return (
        entry.tenant_id == TENANT,
        entry.subject == constant(subject),
        entry.key == bindparam(f"metadata_key_{number}", type_=Text()),
        entry.value == bindparam(f"metadata_value_{number}", type_=Text()),
    )


def has_pair(subject: str, id: InstrumentedAttribute[int], number: int) -> ColumnElement[bool]:
    """True for the row with this id if it has the pair of a number."""
    entry = aliased(MetadataEntry, name=f"pair_{number}")
    return exists().where(*pair_is(entry, subject, number), entry.subject_id == id)


def pair_parameters(pairs: Pairs) -> dict[str, str]:
    """The parameters of `pair_is` for pairs, numbered from 0."""
    named = {f"metadata_key_{number}": key for number, (key, _) in enumerate(pairs)}
    return named | {f"metadata_value_{number}": value for number, (_, value) in enumerate(pairs)}


def merged(earlier: Mapping[str, str] | None, changes: Mapping[str, str | None]) -> dict[str, str]:
    """The pairs after changes, of which null removes one. Raises `InvalidRequest` if there are too many."""
    both = {**(earlier or {}), **changes}
    pairs = {key: value for key, value in sorted(both.items()) if value is not None}
    if len(pairs) > MOST_PAIRS:
        error = FieldError("body.metadata", f"there are at most {MOST_PAIRS} pairs, also together with earlier ones")
        raise InvalidRequest("There would be too many pairs of metadata.", errors=[error])
    return pairs


async def change_pairs(
    connection: AsyncConnection,
    tenant_id: int,
    model: type[Contact | Conversation],
    id: int,
    changes: Mapping[str, str | None],
) -> None:
    """Merge changes into the pairs of a row that the transaction has locked. Raises as `merged` does."""
    is_it = model.tenant_id == tenant_id, model.id == id
    earlier = (await connection.execute(select(model.metadata_pairs).where(*is_it))).scalar()
    pairs = merged(earlier, changes)
    subject = SUBJECTS[model]
    await connection.execute(REMOVE_PAIRS, {"tenant": tenant_id, "subject": subject, "ids": [id]})
    await connection.execute(update(model).where(*is_it).values(metadata_pairs=pairs or None))
    if pairs:
        entry = {"tenant_id": tenant_id, "subject": subject, "subject_id": id}
        rows = [{**entry, "key": key, "value": value} for key, value in pairs.items()]
        await connection.execute(insert(MetadataEntry).values(rows))


#: Removes that by which rows of these ids are found. The rows themselves are removed, or changed, beside it.
REMOVE_PAIRS = delete(MetadataEntry).where(
    MetadataEntry.tenant_id == TENANT,
    MetadataEntry.subject == bindparam("subject", type_=Text()),
    MetadataEntry.subject_id == any_(bindparam("ids", type_=ARRAY(BigInteger()))),
)
