"""The cost of reading the event log: it does not grow with the log, whichever plan PostgreSQL chooses."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any

import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain import EventType
from app.services.events.cursors import Position
from app.services.events.reading import EVERYTHING, EventFilter, log_state, read_page
from tests.conftest import execute

pytestmark = pytest.mark.anyio

#: Both have more entries behind their middle than a page with a filter looks through.
SHORT, LONG = 5_000, 25_000
PER_TRANSACTION = 8
#: Blocks by which a deeper index may differ, for each time that it is gone down.
LEVELS = 6


def fill(url: str, entries: int) -> None:
    """Entries of an earlier generation, and as many of another tenant among them."""
    execute(
        url,
        "DELETE FROM events",
        "INSERT INTO events (tenant_id, generation, transaction_id, type, message_id, conversation_id)"
        f" SELECT tenant_id, 0, n / {PER_TRANSACTION}, 'message.received', n, n % 100"
        f" FROM generate_series(1, {entries}) n, unnest(ARRAY[1, 2]) tenant_id ORDER BY n",
        "VACUUM ANALYZE events",
    )


#: Steps whose cost grows with the table.
GROWING = {"Seq Scan", "Bitmap Heap Scan"}


@contextmanager
def statements_of(engine: AsyncEngine) -> Iterator[list[tuple[str, Sequence[Any]]]]:
    """The statements that are executed meanwhile, with their parameters."""
    found: list[tuple[str, Sequence[Any]]] = []

    def note(_1: object, _2: object, statement: str, parameters: Sequence[Any], *_: object) -> None:
        found.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield found
    event.remove(engine.sync_engine, "before_cursor_execute", note)


def plan_of(url: str, kind: str, statement: str, parameters: Sequence[Any]) -> dict[str, Any]:
    """The executed plan of a statement; a `generic` one knows no parameters."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET plan_cache_mode = force_{kind}_plan; PREPARE reading AS {statement}")
        written = ", ".join(_literal(value) for value in parameters)
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE reading({written})")
        row = cursor.fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"ARRAY[{', '.join(_literal(each) for each in value)}]::text[]"
    return "NULL" if value is None else f"'{value}'"


def nodes(plan: dict[str, Any]) -> set[str]:
    """The ways in which the log itself is read."""
    own = {plan["Node Type"]} if plan.get("Relation Name") == "events" else set()
    return own.union(*(nodes(each) for each in plan.get("Plans", ())))


FILTERS = {
    "everything": EVERYTHING,
    "types": EventFilter(types=[EventType.MESSAGE_RECEIVED]),
    "conversation": EventFilter(conversation_id=7),
}


async def reads_of(engine: AsyncEngine, after: Position, wanted: EventFilter) -> list[tuple[str, Sequence[Any]]]:
    """The statements that read a page."""
    with statements_of(engine) as statements:
        async with engine.connect() as connection:
            page = await read_page(connection, 1, after, await log_state(connection, 1), wanted=wanted, limit=100)
    assert page.entries
    return [each for each in statements if "event" in each[0]]


async def test_a_page_costs_the_same_in_a_long_log(engine: AsyncEngine, database_url: str) -> None:
    found: dict[tuple[str, str], list[int]] = {}
    for entries in (SHORT, LONG):
        fill(database_url, entries)
        for name, wanted in FILTERS.items():
            statements = await reads_of(engine, Position(0, entries // PER_TRANSACTION // 2, 0), wanted)
            assert len(statements) == 2
            for kind in ("custom", "generic"):
                plans = [plan_of(database_url, kind, *statement) for statement in statements]
                assert not {*chain.from_iterable(map(nodes, plans))} & GROWING, json.dumps(plans, indent=1)
                blocks = sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)
                found.setdefault((name, kind), []).append(blocks)
    print(found)
    assert all(long <= short + LEVELS for short, long in found.values())
