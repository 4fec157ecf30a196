"""Times as vendors write them, as the database can keep them."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def _in_utc(time: datetime) -> datetime:
    if not _EARLIEST <= time < _LATEST:
        raise ValueError("this is not a time of our age")
    return time.astimezone(UTC)


#: A time with its offset, in UTC. PostgreSQL keeps years that Python has not, and the other way round.
UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]
