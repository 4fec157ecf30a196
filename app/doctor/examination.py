"""Running the checks: each by itself, none for longer than its time, and one that fails is a finding too."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.db.embedded import EmbeddedPostgresError
from app.db.engine import create_command_engine, provided_database
from app.doctor import database, installation, operation
from app.doctor.findings import DatabaseCheck, Finding, Level, SettingsCheck, problem

#: A check's name is its function's.
SETTINGS_CHECKS: list[SettingsCheck] = [
    installation.profile,
    installation.webhook_secret,
    installation.callbacks,
    installation.public_url,
    installation.routes,
    installation.log_format,
    installation.api_reference,
    installation.disk,
]
#: In this order: each rests on what those before it have found.
DATABASE_CHECKS: list[DatabaseCheck] = [
    database.database,
    database.encoding,
    database.durability,
    database.connections,
    database.clock,
    database.role,
    database.schema,
    database.indexes,
    database.vacuum,
    operation.keys,
    operation.providers,
    operation.queue,
    operation.outcomes,
    operation.receipts,
    operation.calls,
]

_STATEMENT_SECONDS = 4  # what the server gives up after
_CHECK_SECONDS = 12.0  # what we do, if it says nothing at all; libpq tries to connect for 10


@dataclass(slots=True)
class Report:
    """Findings with the names of their checks, in order; `left_out` are the checks that could not be made."""

    findings: list[tuple[str, Finding]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def count(self, level: Level) -> int:
        return sum(finding.level is level for _, finding in self.findings)


def examine(settings: Settings, *, online: bool = False) -> Report:
    """Make every check; with `online` also the one that fetches PUBLIC_URL. Raises nothing that a check raises."""
    report = Report()
    for check in [*SETTINGS_CHECKS, *([installation.online] if online else [])]:
        report.findings += _findings(name_of(check), partial(_made, check, settings))
    try:
        with provided_database(settings) as url:
            engine = create_command_engine(url)
            _ask(engine, settings, report)
            engine.dispose()
    except (EmbeddedPostgresError, OSError) as error:
        mending = "Correct that, let DATA_DIR be a place that can be written, or set DATABASE_URL."
        report.findings.append(("database", problem(f"The embedded PostgreSQL can't be used: {error}", mending)))
        report.left_out = [name_of(check) for check in DATABASE_CHECKS[1:]]
    return report


def _ask(engine: Engine, settings: Settings, report: Report) -> None:
    for position, check in enumerate(DATABASE_CHECKS):
        found = _findings(name_of(check), partial(_asked, engine, check, settings))
        report.findings += found
        if any(finding.hides_the_rest for _, finding in found):
            report.left_out = [name_of(left) for left in DATABASE_CHECKS[position + 1 :]]
            return


def name_of(check: SettingsCheck | DatabaseCheck) -> str:
    return check.__name__.replace("_", " ")


def _made(check: SettingsCheck, settings: Settings) -> list[Finding]:
    return list(check(settings))


def _asked(engine: Engine, check: DatabaseCheck, settings: Settings) -> list[Finding]:
    with _reading(engine) as connection:
        return list(check(settings, connection))


@contextmanager
def _reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that can write nothing and waits for nobody for long."""
    with engine.connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        limit = {"limit": f"{_STATEMENT_SECONDS}s"}
        for name in ("statement_timeout", "lock_timeout"):
            connection.execute(text(f"SELECT set_config('{name}', :limit, true)"), limit)
        yield connection


def _findings(name: str, check: Callable[[], list[Finding]]) -> list[tuple[str, Finding]]:
    try:
        found = _within(_CHECK_SECONDS, check)
    except TimeoutError:
        found = [
            problem(
                f"No answer within {_CHECK_SECONDS:g} seconds.",
                "See whether PostgreSQL's machine is overloaded or frozen, or something on the way drops packets.",
                hides_the_rest=True,
            )
        ]
    except DBAPIError as error:
        found = [_database_trouble(error)]
    except Exception as error:  # the other checks still have something to say
        found = [
            problem(
                f"The check itself failed: {type(error).__name__}.",
                "Mend what else is found and try again; if it stays, it is a mistake of this version.",
            )
        ]
    return [(name, finding) for finding in found]


#: By SQLSTATE; the texts of these errors name tables, columns and roles, and never hold what was stored.
_MENDINGS = {
    "42501": "Grant the role of DATABASE_URL what it needs: SELECT, INSERT, UPDATE, DELETE on all tables.",
    "42P01": "Mend the schema first.",
    "42703": "Mend the schema first.",
    "57014": "The database is slow or has very much to count: try again when it is less busy.",
    "55P03": "Somebody holds a lock on the table for long: look in pg_stat_activity for who that is.",
}


def _database_trouble(error: DBAPIError) -> Finding:
    code: str | None = getattr(error.orig, "pgcode", None)
    if code is None or error.connection_invalidated:
        reason = " ".join(str(error.orig).split())
        return problem(
            f"The database can't be reached: {reason}",
            "See that PostgreSQL runs, that this machine may reach it, and that DATABASE_URL is right.",
            hides_the_rest=True,
        )
    said = error.orig.diag.message_primary if code in _MENDINGS and error.orig is not None else f"SQLSTATE {code}"  # type: ignore[attr-defined]
    return problem(f"The check could not be made: {said}.", _MENDINGS.get(code, "PostgreSQL's log says more."))


def _within(seconds: float, check: Callable[[], list[Finding]]) -> list[Finding]:
    """What the check finds or raises; `TimeoutError` after so long, and then it is left behind.

    Only a thread can be left behind: a server that is frozen keeps libpq waiting, whatever its own limits are.
    """
    outcome: Future[list[Finding]] = Future()

    def work() -> None:
        try:
            outcome.set_result(check())
        except Exception as error:  # it is raised where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome.result(timeout=seconds)
