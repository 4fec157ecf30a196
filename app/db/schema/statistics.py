"""Keep PostgreSQL's statistics of young tables up to date."""

from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.models import Base
from app.db.tenant_guard import ALL_TENANTS

#: Tables that have doubled since their last ANALYZE. They are large enough for plans to matter, and so small that
#: autovacuum may not have run yet. Tables of another owner are left to autovacuum, a minute later.
_OUTGROWN = text(
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname = ANY (:tables) AND pg_table_is_visible(oid)"
    " AND pg_relation_size(oid) BETWEEN 16 * 8192 AND 8192 * 8192"
    " AND pg_relation_size(oid) >= 2 * relpages::bigint * current_setting('block_size')::int"
    " AND pg_has_role(relowner, 'USAGE')"
).bindparams(bindparam("tables", type_=ARRAY(Text())))


async def learn_sizes(engine: AsyncEngine) -> list[str]:
    """Analyze young tables that have doubled in size; returns their names.

    A plan made for an empty table scans the whole table, and is kept until the next ANALYZE. In the first minute of a
    new installation each batch would be slower than the one before.
    """
    async with engine.connect() as connection:
        found = await connection.execute(_OUTGROWN, {"tables": list(Base.metadata.tables)})
        names = list(found.scalars())
    for name in names:
        # Each in a transaction of its own, which has written only at its end: a long one delays readers of the log.
        async with engine.begin() as connection:
            # A tenth of the usual sample, because autovacuum follows soon.
            await connection.exec_driver_sql("SET LOCAL default_statistics_target = 10")
            await connection.exec_driver_sql(
                f"ANALYZE (SKIP_LOCKED) {name}", execution_options={ALL_TENANTS: "sizes are nobody's secret"}
            )
    return names
