"""Errors that keep a process from starting, each in one sentence that says what to do."""

from sqlalchemy.exc import OperationalError, ProgrammingError

from app.db.connectivity.outage import sqlstate_of
from app.db.embedded import EmbeddedPostgresError
from app.errors import ConfigurationError


def obstacle(error: BaseException | None) -> str | None:
    """The sentence for an error that its operator can remove; None for any other, which is a bug."""
    if isinstance(error, ConfigurationError | EmbeddedPostgresError):
        return str(error)
    if isinstance(error, OperationalError):
        return " ".join(f"PostgreSQL can't be reached: {error.orig}".split())
    if isinstance(error, ProgrammingError) and sqlstate_of(error) == "42501":
        said = str(error.orig).partition("\n")[0]
        migrating = "To migrate it has to own the tables and have CREATE on the schema"
        needed = f"{migrating}; to serve it needs SELECT, INSERT, UPDATE and DELETE on every table."
        return f"The user in DATABASE_URL lacks a right ({said}). {needed}"
    return None
