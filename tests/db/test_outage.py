"""The lines of the log about a database that is away."""

import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.db.connectivity.outage import Outage
from app.log import configure_logging
from tests.cases import each_case
from tests.conftest import make_settings
from tests.logs import captured


def lines_of(act: Callable[[], None]) -> list[dict[str, Any]]:
    configure_logging(make_settings(log_format="json"))
    written = captured()
    act()
    return [json.loads(line) for line in written.getvalue().splitlines()]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(*steps: tuple[float, str]) -> list[tuple[Any, ...]]:
    """The lines after errors and answers at these seconds: event, count, and the seconds of one that is over."""
    clock = Clock()
    outage = Outage(clock)

    def act() -> None:
        for clock.now, step in steps:
            if step == "error":
                outage.note(ConnectionRefusedError("refused"))
            else:
                outage.end()

    return [(line["event"].removeprefix("database_"), line["count"], line.get("seconds")) for line in lines_of(act)]


@each_case(
    ("steps", "lines"),
    [
        ([(0, "answer")], []),
        ([(0, "error")], [("unavailable", 1, None)]),
        ([(second / 10, "error") for second in range(250)], [("unavailable", 1, None)]),
        (
            [(second / 10, "error") for second in range(1300)],
            [("unavailable", 1, None), ("unavailable", 600, None), ("unavailable", 600, None)],
        ),
        (
            [(0, "error"), (3, "error"), (25, "answer"), (26, "answer")],
            [("unavailable", 1, None), ("available", 2, 25)],
        ),
        # One that comes and goes.
        (
            [(second, step) for second in range(59) for step in ("error", "answer")],
            [("unavailable", 1, None), ("available", 1, 0)],
        ),
        (
            [(0, "error"), (1, "answer"), (30, "error"), (61, "error"), (62, "answer")],
            [("unavailable", 1, None), ("available", 1, 1), ("unavailable", 2, None), ("available", 2, 32)],
        ),
    ],
)
def test_there_is_one_line_a_minute_and_one_when_it_is_back(
    steps: list[tuple[float, str]], lines: list[tuple[Any, ...]]
) -> None:
    assert told(*steps) == lines


def of_the_driver(error: Exception) -> DBAPIError:
    return DBAPIError("SELECT body FROM messages", {"body": "secret"}, error)


@each_case(
    ("error", "sqlstate", "reason"),
    [
        (
            of_the_driver(asyncpg.ProtocolViolationError("unsupported startup parameter: jit")),
            "08P01",
            "unsupported startup parameter: jit",
        ),
        (asyncpg.CannotConnectNowError("the database system is starting up"), "57P03", "starting up"),
        (
            of_the_driver(asyncpg.QueryCanceledError("canceling statement\nDETAIL:  secret")),
            "57014",
            "canceling statement",
        ),
        (PoolTimeout("QueuePool limit"), None, "QueuePool limit"),
        (ConnectionRefusedError(111, "Connect call failed"), None, "[Errno 111] Connect call failed"),
        (TimeoutError(), None, "no answer in time"),
    ],
)
def test_the_first_line_tells_why(error: Exception, sqlstate: str | None, reason: str) -> None:
    [line] = lines_of(lambda: Outage().note(error, batch="accept"))
    assert (line["sqlstate"], line["batch"], line["error"]) == (sqlstate, "accept", type(error).__name__)
    assert reason in line["reason"]
    assert "secret" not in str(line)


@pytest.mark.parametrize("length", [10, 100_000])
def test_a_long_reason_is_cut_off(length: int) -> None:
    [line] = lines_of(lambda: Outage().note(OSError("x" * length)))
    assert len(line["reason"]) <= 300
