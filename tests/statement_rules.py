"""The rules for statements that a distributed database takes, checked on their text, without one.

`refusals` names what Citus would refuse or do wrong. `docs/distributed.md` tells of each rule.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind, BoolExprType, JoinType

from app.db.models import Base
from app.db.schema.distribution import REFERENCE

DISTRIBUTED = frozenset(
    table.name for table in Base.metadata.tables.values() if "tenant_id" in table.c and table.name not in REFERENCE
)
#: Tables whose ids tell the order of rows. The event log goes by transactions first, and each node has its own.
_DRAWS_IDS = {name for name in DISTRIBUTED if "id" in Base.metadata.tables[name].c} - {"events", "files"}
#: They tell of the server that executes them.
_OF_SERVER = {"pg_current_snapshot", "pg_current_xact_id", "pg_postmaster_start_time"}

Volatilities = Mapping[str, str]  #: of functions, by name: i, s or v, the best of those with the name

VOLATILITIES = "SELECT proname, min(provolatile::text) FROM pg_proc GROUP BY 1"

_Conditions = list[ast.Node]

#: Statements that break a rule, by how they begin, or by a part of them; and why they may.
EXCEPTIONS = {
    r"settling AS \(SELECT messages\.id": "the form of outcomes that no distributed database gets",
    r"WITH seen AS \(SELECT arriving\.": "the single statement of accepting, which no distributed database gets",
    r"FROM event_logs\b": "it goes over the tenants of each node, and reads the beginning of an index of each",
    r"(INSERT INTO|UPDATE) event_logs ": "each start of a server concerns the logs of all tenants",
    r"FROM webhook_calls JOIN tenants ": "the operator lists the callbacks of all tenants",
    r"FROM (audit_events|api_keys) JOIN tenants ": "the operator lists those of all tenants",
    r"FROM batches\s+WHERE \(?batches\.state NOT IN": "a worker completes the batches of all tenants",
    r"SELECT DISTINCT contacts\.tenant_id": "a worker completes the erasures of all tenants",
    r"SELECT DISTINCT head\.tenant_id": "the indexer looks for the tenants with something to index",
    r"UPDATE webhook_leases SET leased_until": "a worker has the leases of many tenants",
    r"FROM (api_keys|sessions), tenants, unnest\(": "a process looks after the readers of many tenants",
}


@lru_cache(maxsize=4096)
def parsed(sql: str) -> ast.Node | None:
    """The syntax tree of one statement; None if there is only a semicolon."""
    found = parse_sql(sql)
    return found[0].stmt if found else None


def nodes_in(node: Any, *, into_selects: bool = True) -> Iterator[Any]:
    """A node and all below it; without `into_selects` those of subqueries are left out."""
    if isinstance(node, tuple | list):
        for each in node:
            yield from nodes_in(each, into_selects=into_selects)
    elif isinstance(node, ast.Node):
        yield node
        if isinstance(node, ast.SubLink) and not into_selects:
            yield from nodes_in(node.testexpr, into_selects=False)
            return
        for name in node:
            yield from nodes_in(getattr(node, name), into_selects=into_selects)


def kind_in(node: Any, *kinds: type[ast.Node], into_selects: bool = True) -> Iterator[Any]:
    """The nodes of these kinds; a well-formed one has what its kind needs."""
    return (each for each in nodes_in(node, into_selects=into_selects) if isinstance(each, kinds))


def refusals(sql: str, volatilities: Volatilities) -> list[str]:
    """The reasons for which a distributed database refuses a statement; none if it takes it."""
    tree = parsed(sql)
    if not isinstance(tree, ast.SelectStmt | ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt):
        return []
    return sorted({*_against_tenants(tree), *_against_writing(tree, volatilities), *_against_locks(tree)})


def refused(sql: str, volatilities: Volatilities) -> str | None:
    """The statement with what is against it, unless it may be so."""
    found = refusals(sql, volatilities)
    if not found or any(re.search(known, sql) for known in EXCEPTIONS):
        return None
    return f"{'; '.join(found)}: {sql}"


# The tenant of each table


def _against_tenants(tree: ast.Node) -> Iterator[str]:
    if not any(each.relname in DISTRIBUTED for each in kind_in(tree, ast.RangeVar)):
        return
    is_named = any(map(_is_named, kind_in(tree, ast.A_Expr)))
    inserts = [each for each in kind_in(tree, ast.InsertStmt) if each.relation.relname in DISTRIBUTED]
    fills_it = bool(inserts) and inserts[0] is tree
    if not is_named and not fills_it:
        yield from _against_all_tenants(tree)
    for scope in nodes_in(tree):
        if isinstance(scope, ast.SelectStmt | ast.UpdateStmt | ast.DeleteStmt):
            yield from _against_joins(scope)


def _is_named(condition: Any) -> bool:
    """True for a comparison of `tenant_id` with one value."""
    sides = condition.lexpr, condition.rexpr
    return _is_equality(condition) and any(map(_is_tenant, sides)) and any(map(_is_value, sides))


def _is_equality(condition: Any) -> bool:
    return bool(condition.kind == A_Expr_Kind.AEXPR_OP and condition.name[-1].sval == "=")


def _is_tenant(node: Any) -> bool:
    if isinstance(node, ast.TypeCast):
        return _is_tenant(node.arg)
    return any(each is node and each.fields[-1].sval == "tenant_id" for each in kind_in(node, ast.ColumnRef))


def _is_value(node: Any) -> bool:
    if isinstance(node, ast.TypeCast):
        return _is_value(node.arg)
    return isinstance(node, ast.ParamRef | ast.A_Const)


def _against_all_tenants(tree: ast.Node) -> Iterator[str]:
    yield "it names no tenant"
    for each in nodes_in(tree):
        if isinstance(each, ast.WithClause) and each.recursive:
            yield "a recursive scan over tenants"
        if isinstance(each, ast.SelectStmt) and not each.fromClause and each is not tree:
            calls = {_name_of(call) for call in nodes_in(each.targetList) if isinstance(call, ast.FuncCall)}
            if calls & _OF_SERVER:
                yield "a subquery without a table asks the coordinator about itself"


def _against_joins(scope: ast.Node) -> Iterator[str]:
    """Two tables of a join have to be of the same tenant."""
    tables, conditions = _sources_of(scope)
    if len(tables) < 2:
        return
    groups = {alias: alias for alias in tables}

    def root(alias: str) -> str:
        while groups.get(alias, alias) != alias:
            alias = groups[alias]
        return alias

    for condition in conditions:
        if not isinstance(condition, ast.A_Expr) or not _is_equality(condition):
            continue
        sides = condition.lexpr, condition.rexpr
        if not any(map(_is_tenant, sides)):
            continue
        ends = [_alias_of(side) if isinstance(side, ast.ColumnRef) else "a value" for side in sides]
        groups.setdefault(ends[0], ends[0])
        groups.setdefault(ends[1], ends[1])
        groups[root(ends[0])] = root(ends[1])
    if len({root(alias) for alias in tables}) > 1:
        yield "a join of rows that may be different tenants'"


def _sources_of(scope: ast.Node) -> tuple[set[str], _Conditions]:
    """The aliases of the distributed tables in the FROM of a statement, and all that has to hold for its rows."""
    tables: set[str] = set()
    source: Any
    conditions = list(_conjuncts(getattr(scope, "whereClause", None)))
    sources = [*(getattr(scope, "fromClause", None) or ()), *(getattr(scope, "usingClause", None) or ())]
    if isinstance(scope, ast.UpdateStmt | ast.DeleteStmt):
        sources.append(scope.relation)
    while sources:
        source = sources.pop()
        if isinstance(source, ast.RangeVar) and source.relname in DISTRIBUTED:
            tables.add(str(source.alias.aliasname if source.alias else source.relname))
        elif isinstance(source, ast.JoinExpr):
            sources += [source.larg, source.rarg]
            if source.jointype != JoinType.JOIN_FULL:
                conditions += _conjuncts(source.quals)
    return tables, conditions


def _conjuncts(condition: Any) -> Iterator[ast.Node]:
    if isinstance(condition, ast.BoolExpr) and condition.boolop == BoolExprType.AND_EXPR:
        for each in condition.args or ():
            yield from _conjuncts(each)
    elif condition is not None:
        yield condition


def _alias_of(column: Any) -> str:
    return str(column.fields[0].sval)


def _name_of(call: Any) -> str:
    return str(call.funcname[-1].sval)


# What is computed where rows are written


def _against_writing(tree: ast.Node, volatilities: Volatilities) -> Iterator[str]:
    for each in kind_in(tree, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt):
        if each.relation.relname in DISTRIBUTED.union(REFERENCE):
            yield from _against_write(each, volatilities)


def _against_write(write: Any, volatilities: Volatilities) -> Iterator[str]:
    def changing(node: Any, classes: str) -> bool:
        """True if it has a function of one of these classes, or computes with an interval."""
        for each in nodes_in(node, into_selects=False):
            if isinstance(each, ast.FuncCall) and volatilities.get(_name_of(each), "i") in classes:
                return True
            if isinstance(each, ast.SQLValueFunction) and "s" in classes:
                return True
            if "s" in classes and isinstance(each, ast.A_Expr) and _computes_a_time(each):
                return True
        return False

    sets = [write.targetList] if isinstance(write, ast.UpdateStmt) else []
    conflict = write.onConflictClause if isinstance(write, ast.InsertStmt) else None
    if conflict is not None and changing(conflict.targetList, "sv"):
        yield "a function that is not immutable in ON CONFLICT DO UPDATE SET"
    if any(changing(each, "v") for each in sets):
        yield "a volatile function in SET"
    if changing(_returned(write), "sv"):
        yield "a function that is not immutable in RETURNING"
    places = [*sets, *([] if isinstance(write, ast.InsertStmt) else [write.whereClause])]
    if any(changing(each, "sv") for each in kind_in(places, ast.CaseExpr, ast.CoalesceExpr, into_selects=False)):
        yield "a function that is not immutable in CASE or COALESCE"
    for call in kind_in(places, ast.FuncCall, into_selects=False):
        of_column = any(kind_in(call.args, ast.ColumnRef, into_selects=False))
        if of_column and volatilities.get(_name_of(call), "i") == "s":
            yield "a stable function of a column in an UPDATE or DELETE"
    if any(each.arg is not None for each in kind_in(sets, ast.CaseExpr, into_selects=False)):
        yield "CASE x WHEN in SET"
    for insert in kind_in(write, ast.InsertStmt):
        read = {each.relname for each in kind_in(insert.selectStmt, ast.RangeVar)}
        if insert is write and insert.relation.relname in _DRAWS_IDS and read & DISTRIBUTED:
            yield "ids that are drawn while a tenant's rows are read"


def _returned(write: Any) -> Any:
    clause = getattr(write, "returningClause", None)
    return getattr(clause, "exprs", None) if clause is not None else getattr(write, "returningList", None)


def _computes_a_time(node: Any) -> bool:
    """True for a sum or difference with an interval, which is only stable for times with a zone."""
    if node.name[-1].sval not in {"+", "-"}:
        return False
    casts = kind_in((node.lexpr, node.rexpr), ast.TypeCast, into_selects=False)
    return any(each.typeName.names[-1].sval == "interval" for each in casts)


# Locks


def _against_locks(tree: ast.Node) -> Iterator[str]:
    for each in nodes_in(tree):
        if not isinstance(each, ast.CommonTableExpr) or not isinstance(each.ctequery, ast.SelectStmt):
            continue
        query = each.ctequery
        if query.lockingClause and _joins_a_result(query):
            yield "FOR UPDATE in a CTE that joins a function or another CTE"


def _joins_a_result(query: ast.SelectStmt) -> bool:
    tables = Base.metadata.tables
    for each in nodes_in(query.fromClause):
        if isinstance(each, ast.RangeFunction):
            return True
        if isinstance(each, ast.RangeVar) and each.relname not in tables:
            return True
    # What is compared with the rows of a subquery is joined, too.
    return any(
        isinstance(below, ast.RangeFunction) or (isinstance(below, ast.RangeVar) and below.relname not in tables)
        for link in nodes_in(query.whereClause)
        if isinstance(link, ast.SubLink) and link.testexpr is not None
        for below in nodes_in(link.subselect)
    )
