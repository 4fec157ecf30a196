"""A PostgreSQL of our own, for machines where DATABASE_URL names none."""

from app.db.embedded.programs import EmbeddedPostgresError as EmbeddedPostgresError
from app.db.embedded.server import EmbeddedPostgres as EmbeddedPostgres
