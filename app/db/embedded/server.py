"""A PostgreSQL of our own, for machines where DATABASE_URL names none.

It stands apart because nothing else here starts, recognises or stops processes of the operating system: the
rest of the service is handed a URL and cannot tell who runs the server behind it.

One state directory holds everything: `lock` (held while anything is decided), `conn.json` (password, port,
major version), `data/`, `server.log`, and `users/`, where each user of the server locks a file for as long as
it lives. The operating system drops the locks of the dead: who leaves last can tell, the killed do not count.
"""

from __future__ import annotations

import contextlib
import errno
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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import filelock
import psutil
import psycopg2
import structlog

from app.db.embedded.programs import EmbeddedPostgresError, Programs, find_programs
from app.db.process_lock import HERE, ProcessLock, lock

log = structlog.get_logger(__name__)

HOST, USER, DATABASE = "127.0.0.1", "app", "messaging_service"
START_SECONDS = 60
#: A killed server's children hold its shared memory for a moment, and a start is refused until they are gone.
SETTLE_SECONDS = 15
SETTLING = ('lock file "postmaster.pid" already exists', "pre-existing shared memory block")
PORT_TAKEN = "could not create any TCP/IP sockets"
#: Unicode order that is the same on every system, and no way in without the password.
INITDB = "--auth=scram-sha-256 --encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
#: Spelled out, so that no PG* variable of the environment leads a login astray.
LOGIN = (
    f"host={HOST} hostaddr={HOST} user={USER} dbname=postgres connect_timeout=3 options='' "
    "sslmode=disable gssencmode=disable require_auth=scram-sha-256"
)
PRIVATE = functools.partial(os.open, mode=0o600)


class EmbeddedPostgres:
    """One user of the server in `directory`; any number of them, in any number of processes, share it.

    `options` are server settings that count when this user is the one that starts the server; a server found
    running is taken as it is. `bindir` is used in place of the wheel's programs.
    """

    def __init__(
        self, directory: Path, *, bindir: Path | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory.resolve()
        self._bindir = bindir
        self._options = dict(options or {})
        self._cluster: _Cluster | None = None
        self._user: ProcessLock | None = None

    def start(self) -> str:
        """The libpq URL of a running server with our database in it; what is missing is made.

        A second call gives the URL again, and starts a server that has crashed meanwhile, on the same port if
        that is still free. A first start takes a second or two, crash recovery up to a minute.
        """
        try:
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            programs = find_programs(self._bindir, self._directory)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if sys.platform != "win32" and self._directory.stat().st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "not ours", str(self._directory))  # root would take it away
            self._directory.chmod(0o711 if programs.uid else 0o700)  # another user passes through it to data/
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"{error.filename} belongs to another user: run as its owner, or choose another DATA_DIR."
            ) from error
        self._cluster = _Cluster(self._directory, programs, self._options)
        with self._undisturbed():
            url = self._cluster.ensure_running([user for user in self._living() if user.rsplit("-", 2)[0] != HERE])
            self._user = self._user or self._register()
        return url

    def stop(self) -> None:
        """Leave. Who leaves last stops the server in fast mode: open transactions are rolled back.

        Does nothing when not started, or the second time.
        """
        user, self._user = self._user, None
        if self._cluster is None or user is None:
            return
        with self._undisturbed():
            user.leave()
            if not self._living():
                self._cluster.shut_down()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        state, patience = lock(self._directory / "lock"), 2 * START_SECONDS
        try:
            state.acquire(timeout=patience)
        except filelock.Timeout as error:
            raise EmbeddedPostgresError(
                f"Another process has held {state.lock_file} for {patience} seconds: stop it and try again."
            ) from error
        try:
            yield
        finally:
            state.release()

    def _register(self) -> ProcessLock:
        user = self._presence()
        user.enter()
        return user

    def _living(self) -> list[str]:
        """The users that the server has. Removes the files of those that have gone."""
        (self._directory / "users").mkdir(mode=0o700, exist_ok=True)
        presence = self._user or self._presence()
        roll = presence.living_and_dead()
        for name in roll.gone:
            presence.forget_dead(name)
        return roll.living

    def _presence(self) -> ProcessLock:
        return ProcessLock(self._directory / "users")


@dataclass(frozen=True)
class _Connection:
    """What conn.json keeps."""

    password: str
    port: int
    major: int

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{DATABASE}"


class _Cluster:
    """The data directory and its server. Whoever calls it holds the lock."""

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

    def ensure_running(self, users_elsewhere: list[str]) -> str:
        """The URL of the server. It runs when it lets us in; neither a pid file nor a process proves that.

        A server in another container is out of reach and out of sight, and a second one on the same files would
        ruin them. So none is started while the directory has users elsewhere.
        """
        connection = self._load() if self._files.exists() else self._initialise()
        began, event = time.monotonic(), "postgres_adopted"
        while not self._lets_us_in(connection):
            waited, postmaster = time.monotonic() - began, self._postmaster()
            if waited > START_SECONDS or (postmaster and "password authentication failed" in self._refusal):
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self._files} does not let us in ({self._refusal}); if it is for the password, "
                    f"bring {self._record} back from a backup. {self._last_words()}"
                )
            if postmaster is None and users_elsewhere:
                raise EmbeddedPostgresError(
                    f"{self._directory} is in use on another machine or in another container ({users_elsewhere[0]}): "
                    "stop the service there, or set DATABASE_URL to a server that both can reach."
                )
            if postmaster is None:
                connection, event = self._launch(connection, waited < SETTLE_SECONDS), "postgres_started"
            else:
                time.sleep(0.1)
        log.info(event, directory=str(self._directory), port=connection.port)
        return connection.url

    def shut_down(self) -> None:
        """Stop the server, if it runs. No process is signalled but one that is known to be ours."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        if postmaster.pid != self._pid_on_file():  # pg_ctl would signal a stranger; such a server ends by itself
            log.warning("postgres_pid_file_is_wrong", directory=str(self._directory), pid=postmaster.pid)
            return
        self._run("pg_ctl", self._files, "stop", "--silent", "--mode=fast", f"--timeout={START_SECONDS}")
        log.info("postgres_stopped", directory=str(self._directory))

    def _initialise(self) -> _Connection:
        """Make the cluster. It is called `data` only when it is whole and its password is on the disk."""
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
        """Log in, and make our database if it isn't there.

        SCRAM proves that the other side knows the password too. So does the server of a directory that this
        one was copied from; therefore it also has to name this directory.
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
        """The first process of our server, known by its program and the directory it was told to serve."""
        parents: dict[psutil.Process, int] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("postgres") and Path(process.exe()).stem == "postgres":
                    words = process.cmdline()
                    if "-D" in words[:-1] and _same(words[words.index("-D") + 1], self._files):
                        parents[process] = process.ppid()
        ours = {process.pid for process in parents}  # a new child looks like its parent until it renames itself
        return next((process for process, parent in parents.items() if parent not in ours), None)

    def _pid_on_file(self) -> int | None:
        """The process that the pid file names; 0 when it names none, None when there is no file."""
        try:
            return int(self._pid_file.read_text().splitlines()[0])
        except FileNotFoundError:
            return None
        except (ValueError, IndexError):
            return 0

    def _launch(self, connection: _Connection, settling: bool) -> _Connection:
        """Try to start the server, and say how to reach it: if the port was taken, the next try has another.

        A pid file that names a living stranger, or nobody, would forbid the start and goes. One that names a
        dead process stays: it leads PostgreSQL to the shared memory the dead server's children may still use.
        """
        pid = self._pid_on_file()
        if pid is not None and (pid == 0 or psutil.pid_exists(pid)):
            log.warning("postgres_stale_pid_file_removed", directory=str(self._directory), pid=pid)
            self._pid_file.unlink()
        self._programs.own(self._files)
        settings = {"max_connections": "100", "timezone": "UTC", "log_timezone": "UTC", **self._options}
        settings |= {"listen_addresses": HOST, "port": str(connection.port), "unix_socket_directories": ""}
        settings |= {"log_error_verbosity": "terse"}  # details quote rows, which nobody erases from its log
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        quoted = subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
        try:
            self._run("pg_ctl", self._files, "start", "--silent", f"--timeout={START_SECONDS}", "-o", quoted)
        except EmbeddedPostgresError as error:
            if PORT_TAKEN in str(error):
                connection = replace(connection, port=_free_port())
                self._save(connection)
            elif settling and any(sign in str(error) for sign in SETTLING):
                time.sleep(0.2)
            else:
                raise
        return connection

    def _run(self, program: str, directory: Path, *words: str) -> None:
        """Run a program on `directory`; if it fails, raise what it and the server had to say."""
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
    """Make a rename in `directory` survive a power cut; Windows offers no way to."""
    if sys.platform != "win32":
        handle = os.open(directory, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
