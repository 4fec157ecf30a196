"""The queues of all tenants, channels and priorities: those that have something due, and where each begins.

A session with an old snapshot, such as a dump, keeps PostgreSQL from removing the index entries of messages that have
left. They stand at the beginning of each queue, and every claim would read all of them. So a worker remembers where a
queue began, and looks from there on. A full look finds what has become due before that place. It is made every few
seconds, and more often as long as that takes a fiftieth of the time at most.
"""

import asyncio
import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Any

from sqlalchemy import BigInteger, DateTime, Interval, Row, SmallInteger, Text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import bindparam, extract, func, literal, select

from app.batches import Priority
from app.db.models import Message
from app.db.statements.batches import rows
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.tenant_guard import ALL_TENANTS
from app.domain import EARLIEST_DATE

#: The share of the time that full looks may take, and the longest time between two.
_SHARE, _LONGEST_SECONDS = 0.02, 5.0
#: The quickest of so many full looks tells how long one takes. The first ones prepare the statements, and count as
#: quick: a new queue is found by a full look only.
_LOOKS, _QUICK_SECONDS = 4, 0.0002
#: Nothing is passed over that became due within this time: the transaction that stored it may just have ended.
_RECENT = timedelta(seconds=0.5)
#: Channels of tenants whose queues are remembered, also when they are found empty. Of more, only those with messages.
_REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class DueWork:
    """A tenant's queue on a channel, of the messages of one priority."""

    tenant_id: int
    channel: str
    priority: Priority
    wait_seconds: float  #: until its first message is due; zero or less if one is
    begins_at: datetime  #: nothing was found to be due before


_EVERY_QUEUE = {ALL_TENANTS: "a worker serves the queues of all tenants"}


#: Tenants with anything that waits. Of an index that begins with the channel, one row is read.
_WITH_WORK = (
    select(EACH_TENANT)
    .where(first(Message.channel, Message.due_at.is_not(None)).is_not(None))
    .execution_options(**_EVERY_QUEUE)
)
_queue = rows(
    tenant_id=BigInteger(),
    channel=Text(),
    priority=SmallInteger(),
    begins_at=DateTime(timezone=True),
)
_COLUMNS = [column.name for column in _queue.c][:-1]
_first_due = first(
    Message.due_at,
    Message.channel == _queue.c.channel,
    Message.priority == _queue.c.priority,
    Message.due_at >= _queue.c.begins_at,
    Message.due_at <= func.now() + bindparam("ahead", type_=Interval()),
    beside=_queue,
)
_found = (
    select(EACH_TENANT, _queue.c.channel, _queue.c.priority, _first_due.label("due_at"))
    .join(_queue, _queue.c.tenant_id == EACH_TENANT)
    .subquery("found")
)
_LOOK = select(
    _found.c.tenant_id,
    _found.c.channel,
    _found.c.priority,
    extract("epoch", _found.c.due_at - func.now()).label("wait"),
    func.least(_found.c.due_at, func.now() - literal(_RECENT)).label("begins_at"),
).execution_options(**_EVERY_QUEUE)
#: Beyond any due time.
_FOR_EVER = timedelta(days=36_500)


class Queues:
    """The queues as one worker sees them. Those that are due only after `ahead_seconds` are shown by full looks."""

    def __init__(self, *, ahead_seconds: float) -> None:
        self._ahead = timedelta(seconds=ahead_seconds)
        #: By tenant and channel, and then by priority; those found last are at the end.
        self._begins_at: dict[tuple[int, str], dict[Priority, datetime]] = {}
        self._full_look_at = -inf
        self._was_full = False
        self._took = deque([_QUICK_SECONDS] * _LOOKS, maxlen=_LOOKS)

    def full_look_in(self) -> float:
        """Seconds until a full look may be made; infinite if the last look was one."""
        return inf if self._was_full else max(self._full_look_at - asyncio.get_running_loop().time(), 0.0)

    async def look(self, connection: AsyncConnection, channels: Collection[str]) -> list[DueWork]:
        """The queues that are not empty, in random order, so that none is always last.

        A message is missed for some seconds at most, if its time lies behind the place where its queue began before.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        self._was_full = began >= self._full_look_at
        if self._was_full:
            self._full_look_at = began + _LONGEST_SECONDS  # also after an error
            tenants = (await connection.execute(_WITH_WORK)).scalars().all()
            every = [
                (tenant_id, channel, priority.value, EARLIEST_DATE)
                for tenant_id in tenants
                for channel in channels
                for priority in Priority
            ]
            found = await self._first_due(connection, every, _FOR_EVER)
            found = [row for row in found if row.wait is not None]
            # Other tasks of the process may have held up the answer.
            self._took.append(clock() - began)
            self._full_look_at = clock() + min(min(self._took) / _SHARE, _LONGEST_SECONDS)
        else:
            # Far-off entries are left to the full looks: many are those of leases whose messages have left.
            found = await self._first_due(connection, self._known(), self._ahead)
        work = []
        for row in found:
            tenant_id, channel, priority, wait, begins_at = tuple(row)
            lanes = self._begins_at.setdefault((tenant_id, channel), dict.fromkeys(Priority, EARLIEST_DATE))
            lanes[Priority(priority)] = begins_at
            if wait is not None:
                self._begins_at[tenant_id, channel] = self._begins_at.pop((tenant_id, channel))
                work.append(DueWork(tenant_id, channel, Priority(priority), float(wait), begins_at))
        busy = len({(each.tenant_id, each.channel) for each in work})
        for queue in list(self._begins_at)[: -max(busy, _REMEMBERED)]:
            del self._begins_at[queue]
        random.shuffle(work)
        return work

    def _known(self) -> list[tuple[int, str, int, datetime]]:
        return [
            (tenant_id, channel, priority.value, begins_at)
            for (tenant_id, channel), lanes in self._begins_at.items()
            for priority, begins_at in lanes.items()
        ]

    async def _first_due(
        self, connection: AsyncConnection, known: Sequence[tuple[int, str, int, datetime]], ahead: timedelta
    ) -> Sequence[Row[Any]]:
        if not known:
            return []
        columns = zip(*known, strict=True)
        given = {f"given_{name}": list(column) for name, column in zip(_COLUMNS, columns, strict=True)}
        return (await connection.execute(_LOOK, given | {"ahead": ahead})).all()
