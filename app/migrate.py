"""Bringing a database to the schema of this version, and telling whether it is there.

Many processes may start at once: whoever holds the transaction-level advisory lock migrates, the others find it
done. Development also mends a schema whose tables were dropped by hand; production never touches what it did not
expect.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import structlog
from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import CreateForeignKeyOp, CreateIndexOp, CreateTableOp, ModifyTableOps
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.schema import SchemaItem

from app.database import create_command_engine
from app.errors import ConfigurationError
from app.models import Base

log = structlog.get_logger(__name__)

_LOCK = 5_318_008_143  # any number, as long as every version of this service takes the same one
_LOCK_TIMEOUT = "10s"  # a table that is busy for longer should fail the migration, not queue everyone behind it


def migrate(url: str) -> None:
    """Run what is missing of the history. A database that is up to date is left alone."""
    with _exclusively(url) as connection:
        _upgrade(connection)


def prepare(url: str, *, production: bool) -> None:
    """Make sure, at start, that the schema is this version's.

    Development migrates and recreates tables that were dropped by hand. Production only looks, and raises
    `ConfigurationError` with what to do.
    """
    with _exclusively(url) as connection:
        if production:
            _refuse_another_schema(connection)
            return
        _upgrade(connection)
        _recreate_missing_tables(connection)


def differences(connection: Connection) -> list[object]:
    """What the database has that the models don't, and the other way round; empty when both agree."""
    return list(compare_metadata(_context(connection), Base.metadata))


@contextmanager
def _exclusively(url: str) -> Iterator[Connection]:
    engine = create_command_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": _LOCK_TIMEOUT})
            yield connection
    finally:
        engine.dispose()


def alembic_config() -> Config:
    """Where alembic finds the revisions, wherever the service is started from."""
    config = Config()
    # The option is interpolated, so a percent sign in the path has to be doubled.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"compare_server_default": True, "include_object": is_ours})


def is_ours(item: SchemaItem, name: str | None, kind: str, reflected: bool, compared: SchemaItem | None) -> bool:
    """Whether autogenerate may look at it: a table that only the database knows belongs to somebody else."""
    return not (kind == "table" and reflected and compared is None)


def _revisions(connection: Connection) -> tuple[str | None, str | None]:
    """The revision the database is at, and the newest that this version knows."""
    return _context(connection).get_current_revision(), _newest_revision()


@cache  # the files of a process stay as they are
def _newest_revision() -> str | None:
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _upgrade(connection: Connection) -> None:
    current, newest = _revisions(connection)
    if current == newest:
        return
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    log.info("database_migrated", from_revision=current, to_revision=newest)


def _refuse_another_schema(connection: Connection) -> None:
    current, newest = _revisions(connection)
    if current != newest:
        raise ConfigurationError(
            f"The database is at revision {current or 'none'} and this version needs {newest}: "
            "run `python -m app migrate` first."
        )
    if differences(connection):
        raise ConfigurationError(
            "The database is not what the migrations left: tables, columns or indexes were changed by hand. "
            "Restore them; in production nothing is mended by itself."
        )


def _recreate_missing_tables(connection: Connection) -> None:
    """Rebuild tables that someone dropped, the way `drop table ... cascade` documents it for development.

    Rows of surviving tables that pointed into a dropped one are gone with it: they describe nothing any more.
    """
    missing = set(Base.metadata.tables) - set(inspect(connection).get_table_names())
    if not missing:
        return
    log.warning("schema_incomplete", missing=sorted(missing), action="recreating them, empty")
    orphaned = {
        table.name
        for table in Base.metadata.sorted_tables
        if table.name not in missing and any(key.column.table.name in missing for key in table.foreign_keys)
    }
    for name in orphaned:
        connection.execute(text(f'TRUNCATE TABLE "{name}" CASCADE'))
    operations = Operations(_context(connection))
    upgrade = produce_migrations(_context(connection), Base.metadata).upgrade_ops
    assert upgrade is not None
    for step in upgrade.ops:
        for operation in step.ops if isinstance(step, ModifyTableOps) else [step]:
            if isinstance(operation, CreateTableOp | CreateIndexOp | CreateForeignKeyOp):
                operations.invoke(operation)
    if "tenants" in missing:
        connection.execute(text("INSERT INTO tenants (name) VALUES ('default')"))
