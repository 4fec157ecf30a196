"""Checks of the way to PostgreSQL: that it takes writes, and what stands in between."""

import asyncio
from typing import NamedTuple

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.db.connectivity.connections import connect, is_pooled
from app.db.connectivity.pooler import with_pooler_known
from app.db.engine import (
    IDLE_IN_TRANSACTION_SECONDS,
    create_command_engine,
    server_statement_seconds,
    serving_options,
)
from app.doctor.findings import DatabaseCheck, Finding, duration, ok, problem, warning
from app.errors import ConfigurationError

#: Without the right to see details (pg_read_all_stats), `sync_state` is null.
_STATE = text("""
    SELECT pg_is_in_recovery() AS is_standby,
           current_setting('default_transaction_read_only') = 'on' AS is_read_only,
           current_setting('synchronous_standby_names') <> ''
           AND current_setting('synchronous_commit') NOT IN ('off', 'local') AS waits,
           (SELECT count(*) FROM pg_stat_replication WHERE sync_state IS NULL OR sync_state IN ('sync', 'quorum'))
           AS synchronous
""")


def writes(_: Settings, connection: Connection) -> Finding:
    """The server takes writes, and its commits end."""
    state = connection.execute(_STATE).one()
    if state.is_standby:
        hosts = "or all hosts and target_session_attrs=read-write"
        mending = f"Name the primary in DATABASE_URL, {hosts}, or promote this server."
        return problem("The server is a standby: sends are answered 503.", mending)
    if state.is_read_only:
        mending = "Set default_transaction_read_only = off where it was set: role, database, DATABASE_URL or server."
        return problem("The server is read-only: sends are answered 503.", mending)
    if state.waits and not state.synchronous:
        said = "Commits hang, because no synchronous standby is connected: sends are answered 503, and stored."
        mending = (
            "Bring a standby of synchronous_standby_names back, or take it out and run `SELECT pg_reload_conf()`."
        )
        return problem(said, mending)
    return ok("the server takes writes")


class _Serving(NamedTuple):
    """A connection as for serving: its limits in seconds, as they apply."""

    is_pooled: bool
    statement: float
    lock: float
    idle: float


#: In milliseconds.
_LIMITS = """
    SELECT array_agg(setting::bigint ORDER BY number)
    FROM unnest(ARRAY['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout'])
         WITH ORDINALITY AS wanted (name, number)
    JOIN pg_settings USING (name)
"""


def pooler(settings: Settings, _: Connection) -> Finding:
    """Connects as serving does, because a pooler may refuse that alone."""
    if settings.database_url is None:
        return ok("none: the server is embedded")
    try:
        found = asyncio.run(_connected(settings.database_url.get_secret_value(), settings))
    except ConfigurationError as error:
        return problem(str(error), "Until then no process starts.")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        said = f"A connection as for serving is refused: {' '.join(str(error).split()) or type(error).__name__}."
        return problem(said, "See that DATABASE_URL is right, and has only parameters that PostgreSQL knows.")
    return _finding(settings, found)


async def _connected(url: str, settings: Settings) -> _Serving:
    settings = await with_pooler_known(url, settings)
    connection = await connect(url, **serving_options(settings))
    try:
        limits = [each / 1000 for each in await connection.fetchval(_LIMITS)]
        return _Serving(await is_pooled(connection), *limits)
    finally:
        await connection.close()


def _finding(settings: Settings, found: _Serving) -> Finding:
    if not found.is_pooled:
        return ok("none: connections lead to PostgreSQL itself")
    statement = server_statement_seconds(settings)
    wanted = {
        "statement_timeout": statement,
        "lock_timeout": settings.database_lock_timeout_seconds,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_SECONDS,
    }
    if not found.lock or not found.idle or found.statement < statement:
        sets = " ".join(f"ALTER ROLE ... SET {name} = '{seconds * 1000:.0f}ms';" for name, seconds in wanted.items())
        said = "A pooler is in the way, which passes no time limits on, and the role has none or shorter ones."
        return warning(said, f"For the role of DATABASE_URL, run: {sets}")
    if settings.database_listen_url is None:
        polls = f"messages are found by polling, each {settings.worker_poll_seconds:g} s"
        return ok(f"there is one: {polls}, unless DATABASE_LISTEN_URL leads past it")
    return ok("there is one, and DATABASE_LISTEN_URL leads past it")


_WRITTEN = text("SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END")
_IDENTIFIER = text("SELECT system_identifier FROM pg_control_system()")
#: The seconds since its last transaction, if it lacks what was written at the primary.
_LAG = text("""
    SELECT pg_is_in_recovery() AS is_standby,
           CASE WHEN pg_last_wal_replay_lsn() < CAST(:written AS pg_lsn)
                THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) ELSE 0 END AS seconds
""")


def replica(settings: Settings, connection: Connection) -> Finding:
    """The server that lists are read from."""
    if settings.database_read_url is None:
        return ok("none: lists are read from DATABASE_URL")
    written, identifier = connection.execute(_WRITTEN).scalar_one(), connection.execute(_IDENTIFIER).scalar_one()
    engine = create_command_engine(settings.database_read_url.get_secret_value())
    try:
        with engine.connect() as there:
            other = there.execute(_IDENTIFIER).scalar_one()
            state = there.execute(_LAG, {"written": written}).one()
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        said = f"The replica can't be asked, so lists are read from DATABASE_URL: {reason}"
        return warning(said, "See that it runs, and that DATABASE_READ_URL is right.")
    finally:
        engine.dispose()
    if other != identifier:
        said = "DATABASE_READ_URL is no replica of DATABASE_URL."
        return problem(said, "Name a streaming replica of that server, or unset it.")
    if not state.is_standby:
        return warning("DATABASE_READ_URL is the primary itself, so it is not used.", "Name a standby, or unset it.")
    seconds = float(state.seconds or 0)
    if seconds > settings.database_read_lag_seconds:
        said = f"The replica is {duration(seconds)} behind, so lists are read from DATABASE_URL."
        return warning(said, "See in pg_stat_replication of the primary what holds it up.")
    return ok(f"less than {settings.database_read_lag_seconds:g} s behind")


def is_behind_pooler(connection: Connection) -> bool:
    """True if a pooler has invented the process that the connection is told to be of."""
    process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    driver = connection.connection.driver_connection
    assert driver is not None
    return bool(driver.info.backend_pid != process)


CHECKS: list[DatabaseCheck] = [writes, pooler, replica]
