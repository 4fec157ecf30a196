"""Fetches the files that vendors keep, once their messages are stored.

A file is leased in a transaction of its own, fetched without one, and recorded in a second. A worker that dies leaves
a lease that ends, so another one fetches the file again. What is fetched twice is recorded once.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import structlog
from sqlalchemy import (
    ARRAY,
    Boolean,
    Float,
    Integer,
    LargeBinary,
    Text,
    all_,
    bindparam,
    case,
    func,
    null,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.connectivity.outage import outage
from app.db.engine import is_unavailable
from app.db.models import File, Message
from app.db.statements.batches import SECOND, TENANT
from app.db.statements.each_tenant import EACH_TENANT, first
from app.db.statements.json_text import constant
from app.db.statements.sanitize import storable_text
from app.db.tenant_guard import ALL_TENANTS
from app.domain import EventType
from app.errors import FileStoreUnavailable
from app.files import FileStatus
from app.providers.base import FetchedFile, FileUnavailable, ProviderFailure, TemporaryFailure
from app.providers.registry import provider_registry
from app.providers.toolbox.http_client import failure_behind
from app.redaction import redacted
from app.services.event_log.entries import NewEvent, write_entries
from app.services.files.names import ANY_TYPE, safe_type
from app.services.files.store import FileStore

log = structlog.get_logger(__name__)

#: Files that a process fetches at once; each is in memory until it is stored. A vendor that has so many places gets
#: no further ones, so that a silent one leaves a place for others.
_AT_ONCE, _OF_ONE = 6, 3
#: Seconds between two looks for files that are due.
_POLL_SECONDS = 1.0
#: Seconds that a lease has beyond the timeout of the fetch, for storing the file.
_TO_STORE_SECONDS = 30.0
#: The first pause after a failure; each later one is twice as long, up to an hour.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 3600.0
#: A file is asked for until it is this old.
_TRIED_FOR = timedelta(days=1)
_LONGEST_REASON = 300

_is_pending = File.status == constant(FileStatus.PENDING.value)  # as the partial index has it
_is_due = File.due_at <= func.now()
_WITH_DUE = (
    select(EACH_TENANT)
    .where(first(File.due_at, _is_pending) <= func.now())
    .execution_options(**{ALL_TENANTS: "the files of all tenants are fetched"})
)
_is_its = (
    Message.tenant_id == TENANT,
    Message.provider_type == File.provider_type,
    Message.provider_message_id == File.provider_message_id,
    Message.provider_message_id.is_not(None),
)
_BUSY = bindparam("busy", type_=ARRAY(Text()))
_picked = (
    select(File.id, (File.created_at < func.now() - _TRIED_FOR).label("is_old"))
    .where(File.tenant_id == TENANT, _is_pending, _is_due, File.provider_type != all_(_BUSY))
    # Its message is stored after it. A callback that is cut off in between comes again.
    .where(select(Message.id).where(*_is_its).correlate(File).exists())
    .order_by(File.due_at)
    .limit(bindparam("limit", type_=Integer()))
    .with_for_update(of=File, skip_locked=True)
    .cte("picked")
)
_DIRECTORY = bindparam("directory", type_=Text())
_place = _DIRECTORY + "/" + func.left(File.id, 2) + "/" + File.id
_LEASE = (
    update(File)
    .where(File.tenant_id == TENANT, File.id == _picked.c.id)
    .values(
        due_at=func.now() + bindparam("lease", type_=Float()) * SECOND,
        attempt_count=File.attempt_count + 1,
        # Known from here on, so that a removal unlinks what is being written.
        path=case((_DIRECTORY.is_(None), null()), else_=_place),
    )
    .returning(
        File.id,
        File.provider_type,
        File.provider_message_id,
        File.source,
        File.content_type,
        File.attempt_count,
        _picked.c.is_old,
    )
)
_this = (File.tenant_id == TENANT, File.id == bindparam("file", type_=Text()), _is_pending)
_REASON = bindparam("why", type_=Text())
_RECORD_STORED = (
    update(File)
    .where(*_this)
    .values(
        status=FileStatus.STORED.value,
        size=bindparam("length", type_=Integer()),
        content=bindparam("bytes", type_=LargeBinary()),
        path=bindparam("place", type_=Text()),
        content_type=bindparam("kind", type_=Text()),
        reason=null(),
        due_at=null(),
        settled_at=func.now(),
    )
    .returning(File.id)
)
_RECORD_UNAVAILABLE = (
    update(File)
    .where(*_this)
    .values(
        status=FileStatus.UNAVAILABLE.value,
        reason=_REASON,
        is_gone=bindparam("gone", type_=Boolean()),
        path=null(),
        due_at=null(),
        settled_at=func.now(),
    )
    .returning(File.id)
)
_PUT_OFF = (
    update(File)
    .where(*_this, File.attempt_count == bindparam("attempt", type_=Integer()))
    .values(reason=_REASON, due_at=func.now() + bindparam("pause", type_=Float()) * SECOND)
)
_OF_FILE = select(Message.id, Message.conversation_id).where(
    Message.tenant_id == TENANT,
    Message.provider_type == bindparam("provider", type_=Text()),
    Message.provider_message_id == bindparam("provider_message", type_=Text()),
)


@dataclass(frozen=True, slots=True)
class _Leased:
    """A file that this worker fetches."""

    tenant_id: int
    row: Any


class FileFetcher:
    """Fetches pending files while its context is open; `wake` saves the wait for the next look.

    `on_logged` is called with a tenant whose log has grown. Leaving gives up fetches, and ends their leases.
    """

    def __init__(
        self, engine: AsyncEngine, settings: Settings, store: FileStore, *, on_logged: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._store = store
        self._on_logged = on_logged
        self._most_bytes = settings.file_max_bytes
        self._seconds = settings.file_fetch_seconds
        self._directory = None if settings.files_dir is None else str(settings.files_dir.absolute())
        self._wake_up = asyncio.Event()
        self._fetching: dict[asyncio.Task[None], _Leased] = {}
        self._running: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Say that a file may be due. Without it, polling finds the file."""
        self._wake_up.set()

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run(), name="file-fetcher")
        return self

    async def __aexit__(self, *_: object) -> None:
        given_up = list(self._fetching.values())
        tasks = [*self._fetching, *([self._running] if self._running else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):  # otherwise the leases end by themselves
            for each in given_up:
                await self._put_off(each, "The service was stopped.", 0)

    async def _run(self) -> None:
        while True:
            self._wake_up.clear()
            try:
                if await self.begin_due():
                    continue  # there may be more
            except Exception as error:
                if is_unavailable(error):
                    outage.note(error, batch="files")
                else:
                    log.exception("files_not_claimed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._wake_up.wait()

    async def begin_due(self) -> int:
        """Lease due files for the free places, and begin to fetch them; returns how many."""
        begun = 0
        if len(self._fetching) >= _AT_ONCE:
            return begun
        async with self._engine.connect() as connection:
            tenants = list((await connection.execute(_WITH_DUE)).scalars())
        random.shuffle(tenants)  # so that one with many files does not take all places in each turn
        for tenant_id in tenants:
            free = _AT_ONCE - len(self._fetching)
            if free <= 0:
                break
            at = Counter(each.row.provider_type for each in self._fetching.values())
            parameters = {
                "tenant": tenant_id,
                "limit": min(free, _OF_ONE),
                "busy": [name for name, count in at.items() if count >= _OF_ONE],
                "lease": self._seconds + _TO_STORE_SECONDS,
                "directory": None if self._directory is None else f"{self._directory}/{tenant_id}",
            }
            async with self._engine.begin() as connection:
                leased = [_Leased(tenant_id, row) for row in await connection.execute(_LEASE, parameters)]
            for each in leased:
                task = asyncio.create_task(self._settle(each))
                self._fetching[task] = each
                task.add_done_callback(self._on_done)
            begun += len(leased)
        return begun

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._fetching[task]
        self._wake_up.set()  # there may be another
        if not task.cancelled() and (error := task.exception()):
            if is_unavailable(error):
                outage.note(error, batch="files")
            else:
                log.error("file_not_recorded", error=type(error).__name__, exc_info=error)

    async def _settle(self, leased: _Leased) -> None:
        """Fetch a file and record what came of it."""
        row = leased.row
        parameters: dict[str, Any] = {"tenant": leased.tenant_id, "file": row.id}
        try:
            fetched = await self._fetch(row)
            place = await self._store.write(leased.tenant_id, row.id, fetched.content)
        except Exception as raised:
            error = failure_behind(raised)
            expected = ProviderFailure | TimeoutError | FileStoreUnavailable
            if not isinstance(error, expected):
                log.warning("file_fetch_raised", provider=row.provider_type, error=type(error).__name__)
            reason = _told(error)
            is_final = isinstance(error, FileUnavailable) or row.is_old
            if not is_final:
                await self._put_off(leased, reason, _pause(row.attempt_count, error))
                return
            gone = isinstance(error, FileUnavailable) and error.is_gone
            await self._record(leased, _RECORD_UNAVAILABLE, parameters | {"why": reason, "gone": gone})
            return
        kind = safe_type(fetched.content_type)
        stored = {
            "length": len(fetched.content),
            "bytes": None if place else fetched.content,
            "place": place,
            "kind": kind if kind != ANY_TYPE else row.content_type,
        }
        if not await self._record(leased, _RECORD_STORED, parameters | stored) and place is not None:
            await self._forget(leased, place)

    async def _fetch(self, row: Any) -> FetchedFile:
        provider = provider_registry.get(row.provider_type)
        if provider is None:
            raise TemporaryFailure(f"No provider is registered as {row.provider_type!r}.")
        async with asyncio.timeout(self._seconds):
            return await provider.fetch_file(row.source or "", most_bytes=self._most_bytes)

    async def _record(self, leased: _Leased, statement: Any, parameters: dict[str, Any]) -> bool:
        """Record the end of a fetch, with an event; False for a file that another worker settled, or that is gone."""
        row, tenant_id = leased.row, leased.tenant_id
        of_message = {
            "tenant": tenant_id,
            "provider": row.provider_type,
            "provider_message": row.provider_message_id,
        }
        async with self._engine.begin() as connection:
            if (await connection.execute(statement, parameters)).scalar() is None:
                return False
            message = (await connection.execute(_OF_FILE, of_message)).one_or_none()
            if message is not None:
                entry = NewEvent(EventType.MESSAGE_FILE_CHANGED, message.id, message.conversation_id)
                await write_entries(connection, tenant_id, [entry])
        self._on_logged(tenant_id)
        return True

    async def _put_off(self, leased: _Leased, reason: str, seconds: float) -> None:
        """End the lease, and have the file fetched again after a pause."""
        row = leased.row
        parameters = {"tenant": leased.tenant_id, "file": row.id, "attempt": row.attempt_count}
        async with self._engine.begin() as connection:
            await connection.execute(_PUT_OFF, parameters | {"why": reason, "pause": seconds})

    async def _forget(self, leased: _Leased, place: str) -> None:
        """Unlink what was written for a file that was removed meanwhile."""
        is_there = select(File.id).where(File.tenant_id == leased.tenant_id, File.id == leased.row.id)
        async with self._engine.connect() as connection:
            if (await connection.execute(is_there)).scalar() is None:
                await asyncio.to_thread(Path(place).unlink, missing_ok=True)


def _pause(attempt: int, error: Exception) -> float:
    """Seconds until the next try: longer each time, or as long as the vendor asks for."""
    usual = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 32), _LONGEST_PAUSE_SECONDS)
    wanted = error.retry_after if isinstance(error, TemporaryFailure) else None
    return usual if wanted is None else min(max(wanted, usual), _LONGEST_PAUSE_SECONDS)


def _told(error: Exception) -> str:
    """The reason, as it may be shown."""
    if isinstance(error, TimeoutError):
        return "The vendor took too long."
    if isinstance(error, FileStoreUnavailable):
        return error.detail
    said = str(error) if isinstance(error, ProviderFailure) else type(error).__name__
    return redacted(storable_text(said))[:_LONGEST_REASON]
