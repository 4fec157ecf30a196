"""What a check has to say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection

from app.config import Settings


class Level(StrEnum):
    OK = "ok"  #: as it should be
    WARNING = "warning"  #: works, but look at it
    PROBLEM = "problem"  #: something is lost, refused or open until it is mended


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence on how things are, and one on how to mend them, where there is something to mend.

    `hides_the_rest` where the checks after it would find nothing but this again.
    """

    level: Level
    text: str
    mending: str | None = None
    hides_the_rest: bool = False


SettingsCheck = Callable[[Settings], Iterator[Finding]]
DatabaseCheck = Callable[[Settings, Connection], Iterator[Finding]]


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
    """In the largest unit of which there is at least one: `3 hours`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")
