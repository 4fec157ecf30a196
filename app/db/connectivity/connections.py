"""Connections of asyncpg: to the first host of a URL that qualifies, directly or through a pooler."""

import asyncio
import re
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from app.database_urls import hosts_of, parameters_of

#: A healthy server needs milliseconds to end a connection, and its own timeouts end it in any case.
_CLOSE_SECONDS = 0.5
_CONNECT_SECONDS = 60.0
#: Parameters of libpq for what asyncpg does not do, or takes as arguments.
_NOT_PASSED = {
    *("host", "port", "user", "password", "dbname", "target_session_attrs"),
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "load_balance_hosts", "gssencmode", "sslcompression", "sslsni"),
}
#: Of several hosts only one can be right, so the one that was right last is tried first.
_OF_ONE = {"primary", "read-write"}
_last_host: dict[str, int] = {}
#: Errors after which another host may do.
_OF_A_HOST = (
    OSError,
    TimeoutError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ConnectionDoesNotExistError,
)
_REFUSED = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")


class _Connection(asyncpg.Connection):
    """Closes within half a second. SQLAlchemy waits two seconds for a connection that is given up, and without limit
    when a pool is disposed of."""

    async def close(self, **_: Any) -> None:
        await super().close(timeout=_CLOSE_SECONDS)


async def connect(url: str, **options: Any) -> asyncpg.Connection:
    """A connection of asyncpg. If the caller is cancelled, connecting goes on, and the connection is closed then.

    Cancelled while it connects, asyncpg leaves an exception unretrieved, which asyncio reports. Of several hosts,
    each has an equal share of the option `timeout`: a machine that is gone refuses nothing.
    """
    connecting = asyncio.create_task(_connect_to_any(url, **options), name="connecting")
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_hang_up)
        raise


def _hang_up(connecting: asyncio.Task[asyncpg.Connection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()


async def _connect_to_any(url: str, **options: Any) -> asyncpg.Connection:
    """A connection to the first host that is there and has the role of `target_session_attrs`.

    Raises the error of the last host, or `ConnectionError` if it has another role.
    """
    parameters = parameters_of(url)
    hosts = hosts_of(parameters)
    rest = {name: value for name, value in parameters.items() if name not in _NOT_PASSED}
    options |= {
        "dsn": f"postgresql://?{urlencode(rest, quote_via=quote)}" if rest else None,
        "user": parameters.get("user"),
        "password": parameters.get("password"),
        "database": parameters.get("dbname"),
        "timeout": options.get("timeout", _CONNECT_SECONDS) / len(hosts),
        "connection_class": _Connection,
    }
    wanted = parameters.get("target_session_attrs", "any")
    first = _last_host.get(url, 0) if wanted in _OF_ONE else 0
    last: Exception = ConnectionError("the URL names no host")
    tries = [
        (number, role)
        for role in (["standby", "any"] if wanted == "prefer-standby" else [wanted])
        for number in [*range(first, len(hosts)), *range(first)]
    ]
    for number, role in tries:
        try:
            return await _connect_to(url, number, hosts[number], role, options)
        except _OF_A_HOST as error:
            last = error
    if isinstance(last, asyncpg.TargetServerAttributeNotMatched):
        raise ConnectionError(f"no host of the URL that can be reached is {wanted}")
    raise last


async def _connect_to(
    url: str, number: int, place: tuple[str | None, int | None], role: str, options: dict[str, Any]
) -> asyncpg.Connection:
    host, port = place
    connection: asyncpg.Connection = await asyncpg.connect(
        host=host, port=port, target_session_attrs=SessionAttribute(role), **options
    )
    _last_host[url] = number
    return connection


async def is_pooled(connection: asyncpg.Connection) -> bool:
    """True behind a pooler, which names a process of its own invention as the server's."""
    process: int = await connection.fetchval("SELECT pg_backend_pid()")
    return process != connection.get_server_pid()


def refused_parameter(error: BaseException) -> str | None:
    """The parameter of a connection that a pooler refuses; None for any other error."""
    found = _REFUSED.search(str(error))
    return found[1] if found else None
