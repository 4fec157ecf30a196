"""The figures of the last hour, of all processes, as the status page shows them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate, pairwise

from sqlalchemy import DateTime, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import Figures
from app.metrics.snapshot import Snapshot
from app.metrics.values import Histogram
from app.services.figures.recorder import ALIVE_SECONDS, QUEUE, WRITE_SECONDS

MINUTES = 60
RECENT_SECONDS = 30.0
#: A row may become visible so long after its time. Older minutes are not read again.
_LATE_SECONDS = 60.0
#: Rows that are added up at a time. Then other tasks have their turn.
_AT_A_TIME = 200

_NOW = select(func.now())
_ROWS = (
    select(Figures.taken_at, Figures.source, Figures.content)
    .where(Figures.taken_at >= bindparam("since", type_=DateTime(timezone=True)))
    .order_by(Figures.taken_at)
)


@dataclass(slots=True)
class Span:
    """The figures of some time, and the queue at its end: due messages and the age of the first, by channel."""

    seconds: float
    figures: Snapshot = field(default_factory=Snapshot)
    queue: dict[str, tuple[int, float]] | None = None

    def count(self, metric: str, *labels: str) -> float:
        """The sum of a counter, over the series that begin with these labels."""
        numbers = self.figures.counters.get(metric, {})
        return sum(number for own, number in numbers.items() if own[: len(labels)] == labels)

    def quantile(self, histogram: Histogram, share: float, *labels: str) -> float | None:
        """The number that this share of the observed ones does not exceed; None if there are none."""
        counts = self.figures.histograms.get(histogram.name, {}).get(labels)
        return None if counts is None else quantile(histogram.bounds, counts[:-1], share)


@dataclass(frozen=True, slots=True)
class Hour:
    """The last hour: its minutes, of which the last one is not over, and its last seconds.

    `processes` counts those that write figures, by their roles.
    """

    until: datetime
    minutes: Sequence[Span]
    recent: Span
    processes: Counter[str]


class History:
    """Reads the last hour. Minutes that are over are kept, so that a further page reads only newer rows."""

    def __init__(self) -> None:
        self._over: dict[int, Span] = {}

    async def read(self, connection: AsyncConnection) -> Hour:
        """The hour until now, by the database's clock."""
        now: datetime = (await connection.execute(_NOW)).scalar_one()
        current = int(now.timestamp() // 60)
        wanted = range(current - MINUTES + 1, current + 1)
        self._over = {number: span for number, span in self._over.items() if number in wanted}
        first = next(number for number in wanted if number not in self._over)
        spans = {number: Span(60.0) for number in range(first, current + 1)}
        spans[current].seconds = max(now.timestamp() % 60, WRITE_SECONDS)
        recent, roles = Span(RECENT_SECONDS), dict[str, str]()
        since = datetime.fromtimestamp(first * 60, tz=now.tzinfo)
        rows = (await connection.execute(_ROWS, {"since": since})).all()
        for number, (taken_at, source, content) in enumerate(rows):
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            of = [spans[minute]] if (minute := int(taken_at.timestamp() // 60)) in spans else []
            age = now - taken_at
            if age < timedelta(seconds=RECENT_SECONDS):
                of.append(recent)
            if source == QUEUE:
                for span in of:
                    span.queue = {channel: (due, oldest) for channel, (due, oldest) in content.items()}
                continue
            if age < timedelta(seconds=ALIVE_SECONDS + 2 * WRITE_SECONDS):
                roles[source] = content["role"]
            if "counters" in content:
                for span in of:
                    span.figures.add(Snapshot.of(content))
        minutes = [self._over.get(number) or spans[number] for number in wanted]
        is_final = (now.timestamp() - _LATE_SECONDS) // 60
        self._over |= {number: span for number, span in spans.items() if number < is_final}
        return Hour(now, minutes, recent, Counter(roles.values()))


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """A quantile of a histogram, by a straight line within its bucket, as Prometheus estimates it.

    Beyond the last bound it is that bound.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    for (before, reached), (low, high) in zip(
        pairwise([0.0, *accumulate(counts)]), pairwise([0.0, *bounds]), strict=False
    ):
        if reached >= wanted:
            return low + (high - low) * (wanted - before) / (reached - before)
    return bounds[-1]
