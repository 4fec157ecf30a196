"""The commands of `python -m app`, a file each: `run(settings, chosen)`, and perhaps `add_arguments(parser)`."""

import argparse
import errno
import logging
import socket
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, ProgrammingError

from app.config import Settings
from app.db.embedded import EmbeddedPostgresError
from app.errors import ConfigurationError, ServiceError
from app.log import configure_logging

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)

#: What these commands change is audited under this name.
ACTOR = "command line"
#: Commands that tell of the embedded server. It is only a means to the others, and would be noise in their output.
_LONG_RUNNING = {"serve", "worker"}


def run(chosen: argparse.Namespace) -> int:
    """Run the chosen command with the settings of the environment; 2 if they, or the database, do not allow it."""
    try:
        settings = Settings()
        configure_logging(settings)
        quietest = logging.NOTSET if chosen.command in _LONG_RUNNING else logging.WARNING
        logging.getLogger("app.db.embedded").setLevel(quietest)
        return int(chosen.run(settings, chosen))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = "".join(f"{part}: ".upper() for part in problem["loc"][:1])
            refuse(name + problem["msg"].removeprefix("Value error, "))  # there is no log yet
    except ServiceError as error:
        refuse(str(error))
    except (ConfigurationError, EmbeddedPostgresError) as error:
        log.error("cannot_start", reason=str(error))
    except OperationalError as error:
        log.error("cannot_start", reason=f"PostgreSQL can't be reached: {error.orig}".strip())
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != "42501":  # insufficient privilege
            raise
        said = str(error.orig).partition("\n")[0]
        migrating = "To migrate it has to own the tables and have CREATE on the schema"
        needed = f"{migrating}; to serve it needs SELECT, INSERT, UPDATE and DELETE on every table."
        log.error("cannot_start", reason=f"The user in DATABASE_URL lacks a right ({said}). {needed}")
    return 2


def say(*lines: str) -> None:
    """Print lines at once. Content from outside must not send control sequences to the terminal."""
    for line in lines:
        shown = "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in line)
        print(shown.rstrip(), file=sys.stdout, flush=True)  # noqa: T201 - the output of the command


def refuse(*sentences: str) -> int:
    """Print the reasons for not doing it; returns the exit code of the command."""
    for sentence in sentences:
        print(sentence, file=sys.stderr)  # noqa: T201 - the answer to the command
    return 2


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table whose columns are as wide as their widest cell. None shows as an empty cell."""
    cells = [list(headings), *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def moment(written: str) -> datetime:
    """A date or time of the command line; UTC unless it says otherwise."""
    given = datetime.fromisoformat(written)
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def bound(host: str, port: int, setting: str) -> socket.socket:
    """A socket at `host` and `port`, which does not listen yet. Where there can be none, the command ends with 1."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if sys.platform != "win32":  # there it would let two programs share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"Port {port} is used by another program: stop that one, or choose another with {setting}."
        elif error.errno == errno.EACCES:
            reason = f"Port {port} needs the rights of an administrator: choose one above 1023 with {setting}."
        else:
            reason = f"{host} is no address of this machine ({error.strerror}): set HOST to one that is."
        listener.close()
        log.error("cannot_start", reason=reason)
        raise SystemExit(1) from None
    listener.set_inheritable(True)
    return listener


def leave_no_core() -> None:
    """Turn off core dumps for this process and its children: memory holds keys and the text of messages."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
