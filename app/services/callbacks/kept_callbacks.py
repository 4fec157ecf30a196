"""Lists kept callbacks, and removes those about a person."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    LargeBinary,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    exists,
    func,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import defer

from app.db.models import CALL_NEEDS_ATTENTION, KeptCallback, Tenant
from app.db.statements.batches import TENANT
from app.db.statements.paging import Page, fetch_page
from app.domain import DEFAULT_TENANT_ID
from app.errors import WebhookCallNotFound
from app.installation import CallbackVerdict
from app.phone_numbers import former_forms

_EVERY_CALLBACK: Select[KeptCallback] = select(KeptCallback).join(Tenant, Tenant.id == KeptCallback.tenant_id)


async def list_callbacks(
    session: AsyncSession,
    *,
    provider: str | None = None,
    verdict: CallbackVerdict | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    cursor: str | None = None,
) -> Page[KeptCallback]:
    """Callbacks of every tenant, the newest first, without headers and bodies.

    They were received at `since` or later, and before `until`.
    """
    without_content = (defer(KeptCallback.headers, raiseload=True), defer(KeptCallback.body, raiseload=True))
    statement = _EVERY_CALLBACK.options(*without_content)
    if provider is not None:
        statement = statement.where(KeptCallback.provider_type == provider)
    if verdict is not None:
        statement = statement.where(KeptCallback.verdict == verdict.value)
        if verdict is not CallbackVerdict.TAKEN:
            statement = statement.where(CALL_NEEDS_ATTENTION)  # so that PostgreSQL uses the partial index
    if since is not None:
        statement = statement.where(KeptCallback.received_at >= since)
    if until is not None:
        statement = statement.where(KeptCallback.received_at < until)
    return await fetch_page(
        session, statement, order=(KeptCallback.id,), newest_first=True, limit=limit, cursor=cursor
    )


async def get_callback(session: AsyncSession, call_id: int, tenant_id: int | None = None) -> KeptCallback:
    """One callback with headers and body, of any tenant if none is named. Raises `WebhookCallNotFound`."""
    statement = _EVERY_CALLBACK.where(KeptCallback.id == call_id)
    if tenant_id is not None:
        statement = statement.where(KeptCallback.tenant_id == tenant_id)
    found = await session.scalar(statement)
    if found is None:
        raise WebhookCallNotFound("There is no call with this id.")
    return found


_names_address = KeptCallback.addresses.contains(bindparam("addresses", type_=ARRAY(Text())))
_content = KeptCallback.body.op("||")(func.convert_to(func.concat(" ", KeptCallback.url), "UTF8"))
_sought = func.unnest(bindparam("sought", type_=ARRAY(LargeBinary()))).column_valued("sought")


def _without_case(content: ColumnElement[bytes]) -> ColumnElement[str]:
    """Bytes as ASCII text in lower case; other bytes are escaped, so that any content can be compared."""
    return func.lower(func.encode(content, "escape"))


_contains_address = and_(
    CALL_NEEDS_ATTENTION,
    exists().where(func.strpos(_without_case(_content), _without_case(_sought)) > 0),
)
#: Two statements, because each has an index of its own.
_ABOUT_ADDRESS = (_names_address, and_(_contains_address, ~_names_address))
_COUNTS = [
    select(func.count()).select_from(KeptCallback).where(KeptCallback.tenant_id == TENANT, about)
    for about in _ABOUT_ADDRESS
]
_FIND = [select(KeptCallback.id).where(KeptCallback.tenant_id == TENANT, about) for about in _ABOUT_ADDRESS]
#: One with a lower id can still be committed for as long as the transaction that stores it lasts: a few seconds.
_NEWEST_BEFORE = (
    select(KeptCallback.id)
    .where(KeptCallback.tenant_id == TENANT, KeptCallback.received_at < func.now() - timedelta(seconds=15))
    .order_by(KeptCallback.id.desc())
    .limit(1)
)
_REMOVE_FOUND = delete(KeptCallback).where(
    KeptCallback.tenant_id == TENANT, KeptCallback.id == any_(bindparam("ids", type_=ARRAY(BigInteger())))
)
_is_newer = KeptCallback.id > bindparam("newest", type_=BigInteger())
_REMOVE_NEWER = [
    delete(KeptCallback).where(KeptCallback.tenant_id == TENANT, _is_newer, each) for each in _ABOUT_ADDRESS
]


@dataclass(frozen=True, slots=True)
class FoundCallbacks:
    """The callbacks of a tenant about an address, complete up to the id `newest`."""

    tenant_id: int
    address: str
    ids: Sequence[int]
    newest: int


async def count_callbacks_about(connection: AsyncConnection, tenant_id: int, address: str) -> int:
    """The number of a tenant's callbacks about an address: their items name it or, without items, the text has it."""
    parameters = _about(tenant_id, address)
    return sum([(await connection.execute(count, parameters)).scalar_one() for count in _COUNTS])


async def find_callbacks_about(
    connection: AsyncConnection, tenant_id: int, addresses: Collection[str]
) -> list[FoundCallbacks]:
    """Find the callbacks about addresses, for `remove_found`.

    The search reads what was refused as a whole, and can take a second. It is made before the transaction writes,
    because a writing one delays the readers of the event log. Those of tenant 1 are found, too: it has the callbacks
    whose tenant was unknown when they came.
    """
    found: list[FoundCallbacks] = []
    if not addresses:
        return found
    for of_tenant in sorted({tenant_id, DEFAULT_TENANT_ID}):
        newest = (await connection.execute(_NEWEST_BEFORE, {"tenant": of_tenant})).scalar() or 0
        for address in sorted(addresses):
            parameters = _about(of_tenant, address)
            ids = [id for find in _FIND for id in (await connection.execute(find, parameters)).scalars()]
            found.append(FoundCallbacks(of_tenant, address, ids, newest))
    return found


async def remove_found(connection: AsyncConnection, tenant_id: int, found: Iterable[FoundCallbacks]) -> int:
    """Remove what was found, and what came since; returns the number of the tenant's own."""
    removed = 0
    for each in found:
        deleted = [await connection.execute(_REMOVE_FOUND, {"tenant": each.tenant_id, "ids": each.ids})]
        parameters = _about(each.tenant_id, each.address) | {"newest": each.newest}
        deleted += [await connection.execute(removal, parameters) for removal in _REMOVE_NEWER]
        removed += sum(result.rowcount for result in deleted) if each.tenant_id == tenant_id else 0
    return removed


def _about(tenant_id: int, address: str) -> dict[str, object]:
    """The parameters. A number is searched for in all its forms without the plus, which forms and JSON may encode."""
    forms = [form.removeprefix("+") for form in (address, *former_forms(address))]
    return {
        "tenant": tenant_id,
        "addresses": [address],
        "sought": [text.encode() for form in forms for text in {form, quote(form, safe="")}],
    }
