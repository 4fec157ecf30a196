"""Refuse statements on tenants' tables that do not name the tenant.

Every query should name its tenant; the guard catches those that forget it. It works where SQLAlchemy renders a
statement, because only there all of it is known: joins of the ORM, loads of relationships, CTEs, subqueries. The
finding is cached with the rendered statement, so that an execution costs one look-up.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from sqlalchemy import Connection, event
from sqlalchemy.dialects.postgresql.asyncpg import PGCompiler_asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import Alias, FromClause, Join, TableClause, operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, ColumnClause, Grouping, Tuple

from app.db.models import Base, Tenant

log = structlog.get_logger(__name__)

#: The tables whose rows belong to tenants.
TENANTS_TABLES = frozenset(table.name for table in Base.metadata.tables.values() if "tenant_id" in table.c)

#: The execution option of a statement that concerns all tenants; its value is the reason.
ALL_TENANTS = "all_tenants"

_MENTIONED = re.compile(rf"\b(?:{'|'.join(sorted(TENANTS_TABLES))})\b", re.IGNORECASE)

_Equality = tuple[Any, Any]  #: a column named `tenant_id`, and what it has to be equal to


class TenantNotNamed(RuntimeError):
    """A statement touches tenants' tables without naming the tenant: a bug of ours. Nothing was executed."""

    def __init__(self, tables: frozenset[str]) -> None:
        super().__init__(f"A statement does not name the tenant of {', '.join(sorted(tables))}.")


def guard(engine: AsyncEngine) -> None:
    """Have an engine refuse, with `TenantNotNamed`, statements that do not name the tenant of each such table.

    The rule holds for each SELECT, UPDATE and DELETE, and for each CTE and subquery. Every such table needs its
    `tenant_id` equal to a parameter, to `tenants.id`, or to that of a table which is named already. Conditions that
    may be false do not count: one side of an OR, or the preserved side of an outer join. An INSERT has to fill
    `tenant_id`. SQL given as text must not mention these tables, since it is not parsed.
    """
    engine.dialect.statement_compiler = GuardedCompiler
    event.listen(engine.sync_engine, "before_cursor_execute", _refuse_unnamed, retval=True)


def _refuse_unnamed(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    compiled = context.compiled
    unnamed = compiled.unnamed if isinstance(compiled, GuardedCompiler) else _mentioned(statement)
    if unnamed and not context.execution_options.get(ALL_TENANTS):
        # Some background tasks survive their errors and report little, so it is logged here.
        log.error("tenant_not_named", tables=sorted(unnamed))
        raise TenantNotNamed(unnamed)
    return statement, parameters


class GuardedCompiler(PGCompiler_asyncpg):
    """Renders a statement, and notes the tenants' tables whose tenant it does not name.

    A table is noted unless it is proven to be named, so a construct that the proof does not know is refused.
    """

    unnamed: frozenset[str] = frozenset()

    def visit_table(self, table: Any, asfrom: Any = False, *arguments: Any, **options: Any) -> Any:
        if asfrom and table.name in TENANTS_TABLES:
            alias = options.get("enclosing_alias")
            source = table if alias is None or alias.element is not table else alias
            if source not in _named(self.stack[-1]):
                self.unnamed |= {table.name}
        return super().visit_table(table, asfrom, *arguments, **options)  # type: ignore[no-untyped-call]

    def visit_insert(self, insert_stmt: Any, *arguments: Any, **options: Any) -> Any:
        rendered = super().visit_insert(insert_stmt, *arguments, **options)  # type: ignore[no-untyped-call]
        # CTEs stand before it, so the last INSERT is this one.
        _, _, columns = rendered.rpartition("INSERT INTO ")[2].partition("(")
        if insert_stmt.table.name in TENANTS_TABLES and "tenant_id" not in columns.partition(")")[0].split(", "):
            self.unnamed |= {insert_stmt.table.name}
        return rendered

    def post_process_text(self, text: str) -> Any:
        self.unnamed |= _mentioned(text)
        return super().post_process_text(text)  # type: ignore[no-untyped-call]

    def escape_literal_column(self, text: str) -> Any:
        self.unnamed |= _mentioned(text)
        return super().escape_literal_column(text)  # type: ignore[no-untyped-call]


def _mentioned(text: str) -> frozenset[str]:
    return frozenset(name.lower() for name in _MENTIONED.findall(text))


def _named(scope: Mapping[str, Any]) -> set[FromClause]:
    """The tables and aliases in the FROM of the current statement whose tenant it names.

    `scope` is the compiler's entry for the statement: as the ORM has resolved it, with its own FROM and that of the
    enclosing statements. Those are checked where they are rendered themselves.
    """
    here: set[FromClause] = scope["asfrom_froms"]
    around: set[FromClause] = scope["correlate_froms"]
    equalities = list(_equalities(scope["selectable"].whereclause))
    for join in here:
        if isinstance(join, Join) and not join.full:
            filtered = _sources(join.right if join.isouter else join)
            equalities += [each for each in _equalities(join.onclause) if each[0].table in filtered]

    named: set[FromClause] = set()

    def names_tenant(value: Any) -> bool:
        if not isinstance(value, ColumnClause):
            return isinstance(value, BindParameter)
        table, name = value.table, _table_name(value.table)
        if name == Tenant.__tablename__:
            return value.name == "id"
        is_known = table in named or (table in around and table not in here)
        return is_known and value.name == "tenant_id" and name in TENANTS_TABLES

    while more := {own.table for own, value in equalities if own.table not in named and names_tenant(value)}:
        named |= more
    return named


def _equalities(condition: Any) -> Iterator[_Equality]:
    """The equalities of columns named `tenant_id` that must hold wherever `condition` does."""
    if isinstance(condition, Grouping):
        yield from _equalities(condition.element)
    elif isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for each in condition.clauses:
            yield from _equalities(each)
    elif isinstance(condition, BinaryExpression):
        left, right = condition.left, condition.right
        if condition.operator is operators.eq:
            pairs = [(left, right), (right, left)]
        elif condition.operator is operators.in_op and isinstance(left, Tuple):
            pairs = [(each, right) for each in left.clauses]  # the load of a relationship: (tenant_id, id) IN (...)
        else:
            pairs = []
        yield from ((own, value) for own, value in pairs if isinstance(own, ColumnClause) and own.name == "tenant_id")


def _sources(source: FromClause) -> set[FromClause]:
    """The tables and aliases that make up a join."""
    return _sources(source.left) | _sources(source.right) if isinstance(source, Join) else {source}


def _table_name(source: Any) -> str | None:
    """The name of a table, or of the table behind an alias; None for anything else, such as a CTE."""
    while isinstance(source, Alias):
        source = source.element
    return source.name if isinstance(source, TableClause) else None
