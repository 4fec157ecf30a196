"""Detect dead processes on this host: each holds a file lock, which the operating system releases when it dies."""

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import filelock

HERE = socket.gethostname()  #: part of every name; each container has its own


def lock(path: Path) -> filelock.BaseFileLock:
    """A lock that ends with its holder, that any thread may release, and that no other user can take."""
    return filelock.FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)


@dataclass(frozen=True, slots=True)
class ProcessNames:
    """The processes that share a directory. The file of a dead one stays until `forget_dead`."""

    living: list[str]
    dead: list[str]


class ProcessLock:
    """The lock by which this process, under a `name` of its own, counts as living. Entering twice does nothing."""

    def __init__(self, directory: Path) -> None:
        self.name = f"{HERE}-{os.getpid()}-{secrets.token_hex(4)}"
        self._directory = directory
        self._lock = lock(directory / self.name)

    def enter(self) -> None:
        """Count as living from now on. Raises `OSError` where no file can be written."""
        if not self._lock.is_locked:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=5)  # living_and_dead() of another process holds it for a moment

    def leave(self) -> None:
        """Count as dead from now on."""
        self._lock.release()

    def living_and_dead(self) -> ProcessNames:
        """All processes of the directory, including this one. Raises `OSError` where it can't be read."""
        names = ProcessNames([], [])
        for path in self._directory.iterdir():
            if path.name == self.name:
                (names.living if self._lock.is_locked else names.dead).append(path.name)
                continue
            other = lock(path)
            try:
                other.acquire(blocking=False)
            except filelock.Timeout:
                names.living.append(path.name)
            else:
                other.release()
                names.dead.append(path.name)
        return names

    def forget_dead(self, name: str) -> None:
        """Remove the file of a dead process."""
        (self._directory / name).unlink(missing_ok=True)
