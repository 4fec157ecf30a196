"""The data directory of an embedded PostgreSQL and its server: initialise, start, recognise, stop."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import psycopg2
import structlog

from app.db.embedded.programs import EmbeddedPostgresError, Programs

log = structlog.get_logger(__name__)

HOST, USER, DATABASE = "127.0.0.1", "app", "messaging_service"
START_SECONDS = 60
#: The children of a killed server hold its shared memory for a moment. Until they end, a start is refused.
SETTLE_SECONDS = 15
SETTLING = ('lock file "postmaster.pid" already exists', "pre-existing shared memory block")
PORT_TAKEN = "could not create any TCP/IP sockets"
#: Unicode order that is the same on every system, and no login without the password.
INITDB = "--auth=scram-sha-256 --encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
#: Spelled out, so that no PG* variable of the environment redirects a login.
LOGIN = (
    f"host={HOST} hostaddr={HOST} user={USER} dbname=postgres connect_timeout=3 options='' "
    "sslmode=disable gssencmode=disable require_auth=scram-sha-256"
)
#: Above every system's largest process number.
NO_PROCESS = 2**31 - 1
PRIVATE = functools.partial(os.open, mode=0o600)


@dataclass(frozen=True)
class _Connection:
    """The content of conn.json."""

    password: str
    port: int
    major: int

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{DATABASE}?sslmode=disable"


class Cluster:
    """The data directory and its server. The caller holds the lock."""

    def __init__(self, directory: Path, programs: Programs, options: Mapping[str, str]) -> None:
        self._directory = directory
        self._files = directory / "data"
        self._pid_file = self._files / "postmaster.pid"
        self._record = directory / "conn.json"
        self._log = directory / "server.log"
        self._programs = programs
        self._options = options
        self._refusal = ""
        self._log_seen = 0

    def is_running(self) -> bool:
        """Tell if the server lives, without waiting for it: a frozen one lives too.

        The pid file names the process; its number may be another's by now. A server that can't be seen from here can
        still be logged in to.
        """
        pid = self._pid_on_file()
        with contextlib.suppress(psutil.Error):
            server = psutil.Process(pid) if pid else None
            if server and server.name().startswith("postgres") and server.status() != psutil.STATUS_ZOMBIE:
                return True
        return self._files.exists() and self._lets_us_in(self._load())

    def ensure_running_again(self, users_elsewhere: list[str]) -> None:
        """Start a server that has died, for users that know its URL: on the same port and with the same files."""
        if not self._files.exists():
            raise EmbeddedPostgresError(f"{self._files} is gone: start the service again to begin with an empty one.")
        self.ensure_running(users_elsewhere, may_move=False)

    def ensure_running(self, users_elsewhere: list[str], *, may_move: bool = True) -> str:
        """Start the server if it does not run, and return its URL. Only a login proves that it runs.

        A server in another container can't be reached or seen, and a second one on the same files would destroy them.
        So none is started while the directory has users elsewhere. It moves to another port where its own is taken.
        """
        connection = self._load() if self._files.exists() else self._initialise()
        began, event = time.monotonic(), "postgres_adopted"
        while not self._lets_us_in(connection):
            waited, postmaster = time.monotonic() - began, self._postmaster()
            if waited > START_SECONDS or (postmaster and "password authentication failed" in self._refusal):
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self._files} refuses our login ({self._refusal}); if that is for the password, "
                    f"restore {self._record} from a backup. {self._last_words()}"
                )
            if postmaster is None and users_elsewhere:
                raise EmbeddedPostgresError(
                    f"{self._directory} is in use on another machine or in another container ({users_elsewhere[0]}): "
                    "stop the service there, or set DATABASE_URL to a server that both can reach."
                )
            if postmaster is None:
                settling = waited < SETTLE_SECONDS
                connection, event = self._launch(connection, settling, may_move), "postgres_started"
            else:
                time.sleep(0.1)
        log.info(event, directory=str(self._directory), port=connection.port)
        return connection.url

    def shut_down(self) -> None:
        """Stop the server if it runs. Only a process that is known to be ours is signalled."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        if postmaster.pid != self._pid_on_file():  # pg_ctl would signal another process; such a server ends by itself
            log.warning("postgres_pid_file_is_wrong", directory=str(self._directory), pid=postmaster.pid)
            return
        self._run("pg_ctl", self._files, "stop", "--silent", "--mode=fast", f"--timeout={START_SECONDS}")
        log.info("postgres_stopped", directory=str(self._directory))

    def _initialise(self) -> _Connection:
        """Create the cluster. It is renamed to `data` once it is complete and its password is on disk."""
        log.info("postgres_initialising", directory=str(self._directory))
        connection = _Connection(secrets.token_urlsafe(24), _free_port(), self._programs.major)
        unfinished, password = self._directory / "data.tmp", self._directory / "password.tmp"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        try:
            _write_private(password, connection.password)
            self._programs.own(unfinished)
            self._programs.own(password)
            self._run("initdb", unfinished, f"--username={USER}", f"--pwfile={password}", *INITDB.split())
        finally:
            password.unlink(missing_ok=True)
        self._save(connection)
        unfinished.rename(self._files)
        _sync(self._directory)
        return connection

    def _load(self) -> _Connection:
        try:
            connection = _Connection(**json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise EmbeddedPostgresError(
                f"{self._record}, the password of {self._files}, is missing or damaged: bring it back from a "
                f"backup, or move {self._directory} away to begin with an empty database."
            ) from error
        old, new = connection.major, self._programs.major
        if old != new:
            raise EmbeddedPostgresError(
                f"{self._files} is from PostgreSQL {old}, and PostgreSQL {new} cannot read it. Start with "
                f"PG_BINDIR set to the programs of PostgreSQL {old}, and save what it holds: `pg_dump -Fc "
                f"-h {HOST} -p <port> -U {USER} -f saved.dump {DATABASE}`, with what {self._record} says. "
                f"Stop, move {self._directory} away, start with PostgreSQL {new}, and bring it back: "
                f"`pg_restore --clean --if-exists -h {HOST} -p <port> -U {USER} -d {DATABASE} saved.dump`."
            )
        return connection

    def _save(self, connection: _Connection) -> None:
        unfinished = self._record.with_suffix(".tmp")
        _write_private(unfinished, json.dumps(asdict(connection)))
        unfinished.replace(self._record)
        _sync(self._directory)

    def _lets_us_in(self, connection: _Connection) -> bool:
        """Log in, and create our database if it is missing.

        SCRAM proves that the server knows the password. The server of a directory that this one was copied from
        knows it too, so the server also has to name this directory.
        """
        try:
            session = psycopg2.connect(LOGIN, port=connection.port, password=connection.password)
            with contextlib.closing(session), session.cursor() as cursor:
                session.autocommit = True
                cursor.execute("SELECT current_setting('data_directory'), array_agg(datname::text) FROM pg_database")
                directory, databases = cursor.fetchone() or ("", [])
                if not _same(directory, self._files):
                    self._refusal = f"port {connection.port} serves {directory}"
                    return False
                if DATABASE not in databases:
                    cursor.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg2.OperationalError as error:
            self._refusal = str(error).strip()
            return False
        return True

    def _postmaster(self) -> psutil.Process | None:
        """The first process of our server, recognised by its program and its data directory."""
        parents: dict[psutil.Process, int] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("postgres") and Path(process.exe()).stem == "postgres":
                    words = process.cmdline()
                    if "-D" in words[:-1] and _same(words[words.index("-D") + 1], self._files):
                        parents[process] = process.ppid()
        ours = {process.pid for process in parents}  # until a new child renames itself, it looks like its parent
        return next((process for process, parent in parents.items() if parent not in ours), None)

    def _pid_on_file(self) -> int | None:
        """The process that the pid file names; 0 if it names none, None if there is no file."""
        try:
            return int(self._pid_file.read_text().splitlines()[0])
        except FileNotFoundError:
            return None
        except (ValueError, IndexError):
            return 0

    def _launch(self, connection: _Connection, settling: bool, may_move: bool) -> _Connection:
        """Try to start the server, and return how to reach it: a busy port may be replaced for the next try.

        A pid file that names no process would prevent the start and is removed. So would one that names another
        process, or a dead one that was not reaped: it gets the pid of no process. The rest stays, for through it
        PostgreSQL finds the shared memory that the dead server's children may still use.
        """
        pid = self._pid_on_file()
        if pid == 0:
            log.warning("postgres_stale_pid_file_removed", directory=str(self._directory))
            self._pid_file.unlink()
        elif pid is not None and psutil.pid_exists(pid):
            log.warning("postgres_stale_pid_replaced", directory=str(self._directory), pid=pid)
            _, _, rest = self._pid_file.read_text().partition("\n")
            self._pid_file.write_text(f"{NO_PROCESS}\n{rest}")
        self._programs.own(self._files)
        settings = {"max_connections": "100", "timezone": "UTC", "log_timezone": "UTC", **self._options}
        settings |= {"listen_addresses": HOST, "port": str(connection.port), "unix_socket_directories": ""}
        settings |= {"log_error_verbosity": "terse"}  # details quote rows, which erasure does not reach in the log
        if sys.platform == "linux":
            # Recovery syncs all files first. One call for all of them takes less than half of the time.
            settings["recovery_init_sync_method"] = "syncfs"
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        quoted = subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
        try:
            self._run("pg_ctl", self._files, "start", "--silent", f"--timeout={START_SECONDS}", "-o", quoted)
        except EmbeddedPostgresError as error:
            if PORT_TAKEN in str(error) and may_move:
                connection = replace(connection, port=_free_port())
                self._save(connection)
            elif settling and any(sign in str(error) for sign in SETTLING):
                time.sleep(0.2)
            else:
                raise
        return connection

    def _run(self, program: str, directory: Path, *words: str) -> None:
        """Run a program on `directory`. If it fails, raise its error message and the server's."""
        with open(self._log, "ab", opener=PRIVATE) as output:
            self._log_seen = output.tell()
            done = self._programs.run(program, "-D", str(directory), *words, cwd=self._directory, output=output)
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"{program} failed. {self._last_words()}")

    def _last_words(self) -> str:
        with open(self._log, "a+b", opener=PRIVATE) as said:
            said.seek(self._log_seen)
            lines = said.read().decode(errors="replace").splitlines()[-20:]
        return "\n".join([f"{self._log} ends with:", *lines])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _same(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _write_private(path: Path, text: str) -> None:
    with open(path, "w", opener=PRIVATE) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut; Windows has no way to do so."""
    if sys.platform != "win32":
        handle = os.open(directory, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
