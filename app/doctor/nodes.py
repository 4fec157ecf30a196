"""The check of a cluster: its tables are on its nodes, and everything is written through its coordinator."""

from sqlalchemy import Connection, text

from app.config import Settings
from app.db.schema.distribution import WRITE_THROUGH_COORDINATOR, has_extension, is_coordinator, undistributed_tables
from app.db.schema.distribution import has_distributed_tables as is_meant_to_be
from app.doctor.findings import APP, DatabaseCheck, Finding, counted, ok, problem

_NODES = text("SELECT count(*) FILTER (WHERE isactive), count(*) FILTER (WHERE NOT isactive) FROM pg_dist_node")


def nodes(_: Settings, connection: Connection) -> Finding:
    if not has_extension(connection):
        return ok("one server has all tables")
    if not is_coordinator(connection):
        return problem("DATABASE_URL names a worker node of a Citus cluster.", WRITE_THROUGH_COORDINATOR)
    if not is_meant_to_be(connection):
        return ok("Citus is here, and all tables are on this server")
    if missing := undistributed_tables(connection):
        said = f"{counted(len(missing), 'table is', 'tables are')} on the coordinator alone."
        return problem(said, f"Run `{APP} migrate --distributed`.")
    active, lost = connection.execute(_NODES).one()
    if lost:
        mending = "Bring it back, or move its parts: `SELECT * FROM pg_dist_node WHERE NOT isactive`."
        return problem(f"{counted(lost, 'node is', 'nodes are')} not active.", mending)
    return ok(f"the tables are on {counted(active, 'node', 'nodes')}")


CHECKS: list[DatabaseCheck] = [nodes]
