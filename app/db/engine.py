"""PostgreSQL, given by DATABASE_URL or embedded: engines, connections, and the meaning of its errors.

One URL, in the form that libpq reads, serves both drivers: asyncpg for serving, psycopg2 for migrations, the
command line and test fixtures.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Self

import asyncpg
import psycopg2
from sqlalchemy import Engine, ExceptionContext, create_engine, event, text
from sqlalchemy import exc as sqlalchemy_exc
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.config import Settings
from app.database_urls import libpq_url
from app.db.connectivity.connections import connect
from app.db.connectivity.event_generation import give_up_stale_connections, raise_generation
from app.db.connectivity.outage import outage, sqlstate_of
from app.db.connectivity.pool import MeasuredPool, check_before_use
from app.db.embedded import EmbeddedPostgres, Keeper
from app.db.tenant_guard import guard
from app.errors import DatabaseUnavailable
from app.short_cache import ShortCache

_APPLICATION_NAME = "messaging-service"

#: No transaction of ours waits for anything outside. An idle one belongs to a process that hangs.
IDLE_IN_TRANSACTION_SECONDS = 10.0
#: For so much longer than the driver the server waits. When it stops waiting for a synchronous standby, it reports a
#: commit as done, so the driver has to give up first.
_SERVER_WAITS_SECONDS = 0.5
#: An answer of the database to the readiness check is repeated for so long.
_READY_SECONDS = 0.5
#: Codes of SQLSTATE for a transaction that gave way to another: a serialization failure, a deadlock.
_LOST_A_RACE = ("40001", "40P01")
#: Classes and codes of SQLSTATE for temporary trouble: connection, resources, operator intervention.
_AWAY = ("08", "53", "57P", "58", "25006", "25P03", "55P03", "57014", *_LOST_A_RACE)
#: Without a SQLSTATE these are the driver's own, and mean that the server can't be reached. An internal one is of a
#: server that stopped in the middle of an answer.
_OF_THE_DRIVER = sqlalchemy_exc.OperationalError | sqlalchemy_exc.InterfaceError | sqlalchemy_exc.InternalError


@contextmanager
def provided_database(settings: Settings, *, keep_running: bool = False) -> Iterator[str]:
    """The URL of the database to use. Without DATABASE_URL an embedded server runs while the context is open.

    With `keep_running` it is started again when it dies: for processes that stay.
    """
    if settings.database_url is not None:
        yield libpq_url(settings.database_url.get_secret_value())
    else:
        server = EmbeddedPostgres(settings.data_dir / "postgres", bindir=settings.pg_bindir)
        with server as url, Keeper(server) if keep_running else nullcontext():
            yield url


def create_serving_engine(url: str, settings: Settings) -> AsyncEngine:
    """The pool that requests and the worker share. Its connections are checked, once a second at most, and renewed.

    Statements that do not name the tenant are refused (`guard`).
    """
    options = serving_options(settings)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=functools.partial(_connect_to_serve, url, **options),
        connect_args={"prepared_statement_cache_size": options["statement_cache_size"]},
        poolclass=MeasuredPool,
        pool_recycle=settings.database_pool_recycle_seconds,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_overflow,
        pool_timeout=settings.database_pool_timeout_seconds,
        hide_parameters=True,
    )
    guard(engine)
    check_before_use(engine)
    give_up_stale_connections(engine)
    event.listen(engine.sync_engine, "handle_error", _give_up_if_read_only)
    return engine


def _give_up_if_read_only(context: ExceptionContext) -> None:
    """Have all connections replaced when a write is refused: another host of the URL may be the primary by now."""
    if isinstance(context.original_exception.__cause__, asyncpg.ReadOnlySQLTransactionError):
        context.is_disconnect = True


def serving_options(settings: Settings) -> dict[str, Any]:
    """The options of `connect` for serving."""
    return {
        "timeout": settings.database_pool_timeout_seconds,
        "command_timeout": settings.database_statement_timeout_seconds,
        "statement_cache_size": 100 if settings.prepares_statements else 0,
        "server_settings": _server_settings(settings),
    }


async def _connect_to_serve(url: str, **options: Any) -> asyncpg.Connection:
    connection = await connect(url, **options)
    try:
        await raise_generation(connection)
    except BaseException:
        connection.terminate()
        raise
    outage.end()
    return connection


def _server_settings(settings: Settings) -> dict[str, str]:
    """Limits that the server enforces even if this process hangs or is gone.

    PgBouncer refuses parameters that it does not know. Behind it they are set for the role.
    """
    known = {"application_name": _APPLICATION_NAME, "timezone": "UTC"}
    if not settings.prepares_statements:
        return known
    return known | {
        "jit": "off",
        "statement_timeout": _milliseconds(server_statement_seconds(settings)),
        "lock_timeout": _milliseconds(settings.database_lock_timeout_seconds),
        "idle_in_transaction_session_timeout": _milliseconds(IDLE_IN_TRANSACTION_SECONDS),
    }


def server_statement_seconds(settings: Settings) -> float:
    """The limit of a statement that the server enforces."""
    return settings.database_statement_timeout_seconds + _SERVER_WAITS_SECONDS


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


class PromptSession(AsyncSession):
    """A session that ends within `deadline_seconds` of being entered, or raises `TimeoutError`.

    Clients are promised an answer within five seconds. With a silent server the check of a connection, a new
    connection and a statement each have their own timeout, which add up to more.
    """

    def __init__(self, *arguments: Any, deadline_seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline_seconds = deadline_seconds
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._entered.enter_async_context(asyncio.timeout(self._deadline_seconds))
        self._entered.push_async_exit(super().__aexit__)
        return await super().__aenter__()

    async def __aexit__(self, *exception: Any) -> None:
        await self._entered.__aexit__(*exception)


class PromptSessions(async_sessionmaker[AsyncSession]):
    """Makes sessions that end within `deadline_seconds`, those of `begin` including their commit.

    The outcome of a commit that was cut off is unknown.
    """

    def __init__(self, engine: AsyncEngine, *, deadline_seconds: float) -> None:
        super().__init__(engine, class_=PromptSession, expire_on_commit=False, deadline_seconds=deadline_seconds)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:  # type: ignore[override]  # theirs doesn't enter the session
        async with self() as session, session.begin():
            yield session


#: A hot standby is read-only, too. What is written is a record in the write-ahead log, some 100 bytes.
_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only') = 'on'")
_WRITE = text("SELECT pg_logical_emit_message(true, 'readiness', '')")


class Readiness:
    """The readiness check of the database: at most one at a time, and none for half a second after a success.

    Anyone may ask, so the cost must not grow with the number of requests. It commits a record that no one reads,
    because a server can answer while its commits hang, such as without its synchronous standby.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._reached: ShortCache[str, bool] = ShortCache(size=1)

    async def confirm(self) -> None:
        """Return if the database takes writes, else raise its error, which is not cached.

        Raises `DatabaseUnavailable` for a server that is read-only, and for a commit that hangs.
        """
        await self._reached.get_or_load("database", self._reach)

    async def _reach(self) -> tuple[bool, float]:
        is_committing = False
        try:
            async with self._sessions() as session:
                if (await session.execute(_IS_READ_ONLY)).scalar_one():
                    raise DatabaseUnavailable("The database is read-only: it is a standby, or was set so.")
                await session.execute(_WRITE)
                is_committing = True
                await session.commit()
        except TimeoutError as error:
            if not is_committing:
                raise
            hangs = "The database answers, but commits hang: a synchronous standby may be away."
            outage.note(error, waits_for="a commit")
            raise DatabaseUnavailable(hangs) from error
        return True, _READY_SECONDS


def create_command_engine(url: str) -> Engine:
    """For migrations, the command line and fixtures: one connection at a time, through psycopg2."""
    return create_engine(
        "postgresql+psycopg2://",
        creator=functools.partial(
            psycopg2.connect, libpq_url(url), connect_timeout=10, application_name=_APPLICATION_NAME
        ),
        pool_pre_ping=True,
        hide_parameters=True,
    )


def lost_a_race(error: BaseException) -> bool:
    """True if a transaction gave way to another one, so that the same work can succeed at once."""
    return sqlstate_of(error) in _LOST_A_RACE


def is_unavailable(error: BaseException) -> bool:
    """True if an error means that PostgreSQL is away or busy, so that the same work can succeed later."""
    if isinstance(error, sqlalchemy_exc.TimeoutError | ConnectionError | OSError | TimeoutError):
        return True  # the pool is exhausted, or the server can't be reached
    if isinstance(error, sqlalchemy_exc.DBAPIError):
        if error.connection_invalidated:
            return True
        sqlstate = sqlstate_of(error)
        return isinstance(error, _OF_THE_DRIVER) if sqlstate is None else sqlstate.startswith(_AWAY)
    if isinstance(error, asyncpg.PostgresError):
        return bool(error.sqlstate and error.sqlstate.startswith(_AWAY))
    # The latter is a server that stopped in the middle of an answer.
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError)
