"""Distribute the tables over the nodes of a Citus cluster, by tenant.

All rows of a tenant stand on one node, so that its transactions are local there. `tenants` and the tables that are
joined without a tenant are copied to every node. Everything is written through the coordinator. A worker node would
draw ids from a range of its own, and the order of messages goes by id.
"""

from collections.abc import Iterator

import structlog
from sqlalchemy import Connection, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.models import Base, ProviderPause, Tenant, TenantAddress
from app.errors import ConfigurationError

log = structlog.get_logger(__name__)

_BY_TENANT = "tenant_id"
#: Each node has a copy. They are small, rarely written, and read with rows of any tenant.
REFERENCE = tuple(model.__tablename__ for model in (Tenant, TenantAddress, ProviderPause))

_HAS_EXTENSION = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
_NODES = "SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards"
_IS_KNOWN = "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = cast(:name AS regclass))"
_SETTINGS = (
    # With it, `tenants` would take every table that refers to it into the metadata, which then can't be distributed.
    "SET LOCAL citus.enable_local_reference_table_foreign_keys TO off",
    # A table that refers to a copied one is only changed over one connection to each node.
    "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'",
)


#: Otherwise a look at the catalog hides the parts of tables, and that takes each new connection two seconds.
_SHOW_PARTS = """
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET citus.override_table_visibility TO off', current_database());
END $$
"""
#: The execution option of an engine whose database is distributed.
_OPTION = "is_distributed"
_NOTE = text("UPDATE installation SET is_distributed = true")
#: True where the tables are distributed, or were when the backup was made that this database is restored from.
IS_DISTRIBUTED = text("SELECT is_distributed FROM installation")
_PARTS_HIDDEN = "citus.override_table_visibility=on"
#: Settings of a connection that copies all tables, which mean nothing to a server without Citus. The parts of tables
#: are hidden, and a node is read over one connection, so that a tenant's rows are of one moment.
COPYING = (_PARTS_HIDDEN, "citus.max_adaptive_executor_pool_size=1")


async def with_its_form(engine: AsyncEngine) -> AsyncEngine:
    """The engine, with the form of the database's statements noted on its connections (`is_distributed`)."""
    async with engine.connect() as connection:
        answer = bool((await connection.execute(IS_DISTRIBUTED)).scalar())
    return engine.execution_options(**{_OPTION: answer})


def engine_is_distributed(engine: AsyncEngine) -> bool:
    """The same for an engine."""
    return bool(engine.get_execution_options().get(_OPTION))


def is_distributed(connection: AsyncConnection) -> bool:
    """True for a connection to a distributed database, as it was when the process started."""
    return bool(connection.sync_connection and connection.sync_connection.get_execution_options().get(_OPTION))


def has_distributed_tables(connection: Connection) -> bool:
    """True if `distribute` has run in this database. A dump may have come from one to a server without Citus."""
    return bool(connection.scalar(IS_DISTRIBUTED)) and has_extension(connection)


def distribute(connection: Connection) -> list[str]:
    """Distribute the tables that are not yet, in the open transaction; returns their names.

    Raises `ConfigurationError` where the database is not the coordinator of a cluster.
    """
    _must_be_coordinator(connection)
    for setting in _SETTINGS:
        connection.execute(text(setting))
    done = undistributed_tables(connection)
    first = next(table for table in _to_distribute() if table.name not in REFERENCE)
    for name in done:
        if name in REFERENCE:
            connection.execute(text("SELECT create_reference_table(:name)"), {"name": name})
        else:
            beside = "default" if name == first.name else first.name
            parameters = {"name": name, "column": _BY_TENANT, "beside": beside}
            connection.execute(
                text("SELECT create_distributed_table(:name, :column, colocate_with => :beside)"), parameters
            )
    connection.execute(_NOTE)
    connection.execute(text(_SHOW_PARTS))
    if done:
        log.info("tables_distributed", tables=len(done))
    return done


def hide_parts(connection: Connection) -> None:
    """Hide the parts of tables from looks at the catalog, in the open transaction."""
    connection.execute(text(f"SET LOCAL {_PARTS_HIDDEN}"))


def has_extension(connection: Connection) -> bool:
    """True if the database has the extension of Citus."""
    return bool(connection.scalar(text(_HAS_EXTENSION)))


def is_coordinator(connection: Connection) -> bool:
    """True on the coordinator of a cluster; only where there is the extension."""
    return bool(connection.scalar(text("SELECT citus_is_coordinator()")))


#: The mending of a URL that names a worker node.
WRITE_THROUGH_COORDINATOR = "Name its coordinator, because a worker draws ids from a range of its own."


def refuse_worker_node(connection: Connection) -> None:
    """Raises `ConfigurationError` for a connection to a worker node of a cluster."""
    if has_extension(connection) and not is_coordinator(connection):
        raise ConfigurationError(f"DATABASE_URL names a worker node of a Citus cluster. {WRITE_THROUGH_COORDINATOR}")


def undistributed_tables(connection: Connection) -> list[str]:
    """The tables that `distribute` would distribute."""
    return [table.name for table in _to_distribute() if not _is_known(connection, table)]


def _must_be_coordinator(connection: Connection) -> None:
    if not has_extension(connection):
        raise ConfigurationError(
            "This database can't be distributed, because it has no extension `citus`: create the extension on every "
            "node, add the workers with `citus_add_node`, and run this again (docs/distributed.md)."
        )
    refuse_worker_node(connection)
    if not connection.scalar(text(_NODES)):
        raise ConfigurationError(
            "The cluster has no node for tables: add the workers with `citus_add_node`, and run this again "
            "(docs/distributed.md)."
        )


def _to_distribute() -> Iterator[Table]:
    """The tables that the nodes share, those that others refer to first."""
    ordered = Base.metadata.sorted_tables
    yield from (table for table in ordered if table.name in REFERENCE)
    yield from (table for table in ordered if _BY_TENANT in table.c and table.name not in REFERENCE)


def _is_known(connection: Connection, table: Table) -> bool:
    return bool(connection.scalar(text(_IS_KNOWN), {"name": table.name}))
