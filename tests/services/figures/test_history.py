"""The last hour, as it is put together from the rows of all processes."""

import json
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.metrics.catalogue import ACCEPT_SECONDS, ATTEMPTS
from app.metrics.snapshot import Snapshot
from app.services.figures.history import MINUTES, History, Hour, Span, quantile
from tests.cases import each_case

pytestmark = pytest.mark.anyio


@each_case(
    ("counts", "share", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),
        ([10, 10, 0, 0], 0.5, 1.0),
        ([0, 10, 0, 0], 0.9, 1.9),
        ([0, 0, 4, 0], 1.0, 4.0),
        ([0, 0, 0, 7], 0.5, 4.0),
    ],
)
def test_a_quantile_lies_on_a_line_within_its_bucket(
    counts: list[float], share: float, expected: float | None
) -> None:
    found = quantile((1, 2, 4), counts, share)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_quantile_of_nothing_is_none() -> None:
    assert Span(60).quantile(ACCEPT_SECONDS, 0.5) is None


async def write(engine: AsyncEngine, source: str, content: object, *, ago: float) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO figures VALUES (now() - :ago * interval '1 second', :source, CAST(:content AS jsonb))"),
            {"ago": ago, "source": source, "content": json.dumps(content)},
        )


async def read(engine: AsyncEngine, history: History) -> Hour:
    async with engine.connect() as connection:
        return await history.read(connection)


def attempts(number: float) -> dict[str, object]:
    return {"role": "worker", **Snapshot({ATTEMPTS.name: {("acme", "accepted"): number}}).document()}


async def test_the_rows_of_all_processes_are_added_by_minute(engine: AsyncEngine) -> None:
    history = History()
    await write(engine, "a", attempts(1), ago=3)
    await write(engine, "b", attempts(2), ago=1)
    await write(engine, "a", attempts(10), ago=1800)
    await write(engine, "a", attempts(100), ago=4000)
    await write(engine, "c", {"role": "web"}, ago=20)
    await write(engine, "queue", {"sms": [5, 2.5]}, ago=2)
    hour = await read(engine, history)
    assert len(hour.minutes) == MINUTES
    assert sum(span.count(ATTEMPTS.name, "acme") for span in hour.minutes) == 13
    assert hour.recent.count(ATTEMPTS.name, "acme", "accepted") == 3
    assert hour.recent.count(ATTEMPTS.name, "other") == 0
    assert hour.recent.queue == {"sms": (5, 2.5)}
    assert hour.processes == {"worker": 2, "web": 1}


async def test_minutes_that_are_over_are_read_once(engine: AsyncEngine) -> None:
    history = History()
    await write(engine, "a", attempts(10), ago=1800)
    assert sum(span.count(ATTEMPTS.name) for span in (await read(engine, history)).minutes) == 10
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM figures"))
    await write(engine, "a", attempts(1), ago=1)
    hour = await read(engine, history)
    assert sum(span.count(ATTEMPTS.name) for span in hour.minutes) == 11
    assert isinstance(hour.until, datetime)
    assert hour.until.utcoffset() == timedelta()
