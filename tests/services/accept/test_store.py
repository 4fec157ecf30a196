"""Exactly once, one conversation for a pair, no deadlock: through HTTP, on real PostgreSQL, by two applications."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.schema.distribution import with_its_form
from app.domain import Address, AddressType, Direction, NewMessage, StoredMessage
from app.services.accept.store import store_first, store_known
from app.services.accept.store_stepwise import store_messages
from tests.factories import until
from tests.wire import rows_of

pytestmark = pytest.mark.anyio
OF_THE_SINGLE_STATEMENT = pytest.mark.skipif(
    bool(os.environ.get("CITUS_URL")), reason="a distributed database does not take the single statement"
)

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def two_clients(serve: Serve, settings: Settings) -> list[httpx.AsyncClient]:
    """Two applications on one database: what one process would settle in its queue, PostgreSQL has to settle."""
    patient = {"database_statement_timeout_seconds": 60, "max_requests_in_flight": 5_000}
    quiet = settings.model_copy(update={"worker_enabled": False, **patient})
    return [await serve(quiet), await serve(quiet)]


def counted(database_url: str, question: str) -> Any:
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        row = cursor.fetchone()
    connection.close()
    assert row is not None
    return row[0] if len(row) == 1 else row


def text_to(contact: str, customer: str = "+12016661234", **changes: object) -> dict[str, object]:
    return {"from": customer, "to": contact, "type": "sms", "body": "Hello!"} | changes


def text_from(contact: str, provider_id: str, customer: str = "+12016661234", **changes: object) -> dict[str, object]:
    return {
        "from": contact,
        "to": customer,
        "type": "sms",
        "body": "text",
        "messaging_provider_id": provider_id,
    } | changes


@pytest.mark.usefixtures("form")
async def test_fifty_concurrent_copies_of_a_webhook_store_one_message(
    two_clients: list[httpx.AsyncClient], database_url: str
) -> None:
    copies = [
        client.post("/api/webhooks/sms", json=text_from("+18045551234", "message-1"))
        for client in two_clients
        for _ in range(25)
    ]
    answers = await asyncio.gather(*copies)
    assert Counter(answer.status_code for answer in answers) == {200: 50}
    assert counted(database_url, "SELECT count(*) FROM messages") == 1
    assert counted(database_url, "SELECT message_count FROM conversations") == 1


@pytest.mark.slow
async def test_a_hundred_webhooks_fifty_times_each_in_any_order_store_a_hundred(
    two_clients: list[httpx.AsyncClient], database_url: str
) -> None:
    posts = [(number, client) for number in range(100) for client in two_clients for _ in range(25)]
    random.Random(7).shuffle(posts)
    answers = await asyncio.gather(
        *(
            client.post("/api/webhooks/sms", json=text_from(f"+1804555{number:04}", f"message-{number}"))
            for number, client in posts
        )
    )
    assert Counter(answer.status_code for answer in answers) == {200: 5000}
    assert counted(database_url, "SELECT count(*) FROM messages") == 100
    assert counted(database_url, "SELECT count(*) FROM conversations WHERE message_count = 1") == 100


@pytest.mark.usefixtures("form")
async def test_fifty_first_messages_of_a_pair_in_both_directions_make_one_conversation(
    two_clients: list[httpx.AsyncClient], database_url: str
) -> None:
    spellings = ["+18045551234", "(804) 555-1234", "804-555-1234", "1 804 555 1234", "tel:+1-804-555-1234"]
    posts = []
    for number in range(50):
        client, spelling = two_clients[number % 2], spellings[number % 5]
        if number % 4 < 2:
            posts.append(client.post("/api/messages/sms", json=text_to(spelling)))
        else:
            posts.append(client.post("/api/webhooks/sms", json=text_from(spelling, f"message-{number}")))
    answers = await asyncio.gather(*posts)
    assert Counter(answer.status_code for answer in answers) == {200: 50}
    assert counted(database_url, "SELECT count(*), min(message_count) FROM conversations") == (1, 50)
    assert counted(database_url, "SELECT count(*) FROM contacts") == 2
    assert counted(database_url, "SELECT count(*) FROM conversation_participants") == 2
    assert {a.json()["conversation_id"] for a in answers if "conversation_id" in a.json()} == {1}


@pytest.mark.usefixtures("form")
async def test_crossing_pairs_never_deadlock(two_clients: list[httpx.AsyncClient], database_url: str) -> None:
    """Every pair of twelve numbers, both ways round, in a different order for each application."""
    numbers = [f"+1804555{number:04}" for number in range(12)]
    pairs = [(one, other) for one in numbers for other in numbers if one != other]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = counted(database_url, deadlocks)
    posts = []
    for seed, client in enumerate(two_clients):
        shuffled = pairs * 3
        random.Random(seed).shuffle(shuffled)
        for position, (one, other) in enumerate(shuffled):
            if position % 2:
                posts.append(client.post("/api/messages/sms", json=text_to(one, customer=other)))
            else:
                webhook = text_from(one, f"{seed}-{position}", customer=other)
                posts.append(client.post("/api/webhooks/sms", json=webhook))
    answers = await asyncio.gather(*posts)
    assert Counter(answer.status_code for answer in answers) == {200: len(posts)}
    assert counted(database_url, "SELECT count(*), sum(message_count) FROM conversations") == (132, len(posts))
    assert counted(database_url, deadlocks) == before


@pytest.mark.usefixtures("form")
async def test_the_count_and_the_time_of_a_conversation_follow_its_messages(
    client: httpx.AsyncClient, database_url: str
) -> None:
    times = ["2024-11-01T14:00:02Z", "2024-11-01T14:00:03Z", "2024-11-01T14:00:01Z"]
    await asyncio.gather(
        *(client.post("/api/messages/sms", json=text_to("+18045551234", timestamp=time)) for time in times)
    )
    [conversation] = (await client.get("/api/conversations")).json()
    assert conversation["last_updated"] == "2024-11-01T14:00:03Z"
    assert conversation["message_count"] == 3


@pytest.mark.usefixtures("form")
async def test_a_clock_that_is_ahead_does_not_hold_a_conversation_at_the_top(client: httpx.AsyncClient) -> None:
    for contact, timestamp in (("+18045551111", "2099-01-01T00:00:00Z"), ("+18045552222", None)):
        await client.post("/api/messages/sms", json=text_to(contact, timestamp=timestamp))
    first, second = (await client.get("/api/conversations")).json()
    assert (first["contact_address"], second["contact_address"]) == ("+18045552222", "+18045551111")
    assert second["last_updated"] < "2099"
    [message] = (await client.get(f"/api/conversations/{second['id']}/messages")).json()
    assert message["sent_at"] == "2099-01-01T00:00:00Z"


@pytest.mark.usefixtures("form")
async def test_repeats_use_up_no_ids(client: httpx.AsyncClient) -> None:
    for _ in range(20):
        await client.post("/api/webhooks/sms", json=text_from("+18045551234", "message-1"))
    answer = await client.post("/api/messages/sms", json=text_to("+18045559999"))
    assert answer.json()["message_id"] == "2"
    assert answer.json()["conversation_id"] == 2


@pytest.mark.usefixtures("form")
async def test_ids_follow_the_order_of_arrival_within_a_batch(client: httpx.AsyncClient) -> None:
    posts = [client.post("/api/messages/sms", json=text_to("+18045551234", body=str(n))) for n in range(40)]
    ids = [int(answer.json()["message_id"]) for answer in await asyncio.gather(*posts)]
    for number, message_id in enumerate(ids):
        assert (await client.get(f"/api/messages/{message_id}")).json()["body"] == str(number)


def _message(body: str, provider_id: str | None = None) -> NewMessage:
    contact = Address(AddressType.PHONE, "+18045551234", "+18045551234")
    customer = Address(AddressType.PHONE, "+12016661234", "+12016661234")
    inbound = provider_id is not None
    return NewMessage(
        direction=Direction.INBOUND if inbound else Direction.OUTBOUND,
        channel="sms",
        type="sms",
        sender=contact if inbound else customer,
        recipient=customer if inbound else contact,
        body=body,
        provider_type="sms" if inbound else None,
        provider_message_id=provider_id,
    )


@pytest.mark.usefixtures("form")
async def test_a_batch_answers_in_the_order_of_its_messages(settings: Settings, database_url: str) -> None:
    engine = await with_its_form(create_serving_engine(database_url, settings))
    messages = [
        _message("in", "b"),
        _message("out"),
        _message("in", "a"),
        _message("again", "b"),
        _message("out too"),
    ]
    async with engine.begin() as connection:
        places = await store_messages(connection, 1, messages)
    assert [place.duplicate for place in places] == [False, False, False, True, False]
    assert places[0].id == places[3].id
    bodies = [counted(database_url, f"SELECT body FROM messages WHERE id = {place.id}") for place in places]
    assert bodies == ["in", "out", "in", "in", "out too"]
    await engine.dispose()


@OF_THE_SINGLE_STATEMENT
async def test_storing_in_known_conversations_takes_one_statement_however_many_messages(
    settings: Settings, database_url: str
) -> None:
    engine = create_serving_engine(database_url, settings)
    async with engine.begin() as connection:
        await store_messages(connection, 1, [_message("first"), _message("in", "known")])
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for count in (1, 200):
        statements.clear()
        batch = [_message(str(number)) for number in range(count)] + [_message("repeat", "known")]
        async with engine.begin() as connection:
            places = await store_known(connection, 1, batch)
        assert len(statements) == 1
        assert [place is not None and place.duplicate for place in places] == [False] * count + [True]
    await engine.dispose()
    assert counted(database_url, "SELECT message_count FROM conversations") == counted(
        database_url, "SELECT count(*) FROM messages"
    )


def _phone(number: str) -> Address:
    return Address(AddressType.PHONE, number, number)


async def _one_waits_for_a_lock(database_url: str) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def ask() -> Any:
        return counted(database_url, waiting)

    await until(ask, bool)


async def _write_first(engine: AsyncEngine, *messages: NewMessage) -> list[StoredMessage | None]:
    async with engine.begin() as connection:
        return await store_first(connection, 1, list(messages))


@OF_THE_SINGLE_STATEMENT
async def test_first_messages_are_stored_with_all_that_belongs_to_them(settings: Settings, database_url: str) -> None:
    engine = create_serving_engine(database_url, settings)
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    one, other, third = (replace(_message("x"), recipient=_phone(f"+1804555000{n}")) for n in (1, 2, 3))
    batch = [
        replace(one, body="a", sent_at=late),
        replace(other, body="b"),
        replace(one, body="c", sent_at=early),
        replace(one, direction=Direction.INBOUND, sender=one.recipient, recipient=one.sender, body="d"),
        replace(other, body="e", provider_type="acme", provider_message_id="e"),
        replace(other, body="e", provider_type="acme", provider_message_id="e"),
    ]
    statements.clear()
    places = await _write_first(engine, *batch)
    assert len(statements) == 1
    assert None not in places
    assert [place.duplicate for place in places if place] == [False] * 5 + [True]
    assert places[5] == replace(places[4], duplicate=True, begins=False) if places[4] else False
    # The second time, one pair is known, and one is new.
    again = await _write_first(engine, replace(third, body="f"), batch[4], replace(one, body="g"))
    assert [place.duplicate for place in again if place] == [False, True, False]
    await engine.dispose()

    assert rows_of(database_url, "SELECT body FROM messages ORDER BY id") == [(c,) for c in "abcdefg"]
    assert rows_of(database_url, "SELECT contact_address, message_count FROM conversations ORDER BY id") == [
        ("+18045550001", 4),
        ("+18045550002", 2),
        ("+18045550003", 1),
    ]
    wrong = "SELECT count(*) FROM conversations c WHERE message_count <> (SELECT count(*) FROM messages m WHERE"
    assert counted(database_url, wrong + " m.conversation_id = c.id)") == 0
    assert rows_of(
        database_url,
        "SELECT role, address FROM conversation_participants p JOIN contacts c ON c.id = p.contact_id"
        " WHERE conversation_id = 2 ORDER BY role",
    ) == [("contact", "+18045550002"), ("customer", "+12016661234")]
    assert counted(database_url, "SELECT count(*) FROM contacts") == 4
    types = [type_ for (type_,) in rows_of(database_url, "SELECT type FROM events ORDER BY transaction_id, id")]
    assert types == [
        *["contact.created"] * 3,
        *["conversation.created"] * 2,
        *["message.accepted"] * 3,
        "message.received",
        "message.sent",
        "contact.created",
        "conversation.created",
        *["message.accepted"] * 2,
    ]


@OF_THE_SINGLE_STATEMENT
async def test_a_first_message_is_left_over_where_another_writer_is_faster(
    settings: Settings, database_url: str
) -> None:
    engine = create_serving_engine(database_url, settings)
    async with engine.connect() as other, other.begin() as transaction:
        await store_first(other, 1, [_message("theirs")])
        mine = asyncio.create_task(_write_first(engine, _message("mine")))
        await _one_waits_for_a_lock(database_url)
        await transaction.commit()
    assert await mine == [None]
    await engine.dispose()
    assert counted(database_url, "SELECT count(*) FROM messages") == 1
    assert counted(database_url, "SELECT count(*) FROM conversations") == 1


@OF_THE_SINGLE_STATEMENT
async def test_a_new_conversation_does_not_count_what_another_writer_stores_elsewhere(
    settings: Settings, database_url: str
) -> None:
    engine = create_serving_engine(database_url, settings)
    async with engine.begin() as connection:
        await store_first(connection, 1, [_message("to know the contacts", "1")])
    async with engine.connect() as other, other.begin() as transaction:
        await store_first(other, 1, [replace(_message("theirs", "same"), recipient=_phone("+12016660001"))])
        mine = [
            replace(_message("a"), sender=_phone("+12016660002")),
            replace(_message("b", "same"), recipient=_phone("+12016660002")),
        ]
        writing = asyncio.create_task(_write_first(engine, *mine))
        await _one_waits_for_a_lock(database_url)
        await transaction.commit()
    first, second = await writing
    assert first is not None
    assert second is None
    await engine.dispose()
    query = "SELECT message_count FROM conversations WHERE customer_address = '+12016660002'"
    assert rows_of(database_url, query) == [(1,)]
