"""Taking a backup while the service runs: everything that was acknowledged before it began is in it.

The dump, the counts and the list of files are of one snapshot. On several nodes, each node has a snapshot of its own.
A file is on disk before its row is stored, and is removed together with it. So a file that is gone when it is copied
was removed since the snapshot.
"""

import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from app import __version__
from app.backup.directory import BackupDirectory, Manifest, copy_private, sha256_of
from app.backup.programs import program_of, run_on
from app.config import Settings
from app.db.engine import create_command_engine
from app.db.models import Base
from app.db.schema.distribution import hide_parts
from app.errors import ConfigurationError

_FILES_ON_DISK = text("SELECT tenant_id, id, path FROM files WHERE path IS NOT NULL")
_FILES_AT_ONCE = 1000


@dataclass(frozen=True)
class Taken:
    """A backup that is complete. `gone` is the number of files that were removed while it was made."""

    manifest: Manifest
    gone: int


def take(url: str, settings: Settings, target: Path) -> Taken:
    """Back up the database and its files into the directory `target`, which must not exist or be empty.

    It appears there once it is complete. Raises `ConfigurationError` and `OSError`; then nothing is left behind.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigurationError(f"{target} is there already: name a new directory, or remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = BackupDirectory(target.with_name(f"{target.name}.{secrets.token_hex(4)}.unfinished"))
    unfinished.path.mkdir(mode=0o700)
    try:
        with _snapshot(url) as (connection, snapshot), ThreadPoolExecutor(1) as beside:
            revision, postgres, rows = _described(connection)
            taken_at = datetime.now(UTC)
            program = program_of("pg_dump", settings, postgres)
            unfinished.dump.touch(mode=0o600)
            dump = beside.submit(_dump, url, program, snapshot, unfinished.dump)
            files, gone = _copy_files(connection, unfinished)
            dump.result()
        manifest = Manifest(
            version=__version__,
            revision=revision,
            postgres=postgres,
            taken_at=taken_at.isoformat(timespec="seconds"),
            dump_sha256=sha256_of(unfinished.dump),
            rows=rows,
            files=files,
        )
        unfinished.write(manifest)
        if target.exists():
            target.rmdir()
        unfinished.path.rename(target)
    except BaseException:
        shutil.rmtree(unfinished.path, ignore_errors=True)
        raise
    return Taken(manifest, gone)


@contextmanager
def _snapshot(url: str) -> Iterator[tuple[Connection, str]]:
    """A transaction that only reads, and the name of its snapshot for others."""
    engine = create_command_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            hide_parts(connection)
            yield connection, str(connection.scalar(text("SELECT pg_export_snapshot()")))
    finally:
        engine.dispose()


def _described(connection: Connection) -> tuple[str, int, dict[str, int]]:
    """The revision of the schema, the major version of the server, and the number of rows of each table."""
    there = set(inspect(connection).get_table_names())
    revision = (
        connection.scalar(text("SELECT version_num FROM alembic_version")) if "alembic_version" in there else None
    )
    if revision is None:
        raise ConfigurationError("There is nothing to back up: the database has no tables of the service.")
    rows = {
        name: int(connection.scalar(text(f'SELECT count(*) FROM "{name}"')) or 0)  # noqa: S608 - our own names
        for name in sorted(there & set(Base.metadata.tables))
    }
    postgres = int(connection.scalar(text("SELECT current_setting('server_version_num')::int / 10000")) or 0)
    return str(revision), postgres, rows


def _dump(url: str, program: Path, snapshot: str, place: Path) -> None:
    # Owners and rights are those of the installation that is restored to. The lightest compression, because the
    # service runs beside it.
    options = ["--format=custom", "--compress=1", "--no-owner", "--no-privileges", "--no-password"]
    run_on(url, program, *options, f"--snapshot={snapshot}", f"--file={place}")


def _copy_files(connection: Connection, backup: BackupDirectory) -> tuple[int, int]:
    """Copy the files that stand in a directory; returns how many, and how many were removed meanwhile."""
    files = gone = 0
    found = connection.execution_options(yield_per=_FILES_AT_ONCE).execute(_FILES_ON_DISK)
    for tenant_id, file_id, path in found:
        try:
            copy_private(Path(path), backup.place_of(tenant_id, file_id))
            files += 1
        except FileNotFoundError:
            if not (directory := Path(path).parents[2]).is_dir():
                raise ConfigurationError(
                    f"{directory}, the directory of files, is not there: back up on a machine that has it."
                ) from None
            gone += 1
    return files, gone
