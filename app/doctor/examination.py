"""Runs the checks, each within a time limit. A check that fails is a finding too."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.db.connectivity.outage import sqlstate_of
from app.db.embedded import EmbeddedPostgresError
from app.db.engine import create_command_engine, provided_database
from app.doctor import consent, database, event_log, installation, nodes, operation, snapshots
from app.doctor.findings import DatabaseCheck, Finding, Found, Level, LocalCheck, problem

SETTINGS_CHECKS = installation.CHECKS
#: In this order, because each relies on those before it.
DATABASE_CHECKS = [
    *database.CHECKS[:2],
    *nodes.CHECKS,
    *database.CHECKS[2:],
    *operation.CHECKS,
    *event_log.CHECKS,
    *snapshots.CHECKS,
    *consent.CHECKS,
]

_STATEMENT_SECONDS = 4  # the timeout at the server
_CHECK_SECONDS = 12.0  # ours, for a server that is silent; libpq tries to connect for 10


@dataclass(slots=True)
class Report:
    """Findings in order, each with the name of its check; `left_out` names the checks that were skipped."""

    findings: list[tuple[str, Finding]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, check: LocalCheck | DatabaseCheck, found: list[Finding]) -> None:
        self.findings += [(name_of(check), finding) for finding in found]

    def count(self, level: Level) -> int:
        return sum(finding.level is level for _, finding in self.findings)


def examine(settings: Settings, *, online: bool = False) -> Report:
    """Run every check, with `online` also the one that fetches PUBLIC_URL. Errors of checks become findings."""
    report = Report()
    for check in [*SETTINGS_CHECKS, *([installation.online] if online else [])]:
        report.add(check, _within_limits(partial(check, settings)))
    try:
        with provided_database(settings) as url:
            engine = create_command_engine(url)
            for position, of_database in enumerate(DATABASE_CHECKS):
                found = _within_limits(partial(_read_only, engine, of_database, settings))
                report.add(of_database, found)
                if any(finding.hides_the_rest for finding in found):
                    report.left_out = [name_of(left) for left in DATABASE_CHECKS[position + 1 :]]
                    break
            engine.dispose()
    except (EmbeddedPostgresError, OSError) as error:
        mending = "Correct that, let DATA_DIR be a place that can be written, or set DATABASE_URL."
        report.add(database.database, [problem(f"The embedded PostgreSQL can't be used: {error}", mending)])
        report.left_out = [name_of(check) for check in DATABASE_CHECKS[1:]]
    return report


def name_of(check: LocalCheck | DatabaseCheck) -> str:
    return check.__name__.replace("_", " ")


def _read_only(engine: Engine, check: DatabaseCheck, settings: Settings) -> list[Finding]:
    with engine.connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        for name in ("statement_timeout", "lock_timeout"):
            connection.execute(text(f"SET LOCAL {name} = '{_STATEMENT_SECONDS}s'"))
        return listed(check(settings, connection))


def listed(found: Found) -> list[Finding]:
    return [found] if isinstance(found, Finding) else list(found)


def _within_limits(check: Callable[[], Found]) -> list[Finding]:
    """Run a check in a thread, which can be abandoned: a frozen server blocks libpq despite all its timeouts."""
    outcome: Future[list[Finding]] = Future()

    def work() -> None:
        try:
            outcome.set_result(listed(check()))
        except Exception as error:  # raised again by `result`
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(timeout=_CHECK_SECONDS)
    except TimeoutError:
        mending = "See whether PostgreSQL's machine is overloaded or frozen, or something on the way drops packets."
        return [problem(f"No answer within {_CHECK_SECONDS:g} seconds.", mending, hides_the_rest=True)]
    except DBAPIError as error:
        return [_database_trouble(error)]
    except Exception as error:  # the other checks still have something to say
        mending = "Mend the other findings and try again; if this one stays, it is a bug in this version."
        return [problem(f"The check itself failed: {type(error).__name__}.", mending)]


#: By SQLSTATE. The texts of these errors name tables, columns and roles, but contain no stored data.
_MENDINGS = {
    "42501": "Grant the role of DATABASE_URL what it needs: SELECT, INSERT, UPDATE, DELETE on all tables.",
    "42P01": "Mend the schema first.",
    "42703": "Mend the schema first.",
    "57014": "The database is slow or has very much to count: try again when it is less busy.",
    "55P03": "Another session holds a lock on the table: look for it in pg_stat_activity.",
}


def _database_trouble(error: DBAPIError) -> Finding:
    code = sqlstate_of(error)
    if code is None or error.connection_invalidated:
        reason = " ".join(str(error.orig).split())
        mending = "See that PostgreSQL runs, that this machine may reach it, and that DATABASE_URL is right."
        return problem(f"The database can't be reached: {reason}", mending, hides_the_rest=True)
    said = error.orig.diag.message_primary if code in _MENDINGS and error.orig is not None else f"SQLSTATE {code}"  # type: ignore[attr-defined]
    return problem(f"The check could not be made: {said}.", _MENDINGS.get(code, "PostgreSQL's log says more."))
