"""Restoring a backup into an empty database, and what has to follow so that nothing is sent twice.

The revision of the schema is stored last. Until then no version serves the database, so a restore that was cut off is
never taken for a whole one.
"""

import asyncio
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, bindparam, inspect, text

from app.backup.directory import BackupDirectory, Manifest, copy_private
from app.backup.in_doubt import put_in_doubt
from app.backup.programs import output_of, program_of, run_on
from app.config import Settings
from app.db.engine import create_command_engine, create_serving_engine
from app.db.models import REVISION
from app.db.schema.distribution import IS_DISTRIBUTED, hide_parts
from app.errors import ConfigurationError

#: Ids of the time after the backup were handed out and are lost. New ones begin behind them.
ID_GAP = 1_000_000_000
_NUMBERED = ("messages", "conversations", "contacts", "batches")
_MOST_JOBS = 4
_FILES_AT_ONCE = 1000
#: The rows of the revision, and the extension of Citus: the target may have none, or another version of it.
_LEFT_OUT = re.compile(r" TABLE DATA \S+ alembic_version | EXTENSION (- )?citus")


@dataclass(frozen=True)
class Restored:
    """The result of a restore: messages that are in doubt now, and files that the backup does not have."""

    manifest: Manifest
    in_doubt: int
    missing: int


def restore(url: str, settings: Settings, source: Path, *, replace: bool, keep_queue: bool) -> Restored:
    """Restore the backup in the directory `source`.

    With `replace` all tables of the database are dropped first. With `keep_queue` the queue goes on as it was, and
    ids continue: that is for a service that has not run since the backup. Raises `ConfigurationError` before anything
    is changed, or if the restore does not come to its end; then it has to be repeated with `replace`.
    """
    backup = BackupDirectory(source)
    manifest = backup.read()
    if manifest.revision != REVISION:
        raise ConfigurationError(
            f"The backup is of version {manifest.version}, with the schema {manifest.revision} and not {REVISION}: "
            "restore it with that version, and upgrade afterwards."
        )
    if manifest.files and settings.files_dir is None:
        raise ConfigurationError(
            f"The backup has {manifest.files} files of messages: set FILES_DIR to their new place."
        )
    with _connected(url) as connection:
        postgres = _major_of(connection)
        if postgres < manifest.postgres:
            raise ConfigurationError(
                f"The backup is of PostgreSQL {manifest.postgres}: it can't be restored into PostgreSQL {postgres}."
            )
        program = program_of("pg_restore", settings, postgres)
        _empty(connection, replace=replace)
    _fill(url, program, backup)
    with _connected(url) as connection:
        _compare(connection, manifest)
        missing = _bring_files(connection, settings, backup)
    reason = f"Restored from the backup of {manifest.taken_at}. It may have gone out since."
    in_doubt = 0 if keep_queue else asyncio.run(_settled(url, settings, reason))
    with _connected(url) as connection:
        if not keep_queue:
            _leave_a_gap(connection)
        connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": manifest.revision})
    return Restored(manifest, in_doubt, missing)


def settle(url: str, settings: Settings) -> int:
    """Do for a database that was restored in another way what `restore` does after it; returns how many are in doubt.

    The schema has to be this version's.
    """
    with _connected(url) as connection:
        _refuse_a_running_service(connection)
    in_doubt = asyncio.run(_settled(url, settings, "The database was restored. It may have gone out before."))
    with _connected(url) as connection:
        _leave_a_gap(connection)
    return in_doubt


async def _settled(url: str, settings: Settings, reason: str) -> int:
    engine = create_serving_engine(url, settings)
    try:
        return await put_in_doubt(engine, settings, reason)
    finally:
        await engine.dispose()


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    """A transaction, committed at the end."""
    engine = create_command_engine(url)
    try:
        with engine.begin() as connection:
            hide_parts(connection)
            yield connection
    finally:
        engine.dispose()


def _major_of(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT current_setting('server_version_num')::int / 10000")) or 0)


def _empty(connection: Connection, *, replace: bool) -> None:
    """Make sure that the database has no tables."""
    there = inspect(connection).get_table_names()
    if not there:
        return
    if not replace:
        raise ConfigurationError(
            f"The database is not empty: it has {len(there)} tables. Restore into an empty one, or drop them with "
            "--replace."
        )
    _refuse_a_running_service(connection)
    names = ", ".join(connection.dialect.identifier_preparer.quote(name) for name in there)
    connection.execute(text(f"DROP TABLE {names} CASCADE"))


def _refuse_a_running_service(connection: Connection) -> None:
    """Raises `ConfigurationError` while another process of the service is connected to the database."""
    others = connection.scalar(
        text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name = current_setting('application_name')"
        )
    )
    if others:
        raise ConfigurationError("The service is connected to the database: stop it and its workers first.")


def _fill(url: str, program: Path, backup: BackupDirectory) -> None:
    """Restore the dump, all but the revision and the extension of Citus. Raises `ConfigurationError`."""
    entries = output_of(program, "--list", str(backup.dump)).splitlines()
    wanted = [entry for entry in entries if not _LEFT_OUT.search(entry)]
    with tempfile.TemporaryDirectory() as place:
        chosen = Path(place, "entries")
        chosen.write_text("\n".join(wanted), encoding="utf-8")
        jobs = min(os.cpu_count() or 1, _MOST_JOBS)
        options = ["--no-owner", "--no-privileges", "--no-password", "--exit-on-error", f"--jobs={jobs}"]
        run_on(url, program, *options, f"--use-list={chosen}", str(backup.dump))


def _compare(connection: Connection, manifest: Manifest) -> None:
    """Raises `ConfigurationError` unless each table has as many rows as the backup counted.

    Those of several nodes were counted at other moments than they were dumped.
    """
    if connection.scalar(IS_DISTRIBUTED):
        return
    for name, expected in manifest.rows.items():
        found = connection.scalar(text(f'SELECT count(*) FROM "{name}"'))  # noqa: S608 - checked by the next line
        if found != expected:
            raise ConfigurationError(
                f"{name} has {found} rows where the backup has {expected}: the restore has failed."
            )


def _bring_files(connection: Connection, settings: Settings, backup: BackupDirectory) -> int:
    """Copy the files to their new directory and name it in their rows; returns how many the backup does not have."""
    if settings.files_dir is None:
        return 0
    store = settings.files_dir.absolute()
    missing = 0
    moved = text("UPDATE files SET path = :path WHERE tenant_id = :tenant AND id = :id")
    moved = moved.bindparams(*(bindparam(name) for name in ("path", "tenant", "id")))
    found = connection.execute(text("SELECT tenant_id, id FROM files WHERE path IS NOT NULL")).all()
    for start in range(0, len(found), _FILES_AT_ONCE):
        values = []
        for tenant_id, file_id in found[start : start + _FILES_AT_ONCE]:
            place = store / str(tenant_id) / file_id[:2] / file_id
            try:
                copy_private(backup.place_of(tenant_id, file_id), place)
            except FileNotFoundError:  # removed while the backup was made
                missing += 1
            values.append({"path": str(place), "tenant": tenant_id, "id": file_id})
        connection.execute(moved, values)
    return missing


def _leave_a_gap(connection: Connection) -> None:
    for name in _NUMBERED:
        sequence = connection.scalar(text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": name})
        connection.execute(
            text("SELECT setval(:sequence, nextval(:sequence) + :gap)"), {"sequence": sequence, "gap": ID_GAP}
        )
