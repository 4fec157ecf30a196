"""The directory of a backup: a dump of the database, the files of messages, and a manifest that describes both."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from app.errors import ConfigurationError
from app.services.files.store import draft_for, private

_PIECE = 1024 * 1024
_MANIFEST, _DUMP, _FILES = "backup.json", "database.dump", "files"


@dataclass(frozen=True)
class Manifest:
    """The description of a backup.

    `taken_at` is the time of its snapshot (ISO 8601, UTC). `postgres` is the major version of the server. `rows` are
    the numbers of rows of each table, `files` the number of files.
    """

    version: str
    revision: str
    postgres: int
    taken_at: str
    dump_sha256: str
    rows: dict[str, int]
    files: int


class BackupDirectory:
    """The layout of a backup below `path`. Only its owner can read it: it holds messages and addresses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dump = path / _DUMP
        self._manifest = path / _MANIFEST

    def place_of(self, tenant_id: int, file_id: str) -> Path:
        """The place of a file of a message."""
        return self.path / _FILES / str(tenant_id) / file_id[:2] / file_id

    def write(self, manifest: Manifest) -> None:
        self._manifest.touch(mode=0o600)
        self._manifest.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")

    def read(self) -> Manifest:
        """The manifest of a complete backup, whose dump is as it was written. Raises `ConfigurationError`."""
        try:
            manifest = Manifest(**json.loads(self._manifest.read_text(encoding="utf-8")))
            is_whole = sha256_of(self.dump) == manifest.dump_sha256
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{self.path} is no complete backup ({type(error).__name__}).") from None
        if not is_whole:
            raise ConfigurationError(f"{self.dump} is damaged: its checksum is not that of {_MANIFEST}.")
        return manifest


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_private(source: Path, target: Path) -> None:
    """Copy a file atomically, so that only this user can read it. Raises `FileNotFoundError` without a `source`."""
    with source.open("rb") as content:
        draft = draft_for(target)
        with open(draft, "wb", opener=private) as copy:
            shutil.copyfileobj(content, copy, _PIECE)
            copy.flush()
            os.fsync(copy.fileno())
        draft.replace(target)
