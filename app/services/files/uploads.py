"""Files that clients upload: streamed to the store, then attached to messages that are sent."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import File
from app.errors import BodyTooLarge, FieldError, FileStoreUnavailable, InvalidRequest
from app.files import path_of
from app.services.files.names import safe_name
from app.services.files.store import draft_for, private


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that a client has uploaded. `path` is its address in the API, and among the attachments of a message."""

    id: str
    path: str
    name: str
    content_type: str
    size: int


class Uploads:
    """Stores uploaded files of at most `most_bytes`: below `directory`, or without one in the database."""

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], directory: Path | None, *, most_bytes: int
    ) -> None:
        self._sessions = sessions
        self._directory = directory
        self._most_bytes = most_bytes

    async def receive(
        self, tenant_id: int, pieces: AsyncIterable[bytes], described: Callable[[], tuple[str, str]]
    ) -> UploadedFile:
        """Store a file; returns after the commit. `described` gives its name and media type, once it is read.

        The same content under the same name and type is the same file, which is kept for a further day.

        Raises:
            BodyTooLarge: It has too many bytes.
            InvalidRequest: It is empty. Also what `pieces` and `described` raise.
            FileStoreUnavailable: The directory can't be written to.
        """
        draft = _Draft(None if self._directory is None else self._directory.absolute() / str(tenant_id))
        digest, size = hashlib.sha256(), 0
        try:
            async for piece in pieces:
                size += len(piece)
                if size > self._most_bytes:
                    raise BodyTooLarge(f"A file has at most {self._most_bytes} bytes.")
                digest.update(piece)
                await draft.add(piece)
            written, content_type = described()
            name = safe_name(written)
            if size == 0:
                raise InvalidRequest("The file is empty.", errors=[FieldError("body", "a file is not empty")])
            facts = json.dumps(["upload", name, content_type]).encode()
            id = hashlib.sha256(facts + digest.digest()).hexdigest()
            content, path = await draft.finish(id)
        finally:
            await draft.discard()
        row: dict[str, Any] = {"tenant_id": tenant_id, "id": id, "name": name, "content_type": content_type}
        row |= {"size": size, "content": content, "path": path}
        adding = insert(File).values(**row, created_at=func.now())
        again = adding.on_conflict_do_update(
            index_elements=[File.tenant_id, File.id], set_={"created_at": adding.excluded.created_at}
        )
        async with self._sessions.begin() as session:
            await session.execute(again)
        return UploadedFile(id, path_of(id, name), name, content_type, size)


class _Draft:
    """A file that is being received: on disk below `directory`, or in memory."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._content = bytearray()
        self._path: Path | None = None

    async def add(self, piece: bytes) -> None:
        if self._directory is None:
            self._content += piece
            return
        try:
            if self._path is None:
                self._path = await asyncio.to_thread(draft_for, self._directory / "upload")
            await asyncio.to_thread(_append, self._path, piece)
        except OSError as error:
            raise FileStoreUnavailable("Files can't be kept just now.") from error

    async def finish(self, file_id: str) -> tuple[bytes | None, str | None]:
        """The content, or the path of the file that has it."""
        if self._directory is None:
            return bytes(self._content), None
        assert self._path is not None
        place = self._directory / file_id[:2] / file_id
        try:
            await asyncio.to_thread(_move, self._path, place)
        except OSError as error:
            raise FileStoreUnavailable("Files can't be kept just now.") from error
        return None, str(place)

    async def discard(self) -> None:
        """Remove what was not finished."""
        if self._path is not None:
            await asyncio.to_thread(self._path.unlink, missing_ok=True)


def _append(path: Path, piece: bytes) -> None:
    with open(path, "ab", opener=private) as written:
        written.write(piece)


def _move(draft: Path, place: Path) -> None:
    """Move a complete file to its place, once it is on the disk."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(draft, "rb+") as written:
        os.fsync(written.fileno())
    draft.replace(place)
