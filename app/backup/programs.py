"""PostgreSQL's programs for dumps: found in the version of the server, and run on a database."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from app.config import Settings
from app.db.embedded.programs import EXE, wheel_programs
from app.db.schema.distribution import COPYING
from app.errors import ConfigurationError

#: Where packages of Debian and of Red Hat have the programs of each version.
_PACKAGED = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")
_VERSION = re.compile(r"\(PostgreSQL\) ([0-9]+)")


def program_of(name: str, settings: Settings, major: int) -> Path:
    """The program `name` in the server's major version.

    Dumps that a newer program writes or restores may hold settings that an older server refuses. Raises
    `ConfigurationError` if there is none of that version.
    """
    found = {}
    for program in _candidates(name, settings, major):
        version = _major_of(program)
        if version == major:
            return program
        if version is not None:
            found[str(program)] = version
    others = ", ".join(f"{path} is of version {version}" for path, version in found.items()) or "none was found"
    raise ConfigurationError(
        f"The server is PostgreSQL {major}, and {name} has to be of the same version, but {others}. Install that "
        f"client (Debian: apt install postgresql-client-{major}), or set PG_BINDIR to its directory."
    )


def run_on(url: str, program: Path, *words: str) -> None:
    """Run a program on a database; its messages go to the terminal. Raises `ConfigurationError` if it fails."""
    # Other users of this machine can read arguments, but not the environment.
    parameters = parse_dsn(url)
    password = {"PGPASSWORD": word} if (word := parameters.pop("password", None)) else {}
    options = {"PGOPTIONS": " ".join(f"-c {setting}" for setting in COPYING)}
    command = [str(program), *words, "--dbname", make_dsn(**parameters)]
    if subprocess.run(command, env=os.environ | options | password, check=False).returncode != 0:  # noqa: S603 - no shell
        raise ConfigurationError(f"{program.name} has failed; what it says stands above.")


def output_of(program: Path, *words: str) -> str:
    """The output of a program that needs no database. Raises `ConfigurationError` if it fails."""
    done = subprocess.run([str(program), *words], capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode != 0:
        raise ConfigurationError(f"{program.name} has failed: {done.stderr.strip()}")
    return done.stdout


def _candidates(name: str, settings: Settings, major: int) -> Iterator[Path]:
    directories = [settings.pg_bindir, wheel_programs(), *(Path(each.format(major=major)) for each in _PACKAGED)]
    for directory in directories:
        if directory is not None and (program := directory / f"{name}{EXE}").exists():
            yield program
    if on_path := shutil.which(name):
        yield Path(on_path)


def _major_of(program: Path) -> int | None:
    try:
        said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return None
    version = _VERSION.search(said.stdout)
    return int(version[1]) if version else None
