"""Two programs that answer each other: the batches after which their conversation is paused, and what waits."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.domain import Address, AddressType, Direction, NewMessage
from app.services.accept.loops import LoopLimit
from app.services.accept.store_stepwise import store_messages
from tests.cases import each_case
from tests.conftest import execute
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

_NUMBERS = count()
_TWO = LoopLimit(2, timedelta(hours=1))
#: Makes a pause of an hour, and the minute in which answers are counted, a thing of the past.
_TIME_PASSES = (
    "UPDATE conversations SET answers_since = answers_since - interval '2 hours',"
    " paused_until = paused_until - interval '2 hours'"
)


def message(kind: str, contact: str) -> NewMessage:
    """`i` comes in, `o` goes out, `s` is scheduled, `l` expires soon, `e` was sent elsewhere."""
    customer, other = (Address(AddressType.PHONE, value, value) for value in ("+12016661234", contact))
    sender, recipient = (other, customer) if kind == "i" else (customer, other)
    ahead = datetime.now(UTC)
    return NewMessage(
        Direction.INBOUND if kind == "i" else Direction.OUTBOUND,
        "sms",
        "sms",
        sender,
        recipient,
        kind,
        provider_type="sms" if kind in "ie" else None,
        provider_message_id=f"loop-{next(_NUMBERS)}" if kind in "ie" else None,
        send_at={"s": ahead + timedelta(minutes=1), "S": ahead + timedelta(hours=3)}.get(kind),
        expires_at=ahead + timedelta(minutes=2) if kind == "l" else None,
    )


@each_case(
    "batches, held, pauses",
    [
        pytest.param("i o i o", 0, 0, id="few answers"),
        pytest.param("i o i o i o", 1, 1, id="one answer too many waits"),
        pytest.param("i o i o ~ i o i o ~ i o i o", 0, 0, id="people take their time"),
        pytest.param("o o o o o o", 0, 0, id="a campaign is no answer"),
        pytest.param("ooo i ooo i ooo", 0, 0, id="a campaign counts once between two inbound ones"),
        pytest.param("i o o o o o", 0, 0, id="one question, many answers"),
        pytest.param("i i i i i o", 0, 0, id="many questions, one answer"),
        pytest.param("i o i o i o o oo", 4, 1, id="all that follow wait"),
        pytest.param("i o i o i o i o i o i o", 4, 1, id="a pause is not prolonged"),
        pytest.param("i o i o i o ~ o", 1, 1, id="nothing waits after a pause"),
        pytest.param("i o i o i o ~ i o i o i o", 2, 2, id="after a pause it begins again"),
        pytest.param("i o ii i o iii o", 1, 1, id="alternating, with several questions"),
        pytest.param("io io io", 0, 0, id="a batch answers only what came before it"),
        pytest.param("io io io io", 1, 1, id="a batch is one answer"),
        pytest.param("i ooo i ooo i ooo", 3, 1, id="a batch that is too much waits as a whole"),
        pytest.param("i e i e i e i e", 0, 0, id="sent elsewhere: not ours to pause"),
        pytest.param("i s i s i s", 1, 1, id="to be sent a little later"),
    ],
)
async def test_too_many_answers_begin_a_pause(
    engine: AsyncEngine, database_url: str, batches: str, held: int, pauses: int
) -> None:
    contact = f"+1804{5550000 + next(_NUMBERS)}"
    for batch in batches.split():
        if batch == "~":
            execute(database_url, _TIME_PASSES)
            continue
        async with engine.begin() as connection:
            await store_messages(connection, 1, [message(kind, contact) for kind in batch], _TWO)
    of_it = f"SELECT id FROM conversations WHERE contact_address = '{contact}'"
    waiting = f"SELECT body FROM messages WHERE due_at > now() + interval '2 min' AND conversation_id = ({of_it})"
    assert len(rows_of(database_url, waiting)) == held
    entries = f"SELECT facts FROM events WHERE type = 'conversation.paused' AND conversation_id = ({of_it})"
    found = rows_of(database_url, entries)
    assert len(found) == pauses
    assert all(facts["reason"].startswith("More than 2 answers within a minute") for (facts,) in found)
    assert all(set(facts) == {"reason"} and contact not in str(facts) for (facts,) in found)


async def test_a_message_waits_for_the_end_of_the_pause_its_own_time_or_its_end(
    engine: AsyncEngine, database_url: str
) -> None:
    for kind in "ioioioslS":
        async with engine.begin() as connection:
            await store_messages(connection, 1, [message(kind, "+18045551234")], _TWO)
    question = """SELECT body, CASE WHEN due_at = paused_until THEN 'pause' WHEN due_at = send_at THEN 'own'
        WHEN due_at = expires_at THEN 'end' END FROM messages m JOIN conversations c ON c.id = conversation_id
        WHERE m.id > 5 ORDER BY m.id"""
    assert rows_of(database_url, question) == [("o", "pause"), ("s", "pause"), ("l", "end"), ("S", "own")]


async def test_zero_answers_pause_nothing(engine: AsyncEngine, settings: Settings, database_url: str) -> None:
    limit = LoopLimit.of(settings.model_copy(update={"loop_answers": 0}))
    for kind in "io" * 30:
        async with engine.begin() as connection:
            await store_messages(connection, 1, [message(kind, "+18045551234")], limit)
    assert rows_of(database_url, "SELECT paused_until FROM conversations") == [(None,)]


async def test_two_pauses_in_one_batch_are_two_entries(engine: AsyncEngine, database_url: str) -> None:
    contacts = ("+18045550001", "+18045550002", "+18045550003")
    for kind in "ioioi":
        async with engine.begin() as connection:
            await store_messages(connection, 1, [message(kind, contact) for contact in contacts[:2]], _TWO)
    async with engine.begin() as connection:
        await store_messages(connection, 1, [message("o", contact) for contact in contacts], _TWO)
    paused = "SELECT contact_address FROM conversations JOIN events ON conversation_id = conversations.id"
    assert rows_of(database_url, f"{paused} WHERE type = 'conversation.paused' ORDER BY events.id") == [
        (contact,) for contact in contacts[:2]
    ]
