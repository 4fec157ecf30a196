"""URLs of PostgreSQL as libpq reads them: with several hosts, `target_session_attrs` and percent encoding."""

import re
from urllib.parse import quote, unquote

import psycopg2
from psycopg2.extensions import parse_dsn

#: A user and a password are read leniently: only an `@` has to be encoded.
_URL = re.compile(r"(?:postgresql|postgres)(?:\+\w+)?://(?:([^:/@]*)(?::([^@]*))?@)?(.*)", re.DOTALL)
_UNKNOWN = re.compile(r'invalid URI query parameter: "(\w+)"')


def libpq_url(url: str) -> str:
    """The URL without SQLAlchemy's driver name and with the long scheme, for libpq. Raises `ValueError`."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("only PostgreSQL is supported: postgresql://user:password@host:port/name")
    user, password, rest = found.groups()
    login = ":".join(quote(unquote(part), safe="") for part in (user, password) if part is not None)
    return f"postgresql://{login}@{rest}" if user is not None else f"postgresql://{rest}"


def parameters_of(url: str) -> dict[str, str]:
    """The parameters of a URL, by libpq's names. Raises `ValueError`, whose text repeats no part of a login."""
    try:
        return dict(parse_dsn(libpq_url(url)))
    except psycopg2.Error as error:
        if unknown := _UNKNOWN.search(str(error)):
            raise ValueError(f"libpq has no parameter {unknown[1]}") from None
        raise ValueError("write it as postgresql://user:password@host:port/name") from None


def hosts_of(parameters: dict[str, str]) -> list[tuple[str | None, int | None]]:
    """The hosts and ports to try, in order; None where the defaults of libpq hold. Raises `ValueError`."""
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    try:
        return [(host or None, int(port) if port else None) for host, port in zip(hosts, ports, strict=True)]
    except ValueError:
        raise ValueError("name one port, or one for each host") from None


def database_name(url: str) -> str:
    """Hosts and database, without the user."""
    parameters = parameters_of(url)
    places = ",".join(f"{host}:{port}" for host, port in hosts_of(parameters))
    return f"{places}/{parameters.get('dbname')}"
