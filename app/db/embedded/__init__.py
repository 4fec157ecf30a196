"""An embedded PostgreSQL, for machines where DATABASE_URL names no server."""

from app.db.embedded.keeper import Keeper as Keeper
from app.db.embedded.programs import EmbeddedPostgresError as EmbeddedPostgresError
from app.db.embedded.server import EmbeddedPostgres as EmbeddedPostgres
