"""Tells in the log of a database that is away: the first error in full, the later ones as a count."""

import re
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

#: Every request and every batch meets the same error, and one line says it all.
_LINE_SECONDS = 60.0
_LONGEST_REASON = 300
_INTERNAL = "XX000"
_VIOLATION = re.compile(r" violates (not-null|foreign key|unique|check) constraint")
_SQLSTATES = {"not-null": "23502", "foreign key": "23503", "unique": "23505", "check": "23514"}


class Outage:
    """The times when the database was away, as this process has met them.

    Everything that meets one of the errors of `db.engine.is_unavailable` notes it here. There is at most one line
    a minute, also for a database that comes and goes, and one when it is back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._logged_at: float | None = None
        self._is_told = False
        self._count = 0
        self._unlogged = 0

    def note(self, error: BaseException, **facts: object) -> None:
        """Count an error. `facts` tell in the line where it was met."""
        now = self._clock()
        if self._began is None:
            self._began, self._count = now, 0
        self._count += 1
        self._unlogged += 1
        if self._logged_at is None or now - self._logged_at >= _LINE_SECONDS:
            described = {"error": type(error).__name__, "sqlstate": sqlstate_of(error), "reason": _reason(error)}
            log.warning("database_unavailable", count=self._unlogged, **described, **facts)
            self._logged_at, self._unlogged, self._is_told = now, 0, True

    def end(self) -> None:
        """Say that the database has answered. Costs nothing while it is not away."""
        if self._began is None:
            return
        if self._is_told:
            seconds = round(self._clock() - self._began, 1)
            log.warning("database_available", seconds=seconds, count=self._count)
        self._began, self._is_told = None, False


#: The one of this process.
outage = Outage()


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of an error of a driver, also of one behind SQLAlchemy's; None for any other.

    A distributed database reports the violation of a constraint on another node as an error of its own (XX000).
    """
    cause = _cause(error)
    sqlstate: str | None = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if sqlstate == _INTERNAL and (violation := _VIOLATION.search(_reason(error))):
        return _SQLSTATES[violation[1]]
    return sqlstate


def _cause(error: BaseException) -> BaseException:
    """The driver's error, behind that of SQLAlchemy."""
    cause: BaseException | None = getattr(error, "orig", None)
    return error if cause is None else cause


def _reason(error: BaseException) -> str:
    """The first line of the error; further ones, such as DETAIL, quote rows."""
    said = str(_cause(error)).strip().partition("\n")[0]
    return said[:_LONGEST_REASON] or "no answer in time"
