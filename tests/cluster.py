"""A Citus cluster as the server of the tests: CITUS_URL names a database on its coordinator, with its workers."""

from contextlib import closing
from functools import cache

import psycopg2
from sqlalchemy.engine import make_url

_NODES = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY nodeport"


@cache
def workers_of(server: str) -> tuple[tuple[str, int], ...]:
    """The host and port of each worker node; none where the server is no coordinator of a cluster."""
    with closing(psycopg2.connect(server)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")
        if cursor.fetchone() != (True,):
            return ()
        cursor.execute(_NODES)
        return tuple(cursor.fetchall())


def on_every_node(server: str, *statements: str, database: str | None = None) -> None:
    """Run statements on the workers, and then on the coordinator."""
    url = make_url(server)
    for host, port in (*workers_of(server), (url.host, url.port)):
        node = url.set(host=host, port=port, database=database or url.database)
        with closing(psycopg2.connect(node.render_as_string(hide_password=False))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)


def create_database(server: str, name: str) -> None:
    """Create a database on every node, and join the nodes in it."""
    on_every_node(server, f"CREATE DATABASE {name} TEMPLATE template0")
    on_every_node(server, "CREATE EXTENSION citus", database=name)
    url = make_url(server)
    with closing(psycopg2.connect(url.set(database=name).render_as_string(hide_password=False))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT citus_set_coordinator_host(%s, %s)", (url.host, url.port))
            for worker in workers_of(server):
                cursor.execute("SELECT citus_add_node(%s, %s)", worker)


def drop_database(server: str, name: str) -> None:
    url = make_url(server)
    for host, port in ((url.host, url.port), *workers_of(server)):
        node = url.set(host=host, port=port).render_as_string(hide_password=False)
        with closing(psycopg2.connect(node)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
