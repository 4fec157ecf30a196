"""The statements that store messages, as they are executed."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from app.services.accept.statements import STORE_FIRST, STORE_KNOWN


def plain(sql: str) -> str:
    """One line without comments, and without spaces that say nothing."""
    spaced = re.sub(r"\s+", " ", re.sub(r"--.*", "", sql))
    return re.sub(r" ?([(),]) ?", r"\1", spaced).strip()


@pytest.mark.parametrize(
    ("statement", "name"), [(STORE_KNOWN[True], "store_known"), (STORE_FIRST[True], "store_first")]
)
def test_a_statement_that_stores_messages_is_laid_out_as_it_is_executed(statement: Executable, name: str) -> None:
    assert plain(executed(statement)) == plain(Path(__file__).with_name(f"{name}.sql").read_text())


@pytest.mark.parametrize("statements", [STORE_KNOWN, STORE_FIRST])
def test_without_details_a_statement_has_no_part_for_them(statements: dict[bool, Executable]) -> None:
    parts = {has_details: parts_of(executed(statement)) for has_details, statement in statements.items()}
    assert parts[False] <= parts[True]
    of_details = {"tagged", "copied", "told_names", "unnamed", "named_contacts", "queued_names"}
    assert parts[True] - parts[False] == of_details


def parts_of(sql: str) -> set[str]:
    """The names of its common table expressions."""
    return set(re.findall(r"(?:^WITH|\), ?)\s*(\w+) AS\s*\(", sql))


def executed(statement: Executable) -> str:
    compiled = statement.compile(dialect=PGDialect_asyncpg(paramstyle="named"))  # type: ignore[no-untyped-call, attr-defined]
    sql = str(compiled)
    for parameter, value in sorted(compiled.params.items(), key=lambda item: -len(item[0])):
        if value is not None:
            sql = sql.replace(f":{parameter}::VARCHAR", f"'{value}'")
    return sql
