"""Indexing: each message once, over crashes, beside removals, and for every text."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker

from app.domain import Address, AddressType, Direction, NewMessage
from app.services.accept.store import store_known
from app.services.accept.store_stepwise import store_messages
from app.services.consent.hashes import AddressHashes
from app.services.people.contacts import ContactChange, ContactService
from app.services.search import indexing
from app.services.search.indexing import Indexer, index_rows
from tests.factories import CONTACT, CUSTOMER, until

pytestmark = pytest.mark.anyio


def new(body: str, **changes: Any) -> NewMessage:
    us, them = (Address(AddressType.PHONE, each, each) for each in (CUSTOMER, CONTACT))
    return NewMessage(Direction.OUTBOUND, "sms", "sms", us, them, body, **changes)


async def store(engine: AsyncEngine, *bodies: str, **changes: Any) -> list[int]:
    async with engine.begin() as connection:
        return [each.id for each in await store_messages(connection, 1, [new(body, **changes) for body in bodies])]


async def ask(engine: AsyncEngine, question: str) -> Sequence[Any]:
    async with engine.connect() as connection:
        everything = text(question).execution_options(all_tenants="a test looks at all there is")
        return (await connection.execute(everything)).all()


async def indexed(engine: AsyncEngine) -> dict[int, set[str]]:
    """The words of each message that is indexed, without tenant and section, and without those for neighbours."""
    found = await ask(engine, "SELECT message_id, tsvector_to_array(words) FROM search_texts ORDER BY 1")
    plain = {id: {word.rpartition(":")[2] for word in words} for id, words in found}
    return {id: {word for word in words if not word.startswith("=")} for id, words in plain.items()}


async def queued(engine: AsyncEngine) -> list[tuple[str, int]]:
    found = await ask(engine, "SELECT subject, subject_id FROM search_queue ORDER BY 1, 2")
    return [(subject, id) for subject, id in found]


async def test_a_message_and_its_new_contact_are_queued_and_then_indexed(engine: AsyncEngine) -> None:
    [first, second] = await store(engine, "Hello, World!", "Bye")
    [(contact,)] = await ask(engine, f"SELECT id FROM contacts WHERE address = '{CONTACT}'")
    assert await queued(engine) == [("contact", contact), ("message", first), ("message", second)]
    await Indexer(engine).run()
    assert await queued(engine) == []
    assert await indexed(engine) == {first: {"hello", "world"}, second: {"bye"}}
    assert await ask(engine, "SELECT contact_id, content FROM search_contacts") == [(contact, f"{CONTACT}\n")]


async def test_messages_of_a_known_conversation_are_queued_alone(engine: AsyncEngine) -> None:
    await store(engine, "first")
    await Indexer(engine).run()
    async with engine.begin() as connection:
        [stored] = await store_known(connection, 1, [new("second")])
    assert stored is not None
    assert await queued(engine) == [("message", stored.id)]


class CutOffError(Exception):
    """A crash, as the code that runs sees it."""


async def test_a_crash_at_any_moment_leaves_each_message_indexed_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await store(engine, *(f"word{number}" for number in range(5)))
    write = indexing._write

    async def write_and_die(connection: AsyncConnection, *arguments: Any) -> None:
        await write(connection, *arguments)
        raise CutOffError

    for dying in (write_and_die, write_and_die):
        with monkeypatch.context() as patch:
            patch.setattr(indexing, "_write", dying)
            with pytest.raises(CutOffError):
                async with engine.begin() as connection:
                    await index_rows(connection, 1)
        assert len(await queued(engine)) == 6
        assert await indexed(engine) == {}
    await Indexer(engine).run()
    assert sorted(await indexed(engine)) == ids
    assert await queued(engine) == []


async def test_a_backend_that_is_killed_within_the_transaction_loses_nothing(engine: AsyncEngine) -> None:
    ids = await store(engine, "one", "two")

    async def index_and_be_killed() -> None:
        async with engine.begin() as connection:
            await index_rows(connection, 1)
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await ask(engine, f"SELECT pg_terminate_backend({pid}, 10000)")

    with pytest.raises(DBAPIError):
        await index_and_be_killed()
    assert await indexed(engine) == {}
    await Indexer(engine).run()
    assert sorted(await indexed(engine)) == ids


async def test_two_indexers_share_the_work(engine: AsyncEngine) -> None:
    ids = await store(engine, *(f"word{number}" for number in range(300)))
    await asyncio.gather(Indexer(engine).run(), Indexer(engine).run())
    assert sorted(await indexed(engine)) == ids
    assert await queued(engine) == []


async def test_a_row_that_is_queued_twice_is_indexed_once(engine: AsyncEngine) -> None:
    [id] = await store(engine, "once")
    async with engine.begin() as connection:
        again = text("INSERT INTO search_queue SELECT * FROM search_queue")
        await connection.execute(again.execution_options(all_tenants="a test"))
    await Indexer(engine).run()
    assert await indexed(engine) == {id: {"once"}}


async def erase(engine: AsyncEngine, address: str = CONTACT) -> None:
    [(id,)] = await ask(engine, f"SELECT id FROM contacts WHERE address = '{address}'")
    service = people(engine)
    await service.erase(id, actor=None, client=None)


def people(engine: AsyncEngine) -> ContactService:
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    return ContactService(sessions, 1, AddressHashes(["secret"]), on_logged=lambda _: None)


@pytest.mark.parametrize("is_indexed", [False, True])
async def test_an_erased_person_is_in_no_index(engine: AsyncEngine, is_indexed: bool) -> None:
    await store(engine, "private")
    if is_indexed:
        await Indexer(engine).run()
    await erase(engine)
    await Indexer(engine).run()
    assert await indexed(engine) == {}
    assert await ask(engine, "SELECT content FROM search_contacts") == []
    assert await queued(engine) == []


async def test_an_erasure_waits_for_a_transaction_that_has_read_the_texts(engine: AsyncEngine) -> None:
    await store(engine, "private")
    async with engine.begin() as connection:
        await index_rows(connection, 1)
        erasing = asyncio.create_task(erase(engine))
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await until(lambda: ask(engine, waiting), lambda found: len(found) > 0)
    await erasing
    assert await indexed(engine) == {}
    assert await ask(engine, "SELECT content FROM search_contacts") == []


async def test_a_contact_with_a_new_name_is_indexed_again(engine: AsyncEngine) -> None:
    await store(engine, "Hello")
    await Indexer(engine).run()
    [(id,)] = await ask(engine, f"SELECT id FROM contacts WHERE address = '{CONTACT}'")
    for name in ("Jane Doe", "José Núñez", None):
        await people(engine).change(id, ContactChange(name, sets_name=True))
        await Indexer(engine).run()
        [(content,)] = await ask(engine, "SELECT content FROM search_contacts")
        assert content == f"{CONTACT}\n" + {"Jane Doe": "jane doe", "José Núñez": "jose nunez", None: ""}[name]


async def test_a_long_text_is_indexed_by_its_beginning(engine: AsyncEngine) -> None:
    many = " ".join(f"w{number}" for number in range(300_000))
    megabytes = "start " + "x" * 5_000_000 + " end"
    marks = "a" + "\u0301" * 100_000
    html = "<div>" * 100_000 + "deep"
    ids = await store(engine, many, megabytes, marks, html)
    await Indexer(engine).run()
    found = await indexed(engine)
    assert sorted(found) == ids
    assert {"w0", "w1000"} <= found[ids[0]]
    assert "w299999" not in found[ids[0]]
    assert {"start", "x" * 40} <= found[ids[1]]
    assert found[ids[2]] <= {"a", ""}


ODD = [
    "",
    " \n\t",
    "...!?",
    "'\\'':*&|!<->()",
    "\ufffd\ufeff\u200b\u202e",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "İıßẞΣς",
    "ﷺ",
    "\U0010ffff\ufdd0",
    "e\u0301\u0301\u0301",
    "\u0345\u0301",
    "①²½㎏",
    "\u3099\u309a",
    "ﾊﾝｶｸﾞﾊﾟ",
    "ที่นี่",
    "हिन्दी",
    "한국어",
    "\U0001d518\U0001d52b\U0001d526",
    "\x01\x1f\x7f\x85",
    "1" * 10_000,
]


async def test_odd_texts_are_indexed_like_others(engine: AsyncEngine) -> None:
    ids = await store(engine, *ODD)
    await Indexer(engine).run()
    found = await indexed(engine)
    assert sorted(found) == ids
    assert found[ids[ODD.index("हिन्दी")]] == {"हिन्दी"}
    # Without case, and only where a language has one.
    assert found[ids[ODD.index("İıßẞΣς")]] == {"i\u0131ssss\u03c3\u03c3"}


async def test_rows_that_cannot_be_indexed_hold_up_no_other_tenant(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await store(engine, "mine")
    async with engine.begin() as connection:
        insert = text("INSERT INTO search_queue (tenant_id, subject, subject_id) VALUES (0, 'message', 1)")
        await connection.execute(insert.execution_options(all_tenants="a test"))
    index = indexing.index_rows

    async def index_but(connection: AsyncConnection, tenant_id: int, limit: int) -> int:
        if tenant_id == 0:
            raise ValueError
        return await index(connection, tenant_id, limit)

    monkeypatch.setattr(indexing, "index_rows", index_but)
    await Indexer(engine).run()
    assert list((await indexed(engine)).values()) == [{"mine"}]
    assert await queued(engine) == [("message", 1)]
