"""The findings of checks, and the words that they share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection

from app.config import Settings
from app.installation import command_name

#: Runs a command of the service.
APP = command_name()


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  #: works, but needs attention
    PROBLEM = "problem"  #: data is lost, requests are refused, or access is open, until it is mended


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence on the state, and one on how to mend it, if necessary."""

    level: Level
    text: str
    mending: str | None = None
    hides_the_rest: bool = False  #: the checks after it would only find the same cause again


Found = Finding | Iterable[Finding]
LocalCheck = Callable[[Settings], Found]
DatabaseCheck = Callable[[Settings, Connection], Found]


def ok(text: str) -> Finding:
    return Finding(Level.OK, text)


def warning(text: str, mending: str, *, hides_the_rest: bool = False) -> Finding:
    return Finding(Level.WARNING, text, mending, hides_the_rest)


def problem(text: str, mending: str, *, hides_the_rest: bool = False) -> Finding:
    return Finding(Level.PROBLEM, text, mending, hides_the_rest)


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 message`, `2 messages`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """The time in its largest whole unit: `3 hours`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")
