"""Keeping files beside messages: names, repeats, what is read while it is removed, what was never asked for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from app.config import Settings
from app.domain import Address, AddressType, Direction, NewMessage
from app.errors import MessageFileNotFound
from app.providers.base import InboundFile
from app.services.accept.store_stepwise import store_messages
from app.services.files.names import safe_name
from app.services.files.store import FileStore, NewFile, new_files
from app.services.people.retention import remove_what_is_over
from tests.cases import each_case

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["database", "directory"])
def store(request: pytest.FixtureRequest, engine: AsyncEngine, tmp_path: Path) -> FileStore:
    return FileStore(async_sessionmaker(engine), tmp_path if request.param == "directory" else None)


def file(content: bytes, *, name: str = "a.txt", message: str = "<a> b") -> NewFile:
    [new] = new_files(1, "sendgrid", message, [InboundFile(name, "text/plain", content)])
    return new


def lying_in(directory: Path) -> list[Path]:
    """The files below a directory."""
    return [path for path in directory.rglob("*") if path.is_file()]


async def read(store: FileStore, id: str) -> bytes:
    return b"".join([piece async for piece in store.pieces(await store.find(1, id))])


async def ask(engine: AsyncEngine, statement: str) -> list[tuple[Any, ...]]:
    everything = text(statement).execution_options(all_tenants="a test looks at all there is")
    async with engine.begin() as connection:
        result = await connection.execute(everything)
        return [tuple(row) for row in result] if result.returns_rows else []


async def store_message(engine: AsyncEngine, provider_message_id: str) -> None:
    def mail(address: str) -> Address:
        return Address(AddressType.EMAIL, address, address)

    message = NewMessage(
        Direction.INBOUND,
        "email",
        "email",
        mail("contact@example.com"),
        mail("user@example.com"),
        "Hello!",
        provider_type="sendgrid",
        provider_message_id=provider_message_id,
    )
    async with engine.begin() as connection:
        await store_messages(connection, 1, [message])


@each_case(
    ("written", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\a.doc", "a.doc"),
        ("a\r\nb\tc.txt", "abc.txt"),
        ("\u202egpj.exe", "gpj.exe"),
        ("u\u0308ber.txt", "über.txt"),
        ("half\ud800.txt", "half?.txt"),
        (" . hidden. ", "hidden"),
        ("..", "file"),
        ("", "file"),
        ("a/", "file"),
        ("x" * 300 + ".tar", "x" * 96 + ".tar"),
        ("x" * 300, "x" * 100),
        ("a." + "b" * 300, "a." + "b" * 98),
    ],
)
def test_a_name_stands_for_a_file_and_for_nothing_else(written: str, safe: str) -> None:
    assert safe_name(written) == safe


def test_what_is_the_same_file_of_the_same_message_has_the_same_id() -> None:
    ids = {
        file(b"one").id,
        file(b"one").id,
        file(b"two").id,
        file(b"one", name="b.txt").id,
        file(b"one", message="<c> b").id,
    }
    assert len(ids) == 4
    alike = [InboundFile("a.txt", "text/plain", b"one")] * 3
    assert len(new_files(1, "sendgrid", "<a> b", alike)) == 1


@each_case("size", [0, 1, 999_999, 1_000_000, 1_000_001, 2_500_000])
async def test_what_was_kept_is_read_as_it_was(store: FileStore, size: int) -> None:
    new = file(bytes(number % 251 for number in range(size)))
    await store.keep([new])
    assert await read(store, new.id) == new.content


async def test_copies_at_the_same_time_are_one_file(store: FileStore, engine: AsyncEngine) -> None:
    new = [file(b"content %d" % number) for number in range(5)]
    await asyncio.gather(*(store.keep(new) for _ in range(10)))
    assert await ask(engine, "SELECT count(*) FROM files") == [(5,)]
    assert await read(store, new[3].id) == b"content 3"


async def test_what_is_removed_while_it_is_read_breaks_off(store: FileStore, engine: AsyncEngine) -> None:
    new = file(b"x" * 2_500_000)
    await store.keep([new])
    pieces = store.pieces(await store.find(1, new.id))
    assert len(await anext(pieces)) == 1_000_000
    [(path,)] = await ask(engine, "DELETE FROM files RETURNING path")
    if path is not None:
        await asyncio.to_thread(Path(path).unlink)
    assert [piece async for piece in pieces] == []
    with pytest.raises(MessageFileNotFound):
        await store.find(1, new.id)


async def test_a_file_whose_message_never_came_goes_after_a_day(
    store: FileStore, engine: AsyncEngine, settings: Settings, tmp_path: Path
) -> None:
    wanted, orphan, young = file(b"1", message="<1> b"), file(b"2", message="<2> b"), file(b"3", message="<3> b")
    await store.keep([wanted, orphan])
    await ask(engine, "UPDATE files SET created_at = now() - interval '25 hours'")
    await store.keep([young])
    await store_message(engine, "<1> b")
    await remove_what_is_over(engine, settings)
    assert {id for (id,) in await ask(engine, "SELECT id FROM files")} == {wanted.id, young.id}
    assert orphan.id not in {path.name for path in lying_in(tmp_path)}


async def test_files_go_with_the_message_that_is_past_its_time(
    store: FileStore, engine: AsyncEngine, settings: Settings, tmp_path: Path
) -> None:
    await store.keep([file(b"old", message="<1> b"), file(b"new", message="<2> b")])
    for id in ("<1> b", "<2> b"):
        await store_message(engine, id)
    await ask(
        engine, "UPDATE messages SET created_at = now() - interval '40 days' WHERE provider_message_id = '<1> b'"
    )
    await remove_what_is_over(engine, settings.model_copy(update={"retention_days": 30}))
    assert await ask(engine, "SELECT provider_message_id FROM files") == [("<2> b",)]
    assert len(lying_in(tmp_path)) == (0 if store._directory is None else 1)
