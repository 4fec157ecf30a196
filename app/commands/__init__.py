"""The commands of `python -m app`, a file each: `add_arguments(parser)` and `run(settings, chosen)`."""

import argparse
import sys
from collections.abc import Iterable, Sequence

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, ProgrammingError

from app.config import Settings
from app.db.embedded import EmbeddedPostgresError
from app.errors import ConfigurationError
from app.log import configure_logging

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)

_INSUFFICIENT_PRIVILEGE = "42501"


def run(chosen: argparse.Namespace) -> int:
    """Run the chosen command with the settings of the environment; 2 if they, or the database, do not allow it."""
    try:
        settings = Settings()
        configure_logging(settings)
        code: int = chosen.run(settings, chosen)
        return code
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = "".join(f"{part}: ".upper() for part in problem["loc"][:1])
            print(name + problem["msg"].removeprefix("Value error, "), file=sys.stderr)  # noqa: T201 - no log yet
    except (ConfigurationError, EmbeddedPostgresError) as error:
        log.error("cannot_start", reason=str(error))
    except OperationalError as error:
        log.error("cannot_start", reason=f"PostgreSQL can't be reached: {error.orig}".strip())
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        log.error("cannot_start", reason=_missing_right(str(error.orig)))
    return 2


def _missing_right(said: str) -> str:
    return (
        f"The user in DATABASE_URL lacks a right ({said.partition(chr(10))[0]}). To migrate it has to own the tables "
        "and have CREATE on the schema; to serve it needs SELECT, INSERT, UPDATE and DELETE on every table."
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table whose columns are as wide as their widest cell. None shows as an empty cell."""
    cells = [list(headings), *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def leave_no_core() -> None:
    """Have the system write no memory to disk after a crash of this process or its children: it holds keys and the
    text of messages."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
