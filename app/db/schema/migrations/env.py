"""Runs revisions on a connection: that of `app.db.schema.migrate`, or a new one under the alembic command."""

from alembic import context
from sqlalchemy import Connection

from app.config import Settings
from app.db.engine import create_command_engine, provided_database
from app.db.models import Base
from app.db.schema.revisions import is_ours


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        include_object=is_ours,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over: Connection | None = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    with provided_database(Settings()) as url, create_command_engine(url).begin() as connection:
        run(connection)
