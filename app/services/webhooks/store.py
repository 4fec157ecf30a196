"""Reads what a worker needs to serve a tenant's endpoints, and records what has come of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Integer,
    Row,
    Text,
    any_,
    bindparam,
    case,
    delete,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import EventLog, Message, WebhookAttempt, WebhookEndpoint, WebhookLease, WebhookRetry
from app.db.statements.batches import TENANT, given, rows, same
from app.domain import EventType
from app.services.event_log.entries import NewEvent, write_entries
from app.services.events.cursors import Position
from app.services.events.reading import EventFilter
from app.services.webhooks.sender import Answer, Receiver
from app.services.webhooks.state import EndpointState, Retry

_MOMENT = DateTime(timezone=True)
_IDS = bindparam("ids", type_=ARRAY(BigInteger()))


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """An endpoint as a worker reads it."""

    id: int
    version: int
    receiver: Receiver
    wanted: EventFilter
    suppress_automatic: bool
    state: EndpointState


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request, to be recorded; `event` is the id that the receiver saw."""

    event: str
    type: str
    message_id: int | None
    number: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Record:
    """The outcome of serving an endpoint for a moment, by the worker whose lease has `lease` as its number.

    `generation` is that of the log when the endpoint was read.
    """

    tenant_id: int
    lease: int
    generation: int
    endpoint_id: int
    version: int
    before: EndpointState
    after: EndpointState
    attempts: Sequence[Attempt] = field(default_factory=tuple)


class Recorded(Enum):
    """The fate of a record."""

    FULLY = 1
    ATTEMPTS_ONLY = 2  #: a client has changed the endpoint meanwhile, or there was a failover
    NOT = 3  #: another worker serves the tenant now, or the endpoint is gone


_STATE = (
    "failing_since",
    "last_success_at",
    "probe_at",
    "paused_until",
    "disabled_at",
    "disabled_reason",
    "skipped_at",
)
_ENDPOINTS = select(WebhookEndpoint.__table__).where(WebhookEndpoint.tenant_id == TENANT)
_RETRIES = select(WebhookRetry.__table__).where(WebhookRetry.tenant_id == TENANT)


async def load_endpoints(connection: AsyncConnection, tenant_id: int) -> list[StoredEndpoint]:
    """All endpoints of a tenant with their retries."""
    retries: defaultdict[int, dict[Position, Retry]] = defaultdict(dict)
    for row in await connection.execute(_RETRIES, {"tenant": tenant_id}):
        position = Position(row.generation, row.transaction_id, row.event_id)
        retries[row.endpoint_id][position] = Retry(row.tries, row.first_failed_at, row.due_at)
    endpoints = await connection.execute(_ENDPOINTS, {"tenant": tenant_id})
    return [_stored(row, retries[row.id]) for row in endpoints]


def _stored(row: Row[Any], retries: Mapping[Position, Retry]) -> StoredEndpoint:
    types = None if row.types is None else frozenset(row.types)
    cursor = Position(row.cursor_generation, row.cursor_transaction, row.cursor_id)
    state = EndpointState(cursor, retries, **{name: getattr(row, name) for name in _STATE})
    wanted = EventFilter(types, row.conversation_id)
    return StoredEndpoint(row.id, row.version, receiver_of(row), wanted, row.suppress_automatic, state)


def receiver_of(endpoint: Any) -> Receiver:
    """The receiver of an endpoint, given as a row or a `WebhookEndpoint`."""
    return Receiver(
        endpoint.url,
        endpoint.headers,
        endpoint.secret,
        endpoint.previous_secret,
        endpoint.previous_secret_until,
    )


_generation = select(EventLog.generation).where(EventLog.tenant_id == TENANT).scalar_subquery()
_LEASE = select(WebhookLease.number, _generation).where(WebhookLease.tenant_id == TENANT).with_for_update(read=True)
_LOCK = (
    select(WebhookEndpoint.id, WebhookEndpoint.version)
    .where(WebhookEndpoint.tenant_id == TENANT, WebhookEndpoint.id == any_(_IDS))
    .order_by(WebhookEndpoint.id)
    .with_for_update()
)
_states = rows(
    id=BigInteger(),
    cursor_generation=BigInteger(),
    cursor_transaction=BigInteger(),
    cursor_id=BigInteger(),
    **{name: Text() if name == "disabled_reason" else _MOMENT for name in _STATE},
)
_CURSOR = ("cursor_generation", "cursor_transaction", "cursor_id")
_SAVE = (
    update(WebhookEndpoint)
    .where(WebhookEndpoint.tenant_id == TENANT, WebhookEndpoint.id == _states.c.id)
    .values({name: _states.c[name] for name in (*_CURSOR, *_STATE)})
)
_PLACE = ("endpoint_id", "generation", "transaction_id", "event_id")
_places = rows(**{name: BigInteger() for name in _PLACE})
_FORGET = delete(WebhookRetry).where(same(WebhookRetry, _places, *_PLACE))
_RETRY = ("tries", "first_failed_at", "due_at")
_failed = rows(**{name: BigInteger() for name in _PLACE}, tries=Integer(), first_failed_at=_MOMENT, due_at=_MOMENT)
_adding = insert(WebhookRetry).from_select(
    ["tenant_id", *_PLACE, *_RETRY], select(TENANT, *(_failed.c[name] for name in (*_PLACE, *_RETRY)))
)
_RETRY_LATER = _adding.on_conflict_do_update(
    index_elements=["tenant_id", *_PLACE], set_={name: _adding.excluded[name] for name in _RETRY}
)
#: An answer may repeat what a message says, so it is kept only while the message is there. One that is about to be
#: removed is locked.
_alive = (
    select(Message.id)
    .where(Message.tenant_id == TENANT, Message.id == any_(_IDS))
    .with_for_update(read=True, key_share=True, skip_locked=True)
    .cte("alive")
)
_ATTEMPT = (
    "endpoint_id",
    "event",
    "type",
    "message_id",
    "number",
    "status",
    "error",
    "answer",
    "duration_ms",
    "started_at",
)
_tried = rows(
    endpoint_id=BigInteger(),
    event=Text(),
    type=Text(),
    message_id=BigInteger(),
    number=Integer(),
    status=Integer(),
    error=Text(),
    answer=Text(),
    duration_ms=Integer(),
    started_at=_MOMENT,
)
_may_keep = or_(_tried.c.type == EventType.WEBHOOK_ENDPOINT_TEST.value, _alive.c.id.is_not(None))
_ADD_ATTEMPTS = insert(WebhookAttempt).from_select(
    ["tenant_id", *_ATTEMPT],
    select(
        TENANT,
        *(case((_may_keep, _tried.c.answer)) if name == "answer" else _tried.c[name] for name in _ATTEMPT),
    )
    .select_from(_tried.outerjoin(_alive, _alive.c.id == _tried.c.message_id))
    .order_by(_tried.c.position),
)


async def record(connection: AsyncConnection, records: Sequence[Record]) -> list[Recorded]:
    """Record what has come of serving endpoints of one tenant, in the transaction that is open."""
    tenant_id = records[0].tenant_id
    row = (await connection.execute(_LEASE, {"tenant": tenant_id})).one_or_none()
    lease, generation = (None, 0) if row is None else row
    locked = await connection.execute(_LOCK, {"tenant": tenant_id, "ids": [each.endpoint_id for each in records]})
    versions = {row.id: row.version for row in locked}
    fates = [_fate(each, lease, (generation, versions.get(each.endpoint_id))) for each in records]
    fresh = [each for each, fate in zip(records, fates, strict=True) if fate is Recorded.FULLY]
    await _save(connection, tenant_id, fresh)
    known = [each for each, fate in zip(records, fates, strict=True) if fate is not Recorded.NOT]
    await add_attempts(connection, tenant_id, [(each.endpoint_id, one) for each in known for one in each.attempts])
    return fates


def _fate(record: Record, lease: int | None, current: tuple[int, int | None]) -> Recorded:
    """`current` are the generation and the version, which is None without an endpoint."""
    if record.lease != lease or current[1] is None:
        return Recorded.NOT
    return Recorded.FULLY if current == (record.generation, record.version) else Recorded.ATTEMPTS_ONLY


async def _save(connection: AsyncConnection, tenant_id: int, records: Sequence[Record]) -> None:
    if not records:
        return
    states = [
        (each.endpoint_id, *each.after.cursor, *(getattr(each.after, name) for name in _STATE)) for each in records
    ]
    await connection.execute(_SAVE, given(tenant_id, ("id", *_CURSOR, *_STATE), states))
    gone = [
        (each.endpoint_id, *position)
        for each in records
        for position in each.before.retries.keys() - each.after.retries.keys()
    ]
    if gone:
        await connection.execute(_FORGET, given(tenant_id, _PLACE, gone))
    later = [
        (each.endpoint_id, *position, retry.tries, retry.first_failed_at, retry.due_at)
        for each in records
        for position, retry in each.after.retries.items()
        if each.before.retries.get(position) != retry
    ]
    if later:
        await connection.execute(_RETRY_LATER, given(tenant_id, (*_PLACE, *_RETRY), later))
    disabled = [each for each in records if each.after.disabled_at is not None and each.before.disabled_at is None]
    await write_entries(connection, tenant_id, [_disabled(each) for each in disabled])


def _disabled(record: Record) -> NewEvent:
    facts = {"endpoint_id": record.endpoint_id, "reason": record.after.disabled_reason}
    return NewEvent(EventType.WEBHOOK_ENDPOINT_DISABLED, facts=facts)


async def add_attempts(connection: AsyncConnection, tenant_id: int, attempts: Sequence[tuple[int, Attempt]]) -> None:
    """Add attempts, each given with the id of its endpoint, in the transaction that is open."""
    if not attempts:
        return
    values = [
        (
            endpoint_id,
            one.event,
            one.type,
            one.message_id,
            one.number,
            one.answer.status,
            one.answer.error,
            one.answer.beginning,
            round(one.answer.seconds * 1000),
            one.answer.started_at,
        )
        for endpoint_id, one in attempts
    ]
    about = {one.message_id for _, one in attempts if one.message_id is not None and one.answer.beginning}
    parameters = given(tenant_id, _ATTEMPT, values) | {"ids": sorted(about)}
    await connection.execute(_ADD_ATTEMPTS, parameters)
