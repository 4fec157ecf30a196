"""The commands of `python -m app`: a file each, named after it, with `add_arguments(parser)` and what it does,
`run(settings, chosen)`."""

import argparse
import sys

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from app.config import Settings
from app.db.embedded import EmbeddedPostgresError
from app.errors import ConfigurationError
from app.log import configure_logging

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)


def run(chosen: argparse.Namespace) -> int:
    """Do what was chosen, with the settings of the environment; 2 where they, or the database, do not allow it."""
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
    return 2


def leave_no_core() -> None:
    """Have the system write no memory to disk when the process crashes, or one that it has started: keys and what
    people have written are in it."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
