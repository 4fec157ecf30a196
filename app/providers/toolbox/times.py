"""Times as vendors write them, as the database can keep them."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def _in_utc(time: datetime) -> datetime:
    if not _EARLIEST <= time < _LATEST:
        raise ValueError("this is not a time of our age")
    return time.astimezone(UTC)


def _if_possible(time: datetime | None) -> datetime | None:
    return time.astimezone(UTC) if time is not None and _EARLIEST <= time < _LATEST else None


def moment_of(seconds: float) -> datetime | None:
    """A Unix time as a time; None where it is none that can be kept."""
    try:
        return _if_possible(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return None


#: A time with its offset, in UTC. PostgreSQL keeps years that Python has not, and the other way round.
UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]
#: The same of an event, which must not be lost over its date: None where it can't be, and then it is when it came in.
EventTime = Annotated[AwareDatetime | None, AfterValidator(_if_possible)]
