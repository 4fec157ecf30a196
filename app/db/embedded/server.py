"""One user of an embedded PostgreSQL, which is started for the first user and stopped after the last.

One state directory holds everything: `lock` (held during decisions), `conn.json` (password, port, major version),
`data/`, `server.log` and `users/`. In `users/` each user locks a file for as long as it lives, so that killed ones do
not count. Nothing else in the service starts, recognises or stops processes of the operating system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import filelock

from app.db.embedded.cluster import START_SECONDS, Cluster
from app.db.embedded.programs import EmbeddedPostgresError, find_programs
from app.db.process_lock import HERE, ProcessLock, lock


class EmbeddedPostgres:
    """One user of the server in `directory`. Any number of users, in any number of processes, share it.

    `options` are server settings for a server that this user starts; a running one keeps its own. `bindir` replaces
    the programs of the wheel.
    """

    def __init__(
        self, directory: Path, *, bindir: Path | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory.resolve()
        self._bindir = bindir
        self._options = dict(options or {})
        self._user = ProcessLock(self._directory / "users")
        self._cluster: Cluster | None = None  #: set while this user counts

    def start(self) -> str:
        """Start the server if it does not run, and return the libpq URL of our database in it.

        A second call returns the URL again and restarts a server that has crashed, on the same port if that is free.
        A first start takes a second or two, crash recovery up to a minute.
        """
        try:
            return self._start()
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"{error.filename} belongs to another user: run as its owner, or choose another DATA_DIR."
            ) from error
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{error.filename or self._directory} can't be written ({error.strerror or error}): choose another "
                "DATA_DIR, or set DATABASE_URL to a server."
            ) from error

    def _start(self) -> str:
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        programs = find_programs(self._bindir, self._directory)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32" and self._directory.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "not ours", str(self._directory))  # root would take it away
        self._directory.chmod(0o711 if programs.uid else 0o700)  # another user passes through it to data/
        cluster = Cluster(self._directory, programs, self._options)
        with self._undisturbed():
            url = cluster.ensure_running(self._users_elsewhere())
            self._user.enter()
            self._cluster = cluster
        return url

    def is_down(self) -> bool:
        """Tell if the server has died or was stopped by someone else, while this user counts."""
        return self._cluster is not None and not self._cluster.is_running()

    def restart(self) -> None:
        """Start a server that is down, on the same port. Of several users, the first to come does it."""
        with self._undisturbed():
            if self._cluster is not None:
                self._cluster.ensure_running_again(self._users_elsewhere())

    def stop(self) -> None:
        """Stop using the server. The last user stops it in fast mode, which rolls open transactions back.

        Does nothing if not started, or the second time.
        """
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            return
        with self._undisturbed():
            self._user.leave()
            if not self._living():
                cluster.shut_down()

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

    def _users_elsewhere(self) -> list[str]:
        return [user for user in self._living() if user.rsplit("-", 2)[0] != HERE]

    def _living(self) -> list[str]:
        """The living users of the server. Removes the files of the dead ones."""
        (self._directory / "users").mkdir(mode=0o700, exist_ok=True)
        names = self._user.living_and_dead()
        for name in names.dead:
            self._user.forget_dead(name)
        return names.living
