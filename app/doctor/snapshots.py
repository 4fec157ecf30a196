"""Checks of what keeps PostgreSQL from removing dead rows."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from app.config import Settings
from app.doctor.findings import DatabaseCheck, Finding, counted, duration, ok, warning

_PATIENCE_SECONDS = 60
_SHOWN = 3  # the oldest first

#: Of our database, since others do not hold our rows. Those that have written are found by `transactions`, also the
#: prepared ones. Vacuum keeps no rows. Without the right to see other roles' activity, times and states are null.
_HOLDERS = text("""
    SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'an unknown program') AS program,
           coalesce(state, 'in an unknown state') AS state,
           extract(epoch FROM clock_timestamp() - xact_start) AS seconds
    FROM pg_stat_activity
    WHERE backend_xmin IS NOT NULL AND backend_xid IS NULL AND pid <> pg_backend_pid()
      AND datid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND backend_type IS DISTINCT FROM 'autovacuum worker'
    ORDER BY age(backend_xmin) DESC
""")


def snapshots(_: Settings, connection: Connection) -> Iterator[Finding]:
    """The sessions that hold a snapshot for long, such as a dump: named by their process, never by their text."""
    holders = connection.execute(_HOLDERS).all()
    long = [row for row in holders if row.seconds is not None and row.seconds > _PATIENCE_SECONDS]
    hidden = sum(row.seconds is None for row in holders)
    for row in long[:_SHOWN]:
        said = f"{row.program} (pid {row.pid}, {row.state}) holds a snapshot for {duration(float(row.seconds))}:"
        ending = f"Let it end, or end it: `SELECT pg_terminate_backend({row.pid})`."
        mending = f"{ending} If that comes often, dump and report from a replica."
        yield warning(f"{said} rows that died since then can't be removed, and tables grow.", mending)
    if len(long) > _SHOWN:
        yield warning(
            f"{counted(len(long) - _SHOWN, 'more session')} hold a snapshot for as long.",
            "See backend_xmin and xact_start in pg_stat_activity.",
        )
    if not long:
        unseen = f"; {hidden} of other roles can't be timed without GRANT pg_read_all_stats" if hidden else ""
        yield ok(f"none is held for {_PATIENCE_SECONDS} s or more{unseen}")
    elif hidden:
        said = f"{counted(hidden, 'session')} of other roles can't be timed."
        yield warning(said, "Run the doctor with a role that has pg_read_all_stats.")


CHECKS: list[DatabaseCheck] = [snapshots]
