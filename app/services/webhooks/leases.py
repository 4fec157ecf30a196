"""The right to serve a tenant's webhook endpoints, which one worker has at a time."""

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import BigInteger, Float, and_, bindparam, cast, exists, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import EventLog, WebhookEndpoint, WebhookLease
from app.db.statements.batches import SECOND, TENANT, rows
from app.db.tenant_guard import ALL_TENANTS
from app.services.events.cursors import BEGINNING, Position
from app.services.events.reading import newest_of

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0

#: So that no number repeats after a failover that has lost some.
_BY_THE_CLOCK = cast(func.extract("epoch", func.now()) * 1000, BigInteger())
_LEASE_END = func.now() + bindparam("lease", type_=Float()) * SECOND


class LeaseState(NamedTuple):
    """A lease as it is now, and the newest entry of the tenant's log."""

    tenant_id: int
    number: int
    changes: int
    is_free: bool
    has_endpoints: bool  #: that are not disabled
    head: Position


_newest = newest_of(EventLog.tenant_id)
_is_free = or_(WebhookLease.leased_until.is_(None), WebhookLease.leased_until <= func.now())
_enabled = exists().where(WebhookEndpoint.tenant_id == EventLog.tenant_id, WebhookEndpoint.disabled_at.is_(None))
_STATES = (
    select(
        WebhookLease.tenant_id,
        WebhookLease.number,
        WebhookLease.changes,
        _is_free,
        _enabled.correlate(EventLog),
        *_newest.c,
    )
    .select_from(
        EventLog.__table__.join(WebhookLease, WebhookLease.tenant_id == EventLog.tenant_id).outerjoin(
            _newest, and_(True)
        )
    )
    .execution_options(**{ALL_TENANTS: "a worker serves the endpoints of all tenants"})
)
_free = (
    select(WebhookLease.tenant_id, _BY_THE_CLOCK.label("by_the_clock"))
    .where(WebhookLease.tenant_id == TENANT, _is_free)
    .with_for_update(skip_locked=True)
    .cte("free")
)
_TAKE = (
    update(WebhookLease)
    .where(WebhookLease.tenant_id == TENANT, WebhookLease.tenant_id == _free.c.tenant_id)
    .values(number=func.greatest(WebhookLease.number + 1, _free.c.by_the_clock), leased_until=_LEASE_END)
    .returning(WebhookLease.number, WebhookLease.changes)
)
_held = rows(tenant_id=BigInteger(), number=BigInteger())
_mine = (WebhookLease.tenant_id == _held.c.tenant_id, WebhookLease.number == _held.c.number)
_OF_MANY = {ALL_TENANTS: "a worker has the leases of many tenants"}
_RENEW = update(WebhookLease).where(*_mine).values(leased_until=_LEASE_END).execution_options(**_OF_MANY)
_RELEASE = update(WebhookLease).where(*_mine).values(leased_until=null()).execution_options(**_OF_MANY)
_adding = insert(WebhookLease).values(tenant_id=TENANT, changes=_BY_THE_CLOCK)
_NOTE_CHANGE = _adding.on_conflict_do_update(
    index_elements=[WebhookLease.tenant_id],
    set_={"changes": func.greatest(WebhookLease.changes + 1, _adding.excluded.changes)},
)


async def lease_states(connection: AsyncConnection) -> list[LeaseState]:
    """The leases of all tenants that have had an endpoint."""
    return [
        LeaseState(tenant_id, number, changes, is_free, has_endpoints, Position(*head) if head[0] else BEGINNING)
        for tenant_id, number, changes, is_free, has_endpoints, *head in await connection.execute(_STATES)
    ]


async def take_lease(connection: AsyncConnection, tenant_id: int) -> tuple[int, int] | None:
    """Take a free lease; returns its number and changes. None if another worker has it, or is about to."""
    row = (await connection.execute(_TAKE, {"tenant": tenant_id, "lease": LEASE_SECONDS})).one_or_none()
    return None if row is None else (row.number, row.changes)


async def renew_leases(connection: AsyncConnection, held: Iterable[tuple[int, int]]) -> None:
    """Extend leases, given as tenant and number, that have not been taken since."""
    await connection.execute(_RENEW, _given(held) | {"lease": LEASE_SECONDS})


async def release_leases(connection: AsyncConnection, held: Iterable[tuple[int, int]]) -> None:
    """Free leases, given as tenant and number, for other workers."""
    await connection.execute(_RELEASE, _given(held))


def _given(held: Iterable[tuple[int, int]]) -> dict[str, object]:
    in_order = sorted(held)
    return {
        "given_tenant_id": [tenant_id for tenant_id, _ in in_order],
        "given_number": [number for _, number in in_order],
    }


async def note_change(connection: AsyncConnection, tenant_id: int) -> None:
    """Have the worker read a tenant's endpoints again; other changes wait until this transaction ends."""
    await connection.execute(_NOTE_CHANGE, {"tenant": tenant_id})
