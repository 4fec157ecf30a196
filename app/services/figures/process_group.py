"""The figures of the processes that share a port, of which any may be asked.

Each writes its figures to a file every second. Those of a dead process are added to a file of their own, so that sums
never fall while processes come and go.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import structlog

from app.config import Settings
from app.db.process_lock import HERE, ProcessLock, lock
from app.metrics.snapshot import Snapshot

log = structlog.get_logger(__name__)

_WRITE_SECONDS = 1.0
_STALE_SECONDS = 24 * 3600.0
_PREFIX = f"{HERE}-"


def group_of(settings: Settings) -> "ProcessGroup":
    """The group of this process, which is alone where no other process serves its port."""
    parent = multiprocessing.parent_process()
    is_alone = parent is None or settings.web_concurrency == 1
    owner = os.getpid() if parent is None else parent.pid
    return ProcessGroup(settings.data_dir / "metrics", f"{_PREFIX}{owner}", is_alone=is_alone)


class ProcessGroup:
    """The figures of all processes with the same `name`; an async context manager, in which this one is among them.

    A process that `is_alone` writes nothing.
    """

    def __init__(self, directory: Path, name: str, *, is_alone: bool = False) -> None:
        self._all = directory
        self._is_alone = is_alone
        self._directory = directory / name
        self._files = self._directory / "figures"
        self._lock = ProcessLock(self._directory / "processes")
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._is_alone:
            return self
        try:
            await asyncio.to_thread(self._enter)
        except OSError as error:  # a read-only file system, say
            log.warning("figures_not_shared", error=type(error).__name__)
            return self
        self._writing = asyncio.create_task(self._write(), name="process-figures")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            with contextlib.suppress(OSError):
                self._write_once()
            self._lock.leave()

    async def total(self) -> Snapshot:
        """The figures of all processes, those of others as of the last second."""
        total = Snapshot.take()
        if self._writing is not None:
            for other, is_dead in await asyncio.to_thread(self._others):
                total.add(other, is_dead=is_dead)
        return total

    def _enter(self) -> None:
        self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.enter()
        for other in self._all.iterdir():
            if other != self._directory and _is_stale(other):
                shutil.rmtree(other, ignore_errors=True)

    async def _write(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self._write_once()
            await asyncio.sleep(_WRITE_SECONDS)

    def _write_once(self) -> None:
        _replace(self._files / f"{self._lock.name}.json", Snapshot.take().document())

    def _others(self) -> list[tuple[Snapshot, bool]]:
        """The snapshots of the other processes, and True with those of dead ones."""
        try:
            names = self._lock.living_and_dead()
            if names.dead:
                self._bury(names.dead)
            found = [(_read(self._files / f"{name}.json"), False) for name in names.living if name != self._lock.name]
            found.append((_read(self._dead), True))
        except OSError as error:
            log.warning("figures_not_shared", error=type(error).__name__)
            return []
        return [(Snapshot.of(document), is_dead) for document, is_dead in found if document]

    @property
    def _dead(self) -> Path:
        return self._directory / "dead.json"

    def _bury(self, names: list[str]) -> None:
        """Add the figures of dead processes to those of earlier ones, each once, and remove their files."""
        with lock(self._directory / "dead.lock"):
            document = _read(self._dead)
            total = Snapshot.of(document) if document else Snapshot()
            buried = set(document.get("names", ()))
            for name in names:
                own = _read(self._files / f"{name}.json")
                if own and name not in buried:
                    total.add(Snapshot.of(own), is_dead=True)
                    buried.add(name)
            _replace(self._dead, total.document() | {"names": sorted(buried)})
            for name in names:
                (self._files / f"{name}.json").unlink(missing_ok=True)
                self._lock.forget_dead(name)


def _is_stale(directory: Path) -> bool:
    """True for the directory of a group whose parent is dead, or which was not written for a day."""
    owner = directory.name.removeprefix(_PREFIX)
    if directory.name.startswith(_PREFIX) and owner.isdigit():
        return not psutil.pid_exists(int(owner))
    return time.time() - max(_times(directory), default=0.0) > _STALE_SECONDS


def _times(directory: Path) -> Iterator[float]:
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            yield path.stat().st_mtime


def _read(path: Path) -> dict[str, Any]:
    """The document in a file; empty if there is none, or none that can be read."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _replace(path: Path, document: dict[str, Any]) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(json.dumps(document, separators=(",", ":")).encode())
    new.replace(path)
