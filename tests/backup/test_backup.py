"""Backup and restore of a small installation: what comes back, and what is refused before anything is changed."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from app.backup.directory import Manifest
from app.backup.programs import program_of
from app.backup.restoring import ID_GAP, restore, settle
from app.backup.taking import take
from app.config import Settings
from app.db.engine import PromptSessions, create_serving_engine
from app.db.models import REVISION
from app.errors import ConfigurationError
from app.services.files.store import FileStore, NewFile
from tests.conftest import make_settings
from tests.factories import make_messages
from tests.wire import rows_of

pytestmark = pytest.mark.slow

_ID = "ab" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a service that keeps files in a directory."""
    return make_settings(files_dir=tmp_path / "files", data_dir=tmp_path)


@pytest.fixture
def url(new_database: Callable[..., str], settings: Settings) -> str:
    """A database with three messages that wait, and a file."""
    url = new_database()
    asyncio.run(_fill(url, settings))
    return url


async def _fill(url: str, settings: Settings) -> None:
    engine = create_serving_engine(url, settings)
    async with engine.begin() as connection:
        await make_messages(connection, 3)
    store = FileStore(PromptSessions(engine, deadline_seconds=60), settings.files_dir)
    await store.keep([NewFile(1, _ID, "twilio", "MM1", "picture.png", "image/png", b"content")])
    await engine.dispose()


def test_a_restore_brings_messages_and_files_to_another_place(
    url: str, settings: Settings, new_database: Callable[..., str], tmp_path: Path
) -> None:
    taken = take(url, settings, tmp_path / "backup")
    assert (taken.manifest.revision, taken.manifest.files, taken.gone) == (REVISION, 1, 0)
    assert taken.manifest.rows["messages"] == 3
    shutil.rmtree(tmp_path / "files")
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0

    there, elsewhere = new_database(empty=True), make_settings(files_dir=tmp_path / "elsewhere")
    done = restore(there, elsewhere, tmp_path / "backup", replace=False, keep_queue=False)

    assert (done.manifest, done.in_doubt, done.missing) == (taken.manifest, 3, 0)
    assert rows_of(there, "SELECT status, count(*) FROM messages GROUP BY status") == [("unknown", 3)]
    [(path,)] = rows_of(there, "SELECT path FROM files")
    assert Path(str(path)).read_bytes() == b"content"
    assert tmp_path / "elsewhere" in Path(str(path)).parents
    asyncio.run(_fill(there, elsewhere))
    assert rows_of(there, "SELECT max(id) FROM messages") > [(ID_GAP,)]
    # It is a database like any other: it can be backed up again, and replaced.
    again = take(there, elsewhere, tmp_path / "again")
    restore(there, elsewhere, tmp_path / "again", replace=True, keep_queue=False)
    assert rows_of(there, "SELECT count(*) FROM messages") == [(again.manifest.rows["messages"],)]


def test_the_queue_of_a_service_that_was_stopped_goes_on(
    url: str, settings: Settings, new_database: Callable[..., str], tmp_path: Path
) -> None:
    take(url, settings, tmp_path / "backup")
    there = new_database(empty=True)
    assert restore(there, settings, tmp_path / "backup", replace=False, keep_queue=True).in_doubt == 0
    assert rows_of(there, "SELECT DISTINCT status FROM messages") == [("queued",)]
    asyncio.run(_fill(there, settings))
    assert rows_of(there, "SELECT max(id) FROM messages") == [(6,)]


def test_a_database_that_was_restored_in_another_way_is_settled(url: str, settings: Settings) -> None:
    assert settle(url, settings) == 3
    assert rows_of(url, "SELECT DISTINCT status FROM messages") == [("unknown",)]


def test_files_that_are_removed_while_it_is_taken_are_counted(
    url: str, settings: Settings, new_database: Callable[..., str], tmp_path: Path
) -> None:
    assert settings.files_dir is not None
    shutil.rmtree(settings.files_dir / "1" / "ab")
    assert take(url, settings, tmp_path / "backup").gone == 1
    done = restore(new_database(empty=True), settings, tmp_path / "backup", replace=False, keep_queue=False)
    assert done.missing == 1
    shutil.rmtree(settings.files_dir)
    with pytest.raises(ConfigurationError, match="back up on a machine that has it"):
        take(url, settings, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_what_can_not_be_backed_up_is_refused(
    url: str, settings: Settings, new_database: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(ConfigurationError, match="is there already"):
        take(url, settings, tmp_path / "full")
    with pytest.raises(ConfigurationError, match="nothing to back up"):
        take(new_database(empty=True), settings, tmp_path / "backup")
    with pytest.raises(ConfigurationError, match="PostgreSQL 12, and pg_dump has to be of the same version, but"):
        program_of("pg_dump", settings, 12)
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


def test_what_can_not_be_restored_changes_nothing(
    url: str, settings: Settings, new_database: Callable[..., str], tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    manifest = take(url, settings, backup).manifest
    empty = new_database(empty=True)

    def refused(sentence: str, *, into: str = empty, by: Settings = settings, replace: bool = False) -> None:
        with pytest.raises(ConfigurationError, match=sentence):
            restore(into, by, backup, replace=replace, keep_queue=False)

    refused("not empty: it has [0-9]+ tables", into=url)
    refused("The backup has 1 files of messages: set FILES_DIR", by=make_settings())
    with psycopg2.connect(url, application_name="messaging-service") as other:
        refused("The service is connected to the database", into=url, replace=True)
    other.close()
    changes: list[tuple[dict[str, object], str]] = [
        ({"revision": "20991231_01"}, "restore it with that version"),
        ({"postgres": 99}, "is of PostgreSQL 99: it can't be restored into PostgreSQL"),
        ({"dump_sha256": ""}, "is damaged"),
        ({"surplus": 1}, "is no complete backup"),
    ]
    for change, sentence in changes:
        (backup / "backup.json").write_text(json.dumps(vars(manifest) | change))
        refused(sentence)
    (backup / "backup.json").unlink()
    refused("is no complete backup")
    assert rows_of(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert rows_of(url, "SELECT count(*) FROM messages WHERE status = 'queued'") == [(3,)]


def test_a_restore_that_fails_leaves_nothing_that_is_served(
    url: str, settings: Settings, new_database: Callable[..., str], tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    manifest = take(url, settings, backup).manifest
    counted = Manifest(**vars(manifest) | {"rows": manifest.rows | {"messages": 4}})
    (backup / "backup.json").write_text(json.dumps(vars(counted)))
    there = new_database(empty=True)
    with pytest.raises(ConfigurationError, match="messages has 3 rows where the backup has 4"):
        restore(there, settings, backup, replace=False, keep_queue=False)
    assert rows_of(there, "SELECT count(*) FROM alembic_version") == [(0,)]
    (backup / "backup.json").write_text(json.dumps(vars(manifest)))
    restore(there, settings, backup, replace=True, keep_queue=False)
    assert rows_of(there, "SELECT version_num FROM alembic_version") == [(REVISION,)]
