"""Threads of mail: which Message-IDs a mail that leaves is given, as what it answers."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.models import Message
from app.details import Automatic, MessageDetails
from app.domain import Address, AddressType, Direction, MessageStatus, NewMessage
from app.providers.mail.outbound import Composer, message_id_of
from app.services.accept.store_stepwise import store_messages
from app.services.delivery.claiming.claims import Claim, claim_due
from tests.factories import CONTACT, CONTACT_EMAIL, CUSTOMER, CUSTOMER_EMAIL

pytestmark = pytest.mark.anyio

OURS = re.compile(r"<1-[0-9]+-[0-9]+@example\.com>")


@pytest.fixture
async def connection(settings: Settings, database_url: str) -> AsyncIterator[AsyncConnection]:
    engine: AsyncEngine = create_serving_engine(database_url, settings)
    async with engine.begin() as connection:
        yield connection
    await engine.dispose()


def mail(direction: Direction, id: str | None = None, *, contact: str = CONTACT_EMAIL, **more: Any) -> NewMessage:
    us, them = (Address(AddressType.EMAIL, value, value) for value in (CUSTOMER_EMAIL, contact))
    ends = (us, them) if direction is Direction.OUTBOUND else (them, us)
    provider = None if direction is Direction.OUTBOUND else "sendgrid"
    return NewMessage(
        direction, "email", "email", *ends, "Hello!", provider_type=provider, provider_message_id=id, **more
    )


def received(
    number: int = 1, *, subject: str | None = "Question", contact: str = CONTACT_EMAIL, **details: Any
) -> NewMessage:
    id = f"<{number}@example.net> {CUSTOMER_EMAIL}"
    return mail(Direction.INBOUND, id, contact=contact, subject=subject, details=MessageDetails(**details))


async def store(connection: AsyncConnection, *messages: NewMessage) -> list[int]:
    return [(await store_messages(connection, 1, [message]))[0].id for message in messages]


async def claim(connection: AsyncConnection, channel: str = "email") -> list[Claim]:
    claimed = await claim_due(
        connection, 1, channel, limit=100, lease_seconds=30, provider_type=channel, worker="test"
    )
    return claimed.claims


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
    assert (len(asked), list(claimed.payload().thread)) == (1, [])


async def sent_to(connection: AsyncConnection) -> str:
    """The address that the one due mail goes to, which the mail shows too."""
    [claimed] = await claim(connection)
    [stored] = (
        await connection.execute(
            select(Message.details).where(Message.tenant_id == 1, Message.id == claimed.message_id)
        )
    ).scalars()
    to_address = claimed.payload().to_address
    assert (stored or {}).get("sent_to", CONTACT_EMAIL) == to_address
    return to_address


#: What came before an answer, and where that goes; CONTACT_EMAIL stands for the contact of the row.
REPLY_TO: list[tuple[list[dict[str, Any]], str]] = [
    ([{"reply_to": ["desk@example.net"]}], "desk@example.net"),
    ([{"reply_to": ["no address", "desk@example.net", "b@example.net"]}], "desk@example.net"),
    ([{"reply_to": ["taro..x@docomo.example"]}], "taro..x@docomo.example"),
    ([{}, {"reply_to": ["desk@example.net"]}], "desk@example.net"),
    ([{"reply_to": ["desk@example.net"]}, {}], CONTACT_EMAIL),
    ([{"reply_to": ["desk@example.net", CONTACT_EMAIL]}], CONTACT_EMAIL),
    ([{"reply_to": [CONTACT_EMAIL.upper()]}], CONTACT_EMAIL),
    ([{"reply_to": [CUSTOMER_EMAIL]}], CONTACT_EMAIL),
    ([{"reply_to": [CUSTOMER_EMAIL.upper(), "desk@example.net"]}], "desk@example.net"),
    ([{"reply_to": ["other@example.com"]}], CONTACT_EMAIL),
    ([{"reply_to": ["bounces@example.net"], "automatic": Automatic.LIST}], CONTACT_EMAIL),
    (
        [{"reply_to": ["desk@example.net"]}, {"reply_to": ["x@example.net"], "automatic": Automatic.REPLY}],
        "desk@example.net",
    ),
    ([{"reply_to": ["desk@example.net"], "verdicts": {"spam": "fail"}}], CONTACT_EMAIL),
    ([{"reply_to": ["desk@example.net"], "verdicts": {"spam": "pass"}}], "desk@example.net"),
    ([{"reply_to": ["nonsense"]}], CONTACT_EMAIL),
]


async def test_an_answer_goes_where_the_mail_wants_it(connection: AsyncConnection) -> None:
    other = Address(AddressType.EMAIL, "other@example.com", "other@example.com")  # also one of ours
    them = Address(AddressType.EMAIL, "someone@example.net", "someone@example.net")
    await store(connection, NewMessage(Direction.INBOUND, "email", "email", them, other, "Hi", provider_type="x"))
    expected = {}
    for number, (before, to_address) in enumerate(REPLY_TO):
        contact = f"contact{number}@example.net"
        for position, details in enumerate(before):
            reply_to = [
                address.replace(CONTACT_EMAIL, contact).replace(CONTACT_EMAIL.upper(), contact.upper())
                for address in details.get("reply_to", [])
            ]
            came = received(100 * number + position, contact=contact, **{**details, "reply_to": reply_to})
            await store(connection, came)
        [answer] = await store(connection, mail(Direction.OUTBOUND, contact=contact))
        expected[answer] = to_address.replace(CONTACT_EMAIL, contact)
    claimed = {each.message_id: each.payload().to_address for each in await claim(connection)}
    assert claimed == expected
    stored = await connection.execute(
        select(Message.id, Message.to_address, Message.details).where(
            Message.tenant_id == 1, Message.id.in_(list(expected))
        )
    )
    assert {row.id: (row.details or {}).get("sent_to", row.to_address) for row in stored} == expected


async def test_a_series_of_answers_goes_to_one_address(connection: AsyncConnection) -> None:
    await store(connection, received(reply_to=["desk@example.net"]))
    for _ in range(12):
        [answer] = await store(connection, mail(Direction.OUTBOUND))
        assert await sent_to(connection) == "desk@example.net"
        await change(connection, answer, status=MessageStatus.SENT.value, due_at=None)


async def test_every_attempt_goes_to_the_same_address(connection: AsyncConnection) -> None:
    [_, answer] = await store(connection, received(reply_to=["desk@example.net"]), mail(Direction.OUTBOUND))
    assert await sent_to(connection) == "desk@example.net"
    await change(connection, answer, due_at=func.now(), status=MessageStatus.QUEUED.value)
    await connection.execute(
        text("UPDATE messages SET details = NULL WHERE id <> :id").execution_options(all_tenants="a test"),
        {"id": answer},
    )
    assert await sent_to(connection) == "desk@example.net"


SUBJECTS: list[tuple[list[str | None], str | None, str | None]] = [
    (["Order 42"], None, "Re: Order 42"),
    (["Order 42", "Order 43"], None, "Re: Order 43"),
    (["Order 42", None, ""], None, "Re: Order 42"),
    (["AW: Bestellung"], None, "AW: Bestellung"),
    (["Order 42"], "A new matter", "A new matter"),
    (["Order 42"], "", ""),
    ([None], None, None),
    ([], None, None),
]


async def test_an_answer_without_a_subject_takes_the_last_one(connection: AsyncConnection) -> None:
    expected = {}
    for number, (subjects, own, sent) in enumerate(SUBJECTS):
        contact = f"contact{number}@example.net"
        for position, subject in enumerate(subjects):
            await store(connection, received(100 * number + position, subject=subject, contact=contact))
        [answer] = await store(connection, mail(Direction.OUTBOUND, subject=own, contact=contact))
        expected[answer] = sent
    assert {each.message_id: each.payload().subject for each in await claim(connection)} == expected
    stored = await connection.execute(
        select(Message.id, Message.subject).where(Message.tenant_id == 1, Message.id.in_(list(expected)))
    )
    assert {row.id: row.subject for row in stored} == expected


async def test_an_automatic_mail_gives_no_subject(connection: AsyncConnection) -> None:
    away = received(2, subject="Out of office", automatic=Automatic.REPLY)
    await store(connection, received(1), away, mail(Direction.OUTBOUND))
    [claimed] = await claim(connection)
    assert claimed.payload().subject == "Re: Question"
    assert len(claimed.payload().thread) == 2


async def test_only_an_answer_that_takes_something_costs_a_third_statement(connection: AsyncConnection) -> None:
    await store(connection, received(), mail(Direction.OUTBOUND, subject="Re: Question"))
    asked: list[str] = []
    event.listen(connection.sync_connection, "before_cursor_execute", lambda *told: asked.append(told[2]))
    await claim(connection)
    assert len(asked) == 2
