"""Erasing while the service is at work: cut off anywhere, with messages in hand, against writers and receipts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker

from app.config import Settings
from app.db.models import Contact, Message
from app.domain import Address, AddressType, Direction, MessageStatus, NewMessage
from app.errors import ContactNotFound
from app.providers.base import Receipt
from app.references import reference_of
from app.services.accept import conversations, store_stepwise
from app.services.accept.store import store_known
from app.services.accept.store_stepwise import store_messages
from app.services.accept.writer import MessageWriter
from app.services.callbacks.kept_callbacks import find_callbacks_about, remove_found
from app.services.consent.hashes import AddressHashes
from app.services.delivery.results.receipts import store_receipts
from app.services.delivery.results.retry_policy import ACCEPTED
from app.services.people.contacts import ContactService
from app.services.people.erasure import erase, finish_erasures
from app.services.people.removal import BATCH, remove_messages
from tests.factories import CONTACT, CUSTOMER, make_messages, until
from tests.services.delivery.results.test_receipts import LATER, Ledger

pytestmark = pytest.mark.anyio

HASHES = AddressHashes(["secret"])
FIRST = "+18045550000"  # whom `make_messages` writes to at first


class CutOffError(Exception):
    """A crash, as the code that runs sees it."""


class People:
    """Contacts of tenant 1 and what is stored about them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.service = ContactService(
            async_sessionmaker(engine, expire_on_commit=False), 1, HASHES, on_logged=lambda _: None
        )

    async def ask(self, question: str) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            everything = text(question).execution_options(all_tenants="a test looks at all there is")
            return [tuple(row) for row in await connection.execute(everything)]

    async def id_of(self, address: str) -> int:
        [(id,)] = await self.ask(f"SELECT id FROM contacts WHERE address = '{address}'")
        return int(id)

    async def erase(self, address: str) -> dict[str, int]:
        return dict(await self.service.erase(await self.id_of(address), actor=None, client=None))

    async def write(self, count: int, *, sender: str = CUSTOMER) -> list[int]:
        def phone(number: str) -> Address:
            return Address(AddressType.PHONE, number, number)

        new = [
            NewMessage(Direction.OUTBOUND, "sms", "sms", phone(sender), phone(CONTACT), f"Hello! {number}")
            for number in range(count)
        ]
        async with self.engine.begin() as connection:
            return [stored.id for stored in await store_messages(connection, 1, new)]


@pytest.fixture
def people(engine: AsyncEngine) -> People:
    return People(engine)


@pytest.fixture
def ledger(engine: AsyncEngine) -> Ledger:
    return Ledger(engine)


def at_most(engine: AsyncEngine, transactions: int) -> Callable[[], Any]:
    """Opens so many transactions, and is cut off in the middle of the last."""
    left = transactions

    @asynccontextmanager
    async def begin() -> AsyncIterator[AsyncConnection]:
        nonlocal left
        left -= 1
        async with engine.begin() as connection:
            yield connection
            if left <= 0:
                raise CutOffError

    return begin


async def test_an_erasure_that_is_cut_off_anywhere_goes_on_where_it_was(engine: AsyncEngine, people: People) -> None:
    for cut_after in range(1, 8):
        await people.write(2 * BATCH + 1)
        contact_id = await people.id_of(CONTACT)
        service = ContactService(async_sessionmaker(engine), 1, HASHES, on_logged=lambda _: None)
        service._transaction = at_most(engine, cut_after)  # type: ignore[method-assign]
        with pytest.raises(CutOffError):
            await service.erase(contact_id, actor=None, client=None)
        if cut_after > 1:  # before, it was not accepted
            with pytest.raises(ContactNotFound):
                await people.service.contact(contact_id)
        await people.service.erase(contact_id, actor=None, client=None)
        for table in ("messages", "conversations", "conversation_participants"):
            assert await people.ask(f"SELECT count(*) FROM {table}") == [(0,)], (table, cut_after)
        assert await people.ask(f"SELECT address FROM contacts WHERE address <> '{CUSTOMER}'") == []
        with pytest.raises(ContactNotFound):
            await people.service.erase(contact_id, actor=None, client=None)


async def test_an_erasure_that_nobody_goes_on_with_is_finished_in_the_background(
    engine: AsyncEngine, people: People
) -> None:
    await people.write(3)
    service = ContactService(async_sessionmaker(engine), 1, HASHES, on_logged=lambda _: None)
    service._transaction = at_most(engine, 3)  # type: ignore[method-assign]
    with pytest.raises(CutOffError):
        await service.erase(await people.id_of(CONTACT), actor=None, client=None)
    await finish_erasures(engine.begin, 1)
    assert await people.ask("SELECT count(*) FROM messages") == [(3,)], "it may still be under way"
    async with engine.begin() as connection:
        long_ago = update(Contact).where(Contact.tenant_id == 1, Contact.erasing_since.is_not(None))
        await connection.execute(long_ago.values(erasing_since=text("now() - interval '2 minutes'")))
    await finish_erasures(engine.begin, 1)
    assert await people.ask("SELECT count(*) FROM messages") == [(0,)]
    assert await people.ask("SELECT address FROM contacts") == [(CUSTOMER,)]


async def test_nothing_that_waits_is_claimed_once_an_erasure_is_accepted(
    engine: AsyncEngine, people: People, ledger: Ledger
) -> None:
    ids = await ledger.make(2)
    contact_id = await people.id_of(FIRST)
    service = ContactService(async_sessionmaker(engine), 1, HASHES, on_logged=lambda _: None)
    service._transaction = at_most(engine, 5)  # type: ignore[method-assign]
    with pytest.raises(CutOffError):  # before the first message is removed
        await service.erase(contact_id, actor=None, client=None)
    assert await people.ask("SELECT count(*) FROM messages") == [(2,)]
    assert [claim.message_id for claim in await ledger.queue.claim()] == [ids[1]]
    await people.service.erase(contact_id, actor=None, client=None)
    assert await people.ask("SELECT id FROM messages") == [(ids[1],)]


@pytest.mark.parametrize("decision", [ACCEPTED, LATER])
async def test_what_a_worker_has_in_hand_ends_without_an_error_and_is_not_tried_again(
    people: People, ledger: Ledger, decision: Any
) -> None:
    claim = await ledger.claimed()
    # What the provider says may be there before its answer is.
    await ledger.say(Receipt("early", MessageStatus.DELIVERED, "vendor-1", raw={"note": "raw"}))
    erased = await people.erase(FIRST)
    assert (erased["messages"], erased["attempts"]) == (1, 1)
    assert not await ledger.queue.record(claim, decision, "vendor-1" if decision is ACCEPTED else None)
    assert await ledger.queue.claim() == []
    assert await people.ask("SELECT count(*) FROM messages") == [(0,)]
    assert await people.ask("SELECT count(*) FROM delivery_attempts") == [(0,)]


@pytest.mark.parametrize("between", ["looking up and storing", "looking up and making a conversation"])
async def test_what_is_being_stored_holds_an_erasure_up_and_not_the_other_way_round(
    people: People, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    await people.write(1)
    erasing: list[asyncio.Task[dict[str, int]]] = []

    async def erase_meanwhile() -> None:
        erasing.append(asyncio.create_task(people.erase(CONTACT)))

        async def waits_or_is_done() -> bool:
            waiting = (
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            return erasing[0].done() or bool(await people.ask(waiting))

        await until(waits_or_is_done, bool)

    contact_ids = conversations._contact_ids

    async def slow_store_known(*arguments: Any) -> Any:
        await erase_meanwhile()
        return await store_known(*arguments)

    async def slow_contact_ids(*arguments: Any) -> Any:
        found = await contact_ids(*arguments)
        await erase_meanwhile()
        return found

    if between == "looking up and storing":
        monkeypatch.setattr(store_stepwise, "store_known", slow_store_known)
        await people.write(1)
    else:
        monkeypatch.setattr(conversations, "_contact_ids", slow_contact_ids)
        await people.write(1, sender="+12016660000")
    assert (await erasing[0])["messages"] == 2
    assert await people.ask("SELECT count(*) FROM conversations") == [(0,)]


@pytest.mark.slow
async def test_messages_that_are_accepted_during_an_erasure_are_kept_or_erased_as_a_whole(
    engine: AsyncEngine, settings: Settings, people: People
) -> None:
    """A message stored after it stays and is delivered; no send is refused because of it."""

    def phone(number: str) -> Address:
        return Address(AddressType.PHONE, number, number)

    stored: list[int] = []
    stop = asyncio.Event()

    async def write(name: str, writer: MessageWriter) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            new = NewMessage(
                Direction.OUTBOUND,
                "sms",
                "sms",
                phone(f"+1201666000{number % 3}"),
                phone(CONTACT),
                "Hello!",
                idempotency_key=f"{name}-{number}" if number % 2 else None,
                fingerprint="one" if number % 2 else None,
            )
            stored.append((await writer.write(new)).id)

    async with (
        MessageWriter(engine, settings, on_outbound=lambda: None, on_logged=lambda _: None) as first,
        MessageWriter(engine, settings, on_outbound=lambda: None, on_logged=lambda _: None) as second,
    ):
        writing = [
            asyncio.create_task(write(name, writer))
            for name, writer in (("a", first), ("b", first), ("c", second), ("d", second))
        ]
        erased = 0
        for _ in range(15):
            target = len(stored) + 20
            while len(stored) < target:
                assert not any(task.done() for task in writing)
                await asyncio.sleep(0.005)
            erased += (await people.erase(CONTACT))["messages"]
        stop.set()
        await asyncio.gather(*writing)
    [(left,)] = await people.ask("SELECT count(*) FROM messages")
    assert erased + left == len(set(stored)) == len(stored)
    assert erased > 0
    counted = await people.ask(
        "SELECT c.message_count = count(m.id) FROM conversations c LEFT JOIN messages m"
        " ON m.tenant_id = c.tenant_id AND m.conversation_id = c.id GROUP BY c.tenant_id, c.id"
    )
    assert {right for (right,) in counted} <= {True}
    assert await people.ask("SELECT id FROM contacts WHERE erasing_since IS NOT NULL") == []


@pytest.mark.slow
async def test_receipts_that_come_in_during_an_erasure_are_all_taken(engine: AsyncEngine, people: People) -> None:
    ids = await people.write(300)
    created = dict(await people.ask("SELECT id, created_at FROM messages"))
    async with engine.begin() as connection:
        everything = text(
            "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, provider_message_id,"
            " started_at) SELECT 1, id, 1, 'sms', 'vendor-' || id, now() FROM messages"
        )
        await connection.execute(everything.execution_options(all_tenants="a test makes attempts"))

    async def say(mine: list[int]) -> None:
        for message_id in mine:
            receipts = [
                Receipt(f"ours-{message_id}", MessageStatus.SENT, idempotency_key=reference_of(1, message_id, at))
                for at in [created[message_id]]
            ] + [Receipt(f"theirs-{message_id}", MessageStatus.DELIVERED, f"vendor-{message_id}")]
            async with engine.begin() as connection:
                await store_receipts(connection, [("sms", receipt) for receipt in receipts])

    saying = [asyncio.create_task(say(ids[start::4])) for start in range(4)]
    erased = await people.erase(CONTACT)
    await asyncio.gather(*saying)
    [(parked,)] = await people.ask("SELECT count(*) FROM provider_events WHERE message_id IS NULL")
    assert await people.ask("SELECT count(*) FROM provider_events WHERE message_id IS NOT NULL") == [(0,)]
    assert erased["messages"] == 300
    assert erased["receipts"] + parked == 600


async def test_two_who_erase_the_same_person_at_once_share_the_work(engine: AsyncEngine, people: People) -> None:
    await people.write(5 * BATCH)
    contact_id = await people.id_of(CONTACT)
    async with engine.begin() as connection:
        changing = update(Contact).where(Contact.tenant_id == 1, Contact.id == contact_id)
        await connection.execute(changing.values(erasing_since=text("now()"), address="erased"))
    both = await asyncio.gather(*(erase(engine.begin, 1, contact_id) for _ in range(3)))
    assert sum(erased["messages"] for erased in both) == 5 * BATCH
    assert sum(erased["conversations"] for erased in both) == 1
    assert sum(erased["contacts"] for erased in both) == 1


async def test_what_somebody_works_on_is_passed_over(engine: AsyncEngine, people: People) -> None:
    async with engine.begin() as connection:
        ids = await make_messages(connection, 2, status=MessageStatus.SENT)
    places = [(id, conversation) for id, conversation in await people.ask("SELECT id, conversation_id FROM messages")]
    async with engine.begin() as worker, engine.begin() as connection:
        await worker.execute(
            update(Message).where(Message.tenant_id == 1, Message.id == ids[0]).values(status_reason="busy")
        )
        removed = await remove_messages(connection, 1, places, unfinished=False)
    assert removed["messages"] == 1
    assert await people.ask("SELECT id, status_reason FROM messages") == [(ids[0], "busy")]


def _refused(address: str, *, days_ago: int) -> str:
    return (
        "INSERT INTO webhook_calls (tenant_id, provider_type, received_at, method, url, headers, body, verdict, "
        f"events, addresses) VALUES (1, 'sms', now() - interval '{days_ago} days', 'POST', '/', '[]', '{address}', "
        "'refused', 0, '{}')"
    )


async def test_the_search_for_callbacks_writes_nothing_and_what_comes_after_it_is_removed(people: People) -> None:
    async with people.engine.begin() as connection:
        await make_messages(connection, 1)
        await connection.execute(text(_refused(FIRST, days_ago=1)).execution_options(all_tenants="test"))
    async with people.engine.begin() as connection:
        found = await find_callbacks_about(connection, 1, [FIRST])
        assert [len(each.ids) for each in found] == [1]
        # A transaction that has written delays the readers of the event log, and the search can take a second.
        assert (await connection.execute(text("SELECT pg_current_xact_id_if_assigned()"))).scalar() is None
        async with people.engine.begin() as another:
            await another.execute(text(_refused(FIRST, days_ago=0)).execution_options(all_tenants="test"))
        assert await remove_found(connection, 1, found) == 2
    assert await people.ask("SELECT id FROM webhook_calls") == []
