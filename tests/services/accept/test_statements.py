"""The statement that stores messages, as it is executed."""

import re
from pathlib import Path

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from app.services.accept.statements import STORE_KNOWN


def plain(sql: str) -> str:
    """One line without comments, and without spaces that say nothing."""
    spaced = re.sub(r"\s+", " ", re.sub(r"--.*", "", sql))
    return re.sub(r" ?([(),]) ?", r"\1", spaced).strip()


def test_the_statement_that_stores_messages_is_laid_out_as_it_is_executed() -> None:
    compiled = STORE_KNOWN.compile(dialect=PGDialect_asyncpg(paramstyle="named"))  # type: ignore[no-untyped-call]
    sql = str(compiled)
    for name, value in compiled.params.items():
        if value is not None:
            sql = sql.replace(f":{name}::VARCHAR", f"'{value}'").replace(f":{name}::INTEGER", str(value))
    assert plain(sql) == plain(Path(__file__).with_name("store_known.sql").read_text())
