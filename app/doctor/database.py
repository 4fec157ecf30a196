"""Checks of the PostgreSQL server, of our role there, and of the schema."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.config import Settings
from app.db.models import Base
from app.db.schema.revisions import alembic_config, differences
from app.doctor import connecting
from app.doctor.connecting import is_behind_pooler
from app.doctor.findings import APP, DatabaseCheck, Finding, counted, ok, problem, warning

_OLDEST, _NEWEST = 15, 18  # major versions that the service is tested with
_SKEW_WARNING, _SKEW_PROBLEM = 1.0, 30.0  # seconds
_SHOWN = 5  # of a list; the next run shows the rest
_OUR_TABLES = {"tables": list(Base.metadata.tables)}


def database(_: Settings, connection: Connection) -> Finding:
    """The first check, because it shows that the database can be reached."""
    version, number = connection.execute(
        text("SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000")
    ).one()
    name = f"PostgreSQL {version.split()[0]}"
    if number < _OLDEST:
        return problem(f"{name} is too old.", f"Move the database to PostgreSQL {_OLDEST} to {_NEWEST}.")
    if number > _NEWEST:
        mending = f"Look for a newer version of this service, or use PostgreSQL {_OLDEST} to {_NEWEST}."
        return warning(f"{name} is newer than what this version is tested with.", mending)
    return ok(f"{name} answers")


def encoding(_: Settings, connection: Connection) -> Finding:
    found = connection.execute(text("SELECT current_setting('server_encoding')")).scalar_one()
    if found != "UTF8":
        mending = "Make one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and move over with pg_dump."
        return problem(f"The database is encoded as {found}, which can't store every character.", mending)
    return ok("UTF8")


_RISKS = {
    "fsync": "a power cut can destroy the database",
    "full_page_writes": "a power cut can damage pages of the database",
    "synchronous_commit": "a crash of PostgreSQL loses messages that were accepted just before",
}
_RESETS = {
    "database": "Run `ALTER DATABASE {database} RESET {name}`, and restart the service.",
    "user": "Run `ALTER ROLE {role} RESET {name}`, and restart the service.",
    "database user": "Run `ALTER ROLE {role} IN DATABASE {database} RESET {name}`, and restart the service.",
    "client": "Take {name} out of DATABASE_URL and PGOPTIONS, and restart the service.",
    "command line": "Start PostgreSQL without {name} on its command line.",
}
_ELSEWHERE = "Set {name} = on in postgresql.conf or with ALTER SYSTEM, and run `SELECT pg_reload_conf()`."

_OURS = text("SELECT quote_ident(current_user) AS role, quote_ident(current_database()) AS database")
_SWITCHED_OFF = text("SELECT name, source FROM pg_settings WHERE name = ANY(:names) AND setting = 'off' ORDER BY 1")


def durability(_: Settings, connection: Connection) -> Iterator[Finding]:
    """The settings as they apply to our role in our database, wherever they were set."""
    ours = connection.execute(_OURS).mappings().one()
    found = connection.execute(_SWITCHED_OFF, {"names": list(_RISKS)}).all()
    for name, source in found:
        mending = _RESETS.get(source, _ELSEWHERE).format(name=name, **ours)
        yield problem(f"{name} is off (set by: {source}): {_RISKS[name]}.", mending)
    if not found:
        yield ok(f"{', '.join(_RISKS)} are on")


def role(settings: Settings, connection: Connection) -> Finding:
    """The rights that an attacker would gain together with the service."""
    traits = text("""
        SELECT rolsuper,
               coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
               OR EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = ANY(:tables)
                          AND pg_has_role(tableowner, 'USAGE')) AS changes_schema
        FROM pg_roles WHERE rolname = current_user
    """)
    is_superuser, changes_schema = connection.execute(traits, _OUR_TABLES).one()
    if not settings.is_production:
        return ok("a superuser, as development may have" if is_superuser else "no superuser")
    mending = (
        "Migrate with this role, and serve with another one in DATABASE_URL: CREATE ROLE ... LOGIN PASSWORD ...; "
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO it."
    )
    if is_superuser:
        return problem("The service is a superuser of the whole database server.", mending)
    if changes_schema:
        return warning("The service may change and drop its tables, which it never needs.", mending)
    return ok("no superuser, and may not change the schema")


def connections(settings: Settings, connection: Connection) -> Finding:
    if is_behind_pooler(connection):
        return ok("a pooler is in the way, and its max_client_conn limits them")
    room = text("""
        SELECT least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                     - coalesce(current_setting('reserved_connections', true)::int, 0),
                     (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
                     (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())),
               (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
                AND query NOT LIKE 'LISTEN %' AND application_name <> current_setting('application_name'))
    """)
    allowed, others = connection.execute(room).one()
    each = settings.database_pool_size + settings.database_pool_overflow + 1  # one listens for what is due
    needed = settings.web_concurrency * each
    web = counted(settings.web_concurrency, "web process", "web processes")
    facts = f"{web} may open {needed}, each worker process {each} more, and there is room for {allowed}"
    ours = "DATABASE_POOL_SIZE, DATABASE_POOL_OVERFLOW or WEB_CONCURRENCY"
    theirs = "max_connections (and restart PostgreSQL) or the limit of the role or the database"
    mending = f"Raise {theirs}, or lower {ours}."
    if needed > allowed:
        return problem(f"{facts}: under load requests will be answered 503.", mending)
    if needed + others > allowed:
        return warning(f"{facts}, of which others use {others} now.", mending)
    return ok(facts)


def clock(_: Settings, connection: Connection) -> Finding:
    before = datetime.now(UTC)
    theirs, zone = connection.execute(text("SELECT clock_timestamp(), current_setting('TimeZone')")).one()
    # The database read its clock at an unknown moment in between, so half of the round trip is allowed for.
    half = (datetime.now(UTC) - before) / 2
    return skew_finding((abs(theirs - (before + half)) - half).total_seconds(), zone)


def skew_finding(seconds: float, zone: str) -> Finding:
    if seconds <= _SKEW_WARNING:
        return ok(f"less than {_SKEW_WARNING:g} s from the database's, whose time zone is {zone} (we store UTC)")
    say = problem if seconds > _SKEW_PROBLEM else warning
    said = f"This machine's clock is {seconds:.0f} s from the database's"
    consequence = "webhook signatures are checked by the one, due times by the other."
    return say(f"{said}: {consequence}", "Synchronise both machines by NTP: `timedatectl set-ntp true`.")


def schema(settings: Settings, connection: Connection) -> Finding:
    current = MigrationContext.configure(connection).get_current_revision()
    history = ScriptDirectory.from_config(alembic_config())
    newest = history.get_current_head()
    if current != newest:
        said = f"The database is at revision {current or 'none'}, and this version needs {newest}."
        if current is not None and current not in {each.revision for each in history.walk_revisions()}:
            mending = "Run the version of the service that migrated this database, or a newer one."
            return problem(said, mending, hides_the_rest=True)
        if settings.is_production:
            return problem(said, f"Run `{APP} migrate`.", hides_the_rest=True)
        return warning(said, f"Start the service, or run `{APP} migrate`: either migrates it.", hides_the_rest=True)
    found = [_described(each) for each in differences(connection)]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        until_then = "only whole tables come back, empty, at the next start."
        if settings.is_production:
            until_then = "the service does not start with it."
        mending = f"Put it back as app/db/models.py has it, or restore a backup: {until_then}"
        return problem(f"It was changed by hand: {', '.join(found[:_SHOWN])}{more}.", mending)
    return ok(f"at revision {newest}, as the migrations left it")


def _described(difference: Any) -> str:
    """An entry of alembic's comparison, as the database shows it: `missing column messages.subject`."""
    kind, *parts = difference[0] if isinstance(difference, list) else difference
    verb, _, thing = kind.partition("_")
    state = {"add": "missing", "remove": "unknown", "modify": "changed"}.get(verb, verb)
    if verb == "modify" or thing == "column":
        _schema, table, column, *_rest = parts
        return f"{state} column {table}.{getattr(column, 'name', column)}"
    return f"{state} {thing} {parts[0].name}"


def indexes(_: Settings, connection: Connection) -> Iterator[Finding]:
    invalid = text("""
        SELECT quote_ident(indexed.relname) FROM pg_index
        JOIN pg_class indexed ON indexed.oid = indexrelid JOIN pg_class own ON own.oid = indrelid
        WHERE NOT (indisvalid AND indisready) AND own.relnamespace = current_schema()::regnamespace
          AND own.relname = ANY(:tables)
          AND indexrelid NOT IN (SELECT index_relid FROM pg_stat_progress_create_index)
        ORDER BY 1
    """)
    broken = connection.execute(invalid, _OUR_TABLES).scalars().all()
    not_validated = text("""
        SELECT own.relname, quote_ident(conname) FROM pg_constraint JOIN pg_class own ON own.oid = conrelid
        WHERE NOT convalidated AND own.relnamespace = current_schema()::regnamespace AND own.relname = ANY(:tables)
        ORDER BY 1, 2
    """)
    unchecked = connection.execute(not_validated, _OUR_TABLES).all()
    for name in broken:
        mending = f"Run `REINDEX INDEX CONCURRENTLY {name}`; where that finds duplicates, remove them first."
        yield problem(f"The index {name} was not built completely: it is not used, and enforces nothing.", mending)
    for table, name in unchecked:
        mending = f"Run `ALTER TABLE {table} VALIDATE CONSTRAINT {name}`."
        yield warning(f"The constraint {name} was not checked against earlier rows.", mending)
    if not broken and not unchecked:
        yield ok("all of them, and all constraints, are valid")


def vacuum(_: Settings, connection: Connection) -> Iterator[Finding]:
    is_on = connection.execute(text("SELECT current_setting('autovacuum') = 'on'")).scalar_one()
    # Autovacuum runs at 50 dead rows and a fifth of the table or less, so it has not run where these conditions hold.
    in_disorder = text("""
        SELECT relname, n_dead_tup, n_live_tup FROM pg_stat_user_tables
        WHERE schemaname = current_schema() AND relname = ANY(:tables)
          AND (n_dead_tup > 10000 + n_live_tup / 2
               OR n_live_tup + n_dead_tup > 100000 AND coalesce(last_vacuum, last_autovacuum) IS NULL)
        ORDER BY n_dead_tup DESC
    """)
    untidy = connection.execute(in_disorder, _OUR_TABLES).all()
    if not is_on:
        mending = "Set autovacuum = on in postgresql.conf or with ALTER SYSTEM, and run `SELECT pg_reload_conf()`."
        yield warning("autovacuum is off: tables grow, and everything gets slower.", mending)
    for table, dead, live in untidy:
        mending = f"Run `VACUUM (ANALYZE) {table}`, and look in pg_stat_activity for a transaction that is long open."
        yield warning(f"{table} has {dead} dead rows beside {live} living ones, or was never vacuumed.", mending)
    if is_on and not untidy:
        yield ok("tables are tidy")


CHECKS: list[DatabaseCheck] = [
    *(database, encoding, *connecting.CHECKS, durability),
    *(connections, clock, role, schema, indexes, vacuum),
]
