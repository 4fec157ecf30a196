"""Threads of mail: which Message-IDs a mail that leaves is given, as what it answers."""

import re
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.models import Message
from app.domain import Address, AddressType, Direction, MessageStatus, NewMessage
from app.providers.mail.outbound import Composer, message_id_of
from app.services.accept.store import store_messages
from app.services.delivery.claims import Claim, claim_due
from tests.factories import CONTACT, CONTACT_EMAIL, CUSTOMER, CUSTOMER_EMAIL

pytestmark = pytest.mark.anyio

OURS = re.compile(r"<1-[0-9]+-[0-9]+@example\.com>")


@pytest.fixture
async def connection(settings: Settings, database_url: str) -> AsyncIterator[AsyncConnection]:
    engine: AsyncEngine = create_serving_engine(database_url, settings)
    async with engine.begin() as connection:
        yield connection
    await engine.dispose()


def mail(direction: Direction, id: str | None = None, *, contact: str = CONTACT_EMAIL) -> NewMessage:
    us, them = (Address(AddressType.EMAIL, value, value) for value in (CUSTOMER_EMAIL, contact))
    ends = (us, them) if direction is Direction.OUTBOUND else (them, us)
    provider = None if direction is Direction.OUTBOUND else "sendgrid"
    return NewMessage(direction, "email", "email", *ends, "Hello!", provider_type=provider, provider_message_id=id)


async def store(connection: AsyncConnection, *messages: NewMessage) -> list[int]:
    return [(await store_messages(connection, 1, [message]))[0].id for message in messages]


async def claim(connection: AsyncConnection, channel: str = "email") -> list[Claim]:
    return await claim_due(connection, 1, channel, limit=10, lease_seconds=30, provider_type=channel, worker="test")


async def change(connection: AsyncConnection, id: int, **values: object) -> None:
    await connection.execute(update(Message).where(Message.tenant_id == 1, Message.id == id).values(values))


async def thread(connection: AsyncConnection) -> list[str]:
    [claimed] = await claim(connection)
    return list(claimed.payload().thread)


async def test_the_first_mail_answers_nothing(connection: AsyncConnection) -> None:
    await store(connection, mail(Direction.OUTBOUND))
    assert await thread(connection) == []


async def test_an_answer_names_what_was_said_in_its_order(connection: AsyncConnection) -> None:
    [first] = await store(connection, mail(Direction.OUTBOUND))
    [claimed] = await claim(connection)
    own = (await Composer().mail(claimed.payload())).message_id
    await change(connection, first, status=MessageStatus.DELIVERED.value, due_at=None)
    await store(connection, mail(Direction.INBOUND, "<one@example.net> user@example.com"))
    await store(connection, mail(Direction.INBOUND, "f" * 64))  # came without a Message-ID
    await store(connection, mail(Direction.INBOUND, "<two@example.net> user@example.com"))
    await store(connection, mail(Direction.OUTBOUND))
    assert await thread(connection) == [own, "<one@example.net>", "<two@example.net>"]
    assert OURS.fullmatch(own)


async def test_one_that_was_tried_again_is_known_by_the_name_it_left_under(connection: AsyncConnection) -> None:
    [first] = await store(connection, mail(Direction.OUTBOUND))
    await change(connection, first, retry_count=2)
    [claimed] = await claim(connection)
    assert claimed.payload().idempotency_key.endswith("-2")
    await change(connection, first, status=MessageStatus.SENT.value, due_at=None)
    await store(connection, mail(Direction.OUTBOUND))
    assert await thread(connection) == [message_id_of(claimed.payload().idempotency_key, CUSTOMER_EMAIL)]


@pytest.mark.parametrize("status", [MessageStatus.FAILED, MessageStatus.CANCELED, MessageStatus.UNKNOWN])
async def test_what_never_arrived_is_not_answered(connection: AsyncConnection, status: MessageStatus) -> None:
    [first] = await store(connection, mail(Direction.OUTBOUND))
    await change(connection, first, status=status.value, due_at=None)
    await store(connection, mail(Direction.OUTBOUND))
    assert await thread(connection) == []


async def test_only_the_last_ten_are_named(connection: AsyncConnection) -> None:
    await store(connection, *(mail(Direction.INBOUND, f"<{number}@example.net> x") for number in range(15)))
    await store(connection, mail(Direction.OUTBOUND))
    assert await thread(connection) == [f"<{number}@example.net>" for number in range(5, 15)]


async def test_a_mail_dated_into_the_future_is_not_the_latest_for_ever(connection: AsyncConnection) -> None:
    [dated, _] = await store(connection, *(mail(Direction.INBOUND, f"<{name}@example.net> x") for name in "ab"))
    await connection.execute(
        text("UPDATE messages SET sent_at = '2099-01-01' WHERE id = :id").execution_options(all_tenants="a test"),
        {"id": dated},
    )
    await store(connection, mail(Direction.OUTBOUND))
    assert await thread(connection) == ["<b@example.net>"]


async def test_conversations_are_threads_of_their_own(connection: AsyncConnection) -> None:
    people = ["ann@example.net", "bob@example.net"]
    for person in people:
        await store(connection, mail(Direction.INBOUND, f"<from-{person}> x", contact=person))
        await store(connection, mail(Direction.OUTBOUND, contact=person))
    claimed = {each.payload().to_address: each.payload().thread for each in await claim(connection)}
    assert claimed == {person: [f"<from-{person}>"] for person in people}


async def test_other_channels_are_not_asked_about(connection: AsyncConnection) -> None:
    us, them = (Address(AddressType.PHONE, number, number) for number in (CUSTOMER, CONTACT))
    await store(connection, NewMessage(Direction.OUTBOUND, "sms", "sms", us, them, "Hello!"))
    asked: list[str] = []
    event.listen(connection.sync_connection, "before_cursor_execute", lambda *told: asked.append(told[2]))
    [claimed] = await claim(connection, "sms")
    assert (len(asked), claimed.payload().thread) == (1, ())
