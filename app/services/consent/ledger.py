"""The ledger of consent: what people, vendors and the team said, and the refusals that hold.

Every change is an entry with its evidence, which is never changed again. A refusal holds once for each source, so
that each has its own way back: START ends what the person said, but no bounce.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    exists,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_missing
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.consent import BOUNCES, ConsentAction, ConsentScope, ConsentSource
from app.db.models import ConsentEntry, Suppression
from app.db.statements.batches import TENANT, given, rows, same
from app.domain import EventType
from app.services.event_log.entries import entries_of_consent

#: The sources of refusals that end when the person agrees again. A bounce says nothing of the person, and after a
#: complaint only the team can decide.
LIFTED_BY_PERSON = [each for each in ConsentSource if each not in {*BOUNCES, ConsentSource.COMPLAINT}]


@dataclass(frozen=True, slots=True)
class Said:
    """A statement about consent of a normalised address; `ConsentEntry` describes the fields."""

    address: str
    address_type: str
    source: ConsentSource
    scope: ConsentScope = ConsentScope.EVERYTHING
    scope_value: str = ""
    message_id: int | None = None
    receipt_id: int | None = None
    detail: str | None = None
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal that holds, with what its entry tells."""

    id: int
    scope: ConsentScope
    scope_value: str
    source: ConsentSource
    entry_id: int
    message_id: int | None
    created_at: datetime


_KEY = ("address", "address_type", "scope", "scope_value", "source")
_said = rows(
    **{name: Text() for name in _KEY}, message_id=BigInteger(), receipt_id=BigInteger(), detail=Text(), actor=Text()
)
_COLUMNS = [column.name for column in _said.c][:-1]
_keys = [_said.c[name] for name in _KEY]
_HELD = select(*_keys).join(Suppression, same(Suppression, _said, *_KEY))
#: In the order of the key, so that two writers can't deadlock. `_WRITE` sets the id of the entry.
_HOLD = (
    insert_missing(Suppression)
    .from_select(["tenant_id", "entry_id", *_KEY], select(TENANT, literal(0), *_keys).order_by(*_keys))
    .on_conflict_do_nothing()
    .returning(*(getattr(Suppression, name) for name in _KEY))
)
_revoked = (
    insert(ConsentEntry)
    .from_select(
        ["tenant_id", "action", *_COLUMNS],
        select(
            TENANT,
            bindparam("action", ConsentAction.REVOKED.value, type_=Text()),
            *(_said.c[name] for name in _COLUMNS),
        ).order_by(_said.c.position),
    )
    .returning(ConsentEntry.id, *(getattr(ConsentEntry, name) for name in _KEY))
    .cte("revoked")
)
_linked = (
    update(Suppression)
    .where(same(Suppression, _revoked, *_KEY))
    .values(entry_id=_revoked.c.id)
    .returning(Suppression.id)
    .cte("linked")
)
_WRITE = select(_revoked).add_cte(_linked, entries_of_consent(_revoked, EventType.CONSENT_REVOKED))


async def revoke(connection: AsyncConnection, tenant_id: int, said: Sequence[Said]) -> list[int | None]:
    """Revoke consent; returns the id of each entry, None where the same refusal holds already, from the same source.

    Of several equal ones the first counts. Another transaction that revokes the same waits until this one ends.
    """
    values = {_key_of(each): tuple(getattr(each, name) for name in _COLUMNS) for each in reversed(said)}
    # Looked up first, so that what is said again uses up no ids.
    held = {tuple(row) for row in await connection.execute(_HELD, given(tenant_id, _COLUMNS, values.values()))}
    missing = [value for key, value in values.items() if key not in held]
    if not missing:
        return [None] * len(said)
    new = {tuple(row) for row in await connection.execute(_HOLD, given(tenant_id, _COLUMNS, missing))}
    if not new:
        return [None] * len(said)
    told = [value for key, value in reversed(values.items()) if key in new]
    written = await connection.execute(_WRITE, given(tenant_id, _COLUMNS, told))
    entries = {tuple(getattr(row, name) for name in _KEY): row.id for row in written}
    return [entries.pop(_key_of(each), None) for each in said]


def _key_of(said: Said) -> tuple[str, ...]:
    return said.address, said.address_type, said.scope.value, said.scope_value, said.source.value


_ADDRESSES = bindparam("addresses", type_=ARRAY(Text()))
_lifted = (
    delete(Suppression)
    .where(
        Suppression.tenant_id == TENANT,
        Suppression.address == any_(_ADDRESSES),
        Suppression.address_type == bindparam("address_type", type_=Text()),
        Suppression.source == any_(bindparam("lifts", type_=ARRAY(Text()))),
        or_(
            bindparam("every_scope", type_=Boolean()),
            and_(
                Suppression.scope == bindparam("scope", type_=Text()),
                Suppression.scope_value == bindparam("scope_value", type_=Text()),
            ),
        ),
    )
    .returning(Suppression.id)
    .cte("lifted")
)
_granted = (
    insert(ConsentEntry)
    .from_select(
        ["tenant_id", "action", *_COLUMNS],
        select(
            TENANT,
            bindparam("action", ConsentAction.GRANTED.value, type_=Text()),
            *(bindparam(name, type_=_said.c[name].type) for name in _COLUMNS),
        ).where(or_(~bindparam("only_if_refused", type_=Boolean()), exists(select(_lifted.c.id)))),
    )
    .returning(ConsentEntry.id, ConsentEntry.address, ConsentEntry.address_type)
    .cte("granted")
)
_GRANT = select(_granted.c.id).add_cte(entries_of_consent(_granted, EventType.CONSENT_GRANTED))


async def grant(
    connection: AsyncConnection,
    tenant_id: int,
    said: Said,
    *,
    hashes: Iterable[str] = (),
    lifts: Iterable[ConsentSource] = LIFTED_BY_PERSON,
    every_scope: bool = False,
    only_if_refused: bool = False,
) -> int | None:
    """Give consent again; returns the id of the entry.

    It ends the refusals of its scope, or `every_scope`, that came by one of `lifts`, also under the `hashes` of the
    address. With `only_if_refused` nothing is written where there is no such refusal, and None returned.
    """
    parameters = {
        "tenant": tenant_id,
        **{name: getattr(said, name) for name in _COLUMNS},
        "addresses": [said.address, *hashes],
        "lifts": [each.value for each in lifts],
        "every_scope": every_scope,
        "only_if_refused": only_if_refused,
    }
    return (await connection.execute(_GRANT, parameters)).scalar()


_ended = (
    delete(Suppression)
    .where(Suppression.tenant_id == TENANT, Suppression.id == bindparam("suppression", type_=BigInteger()))
    .returning(Suppression.address, Suppression.address_type, Suppression.scope, Suppression.scope_value)
    .cte("ended")
)
_allowed = (
    insert(ConsentEntry)
    .from_select(
        ["tenant_id", "action", "source", "detail", "actor", *_KEY[:-1]],
        select(
            TENANT,
            bindparam("action", ConsentAction.GRANTED.value, type_=Text()),
            bindparam("source", ConsentSource.API.value, type_=Text()),
            bindparam("detail", type_=Text()),
            bindparam("actor", type_=Text()),
            *(_ended.c[name] for name in _KEY[:-1]),
        ),
    )
    .returning(ConsentEntry.id, ConsentEntry.address, ConsentEntry.address_type)
    .cte("allowed")
)
_LIFT = select(_allowed.c.id).add_cte(entries_of_consent(_allowed, EventType.CONSENT_GRANTED))


async def lift(
    connection: AsyncConnection, tenant_id: int, suppression_id: int, *, detail: str, actor: str | None
) -> int | None:
    """End one refusal, of any source; returns the id of the entry, None where there is no such refusal."""
    parameters = {"tenant": tenant_id, "suppression": suppression_id, "detail": detail, "actor": actor}
    return (await connection.execute(_LIFT, parameters)).scalar()


_REFUSALS = (
    select(
        Suppression.id,
        Suppression.scope,
        Suppression.scope_value,
        Suppression.source,
        Suppression.entry_id,
        ConsentEntry.message_id,
        Suppression.created_at,
    )
    .join(ConsentEntry, and_(ConsentEntry.tenant_id == TENANT, ConsentEntry.id == Suppression.entry_id))
    .where(Suppression.tenant_id == TENANT, Suppression.address == any_(_ADDRESSES))
    .order_by(Suppression.id)
)


async def refusals_of(connection: AsyncConnection, tenant_id: int, addresses: Iterable[str]) -> list[Refusal]:
    """The refusals that hold for addresses; those of an erased person are found by the hashes among them."""
    found = await connection.execute(_REFUSALS, {"tenant": tenant_id, "addresses": list(addresses)})
    return [
        Refusal(
            row.id,
            ConsentScope(row.scope),
            row.scope_value,
            ConsentSource(row.source),
            row.entry_id,
            row.message_id,
            row.created_at,
        )
        for row in found
    ]


_ADDRESS, _HASH = bindparam("address", type_=Text()), bindparam("hash", type_=Text())
_hashed = aliased(Suppression, name="hashed")
_is_there_hashed = exists().where(
    _hashed.tenant_id == TENANT,
    _hashed.address == _HASH,
    *(getattr(_hashed, name) == getattr(Suppression, name) for name in _KEY[1:]),
)
_FORGET_TWINS = delete(Suppression).where(
    Suppression.tenant_id == TENANT, Suppression.address == _ADDRESS, _is_there_hashed
)
_HIDE_SUPPRESSIONS = (
    update(Suppression)
    .where(Suppression.tenant_id == TENANT, Suppression.address == _ADDRESS)
    .values(address=_HASH, is_hashed=true())
)
_HIDE_ENTRIES = (
    update(ConsentEntry)
    .where(ConsentEntry.tenant_id == TENANT, ConsentEntry.address == _ADDRESS)
    .values(address=_HASH, detail=None)
)


async def hide_address(connection: AsyncConnection, tenant_id: int, address: str, hash: str) -> None:
    """Replace an address in the ledger by its keyed hash, when its person is erased. The refusals keep holding."""
    parameters = {"tenant": tenant_id, "address": address, "hash": hash}
    for statement in (_FORGET_TWINS, _HIDE_SUPPRESSIONS, _HIDE_ENTRIES):
        await connection.execute(statement, parameters)


#: Why a message was not sent, for a person.
SENTENCES = {
    ConsentSource.KEYWORD: "The recipient has texted STOP.",
    ConsentSource.VENDOR: "The recipient has opted out at the provider.",
    ConsentSource.UNSUBSCRIBE_LINK: "The recipient has unsubscribed by a link in a mail.",
    ConsentSource.MAIL: "The recipient has unsubscribed by mail.",
    ConsentSource.COMPLAINT: "The recipient has marked an earlier mail as spam.",
    ConsentSource.HARD_BOUNCE: "An earlier mail to this address bounced for good.",
    ConsentSource.SOFT_BOUNCES: "Several mails to this address in a row bounced.",
    ConsentSource.API: "The recipient is on the list of refusals, by the API.",
    ConsentSource.IMPORT: "The recipient is on the list of refusals, by an import.",
}
#: Sources whose refusals are told by the time since which they hold.
_STATES = {ConsentSource.SOFT_BOUNCES, ConsentSource.API, ConsentSource.IMPORT}


def sentence_of(entry: ConsentEntry) -> str:
    """The reason that the entry of a refusal gives, with its date, its evidence and the messages that it is about.

    Such as: The recipient has texted STOP on 29 November 2026 (message 123).
    """
    source, scope = ConsentSource(entry.source), ConsentScope(entry.scope)
    joint = "since" if source in _STATES else "on"
    date = f"{entry.created_at.day} {entry.created_at:%B %Y}"
    evidence = "" if entry.message_id is None else f" (message {entry.message_id})"
    about = "" if scope is ConsentScope.EVERYTHING else f", for the {scope} {entry.scope_value}"
    return f"{SENTENCES[source].removesuffix('.')} {joint} {date}{evidence}{about}."
