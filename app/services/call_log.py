"""Keeping the calls of providers as they came."""

import asyncio
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

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
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.domain import DEFAULT_TENANT_ID, CallVerdict
from app.models import CALL_NEEDS_ATTENTION, Tenant, WebhookCall
from app.providers.base import Callback
from app.services.batching import GroupCommit
from app.services.statements import TENANT, given, rows
from app.services.storable import storable_text

#: Headers and parameters of the address that hold what lets somebody in: their values are not kept.
_SECRET = re.compile(r"authorization|cookie|token|secret|password|api-?key", re.IGNORECASE)
#: A signature over one call (a JWT, RFC 7519), whatever the header's name: without it the call can't be judged again.
_SIGNED_TOKEN = re.compile(r"Bearer eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_PARAMETER = re.compile(r"(?<=[?&])([^=&#]*)=[^&#]*")
WITHHELD = "[not-kept]"
#: A larger one is written by itself, so that a batch is at most some tens of megabytes.
_LARGE = 256_000
_BATCH = 100
#: Of refused calls only such bodies are kept, and so many a minute: who isn't known must not fill the disk.
_LARGEST_REFUSED = 64_000
_REFUSED_A_MINUTE = 600


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call that is about to be kept; what is not said is as in `WebhookCall`."""

    provider_type: str
    callback: Callback
    verdict: CallVerdict
    reason: str | None = None
    seen: str | None = None
    expected: str | None = None
    events: int = 0
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
#: The tenant is one that events claim, and need not be there.
_VALUES = {name: _new.c[name] for name in _NEW} | {
    "tenant_id": func.coalesce(Tenant.id, literal(DEFAULT_TENANT_ID, BigInteger())),
    "headers": cast(_new.c.headers, JSONB),
    "addresses": func.string_to_array(_new.c.addresses, "\n"),
}
_KEEP = (
    insert(WebhookCall)
    .from_select(
        _NEW,
        select(*(_VALUES[name] for name in _NEW))
        .select_from(_new.outerjoin(Tenant, Tenant.id == _new.c.tenant_id))
        .order_by(_new.c.position),
    )
    .returning(WebhookCall.id)
)
_IS_REFUSED = (
    CALL_NEEDS_ATTENTION,  # says that the partial index will do
    WebhookCall.verdict == CallVerdict.REFUSED.value,
)
_surplus = (
    select(WebhookCall.id)
    .where(WebhookCall.tenant_id == TENANT, *_IS_REFUSED)
    .order_by(WebhookCall.id.desc())
    .offset(bindparam("most", type_=BigInteger()))
    .with_for_update(skip_locked=True)
    .cte("surplus")
)
_REMOVE_SURPLUS = delete(WebhookCall).where(WebhookCall.tenant_id == TENANT, WebhookCall.id == _surplus.c.id)


class CallLog:
    """Keeps calls; an async context manager, because they are committed in groups."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._keeps_refused = settings.quarantine_refused
        self._most_refused = settings.quarantine_most
        self._minute = 0
        self._refused = 0
        self._calls: GroupCommit[NewCall, int] = GroupCommit(
            engine,
            _keep,
            batch_size=_BATCH,
            queue_limit=settings.accept_queue_limit,
            deadline_seconds=self._deadline_seconds,
            tenant_of=lambda _: DEFAULT_TENANT_ID,  # whose they are is looked up where they are stored
            name="webhook-calls",
            single_statement=True,
        )

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._calls.__aexit__(*exception)

    async def keep(self, call: NewCall) -> int:
        """Keep a call; its id, after the commit. Raises what `GroupCommit.submit` raises."""
        if len(call.callback.body) < _LARGE:
            return await self._calls.submit(call)
        async with asyncio.timeout(self._deadline_seconds), self._engine.begin() as connection:
            return (await _keep(connection, [call]))[0]

    async def quarantine(self, call: NewCall) -> None:
        """Keep a call that was refused, where that is wanted: `QUARANTINE_MOST` of them, the oldest go first.

        One with a large body is not kept, and none above so many a minute.
        """
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._refused = minute, 0
        self._refused += 1
        is_too_much = self._refused > _REFUSED_A_MINUTE or len(call.callback.body) > _LARGEST_REFUSED
        if not self._keeps_refused or is_too_much:
            return
        async with asyncio.timeout(self._deadline_seconds), self._engine.begin() as connection:
            await _keep(connection, [call])
            await connection.execute(_REMOVE_SURPLUS, {"tenant": DEFAULT_TENANT_ID, "most": self._most_refused})


async def _keep(connection: AsyncConnection, calls: list[NewCall]) -> list[int]:
    kept = await connection.execute(_KEEP, given(DEFAULT_TENANT_ID, _NEW, map(_values, calls)))
    return sorted(kept.scalars())  # drawn in the order of the rows


def _values(call: NewCall) -> tuple[object, ...]:
    """In the order of `_NEW`."""
    callback = call.callback
    return (
        call.tenant_id,
        call.provider_type,
        callback.received_at,
        callback.method,
        storable_text(_PARAMETER.sub(_kept_parameter, callback.url)),
        json.dumps([(name, _kept_value(name, value)) for name, value in callback.headers]),
        callback.body,
        call.verdict.value,
        storable_text(call.reason),
        storable_text(call.seen),
        storable_text(call.expected),
        call.events,
        "\n".join(sorted(call.addresses)),
    )


def _kept_parameter(parameter: re.Match[str]) -> str:
    return f"{parameter[1]}={WITHHELD}" if _SECRET.search(unquote(parameter[1])) else parameter[0]


def _kept_value(name: str, value: str) -> str | None:
    is_secret = _SECRET.search(name) and not _SIGNED_TOKEN.fullmatch(value)
    return None if is_secret else storable_text(value)
