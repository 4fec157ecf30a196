"""Checks of what delays the readers of the event log."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from app.config import Settings
from app.doctor.findings import DatabaseCheck, Finding, duration, ok, warning

_PATIENCE_SECONDS = 5
_SHOWN = 3  # of each kind, the oldest first

#: Of the whole server, since an entry is shown once every transaction that began before it has ended. One that has
#: only read delays nobody. Without the right to see other roles' activity, their times are null.
_WRITERS = text("""
    SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'an unknown program') AS program,
           coalesce(datname, 'no database') AS database, extract(epoch FROM clock_timestamp() - xact_start) AS seconds
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY age(backend_xid) DESC
""")
_PREPARED = text("""
    SELECT quote_literal(gid) AS name, database, extract(epoch FROM clock_timestamp() - prepared) AS seconds
    FROM pg_prepared_xacts ORDER BY age(transaction) DESC
""")
_DELAYED = "and until it ends, no reader of the event log gets newer entries."


def transactions(_: Settings, connection: Connection) -> Iterator[Finding]:
    """The transactions that have written, and are open for long: named by their process, never by their text."""
    writers, prepared = connection.execute(_WRITERS).all(), connection.execute(_PREPARED).all()
    long = [row for row in writers if row.seconds is not None and row.seconds > _PATIENCE_SECONDS]
    left = [row for row in prepared if row.seconds > _PATIENCE_SECONDS]
    for row in long[:_SHOWN]:
        said = f"A transaction of {row.program} (pid {row.pid}, {row.database}) has written"
        said = f"{said} and is open for {duration(float(row.seconds))},"
        mending = f"Let it commit in smaller steps, or end it: `SELECT pg_terminate_backend({row.pid})`."
        yield warning(f"{said} {_DELAYED}", mending)
    for row in left[:_SHOWN]:
        said = f"Transaction {row.name} of {row.database} is prepared for {duration(float(row.seconds))},"
        mending = f"In {row.database}, run `COMMIT PREPARED {row.name}` or `ROLLBACK PREPARED {row.name}`."
        yield warning(f"{said} {_DELAYED}", mending)
    if not long and not left:
        hidden = sum(row.seconds is None for row in writers)
        unseen = f"; {hidden} of other roles can't be timed without GRANT pg_read_all_stats" if hidden else ""
        yield ok(f"none that writes is open for {_PATIENCE_SECONDS} s or more{unseen}")


CHECKS: list[DatabaseCheck] = [transactions]
