"""The schema through alembic: running migrations, and comparing the database with the models."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import CreateForeignKeyOp, CreateIndexOp, CreateTableOp, ModifyTableOps
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.schema import SchemaItem

from app.db.models import Base


def alembic_config() -> Config:
    """The configuration with which alembic finds the revisions from any working directory."""
    config = Config()
    # The option is interpolated, so a percent sign in the path has to be doubled.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def upgrade(connection: Connection) -> None:
    """Run the missing migrations in the open transaction."""
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def is_known(revision: str) -> bool:
    """True if a migration of this version has that revision."""
    try:
        return ScriptDirectory.from_config(alembic_config()).get_revision(revision) is not None
    except CommandError:
        return False


def differences(connection: Connection) -> list[object]:
    """The differences between database and models; empty if both agree."""
    return list(compare_metadata(_context(connection), Base.metadata))


def recreate_missing(connection: Connection) -> None:
    """Create the tables, indexes and foreign keys that the models have and the database does not."""
    operations = Operations(_context(connection))
    upgrade = produce_migrations(_context(connection), Base.metadata).upgrade_ops
    assert upgrade is not None
    for step in upgrade.ops:
        for operation in step.ops if isinstance(step, ModifyTableOps) else [step]:
            if isinstance(operation, CreateTableOp | CreateIndexOp | CreateForeignKeyOp):
                operations.invoke(operation)


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"compare_server_default": True, "include_object": is_ours})


def is_ours(item: SchemaItem, name: str | None, kind: str, reflected: bool, compared: SchemaItem | None) -> bool:
    """True if autogenerate may look at it. A table that only the database knows belongs to another program."""
    return not (kind == "table" and reflected and compared is None)
