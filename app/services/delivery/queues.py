"""The queues of all tenants and channels: those that have something due, and where each begins.

A session with an old snapshot, such as a dump, keeps PostgreSQL from removing the index entries of messages that have
left. They stand at the beginning of each queue, and every claim would read all of them. So a worker remembers where a
queue began, and looks from there on. A full look finds what has become due before that place. It is made every few
seconds, and more often as long as that takes a fiftieth of the time at most.
"""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf

from sqlalchemy import ARRAY, BigInteger, ColumnElement, DateTime, Float, Text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import any_, bindparam, extract, func, literal, null, select, true, union_all

from app.db.batches import SECOND, rows
from app.db.loose_scan import loose_scan
from app.db.models import Message
from app.db.tenant_guard import ALL_TENANTS

#: The share of the time that full looks may take, and the longest time between two.
_SHARE, _LONGEST_SECONDS = 0.02, 5.0
#: Nothing is passed over that became due within this time: the transaction that stored it may just have ended.
_RECENT = timedelta(seconds=0.5)
#: Queues whose beginning is remembered, also when they are found empty. Of more, only those with messages are.
_REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class DueWork:
    """A tenant's queue on a channel."""

    tenant_id: int
    channel: str
    wait_seconds: float  #: until its first message is due; zero or less if one is
    begins_at: datetime  #: nothing was found to be due before


_EVERY_QUEUE = {ALL_TENANTS: "a worker serves the queues of all tenants"}


def _begins(first_due: ColumnElement[datetime]) -> ColumnElement[datetime]:
    return func.least(first_due, func.now() - literal(_RECENT))


_first = loose_scan("first", [Message.tenant_id, Message.channel], Message.due_at, only=[Message.due_at.is_not(None)])
#: The last row holds the seconds that the statement has taken.
_LOOK_AT_ALL = union_all(
    select(
        _first.c.tenant_id,
        _first.c.channel,
        extract("epoch", _first.c.due_at - func.now()).label("wait"),
        _begins(_first.c.due_at).label("begins_at"),
    ).where(_first.c.channel == any_(bindparam("channels", type_=ARRAY(Text())))),
    select(null(), null(), extract("epoch", func.clock_timestamp() - func.statement_timestamp()), null()),
).execution_options(**_EVERY_QUEUE)

_known = rows(tenant_id=BigInteger(), channel=Text(), begins_at=DateTime(timezone=True))
#: Far-off entries are left to the full looks: many are those of leases whose messages have left.
_next = (
    select(Message.due_at)
    .where(
        Message.tenant_id == _known.c.tenant_id,
        Message.channel == _known.c.channel,
        Message.due_at >= _known.c.begins_at,
        Message.due_at <= func.now() + bindparam("ahead", type_=Float()) * SECOND,
    )
    .order_by(Message.due_at)
    .limit(1)
    .lateral("next")
)
_LOOK_AT_KNOWN = (
    select(
        _known.c.tenant_id,
        _known.c.channel,
        extract("epoch", _next.c.due_at - func.now()).label("wait"),
        _begins(_next.c.due_at).label("begins_at"),
    )
    .select_from(_known.outerjoin(_next, true()))
    .execution_options(**_EVERY_QUEUE)
)


class Queues:
    """The queues as one worker sees them. Those that are due only after `ahead_seconds` are shown by full looks."""

    def __init__(self, *, ahead_seconds: float) -> None:
        self._ahead_seconds = ahead_seconds
        #: By tenant and channel; those found last are at the end.
        self._begins_at: dict[tuple[int, str], datetime] = {}
        self._full_look_at = -inf
        self._was_full = False

    def full_look_in(self) -> float:
        """Seconds until a full look may be made; infinite if the last look was one."""
        return inf if self._was_full else max(self._full_look_at - asyncio.get_running_loop().time(), 0.0)

    async def look(self, connection: AsyncConnection, channels: Iterable[str]) -> list[DueWork]:
        """The queues that are not empty, in random order, so that none is always last.

        A message is missed for some seconds at most, if its time lies behind the place where its queue began before.
        """
        clock = asyncio.get_running_loop().time
        self._was_full = clock() >= self._full_look_at
        if self._was_full:
            self._full_look_at = clock() + _LONGEST_SECONDS  # also after an error
            *found, end = await connection.execute(_LOOK_AT_ALL, {"channels": list(channels)})
            self._full_look_at = clock() + min(float(end.wait) / _SHARE, _LONGEST_SECONDS)
        else:
            found = list(await connection.execute(_LOOK_AT_KNOWN, self._known()))
        work = []
        for tenant_id, channel, wait, begins_at in found:
            if wait is not None:
                self._begins_at.pop((tenant_id, channel), None)
                work.append(DueWork(tenant_id, channel, float(wait), begins_at))
            self._begins_at[tenant_id, channel] = begins_at
        for queue in list(self._begins_at)[: -max(len(work), _REMEMBERED)]:
            del self._begins_at[queue]
        random.shuffle(work)
        return work

    def _known(self) -> dict[str, object]:
        return {
            "given_tenant_id": [tenant_id for tenant_id, _ in self._begins_at],
            "given_channel": [channel for _, channel in self._begins_at],
            "given_begins_at": list(self._begins_at.values()),
            "ahead": self._ahead_seconds,
        }
