"""The writer of messages: which statement stores a message, as the share of first messages changes."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.domain import Address, AddressType, Direction, NewMessage, StoredMessage
from app.services.accept.writer import MessageWriter

pytestmark = pytest.mark.anyio

#: As many messages as the average needs to change its mind.
_MANY = 300


def _message(number: int) -> NewMessage:
    ours, theirs = (Address(AddressType.PHONE, each, each) for each in ("+12016661234", f"+1804{number:07}"))
    return NewMessage(Direction.OUTBOUND, "sms", "sms", ours, theirs, "Hi", idempotency_key=f"code-{number}")


def _count_statements(engine: AsyncEngine) -> Counter[str]:
    counts: Counter[str] = Counter()

    def count(*arguments: Any) -> None:
        if "INSERT INTO messages" in arguments[2]:
            counts["first" if "INSERT INTO conversations" in arguments[2] else "known"] += 1

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    return counts


@pytest.mark.skipif("CITUS_URL" in os.environ, reason="a distributed database does not take the single statement")
@pytest.mark.parametrize("form", [False], indirect=True)
async def test_a_campaign_of_first_messages_takes_one_statement_each(engine: AsyncEngine, settings: Settings) -> None:
    statements = _count_statements(engine)
    async with MessageWriter(engine, settings, on_outbound=lambda: None, on_logged=lambda _: None) as writer:

        async def write(message: Callable[[int], NewMessage], count: int = _MANY) -> list[StoredMessage]:
            return [await writer.write(message(number)) for number in range(count)]

        assert all(stored.begins for stored in await write(_message))
        statements.clear()
        assert all(stored.begins for stored in await write(lambda number: _message(_MANY + number), 10))
        assert statements == {"first": 10}

        # Repeats and known pairs are stored just as well, and the writer learns that they are most of the messages.
        assert all(stored.duplicate for stored in await write(_message))
        again = await write(lambda number: replace(_message(number), idempotency_key=None), 10)
        assert not any(stored.begins or stored.duplicate for stored in again)
        statements.clear()
        await write(lambda number: replace(_message(number), idempotency_key=None), 10)
        assert statements == {"known": 10}
