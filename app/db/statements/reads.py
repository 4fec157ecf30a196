"""Reads of one statement: rendered once, in autocommit, on pooled connections of the driver.

SQLAlchemy's execution, a ping and a transaction around it cost several times what such a statement costs. Under load
even a round trip does: equal reads that wait for a connection share one. The tenant guard holds here as well, because
it looks at a statement when it is rendered.
"""

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Self

import asyncpg
from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Select,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.visitors import iterate, replacement_traverse

from app.config import Settings
from app.db.connectivity.connections import connect
from app.db.engine import is_unavailable, serving_options
from app.db.statements.batches import TENANT
from app.db.tenant_guard import GuardedCompiler, TenantNotNamed
from app.errors import DatabaseUnavailable

#: Connections of a process. While they are busy, reads gather and then share a round trip.
_MOST = 3
#: Reads that share one. A page may have a megabyte.
_MOST_AT_ONCE = 16

Rows = Sequence[asyncpg.Record]


class Read:
    """A SELECT whose parameters have names, `tenant` and at least one more; rendered when it is first executed.

    Rendering raises `TenantNotNamed` if it does not name its tenant. `width` is the number of its columns: rows that
    come from a shared round trip have one more. Those that take long do not share one.
    """

    def __init__(self, statement: Select[Any], *, may_be_shared: bool = True) -> None:
        self._statement = statement
        self.may_be_shared = may_be_shared
        self.width = len(statement.selected_columns)

    def call(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The text of the statement, and its arguments in order."""
        text, names, constants = self._alone
        return [text, *(parameters[name] if name in parameters else constants[name] for name in names)]

    def shared_call(self, all_parameters: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The same for many reads of one tenant. A row ends with the number of its read, from 1."""
        text, names, constants = self._shared
        columns = {name: [each[name] for each in all_parameters] for name in self._asked}
        given = {"tenant": all_parameters[0]["tenant"], **{_several(name): all_ for name, all_ in columns.items()}}
        return [text, *(given[name] if name in given else constants[name] for name in names)]

    @functools.cached_property
    def _alone(self) -> tuple[str, list[str], dict[str, Any]]:
        return _rendered(self._statement)

    @functools.cached_property
    def _asked(self) -> dict[str, BindParameter[Any]]:
        """The parameters that differ between reads of a tenant."""
        found = (each for each in iterate(self._statement) if isinstance(each, BindParameter))
        return {each.key: each for each in found if each.required and each.key != TENANT.key}

    @functools.cached_property
    def _shared(self) -> tuple[str, list[str], dict[str, Any]]:
        arrays = [bindparam(_several(name), type_=ARRAY(each.type)) for name, each in self._asked.items()]
        named = [column(name, each.type) for name, each in self._asked.items()]
        asked = func.unnest(*arrays).table_valued(*named, with_ordinality="number").render_derived("asked")

        def of_its_read(element: Any, **_: Any) -> ColumnElement[Any] | None:
            if not isinstance(element, BindParameter) or element.key not in self._asked:
                return None
            # As text, since a column would bring its table into each subquery once more.
            return literal_column(f"asked.{element.key}", element.type)

        statement: Any = replacement_traverse(self._statement, {}, of_its_read)
        found = statement.lateral("found")
        return _rendered(select(*found.c, asked.c.number).select_from(asked.join(found, true())))


def _several(name: str) -> str:
    return f"all_{name}"


def _rendered(statement: Select[Any]) -> tuple[str, list[str], dict[str, Any]]:
    """The text of a statement, the names of its parameters in order, and the values of those that are constant."""
    compiled = statement.compile(dialect=_dialect())
    assert isinstance(compiled, GuardedCompiler)
    if compiled.unnamed:
        raise TenantNotNamed(compiled.unnamed)
    return str(compiled), list(compiled.positiontup or []), compiled.params


@functools.cache
def _dialect() -> PGDialect_asyncpg:
    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    dialect.statement_compiler = GuardedCompiler
    return dialect


_Waiting = tuple[Mapping[str, Any], asyncio.Future[Rows]]


class Reads:
    """Executes reads; an async context manager, which opens connections when they are needed.

    A connection that has been lost while it was idle is replaced, and the read repeated.
    """

    def __init__(self, url: str, settings: Settings, *, is_distributed: bool = False) -> None:
        self._connect = functools.partial(connect, url, **_options(settings, is_distributed=is_distributed))
        self._recycle_seconds = settings.database_pool_recycle_seconds
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._idle: list[tuple[asyncpg.Connection, float]] = []
        self._busy = 0
        self._waiting: dict[tuple[Read, int], deque[_Waiting]] = {}
        self._sharing: set[asyncio.Task[None]] = set()
        self.limit = _MOST  #: connections at once

    @property
    def busy(self) -> int:
        """The connections in use."""
        return self._busy

    @property
    def idle(self) -> int:
        """The connections that are open and not in use."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """The reads that wait for a connection."""
        return sum(map(len, self._waiting.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._sharing, return_exceptions=True)
        while self._idle:
            connection = self._idle.pop()[0]
            with contextlib.suppress(Exception):
                await connection.close()

    async def fetch(self, read: Read, parameters: Mapping[str, Any]) -> Rows:
        """The rows of a read. Raises `DatabaseUnavailable`, also where there is no answer in time."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                if self._busy < _MOST:
                    return await self._execute(read.call(parameters))
                answer: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
                self._waiting.setdefault((read, parameters["tenant"]), deque()).append((parameters, answer))
                return await answer
        except Exception as error:
            if is_unavailable(error):
                raise DatabaseUnavailable("The database can't be reached. Try again shortly.") from error
            raise

    async def _execute(self, call: list[Any]) -> Rows:
        self._busy += 1
        try:
            while self._idle:
                connection, opened = self._idle.pop()
                if connection.is_closed() or time.monotonic() - opened > self._recycle_seconds:
                    connection.terminate()
                    continue
                with contextlib.suppress(*_LOST):
                    return await self._fetched(connection, opened, call)
            return await self._fetched(await self._connect(), time.monotonic(), call)
        finally:
            self._busy -= 1
            if self._waiting:
                self._share()

    async def _fetched(self, connection: asyncpg.Connection, opened: float, call: list[Any]) -> Rows:
        try:
            rows: Rows = await connection.fetch(*call)
        except BaseException:
            connection.terminate()
            raise
        self._idle.append((connection, opened))
        return rows

    def _share(self) -> None:
        """Begin a round trip for those that have waited longest, with others that ask the same."""
        while self._waiting:
            key = next(iter(self._waiting))
            queue = self._waiting.pop(key)
            most = _MOST_AT_ONCE if key[0].may_be_shared else 1
            taken = [queue.popleft() for _ in range(min(len(queue), most))]
            if queue:
                self._waiting[key] = queue  # at the end: other reads come first
            if patient := [each for each in taken if not each[1].done()]:
                task = asyncio.create_task(self._answer(key[0], patient), name="shared-read")
                self._sharing.add(task)
                task.add_done_callback(self._sharing.discard)
                return

    async def _answer(self, read: Read, waiting: Sequence[_Waiting]) -> None:
        """Execute reads together. If one of them is at fault, execute each alone."""
        asked = [parameters for parameters, _ in waiting]
        try:
            async with asyncio.timeout(self._deadline_seconds):
                if len(waiting) == 1:
                    answers = [await self._execute(read.call(asked[0]))]
                else:
                    answers = _by_number(await self._execute(read.shared_call(asked)), len(asked))
        except Exception as error:
            if len(waiting) > 1 and not is_unavailable(error):
                for each in waiting:
                    await self._answer(read, [each])
                return
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), rows in zip(waiting, answers, strict=True):
            if not answer.done():
                answer.set_result(rows)


def _options(settings: Settings, *, is_distributed: bool) -> dict[str, Any]:
    """The options of connections. Planning such a statement takes longer than executing it, so it is done once.

    In a distributed database a plan is for the node of one tenant.
    """
    options = serving_options(settings)
    if settings.prepares_statements and not is_distributed:
        options["server_settings"] |= {"plan_cache_mode": "force_generic_plan"}
    return options


def _by_number(rows: Rows, count: int) -> list[Rows]:
    """The rows of each of `count` reads, in order."""
    found: list[list[asyncpg.Record]] = [[] for _ in range(count)]
    for row in rows:
        found[row[-1] - 1].append(row)
    return list(found)


#: Errors of a connection that was lost while it was idle.
_LOST = (ConnectionError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)
