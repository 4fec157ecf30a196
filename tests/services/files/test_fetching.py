"""Fetching what vendors keep: once for each file, again after failures and deaths, and never for what was removed."""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from app.config import Settings
from app.domain import Address, AddressType, Direction, NewMessage
from app.errors import FileGone, FilePending, MessageFileNotFound
from app.providers.base import (
    BaseProvider,
    FetchedFile,
    FileFacts,
    FileUnavailable,
    OutboundMessage,
    PermanentFailure,
    ProviderResult,
    TemporaryFailure,
)
from app.providers.registry import provider_registry
from app.services.accept.store_stepwise import store_messages
from app.services.files.fetching import FileFetcher
from app.services.files.store import FileStore, NewFile, kept_file
from app.services.people.retention import remove_what_is_over
from tests.cases import each_case
from tests.factories import until

pytestmark = pytest.mark.anyio

PICTURE = FetchedFile("image/png", b"picture")
STATES = "SELECT status, attempt_count, reason, size FROM files ORDER BY source"


class Keeper(BaseProvider):
    """Gives what it is told to, and counts how often it is asked."""

    channels: ClassVar = {"sms": "phone"}

    def __init__(self) -> None:
        self.answers: list[FetchedFile | Exception] = [PICTURE]
        self.asked: list[str] = []
        self.waits: asyncio.Event | None = None

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult()

    async def fetch_file(self, reference: str, *, most_bytes: int) -> FetchedFile:
        self.asked.append(reference)
        if self.waits is not None:
            await self.waits.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Rig:
    """A vendor, its files in one of the two stores, and fetchers."""

    def __init__(self, engine: AsyncEngine, settings: Settings, vendor: Keeper) -> None:
        self.engine, self.settings, self.vendor = engine, settings, vendor
        self.store = FileStore(async_sessionmaker(engine, expire_on_commit=False), settings.files_dir)
        self.logged: list[int] = []

    def fetcher(self) -> FileFetcher:
        return FileFetcher(self.engine, self.settings, self.store, on_logged=self.logged.append)

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        everything = text(statement).execution_options(all_tenants="a test looks at all there is")
        async with self.engine.begin() as connection:
            result = await connection.execute(everything)
            return [tuple(row) for row in result] if result.returns_rows else []

    async def announce(self, *references: str, message: str = "MM1", with_message: bool = True) -> list[NewFile]:
        """Store files that the vendor keeps, and then the message that they are of."""
        new = [kept_file(1, "keeper", message, each, FileFacts("", "image/jpeg")) for each in references]
        await self.store.keep(new)
        if with_message:
            await self.receive(message, [file.address for file in new])
        return new

    async def receive(self, message: str, attachments: list[str]) -> None:
        def phone(number: str) -> Address:
            return Address(AddressType.PHONE, number, number)

        ends = phone("+18045551234"), phone("+12016661234")
        new = NewMessage(
            Direction.INBOUND,
            "sms",
            "mms",
            *ends,
            "Look!",
            attachments=attachments,
            provider_type="keeper",
            provider_message_id=message,
        )
        async with self.engine.begin() as connection:
            await store_messages(connection, 1, [new])

    async def fetch(self) -> None:
        """One look of one fetcher, to its end."""
        fetcher = self.fetcher()
        await fetcher.begin_due()
        await asyncio.gather(*fetcher._fetching)

    async def due(self) -> None:
        await self.ask("UPDATE files SET due_at = now() WHERE status = 'pending'")

    async def content(self, file: NewFile) -> bytes:
        return b"".join([piece async for piece in self.store.pieces(await self.store.find(1, file.id))])

    @property
    def lying(self) -> list[Path]:
        directory = self.settings.files_dir
        return [path for path in directory.rglob("*") if path.is_file()] if directory else []


@pytest.fixture(params=["database", "directory"])
async def rig(
    request: pytest.FixtureRequest,
    engine: AsyncEngine,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Rig:
    vendor = Keeper()
    monkeypatch.setitem(provider_registry, "keeper", vendor)
    where = tmp_path / "files" if request.param == "directory" else None
    return Rig(engine, settings.model_copy(update={"files_dir": where}), vendor)


async def test_a_file_is_pending_and_then_stored(rig: Rig) -> None:
    [file] = await rig.announce("https://vendor.example/ME1")
    with pytest.raises(FilePending):
        await rig.store.find(1, file.id)
    await rig.fetch()
    assert await rig.content(file) == b"picture"
    assert await rig.ask("SELECT name, content_type, status, size FROM files") == [
        ("ME1.jpg", "image/png", "stored", 7)
    ]
    assert len(rig.lying) == (1 if rig.settings.files_dir else 0)
    assert await rig.ask("SELECT type, message_id FROM events WHERE type = 'message.file_changed'") == [
        ("message.file_changed", 1)
    ]
    assert rig.logged == [1]
    await rig.due()
    await rig.fetch()
    assert rig.vendor.asked == ["https://vendor.example/ME1"]


async def test_a_repeat_of_the_callback_is_the_same_file(rig: Rig) -> None:
    for facts in (FileFacts("a.jpg"), FileFacts("b.jpg", "image/gif"), FileFacts()):
        await rig.store.keep([kept_file(1, "keeper", "MM1", "ME1", facts)])
    assert await rig.ask("SELECT count(*) FROM files") == [(1,)]


async def test_a_file_without_its_message_is_not_fetched_yet(rig: Rig) -> None:
    [file] = await rig.announce("ME1", with_message=False)
    await rig.fetch()
    assert rig.vendor.asked == []
    await rig.receive("MM1", [file.address])
    await rig.fetch()
    assert await rig.content(file) == b"picture"


@each_case(
    "failure",
    [
        TemporaryFailure("500", retry_after=30),
        PermanentFailure("404"),
        TimeoutError(),
        OSError("away"),
        ValueError("bug"),
    ],
)
async def test_a_failure_is_retried_after_a_pause_for_a_day(rig: Rig, failure: Exception) -> None:
    await rig.ask("DELETE FROM files")
    rig.vendor.answers = [failure, failure, PICTURE]
    [file] = await rig.announce("ME1", message=f"MM-{type(failure).__name__}")
    await rig.fetch()
    [(wait, reason)] = await rig.ask("SELECT due_at - now() > interval '2 seconds', reason FROM files")
    assert wait
    assert reason
    await rig.fetch()
    assert len(rig.vendor.answers) == 2, "it was asked during the pause"
    for _ in range(2):
        await rig.due()
        await rig.fetch()
    assert await rig.content(file) == b"picture"
    assert await rig.ask("SELECT attempt_count, reason FROM files") == [(3, None)]


async def test_after_a_day_it_is_given_up_with_the_last_reason(rig: Rig) -> None:
    rig.vendor.answers = [PermanentFailure("The vendor answered 401.")]
    [file] = await rig.announce("ME1")
    await rig.fetch()
    await rig.ask("UPDATE files SET created_at = now() - interval '25 hours'")
    await rig.due()
    await rig.fetch()
    assert await rig.ask(STATES) == [("unavailable", 2, "The vendor answered 401.", 0)]
    with pytest.raises(MessageFileNotFound, match="401"):
        await rig.store.find(1, file.id)
    assert len(await rig.ask("SELECT 1 FROM events WHERE type = 'message.file_changed'")) == 1


@each_case(("gone", "error"), [(True, FileGone), (False, MessageFileNotFound)])
async def test_what_can_not_be_had_is_not_asked_for_again(rig: Rig, gone: bool, error: type[Exception]) -> None:
    rig.vendor.answers = [FileUnavailable("It is not at the vendor.", is_gone=gone)]
    [file] = await rig.announce("ME1", message=f"MM-{gone}")
    asked = len(rig.vendor.asked)
    for _ in range(2):
        await rig.fetch()
        await rig.due()
    assert len(rig.vendor.asked) == asked + 1
    with pytest.raises(error, match="not at the vendor"):
        await rig.store.find(1, file.id)


async def test_several_workers_fetch_each_file_once(rig: Rig) -> None:
    files = await rig.announce(*(f"ME{number}" for number in range(12)))
    for _ in range(2):  # each takes three at a time
        await asyncio.gather(*(rig.fetch() for _ in range(3)))
    assert sorted(rig.vendor.asked) == sorted(f"ME{number}" for number in range(12))
    assert [await rig.content(file) for file in files] == [b"picture"] * 12


async def test_a_silent_vendor_leaves_places_for_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Keeper()
    silent.waits = asyncio.Event()
    monkeypatch.setitem(provider_registry, "silent", silent)
    await rig.announce(*(f"ME{number}" for number in range(9)), message="MM1")
    await rig.ask("UPDATE files SET provider_type = 'silent'")
    await rig.ask("UPDATE messages SET provider_type = 'silent'")
    [file] = await rig.announce("ME9", message="MM2")
    fetcher = rig.fetcher()
    for _ in range(3):
        await fetcher.begin_due()
    await asyncio.wait(fetcher._fetching, return_when=asyncio.FIRST_COMPLETED)
    assert await rig.content(file) == b"picture"
    assert len(silent.asked) == 3
    silent.waits.set()
    await asyncio.gather(*fetcher._fetching)


async def test_a_worker_that_dies_with_it_is_followed_by_another(rig: Rig) -> None:
    [file] = await rig.announce("ME1")
    rig.vendor.waits = asyncio.Event()
    dead = rig.fetcher()
    await dead.begin_due()
    [task] = dead._fetching
    await until(lambda: asyncio.sleep(0, rig.vendor.asked), bool)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    rig.vendor.waits = None
    await rig.fetch()
    assert len(rig.vendor.asked) == 1, "its lease has not ended"
    await rig.due()
    await rig.fetch()
    assert await rig.content(file) == b"picture"


async def test_a_worker_that_is_stopped_leaves_it_to_another_at_once(rig: Rig) -> None:
    [file] = await rig.announce("ME1")
    rig.vendor.waits = asyncio.Event()
    async with rig.fetcher():
        await until(lambda: asyncio.sleep(0, rig.vendor.asked), bool)
    rig.vendor.waits = None
    await rig.fetch()
    assert await rig.content(file) == b"picture"


async def test_two_that_have_fetched_it_record_it_once(rig: Rig) -> None:
    [file] = await rig.announce("ME1")
    rig.vendor.waits = asyncio.Event()
    slow, quick = rig.fetcher(), rig.fetcher()
    await slow.begin_due()
    await rig.due()
    await quick.begin_due()
    rig.vendor.waits.set()
    await asyncio.gather(*slow._fetching, *quick._fetching)
    assert len(rig.vendor.asked) == 2
    assert await rig.content(file) == b"picture"
    assert len(await rig.ask("SELECT 1 FROM events WHERE type = 'message.file_changed'")) == 1
    assert len(rig.lying) == (1 if rig.settings.files_dir else 0)


async def test_what_is_removed_while_it_is_fetched_leaves_nothing(rig: Rig) -> None:
    await rig.announce("ME1")
    rig.vendor.waits = asyncio.Event()
    fetcher = rig.fetcher()
    await fetcher.begin_due()
    await until(lambda: asyncio.sleep(0, rig.vendor.asked), bool)
    await rig.ask("UPDATE messages SET created_at = now() - interval '40 days'")
    await remove_what_is_over(rig.engine, rig.settings.model_copy(update={"retention_days": 30}))
    assert await rig.ask("SELECT count(*) FROM files") == [(0,)]
    rig.vendor.waits.set()
    await asyncio.gather(*fetcher._fetching)
    assert (await rig.ask("SELECT count(*) FROM files"), rig.lying) == ([(0,)], [])


async def test_a_vendor_that_is_not_configured_any_more_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    [file] = await rig.announce("ME1")
    with monkeypatch.context() as patch:
        patch.delitem(provider_registry, "keeper")
        await rig.fetch()
    assert (await rig.ask(STATES))[0][:2] == ("pending", 1)
    await rig.due()
    await rig.fetch()
    assert await rig.content(file) == b"picture"


async def test_running_it_finds_what_comes_and_what_is_told(rig: Rig) -> None:
    async with rig.fetcher() as fetcher:
        [first] = await rig.announce("ME1")
        fetcher.wake()

        async def states() -> list[str]:
            return [row[0] for row in await rig.ask(STATES)]

        await until(states, lambda found: found == ["stored"])
        [second] = await rig.announce("ME2", message="MM2")
        await until(states, lambda found: found == ["stored", "stored"])
    assert [await rig.content(file) for file in (first, second)] == [b"picture", b"picture"]
