"""The store of files: in the database, or below a directory that all processes share.

An inbound file belongs to one message, and is stored before the message is. Its id is a hash of the message's id at
the provider, and of its name, type and content or its address there. So a duplicate has the same files.
"""

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import File
from app.errors import FileGone, FilePending, FileStoreUnavailable, MessageFileNotFound
from app.files import FileStatus, path_of
from app.providers.base import FileFacts, InboundFile
from app.services.files.names import name_of_kept, safe_name, safe_type

#: Bytes of files in one statement, and of one piece of an answer.
PIECE = 1_000_000


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be stored; its name and type are safe. Without `content` it is fetched later, from `source`."""

    tenant_id: int
    id: str
    provider_type: str | None
    provider_message_id: str | None
    name: str
    content_type: str
    content: bytes | None = field(repr=False)
    source: str | None = None

    @property
    def address(self) -> str:
        """The path of the API that the file is served at."""
        return path_of(self.id, self.name)


def new_files(
    tenant_id: int, provider_type: str, provider_message_id: str, files: Iterable[InboundFile]
) -> list[NewFile]:
    """The files that came with a message, identical ones once."""
    found: dict[str, NewFile] = {}
    for file in files:
        name, content_type = safe_name(file.name), safe_type(file.content_type)
        described = json.dumps([provider_type, provider_message_id, name, content_type]).encode()
        id = hashlib.sha256(described + hashlib.sha256(file.content).digest()).hexdigest()
        found[id] = NewFile(
            tenant_id, id, provider_type, provider_message_id, name, content_type, bytes(file.content)
        )
    return list(found.values())


def kept_file(
    tenant_id: int, provider_type: str, provider_message_id: str, reference: str, facts: FileFacts
) -> NewFile:
    """A file of a message that the vendor keeps. What the vendor tells of it does not change its id."""
    described = json.dumps(["kept", provider_type, provider_message_id, reference]).encode()
    return NewFile(
        tenant_id,
        hashlib.sha256(described).hexdigest(),
        provider_type,
        provider_message_id,
        name_of_kept(reference, facts),
        safe_type(facts.content_type),
        None,
        reference,
    )


class FileStore:
    """Stores files and reads them, a piece at a time."""

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
            new = [file for file in own if file.id not in known]
            for batch in _batches(file for file in new if file.content is not None):
                await self._keep(batch)
            await self._announce([file for file in new if file.content is None])

    async def _keep(self, files: Sequence[NewFile]) -> None:
        paths = [await self.write(file.tenant_id, file.id, file.content or b"") for file in files]
        values = [
            asdict(file) | {"size": len(file.content or b""), "content": None if path else file.content, "path": path}
            for file, path in zip(files, paths, strict=True)
        ]
        async with self._sessions.begin() as session:
            await session.execute(insert(File).on_conflict_do_nothing(), values)

    async def _announce(self, files: Sequence[NewFile]) -> None:
        """Store rows of files that are still to be fetched."""
        if not files:
            return
        row = insert(File).values(status=FileStatus.PENDING.value, due_at=func.now()).on_conflict_do_nothing()
        async with self._sessions.begin() as session:
            await session.execute(row, [asdict(file) | {"size": 0} for file in files])

    async def write(self, tenant_id: int, file_id: str, content: bytes) -> str | None:
        """Write the content of a file to disk, if it goes there; the path, or None. Raises `FileStoreUnavailable`."""
        path = self.path_of(tenant_id, file_id)
        if path is None:
            return None
        try:
            await asyncio.to_thread(_write, Path(path), content)
        except OSError as error:
            raise _not_now() from error
        return path

    def path_of(self, tenant_id: int, file_id: str) -> str | None:
        """The place of a file on disk; None where files are stored in the database."""
        if self._directory is None:
            return None
        return str(self._directory.absolute() / str(tenant_id) / file_id[:2] / file_id)

    async def find(self, tenant_id: int, file_id: str) -> File:
        """A stored file without its content.

        Raises:
            MessageFileNotFound: The tenant has no such file, or it can't be had.
            FileGone: The vendor has it no more.
            FilePending: It is still to be fetched.
        """
        async with self._sessions() as session:
            file = await session.get(File, (tenant_id, file_id))
        if file is None:
            raise MessageFileNotFound("There is no file at this address.")
        if file.status == FileStatus.PENDING:
            raise FilePending("The file is still being fetched from the vendor. Try again shortly.")
        if file.status == FileStatus.UNAVAILABLE:
            kind = FileGone if file.is_gone else MessageFileNotFound
            raise kind(f"The file can't be had from the vendor. {file.reason or ''}".strip())
        return file

    async def pieces(self, file: File) -> AsyncIterator[bytes]:
        """The bytes of a file, a megabyte at a time. They end early where the file is removed meanwhile."""
        for start in range(0, file.size, PIECE):
            if file.path is None:
                piece = await self._piece(file, start)
            else:
                piece = await asyncio.to_thread(_read, file.path, start)
            if not piece:
                return
            yield piece

    async def _piece(self, file: File, start: int) -> bytes | None:
        reading = select(func.substring(File.content, start + 1, PIECE, type_=File.content.type))
        async with self._sessions() as session:
            return await session.scalar(reading.where(File.tenant_id == file.tenant_id, File.id == file.id))


def _not_now() -> FileStoreUnavailable:
    return FileStoreUnavailable("Files can't be kept just now.")


def _batches(files: Iterable[NewFile]) -> Iterator[list[NewFile]]:
    """Batches of one statement each: small files together, a large one alone."""
    batch: list[NewFile] = []
    size = 0
    for file in files:
        length = len(file.content or b"")
        if batch and size + length > PIECE:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += length
    if batch:
        yield batch


def draft_for(place: Path) -> Path:
    """A path beside that of a file, for what is not complete yet; its directory exists."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return place.with_name(f"{place.name}.{secrets.token_hex(8)}")


def private(path: str, flags: int) -> int:
    """Open a file that only this user can read."""
    return os.open(path, flags, 0o600)


def _write(place: Path, content: bytes) -> None:
    """Write a file atomically to the path that follows from its id; one that exists is identical."""
    draft = draft_for(place)
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: str, start: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(PIECE)
    except FileNotFoundError:
        return b""
