"""The commands of `python -m app`, a file each: `run(settings, chosen)`, and perhaps `add_arguments(parser)`."""

import argparse
import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from app.config import Settings
from app.db.obstacles import obstacle
from app.errors import ServiceError
from app.log import configure_logging
from app.secret_files import SecretFileError

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)

#: What these commands change is audited under this name.
ACTOR = "command line"
#: Commands that tell of the embedded server. It is only a means to the others, and would be noise in their output.
_LONG_RUNNING = {"serve", "worker"}
_MOST_FILES = 65_536
_THIS_MACHINE = {"127.0.0.1", "::1", "localhost"}


def run(chosen: argparse.Namespace) -> int:
    """Run the chosen command with the settings of the environment; 2 if they, or the database, do not allow it."""
    try:
        settings = Settings()
        configure_logging(settings)
        quietest = logging.NOTSET if chosen.command in _LONG_RUNNING else logging.WARNING
        logging.getLogger("app.db.embedded").setLevel(quietest)
        return int(chosen.run(settings, chosen))
    except BrokenPipeError:  # of a program that has read enough, such as `head`; Python would write to it at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if reason := obstacle(error):
            log.error("cannot_start", reason=reason)
        elif not (sentences := refusals(error)):
            raise
        else:
            refuse(*sentences)
    return 2


def refusals(error: Exception) -> list[str]:
    """The sentences for an error of the settings, or for one that the command made; none for a bug.

    They are printed, since there is no log before the settings are read. None of them shows a value.
    """
    if isinstance(error, ServiceError | SecretFileError):
        return [str(error)]
    if isinstance(error, ValidationError):
        prefix = _prefix_of(error.title)
        return [
            "".join(f"{prefix}{part}: ".upper() for part in problem["loc"][:1])
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_url=False, include_input=False)
        ]
    if isinstance(error, SettingsError):
        field = re.search(r'field "(\w+)"', str(error))
        name = f"A setting whose name ends in {field[1].upper()}" if field else "A setting"
        return [f"{name} can't be read: it has to be JSON, as in .env.example."]
    if isinstance(error, UnicodeDecodeError):
        return ["The file .env can't be read: save it as UTF-8."]
    return []


def _prefix_of(settings: str) -> str:
    """The beginning of the names of the variables that a class of settings reads."""
    kinds: list[type[BaseSettings]] = [BaseSettings]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((str(kind.model_config.get("env_prefix", "")) for kind in kinds if kind.__name__ == settings), "")


def say(*lines: str) -> None:
    """Print lines at once. Content from outside must not send control sequences to the terminal."""
    for line in lines:
        shown = "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in line)
        print(shown.rstrip(), file=sys.stdout, flush=True)  # noqa: T201 - the output of the command


def refuse(*sentences: str) -> int:
    """Print the reasons for not doing it; returns the exit code of the command."""
    remark(*sentences)
    return 2


def remark(*sentences: str) -> None:
    """Print what is not part of the output, and must not get into a file or another program with it."""
    for sentence in sentences:
        print(sentence, file=sys.stderr)  # noqa: T201 - for the person at the terminal


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
            name = setting.replace("WORKER", "METRICS").replace("PORT=…", "HOST")
            reason = f"{host} is no address of this machine ({error.strerror}): set {name} to one that is."
        listener.close()
        log.error("cannot_start", reason=reason)
        raise SystemExit(1) from None
    listener.set_inheritable(True)
    return listener


def bound_internally(settings: Settings, port: int, setting: str) -> socket.socket:
    """A socket for figures and health, at METRICS_HOST."""
    listener = bound(settings.metrics_host, port, setting)
    if settings.metrics_host in _THIS_MACHINE:
        log.info("internal_port", port=port)
    else:
        log.warning("internal_port_is_public", host=settings.metrics_host, port=port, reason="it asks for no key")
    return listener


def allow_open_files() -> None:
    """Let this process and its children open as many files as they may: each connection is one.

    Many systems allow 1,024 unless a program asks for more, which is less than `MAX_EVENT_READERS`.
    """
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def leave_no_core() -> None:
    """Turn off core dumps for this process and its children: memory holds keys and the text of messages."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
