"""Migrate a database to the schema of this version, or check that it has it.

Of several processes that start at once, the one that gets the advisory lock migrates.

`app.db.schema.revisions` has the parts that need alembic. It is imported only if there is something to do, because
that takes a sixth of a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import Connection, inspect, text

from app.config import Settings
from app.db.engine import create_command_engine, provided_database
from app.db.models import REVISION, Base
from app.db.schema import distribution
from app.errors import ConfigurationError
from app.installation import command_name

log = structlog.get_logger(__name__)

_LOCK = 5_318_008_143  # any number that stays the same in every version
_LOCK_TIMEOUT = "10s"  # a table that is busy for longer fails the migration, which would block all others


def migrate(url: str, *, distributed: bool = False) -> None:
    """Run the missing migrations. A database that is up to date is left alone.

    With `distributed`, its tables are distributed over the nodes of a cluster, and so are those of later migrations.
    Raises `ConfigurationError` where the database is no coordinator of one.
    """
    with _exclusively(url) as connection:
        distribution.refuse_worker_node(connection)
        _upgrade(connection)
        if distributed or distribution.has_distributed_tables(connection):
            distribution.distribute(connection)


def prepare(url: str, *, production: bool) -> None:
    """Make sure, at start, that the schema is this version's.

    Development migrates and recreates tables that were dropped by hand. Production only looks, and raises
    `ConfigurationError` with what to do.
    """
    with _exclusively(url) as connection:
        distribution.refuse_worker_node(connection)
        if production:
            _refuse_another_schema(connection)
            return
        _upgrade(connection)
        _recreate_missing_tables(connection)
        if distribution.has_distributed_tables(connection) and distribution.undistributed_tables(connection):
            distribution.distribute(connection)


@contextmanager
def prepared_database(settings: Settings) -> Iterator[str]:
    """The URL of the database to use, embedded or not, while the context is open; its schema is this version's."""
    with provided_database(settings) as url:
        prepare(url, production=settings.is_production)
        yield url


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
    """The revision of the database; None before the first migration."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection) -> None:
    current = _revision(connection)
    if current == REVISION:
        return
    from app.db.schema import revisions

    _must_be_known(current)
    revisions.upgrade(connection)
    log.info("database_migrated", from_revision=current, to_revision=REVISION)


def _refuse_another_schema(connection: Connection) -> None:
    current = _revision(connection)
    if current != REVISION:
        _must_be_known(current)
        raise ConfigurationError(
            f"The database is at revision {current or 'none'} and this version needs {REVISION}: "
            f"run `{command_name()} migrate` first."
        )
    from app.db.schema import revisions

    if revisions.differences(connection):
        raise ConfigurationError(
            "The schema differs from the migrations: tables, columns or indexes were changed by hand. "
            "Restore them; in production the service does not repair the schema."
        )


def _must_be_known(revision: str | None) -> None:
    """Raises `ConfigurationError` for a revision that is newer than this version, or from before the first release.

    Revisions begin with their date, so that they sort by age.
    """
    from app.db.schema import revisions

    if revision is None or revisions.is_known(revision):
        return
    if revision < REVISION:
        raise ConfigurationError(
            f"The database is at revision {revision}, from before version 1.0.0, and can't be migrated: begin "
            'with an empty one, or carry it over as docs/upgrading.md says under "Before 1.0.0".'
        )
    raise ConfigurationError(
        f"The database is at revision {revision}, which this version does not know: a newer version has migrated "
        "it. Run that version, or restore the backup that was made before."
    )


def _recreate_missing_tables(connection: Connection) -> None:
    """Recreate dropped tables, empty, as the documents promise for `drop table ... cascade` in development.

    Surviving tables that referred to a dropped one are emptied, because their rows describe nothing any more.
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
    from app.db.schema import revisions

    revisions.recreate_missing(connection)
    if "installation" in missing:
        connection.execute(text("INSERT INTO installation DEFAULT VALUES"))
    if "tenants" in missing:
        connection.execute(text("INSERT INTO tenants (name) VALUES ('default')"))
