"""Stores callbacks as they came, and the tokens of signatures."""

import asyncio
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote_plus

from sqlalchemy import (
    BigInteger,
    DateTime,
    Integer,
    LargeBinary,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.models import CALL_NEEDS_ATTENTION, KeptCallback, SignatureToken, Tenant
from app.db.statements.batches import TENANT, given, rows
from app.db.statements.sanitize import storable_text
from app.domain import DEFAULT_TENANT_ID
from app.installation import CallbackVerdict
from app.providers.base import Callback
from app.providers.toolbox.verification import hash_of, kept_authorization
from app.services.accept.group_commit import GroupCommit

#: Headers and parameters with a shared secret. Only the hash of the value is kept: it serves to verify a callback
#: again, and is no secret.
_SECRET = re.compile(r"authorization|cookie|token|secret|password|api-?key", re.IGNORECASE)
#: A signature over one callback (a JWT, RFC 7519), in any header. It is kept, to verify the callback again.
_SIGNED_TOKEN = re.compile(r"Bearer eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_PARAMETER = re.compile(r"(?<=[?&])([^=&#]*)=([^&#]*)")
#: In bytes. A larger callback is written by itself, so that a batch has some tens of megabytes at most.
_LARGE = 256_000
_BATCH = 100
#: The most refused callbacks, and bytes of them, kept in a minute: unknown callers must not keep the disk busy.
_REFUSED_A_MINUTE, _BYTES_A_MINUTE = 600, 40_000_000
#: The most bytes of refused bodies kept in all. A mail has up to 30 MB, and an erasure searches all of them.
_MOST_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class CallbackResult:
    """The result of a callback: its verdict, the reason unless it is `taken`, and the number of its items.

    `seen` and `expected` are the beginnings of signatures, as in `CallbackRefused`.
    """

    verdict: CallbackVerdict
    reason: str | None = None
    seen: str | None = None
    expected: str | None = None
    events: int = 0

    @property
    def genuine(self) -> bool:
        return self.verdict is not CallbackVerdict.REFUSED


@dataclass(frozen=True, slots=True)
class NewCallback:
    """A callback to be kept, as in `KeptCallback`."""

    provider_type: str
    callback: Callback
    result: CallbackResult
    addresses: Iterable[str] = ()
    tenant_id: int = DEFAULT_TENANT_ID


_new = rows(
    tenant_id=BigInteger(),
    provider_type=Text(),
    received_at=DateTime(timezone=True),
    method=Text(),
    url=Text(),
    headers=Text(),
    body=LargeBinary(),
    verdict=Text(),
    reason=Text(),
    seen=Text(),
    expected=Text(),
    events=Integer(),
    addresses=Text(),
)
_NEW = [column.name for column in _new.c][:-1]
_VALUES = {name: _new.c[name] for name in _NEW} | {
    "headers": cast(_new.c.headers, JSONB),
    "addresses": func.string_to_array(_new.c.addresses, "\n"),
}
#: The items of a callback may name a tenant that does not exist.
_JOINED = _VALUES | {"tenant_id": func.coalesce(Tenant.id, literal(DEFAULT_TENANT_ID, BigInteger()))}
_kept = select(*_JOINED.values()).select_from(_new.outerjoin(Tenant, Tenant.id == _new.c.tenant_id))
_KEEP = insert(KeptCallback).from_select(_NEW, _kept.order_by(_new.c.position)).returning(KeptCallback.id)
#: Without the join, which costs a distributed database five times as long for the body of a large mail.
_KEEP_ALONE = insert(KeptCallback).from_select(_NEW, select(*_VALUES.values())).returning(KeptCallback.id)
_TENANT = select(Tenant.id).where(Tenant.id == TENANT)
_is_refused = KeptCallback.verdict == CallbackVerdict.REFUSED.value
_latest_first = KeptCallback.id.desc()
_counted = (
    select(
        KeptCallback.id,
        func.row_number().over(order_by=_latest_first).label("calls"),
        func.sum(func.octet_length(KeptCallback.body)).over(order_by=_latest_first).label("bytes"),
    )
    .where(KeptCallback.tenant_id == TENANT, CALL_NEEDS_ATTENTION, _is_refused)  # the first names the partial index
    .subquery("counted")
)
_CALLS, _BYTES = (bindparam(name, type_=BigInteger()) for name in ("most", "most_bytes"))
_surplus = (
    select(KeptCallback.id)
    .join(_counted, KeptCallback.id == _counted.c.id)
    .where(
        KeptCallback.tenant_id == TENANT,
        or_(_counted.c.calls > _CALLS, _counted.c.bytes > _BYTES),
    )
    .with_for_update(of=KeptCallback, skip_locked=True)
    .cte("surplus")
)
_REMOVE_SURPLUS = delete(KeptCallback).where(KeptCallback.tenant_id == TENANT, KeptCallback.id == _surplus.c.id)
_PROVIDER, _TOKEN = bindparam("provider", type_=Text()), bindparam("shown", type_=Text())
_CLAIM_TOKEN = (
    insert(SignatureToken)
    .values(tenant_id=TENANT, provider_type=_PROVIDER, token=_TOKEN, events=bindparam("came_with", type_=Text()))
    .on_conflict_do_nothing()
)
#: A second statement, so that it sees the row that the first one has waited for.
_CAME_WITH = select(SignatureToken.events).where(
    SignatureToken.tenant_id == TENANT, SignatureToken.provider_type == _PROVIDER, SignatureToken.token == _TOKEN
)


class CallbackStore:
    """Keeps callbacks. An async context manager, because they are committed in groups."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._keeps_refused = settings.quarantine_refused
        self._most_refused = settings.quarantine_most
        self._minute = 0
        self._refused = self._refused_bytes = 0
        self._callbacks: GroupCommit[NewCallback, int] = GroupCommit(
            engine,
            settings,
            _keep,
            name="webhook-calls",
            tenant_of=lambda _: DEFAULT_TENANT_ID,  # the statement looks the tenant up
            batch_size=_BATCH,
            single_statement=True,
        )

    async def __aenter__(self) -> Self:
        await self._callbacks.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._callbacks.__aexit__(*exception)

    async def keep(self, new: NewCallback) -> int:
        """Keep a callback; returns its id after the commit. Raises what `GroupCommit.submit` raises."""
        if len(new.callback.body) < _LARGE:
            return await self._callbacks.submit(new)
        async with asyncio.timeout(self._deadline_seconds), self._engine.begin() as connection:
            return await _keep_alone(connection, new)

    async def quarantine(self, new: NewCallback) -> None:
        """Keep a callback that was refused or could not be verified, if `QUARANTINE_REFUSED` is on.

        The newest `QUARANTINE_MOST` remain, and at most 100 MB. Those beyond the limits of a minute are not kept.
        """
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._refused, self._refused_bytes = minute, 0, 0
        size = len(new.callback.body)
        is_too_much = self._refused >= _REFUSED_A_MINUTE or self._refused_bytes + size > _BYTES_A_MINUTE
        if not self._keeps_refused or is_too_much:
            return
        self._refused += 1
        self._refused_bytes += size
        async with asyncio.timeout(self._deadline_seconds), self._engine.begin() as connection:
            await _keep_alone(connection, new)
            most = {"most": self._most_refused, "most_bytes": _MOST_BYTES}
            await connection.execute(_REMOVE_SURPLUS, {"tenant": DEFAULT_TENANT_ID, **most})


async def _keep(connection: AsyncConnection, callbacks: list[NewCallback]) -> list[int]:
    kept = await connection.execute(_KEEP, given(DEFAULT_TENANT_ID, _NEW, map(_values, callbacks)))
    return sorted(kept.scalars())  # ids are drawn in the order of the rows


async def _keep_alone(connection: AsyncConnection, new: NewCallback) -> int:
    tenant_id = await connection.scalar(_TENANT, {"tenant": new.tenant_id})
    known = replace(new, tenant_id=tenant_id or DEFAULT_TENANT_ID)
    kept = await connection.execute(_KEEP_ALONE, given(DEFAULT_TENANT_ID, _NEW, [_values(known)]))
    return int(kept.scalar_one())


def _values(new: NewCallback) -> tuple[object, ...]:
    """The values of a row, in the order of `_NEW`."""
    callback, result = new.callback, new.result
    return (
        new.tenant_id,
        new.provider_type,
        callback.received_at,
        callback.method,
        storable_text(_PARAMETER.sub(_kept_parameter, callback.url)),
        json.dumps([(name, _kept_value(name, value)) for name, value in callback.headers]),
        callback.body,
        result.verdict.value,
        result.reason,
        result.seen,
        result.expected,
        result.events,
        "\n".join(sorted(new.addresses)),
    )


def _kept_parameter(parameter: re.Match[str]) -> str:
    name, value = parameter.groups()
    is_secret = _SECRET.search(unquote_plus(name))
    return f"{name}={hash_of(unquote_plus(value))}" if is_secret else parameter[0]


def _kept_value(name: str, value: str) -> str:
    if not _SECRET.search(name) or _SIGNED_TOKEN.fullmatch(value):
        return storable_text(value)
    return kept_authorization(value) if name == "authorization" else hash_of(value)


async def claim_token(connection: AsyncConnection, provider_type: str, token: str, items: str) -> bool:
    """Claim a signature's token for the items that it came with first; False for a token of other items.

    `items` is their hash. The claim is stored with tenant 1, so that no token is good for two tenants either.
    """
    parameters = {"tenant": DEFAULT_TENANT_ID, "provider": provider_type, "shown": storable_text(token)}
    await connection.execute(_CLAIM_TOKEN, parameters | {"came_with": items})
    came_with: str = (await connection.execute(_CAME_WITH, parameters)).scalar_one()
    return came_with == items
