"""Who is alive here: each holds a file locked, and the system opens the lock of whoever dies, however it dies."""

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import filelock

HERE = socket.gethostname()  #: in every name: each container has one of its own


def lock(path: Path) -> filelock.BaseFileLock:
    """A lock that its holder's death opens, that any thread may release, and that no other user can take."""
    return filelock.FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)


@dataclass(frozen=True, slots=True)
class Roll:
    """Who is still there, and who has gone: names, whose files stay until they are struck off."""

    living: list[str]
    gone: list[str]


class ProcessLock:
    """One of those who share a directory, told apart by `name`; entering twice does nothing."""

    def __init__(self, directory: Path) -> None:
        self.name = f"{HERE}-{os.getpid()}-{secrets.token_hex(4)}"
        self._directory = directory
        self._lock = lock(directory / self.name)

    def enter(self) -> None:
        """Raises `OSError` where no file can be written."""
        if not self._lock.is_locked:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=5)  # who calls the roll holds it for a moment

    def leave(self) -> None:
        """From now on this one is among the gone."""
        self._lock.release()

    def living_and_dead(self) -> Roll:
        """Everyone of the directory, this one included. Raises `OSError` where it can't be read."""
        roll = Roll([], [])
        for path in self._directory.iterdir():
            if path.name == self.name:
                (roll.living if self._lock.is_locked else roll.gone).append(path.name)
                continue
            other = lock(path)
            try:
                other.acquire(blocking=False)
            except filelock.Timeout:
                roll.living.append(path.name)
            else:
                other.release()
                roll.gone.append(path.name)
        return roll

    def forget_dead(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)
