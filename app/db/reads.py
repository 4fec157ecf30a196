"""Reads of one statement: rendered once, in autocommit, on pooled connections of the driver.

SQLAlchemy's execution, a ping and a transaction around it cost several times what such a statement costs. The tenant
guard holds here as well: it looks at a statement when it is rendered.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import asyncpg
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from app.config import Settings
from app.db.engine import connect, is_unavailable, serving_options
from app.db.tenant_guard import GuardedCompiler, TenantNotNamed
from app.errors import DatabaseUnavailable

#: Connections of a process. Few are enough, since a read takes a millisecond.
_MOST = 5


class Read:
    """A SELECT with named parameters, rendered when it is first executed.

    Rendering raises `TenantNotNamed` if it does not name its tenant.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement

    @functools.cached_property
    def _rendered(self) -> tuple[str, list[str], dict[str, Any]]:
        compiled = self._statement.compile(dialect=_dialect())
        assert isinstance(compiled, GuardedCompiler)
        if compiled.unnamed:
            raise TenantNotNamed(compiled.unnamed)
        return str(compiled), list(compiled.positiontup or []), compiled.params

    def with_arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The text of the statement, and the values of its parameters in its order."""
        sql, names, constants = self._rendered
        return [sql, *(parameters[name] if name in parameters else constants[name] for name in names)]


@functools.cache
def _dialect() -> PGDialect_asyncpg:
    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    dialect.statement_compiler = GuardedCompiler
    return dialect


class Reads:
    """Executes reads; an async context manager, which opens connections when they are needed.

    A connection that has been lost while it was idle is replaced, and the read repeated.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._connect = functools.partial(connect, url, **serving_options(settings))
        self._recycle_seconds = settings.database_pool_recycle_seconds
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._free = asyncio.Semaphore(_MOST)
        self._idle: list[tuple[asyncpg.Connection, float]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            connection = self._idle.pop()[0]
            with contextlib.suppress(Exception):
                await connection.close()

    async def fetch(self, read: Read, parameters: Mapping[str, Any]) -> Sequence[asyncpg.Record]:
        """The rows of a read. Raises `DatabaseUnavailable`, also where there is no answer in time."""
        call = read.with_arguments(parameters)
        try:
            async with asyncio.timeout(self._deadline_seconds), self._free:
                while self._idle:
                    connection, opened = self._idle.pop()
                    if connection.is_closed() or time.monotonic() - opened > self._recycle_seconds:
                        connection.terminate()
                        continue
                    with contextlib.suppress(*_LOST):
                        return await self._fetched(connection, opened, call)
                connection = await self._connect()
                return await self._fetched(connection, time.monotonic(), call)
        except Exception as error:
            if is_unavailable(error):
                raise DatabaseUnavailable("The database can't be reached. Try again shortly.") from error
            raise

    async def _fetched(
        self, connection: asyncpg.Connection, opened: float, call: list[Any]
    ) -> Sequence[asyncpg.Record]:
        try:
            rows: Sequence[asyncpg.Record] = await connection.fetch(*call)
        except BaseException:
            connection.terminate()
            raise
        self._idle.append((connection, opened))
        return rows


#: Errors of a connection that was lost while it was idle.
_LOST = (ConnectionError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)
