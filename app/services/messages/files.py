"""The files of inbound messages: stored before the message is, read in pieces, removed with it.

A file belongs to one message. Its id is a hash of the provider's message id, its name, type and content. So a
duplicate of the message has the same files, which are stored already, and references need not be counted.
"""

import asyncio
import hashlib
import json
import os
import re
import secrets
import unicodedata
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Delete, and_, delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.db.loose_scan import loose_scan
from app.db.models import File, Message
from app.db.tenant_guard import ALL_TENANTS
from app.errors import FileStoreUnavailable, MessageFileNotFound
from app.providers.base import InboundFile

ANY_TYPE = "application/octet-stream"

#: Bytes of files in one statement, and of one piece of an answer.
_PIECE = 1_000_000
#: Characters of a name. File systems take 255 bytes, and programs append endings of their own.
_LONGEST_NAME = 100
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")
#: A file without a message is an orphan after a day. Older than three days it has been looked at often enough.
_ORPHAN_AGE, _FORGOTTEN_AGE = timedelta(days=1), timedelta(days=3)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be stored; its name and type are safe."""

    tenant_id: int
    id: str
    provider_type: str
    provider_message_id: str
    name: str
    content_type: str
    content: bytes = field(repr=False)

    @property
    def address(self) -> str:
        """The path of the API that the file is served at."""
        return f"/api/files/{self.id}/{quote(self.name, safe='')}"


def new_files(
    tenant_id: int, provider_type: str, provider_message_id: str, files: Iterable[InboundFile]
) -> list[NewFile]:
    """The files of a message to be stored, identical ones once."""
    found: dict[str, NewFile] = {}
    for file in files:
        name, content_type = safe_name(file.name), _safe_type(file.content_type)
        described = json.dumps([provider_type, provider_message_id, name, content_type]).encode()
        id = hashlib.sha256(described + hashlib.sha256(file.content).digest()).hexdigest()
        found[id] = NewFile(
            tenant_id, id, provider_type, provider_message_id, name, content_type, bytes(file.content)
        )
    return list(found.values())


def safe_name(written: str) -> str:
    """A file name without a path, invisible characters, or dots at its ends."""
    name = unicodedata.normalize("NFC", written.encode("utf-8", "replace").decode()).replace("\\", "/")
    name = "".join(character for character in name.rpartition("/")[2] if unicodedata.category(character)[0] != "C")
    stem, dot, ending = re.sub(r"\s+", " ", name).strip(" .").rpartition(".")
    if not dot or len(ending) > 20:
        stem, dot, ending = stem + dot + ending, "", ""
    return stem[: _LONGEST_NAME - len(dot + ending)].rstrip(" .") + dot + ending or "file"


def _safe_type(written: str) -> str:
    kind = written.partition(";")[0].strip().lower()
    return kind if _MEDIA_TYPE.fullmatch(kind) else ANY_TYPE


class FileStore:
    """Stores files in the database, or below a directory that all processes share."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], directory: Path | None) -> None:
        self._sessions = sessions
        self._directory = directory

    async def keep(self, files: Sequence[NewFile]) -> None:
        """Store the files of one callback that are not stored yet. Returns once commit and disk have them.

        Raises `FileStoreUnavailable`, and what the database raises; some files may be stored then.
        """
        by_tenant: dict[int, list[NewFile]] = {}
        for file in files:
            by_tenant.setdefault(file.tenant_id, []).append(file)
        for tenant_id, own in by_tenant.items():
            stored = select(File.id).where(File.tenant_id == tenant_id, File.id.in_([file.id for file in own]))
            async with self._sessions() as session:
                known = set(await session.scalars(stored))
            for batch in _batches(file for file in own if file.id not in known):
                await self._keep(batch)

    async def _keep(self, files: Sequence[NewFile]) -> None:
        paths: list[str | None] = [None] * len(files)
        if self._directory is not None:
            try:
                paths = [await asyncio.to_thread(_write, self._directory, file) for file in files]
            except OSError as error:
                raise FileStoreUnavailable("Files can't be kept just now.") from error
        values = [
            asdict(file) | {"size": len(file.content), "content": None if path else file.content, "path": path}
            for file, path in zip(files, paths, strict=True)
        ]
        async with self._sessions.begin() as session:
            await session.execute(insert(File).on_conflict_do_nothing(), values)

    async def find(self, tenant_id: int, file_id: str) -> File:
        """A file without its content. Raises `MessageFileNotFound`, also for another tenant's."""
        async with self._sessions() as session:
            file = await session.get(File, (tenant_id, file_id))
        if file is None:
            raise MessageFileNotFound("There is no file at this address.")
        return file

    async def pieces(self, file: File) -> AsyncIterator[bytes]:
        """The bytes of a file, a megabyte at a time. They end early where the file is removed meanwhile."""
        for start in range(0, file.size, _PIECE):
            if file.path is None:
                piece = await self._piece(file, start)
            else:
                piece = await asyncio.to_thread(_read, file.path, start)
            if not piece:
                return
            yield piece

    async def _piece(self, file: File, start: int) -> bytes | None:
        reading = select(func.substring(File.content, start + 1, _PIECE, type_=File.content.type))
        async with self._sessions() as session:
            return await session.scalar(reading.where(File.tenant_id == file.tenant_id, File.id == file.id))


def _batches(files: Iterable[NewFile]) -> Iterator[list[NewFile]]:
    """Batches of one statement each: small files together, a large one alone."""
    batch: list[NewFile] = []
    size = 0
    for file in files:
        if batch and size + len(file.content) > _PIECE:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += len(file.content)
    if batch:
        yield batch


def _write(directory: Path, file: NewFile) -> str:
    """Write a file atomically to the path that follows from its id; one that exists is identical."""
    place = directory.absolute() / str(file.tenant_id) / file.id[:2] / file.id
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = place.with_name(f"{file.id}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as written:
            written.write(file.content)
            written.flush()
            os.fsync(written.fileno())
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)
    return str(place)


def _read(path: str, start: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(_PIECE)
    except FileNotFoundError:
        return b""


async def remove_files(connection: AsyncConnection, tenant_id: int, message_ids: Sequence[int]) -> int:
    """Remove the files of messages that are about to be removed; returns how many.

    Files on disk are unlinked at once: the messages will be removed even if this transaction fails.
    """
    removal = delete(File).where(
        File.tenant_id == tenant_id,
        File.provider_type == Message.provider_type,
        File.provider_message_id == Message.provider_message_id,
        Message.tenant_id == tenant_id,
        Message.id.in_(message_ids),
    )
    return await _remove(connection, removal)


_has_message = exists().where(
    Message.tenant_id == File.tenant_id,
    Message.provider_type == File.provider_type,
    Message.provider_message_id == File.provider_message_id,
    Message.provider_message_id.is_not(None),
)
_is_orphan = and_(
    File.created_at < func.now() - _ORPHAN_AGE, File.created_at > func.now() - _FORGOTTEN_AGE, ~_has_message
)
_first = loose_scan("first", [File.tenant_id], File.created_at)
_WITH_ORPHANS = (
    select(_first.c.tenant_id)
    .where(exists().where(File.tenant_id == _first.c.tenant_id, _is_orphan).correlate(_first))
    .execution_options(**{ALL_TENANTS: "the orphans of all tenants are removed"})
)


async def tenants_with_orphans(connection: AsyncConnection) -> list[int]:
    """The tenants with files whose message was never stored."""
    return list((await connection.execute(_WITH_ORPHANS)).scalars())


async def remove_orphans(connection: AsyncConnection, tenant_id: int, *, limit: int) -> int:
    """Remove some files whose message was never stored, because its callback was cut off; returns how many."""
    orphans = select(File.id).where(File.tenant_id == tenant_id, _is_orphan).limit(limit)
    return await _remove(connection, delete(File).where(File.tenant_id == tenant_id, File.id.in_(orphans)))


async def _remove(connection: AsyncConnection, removal: Delete) -> int:
    paths = list((await connection.execute(removal.returning(File.path))).scalars())
    lying = [path for path in paths if path is not None]
    if lying:
        await asyncio.to_thread(_unlink, lying)
    return len(paths)


def _unlink(paths: Iterable[str]) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)
