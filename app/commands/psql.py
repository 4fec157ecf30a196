"""`python -m app psql`: opens the database that is served, embedded or not, in PostgreSQL's own client."""

import argparse
import os
import shutil
import signal
import subprocess

from psycopg2.extensions import make_dsn, parse_dsn

from app.commands import say
from app.config import Settings
from app.db.embedded.programs import EXE, wheel_programs
from app.db.engine import provided_database
from app.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", action="store_true", help="print the URL, for another client, and open nothing")
    parser.epilog = "Further arguments go to psql: psql -c 'select 1'"


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Return the exit code of psql. An embedded server that is not running is started for that time."""
    program = None if chosen.url else _psql(settings)
    with provided_database(settings) as url:
        if program is None:
            say(url)
            return 0
        # Other users of this machine can read arguments, but not the environment.
        parameters = parse_dsn(url)
        password = {"PGPASSWORD": word} if (word := parameters.pop("password", None)) else {}
        previous = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C cancels a statement, and psql stays
        try:
            command = [program, "--dbname", make_dsn(**parameters), *chosen.further]
            return subprocess.run(command, env=os.environ | password, check=False).returncode  # noqa: S603 - no shell
        finally:
            signal.signal(signal.SIGINT, previous)


def _psql(settings: Settings) -> str:
    """The psql beside the embedded server's programs, or else the one on PATH."""
    beside = settings.pg_bindir or wheel_programs()
    if beside is not None and (beside / f"psql{EXE}").exists():
        return str(beside / f"psql{EXE}")
    if (found := shutil.which("psql")) is None:
        raise ConfigurationError(
            "There is no psql on this machine. Install the client of PostgreSQL (Debian: apt install "
            "postgresql-client; macOS: brew install libpq), or give another client the URL that `psql --url` prints."
        )
    return found
