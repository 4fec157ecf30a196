"""Lists of messages against a list that is filtered in Python, and the plans by which they are read."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.config import Settings
from app.db.statements.reads import Reads
from app.domain import WAITING, MessageStatus
from app.services.messages.reading import MessageFilter
from tests.conftest import execute
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
NOT_TAKEN = {*WAITING, MessageStatus.UNKNOWN, MessageStatus.FAILED, MessageStatus.EXPIRED, MessageStatus.CANCELED}


@dataclass(frozen=True)
class Stored:
    """A message, its provider, and the providers that its attempts went to."""

    id: int
    conversation_id: int
    status: MessageStatus
    created_at: datetime
    provider: str | None
    asked: tuple[str, ...]

    def is_wanted(self, wanted: MessageFilter) -> bool:
        last = self.provider or (self.asked[-1] if self.asked else None)
        return (
            wanted.status in (None, self.status)
            and wanted.provider_type in (None, last)
            and wanted.conversation_id in (None, self.conversation_id)
            and (wanted.since is None or self.created_at >= wanted.since)
            and (wanted.until is None or self.created_at < wanted.until)
        )


def drawn(count: int) -> list[Stored]:
    """Messages an hour apart, of which some are stored up to 50 seconds out of order."""
    dice = random.Random(1)
    found = []
    for number in range(1, count + 1):
        status = dice.choice(list(MessageStatus))
        asked = tuple(dice.choice(["first", "second"]) for _ in range(dice.randrange(3)))
        provider = None if status in NOT_TAKEN else dice.choice(["first", "second", "third"])
        at = NOW - timedelta(hours=count - number // 3, seconds=dice.randrange(50))
        found.append(Stored(number, number % 3 + 1, status, at, provider, asked))
    return found


def store(database_url: str, messages: list[Stored]) -> None:
    values = ", ".join(
        f"({each.id}, {each.conversation_id}, '{each.status}', '{each.created_at.isoformat()}',"
        f" {'NULL' if each.provider is None else repr(each.provider)}, {len(each.asked)},"
        f" {'now()' if each.status in WAITING else 'NULL'}::timestamptz)"
        for each in messages
    )
    attempts = ", ".join(
        f"(1, {each.id}, {number}, '{name}', {outcome_of(each, number)}, now())"
        for each in messages
        for number, name in enumerate(each.asked, 1)
    )
    execute(
        database_url,
        "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at)"
        " SELECT 1, '+1201666000' || n, '+18045550000', now() FROM generate_series(1, 3) n",
        "INSERT INTO messages (tenant_id, id, conversation_id, direction, channel, type, from_address, to_address,"
        " body, attachments, status, created_at, provider_type, attempt_count, due_at, sent_at)"
        " OVERRIDING SYSTEM VALUE SELECT 1, id, conversation, 'outbound', 'sms', 'sms', '+12016660000',"
        " '+18045550000', 'x', '[]', status, at::timestamptz, provider, attempts, due, now()"
        f" FROM (VALUES {values})"
        " AS given (id, conversation, status, at, provider, attempts, due)",
        "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, outcome, started_at)"
        f" VALUES {attempts}",
        "ANALYZE",
    )


def outcome_of(message: Stored, number: int) -> str:
    """The outcome of an attempt: a message that names no provider has none that was recorded."""
    is_last = number == len(message.asked)
    if message.status is MessageStatus.SENDING and is_last:
        return "NULL"
    if message.provider is None:
        return "'unknown'"
    return "'accepted'" if is_last else "'temporary'"


@pytest.fixture
async def reads(settings: Settings, database_url: str) -> AsyncIterator[Reads]:
    async with Reads(database_url, settings) as reads:
        yield reads


def filters() -> list[MessageFilter]:
    times: list[dict[str, Any]] = [
        {},
        {"since": NOW - timedelta(hours=80)},
        {"until": NOW - timedelta(hours=80)},
        {"since": NOW - timedelta(hours=90), "until": NOW - timedelta(hours=80)},
        {"since": datetime.min.replace(tzinfo=UTC), "until": datetime.max.replace(tzinfo=UTC)},
        {"until": NOW - timedelta(days=900)},
        {"since": NOW + timedelta(days=900)},
    ]
    return [
        MessageFilter(status, provider, conversation_id, **time)
        for status in (None, *MessageStatus)
        for provider in (None, "first", "third", "nobody")
        for conversation_id in (None, 2)
        for time in times
    ]


async def ids_of(reads: Reads, wanted: MessageFilter, limit: int) -> list[int]:
    """The ids of all pages; each is also read backwards from the one behind it."""
    found: list[int] = []
    page, before = await wanted.page(reads, 1, limit=limit, cursor=None), None
    while True:
        if before is not None:
            assert page.previous is not None
            assert (await wanted.page(reads, 1, limit=limit, cursor=page.previous)).rows == before.rows
        found += [json.loads(row)["id"] for row in page.rows]
        if page.next is None:
            return found
        page, before = await wanted.page(reads, 1, limit=limit, cursor=page.next), page


async def test_every_filter_finds_what_it_says(reads: Reads, database_url: str) -> None:
    messages = drawn(300)
    store(database_url, messages)
    for wanted in random.Random(2).sample(filters(), 150):
        expected = [each.id for each in reversed(messages) if each.is_wanted(wanted)]
        assert await ids_of(reads, wanted, 60) == expected, wanted
    for number in range(30):
        at = messages[number * 10].created_at
        assert await ids_of(reads, MessageFilter(since=at), 500) == [
            each.id for each in reversed(messages) if each.created_at >= at
        ]


async def test_lists_are_the_same_alone_and_shared(reads: Reads, database_url: str) -> None:
    store(database_url, drawn(300))
    asked = [MessageFilter(provider_type="first"), MessageFilter(MessageStatus.FAILED), MessageFilter()]
    asked.append(MessageFilter(MessageStatus.FAILED, "second", since=NOW - timedelta(hours=280)))
    for wanted in asked:
        alone = [await wanted.page(reads, 1, limit=limit, cursor=None) for limit in range(1, 31)]
        assert len(alone[-1].rows) > 1
        pages = (wanted.page(reads, 1, limit=limit, cursor=None) for limit in range(1, 31))
        assert await asyncio.gather(*pages) == alone


async def test_messages_without_any_are_an_empty_list(reads: Reads) -> None:
    assert await ids_of(reads, MessageFilter(since=NOW, until=NOW), 10) == []


RARE: list[dict[str, Any]] = [
    {"status": MessageStatus.FAILED},
    {"status": MessageStatus.RECEIVED},
    {"provider_type": "rare"},
    {"provider_type": "asked"},
    {"status": MessageStatus.FAILED, "until": NOW - timedelta(hours=4_900)},
    {"until": NOW - timedelta(hours=4_900)},
]


async def test_what_is_rare_and_old_is_found_without_walking_past_the_rest(
    reads: Reads, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Stored(0, 1, MessageStatus.DELIVERED, NOW, "usual", ())
    messages = [replace(usual, id=n, created_at=NOW - timedelta(hours=5_000 - n)) for n in range(1, 5_001)]
    messages[9:12] = [
        replace(messages[9], status=MessageStatus.FAILED, provider=None, asked=("asked",)),
        replace(messages[10], status=MessageStatus.RECEIVED),
        replace(messages[11], provider="rare"),
    ]
    store(database_url, messages)
    asked: list[tuple[str, tuple[Any, ...]]] = []
    execute_ = Reads._execute

    async def noted(self: Reads, call: list[Any]) -> Any:
        asked.append((call[0], tuple(call[1:])))
        return await execute_(self, call)

    monkeypatch.setattr(Reads, "_execute", noted)
    for wanted in RARE:
        asked.clear()
        page = await MessageFilter(**wanted).page(reads, 1, limit=50, cursor=None)
        assert 1 <= len(page.rows) <= 50
        assert sum([entries_read(database_url, *each) for each in asked]) < 400, wanted


def entries_read(database_url: str, statement: str, arguments: tuple[Any, ...]) -> int:
    """The rows that a statement read from tables and indexes, with the plan that it is executed with."""
    written = ", ".join("NULL" if each is None else f"'{each}'" for each in arguments)
    prepared = f"SET plan_cache_mode = force_generic_plan; PREPARE wanted AS {statement};"
    [(plan,)] = rows_of(database_url, f"{prepared} EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE wanted({written})")
    return _read_by(plan[0]["Plan"])


def _read_by(node: dict[str, Any]) -> int:
    own = 0
    if "Relation Name" in node:
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return int(own) + sum(_read_by(each) for each in node.get("Plans", []))
