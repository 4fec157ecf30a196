"""Bringing a database to the schema of this version, and telling whether it is there.

Many processes may start at once: whoever holds the transaction-level advisory lock migrates, the others find it
done. Development also mends a schema whose tables were dropped by hand; production never touches what it did not
expect.

What needs alembic stands in `app.db.schema`, which is loaded once there is something to do: most starts find it done,
and need not wait a sixth of a second for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import Connection, inspect, text

from app.db.engine import create_command_engine
from app.db.models import REVISION, Base
from app.errors import ConfigurationError

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


def _revision(connection: Connection) -> str | None:
    """The one that the database is at; None before the first."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection) -> None:
    current = _revision(connection)
    if current == REVISION:
        return
    from app.db import schema

    schema.upgrade(connection)
    log.info("database_migrated", from_revision=current, to_revision=REVISION)


def _refuse_another_schema(connection: Connection) -> None:
    current = _revision(connection)
    if current != REVISION:
        raise ConfigurationError(
            f"The database is at revision {current or 'none'} and this version needs {REVISION}: "
            "run `python -m app migrate` first."
        )
    from app.db import schema

    if schema.differences(connection):
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
    from app.db import schema

    schema.recreate_missing(connection)
    if "tenants" in missing:
        connection.execute(text("INSERT INTO tenants (name) VALUES ('default')"))
