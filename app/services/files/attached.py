"""Files among the attachments of messages that are sent: checked, held by their messages, and given to providers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import ARRAY, Text, any_, bindparam, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.config import Settings
from app.db.engine import is_unavailable
from app.db.models import File, MessageFile
from app.db.statements.batches import TENANT
from app.domain import Direction, NewMessage
from app.errors import FieldError, InvalidRequest
from app.files import FileAddresses, FileStatus, file_id_in, file_ids_in
from app.providers.base import NotBegun, OutboundFile, OutboundMessage, PermanentFailure
from app.services.files.store import FileStore

_FILES = bindparam("files", type_=ARRAY(Text()))
_THESE = select(File.id, File.name, File.content_type, File.size, File.status, File.path).where(
    File.tenant_id == TENANT, File.id == any_(_FILES)
)
_HELD = (
    select(File.id)
    .where(File.tenant_id == TENANT, File.id == any_(_FILES), File.status == FileStatus.STORED.value)
    .order_by(File.id)
    .with_for_update(read=True, key_share=True)
)
_GONE = "there is no file at this address; upload it first"


def attached_to(message: NewMessage) -> list[str]:
    """The ids of the files that a message to be sent has among its attachments."""
    is_to_be_sent = message.direction is Direction.OUTBOUND and message.provider_message_id is None
    return file_ids_in(message.attachments) if is_to_be_sent and message.attachments else []


async def attach(connection: AsyncConnection, tenant_id: int, files: Mapping[int, Iterable[str]]) -> None:
    """Attach files to messages that were stored in this transaction, by the messages' ids.

    Raises `InvalidRequest` where a file was removed since it was checked.
    """
    pairs = sorted({(file_id, message_id) for message_id, ids in files.items() for file_id in ids})
    wanted = sorted({file_id for file_id, _ in pairs})
    if not wanted:
        return
    held = set((await connection.execute(_HELD, {"tenant": tenant_id, "files": wanted})).scalars())
    if held != set(wanted):
        raise InvalidRequest("A file is gone.", errors=[FieldError("body.attachments", _GONE)])
    values = [{"tenant_id": tenant_id, "message_id": message, "file_id": file} for file, message in pairs]
    await connection.execute(insert(MessageFile).on_conflict_do_nothing(), values)


class SentFiles:
    """The files of messages to be sent, as the check before a send and the providers see them."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], store: FileStore, settings: Settings) -> None:
        self._sessions = sessions
        self._store = store
        self._addresses = FileAddresses(
            settings.consent_secrets, settings.public_url, hours=settings.file_address_hours
        )

    async def errors_of(self, tenant_id: int, attachments: Sequence[str]) -> list[FieldError]:
        """An error for each attachment that names a file which is not there, with its place in the list."""
        found = await self._find(tenant_id, file_ids_in(attachments))
        errors = []
        for place, attachment in enumerate(attachments):
            if (id := file_id_in(attachment)) is not None:
                problem = _problem(found.get(id))
                errors += [FieldError(f"body.attachments.{place}", problem)] if problem else []
        return errors

    async def prepared(self, tenant_id: int, message: OutboundMessage) -> OutboundMessage:
        """The message with its files, each at an address that the vendor can fetch.

        Raises `PermanentFailure` for a file that is gone, and `NotBegun` where the database does not tell.
        """
        ids = file_ids_in(message.attachments) if message.attachments else []
        if not ids:
            return message
        try:
            found = await self._find(tenant_id, ids)
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise NotBegun("It was not handed over: the database did not tell of its files.") from error
        attachments, files = [], {}
        for each in message.attachments:
            if (id := file_id_in(each)) is None:
                attachments.append(each)
                continue
            row = found.get(id)
            if row is None or row.status != FileStatus.STORED:
                raise PermanentFailure(f"The file {each.rpartition('/')[2]} is gone.")
            url = self._addresses.signed(tenant_id, each) or each
            attachments.append(url)
            files[url] = OutboundFile(row.name, row.content_type, row.size, partial(self._read, tenant_id, row))
        return replace(message, attachments=attachments, files=files)

    async def _find(self, tenant_id: int, ids: Sequence[str]) -> dict[str, Any]:
        if not ids:
            return {}
        async with self._sessions() as session:
            rows = await session.execute(_THESE, {"tenant": tenant_id, "files": list(ids)})
            return {row.id: row for row in rows}

    async def _read(self, tenant_id: int, row: Any) -> bytes:
        file = File(tenant_id=tenant_id, id=row.id, path=row.path, size=row.size)
        content = b"".join([piece async for piece in self._store.pieces(file)])
        if len(content) != row.size:
            raise PermanentFailure(f"The file {row.name} is gone.")
        return content


def _problem(row: Any) -> str | None:
    """The reason for which a file can't be attached."""
    if row is None:
        return _GONE
    if row.status == FileStatus.PENDING:
        return "this file is still being fetched from the vendor"
    return "this file could not be had from the vendor" if row.status == FileStatus.UNAVAILABLE else None
