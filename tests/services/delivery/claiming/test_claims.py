"""The claim, as PostgreSQL gets it."""

import re
from pathlib import Path

from sqlalchemy.dialects import postgresql

from app.services.delivery.claiming import claims

NAMED = dict.fromkeys(
    (
        "tenant",
        "on_channel",
        "of_priority",
        "limit",
        "lease",
        "provider",
        "by_worker",
        "because",
        "deaths",
        "begins_at",
        "sentences",
    )
)


def executed(wanted: claims.Wanted) -> str:
    """The statement with its constants filled in, without casts and without names that only SQLAlchemy needs."""
    compiled = claims._CLAIMS[wanted].compile(dialect=postgresql.dialect(paramstyle="named"))  # type: ignore[no-untyped-call]
    expanded = compiled.construct_expanded_state(NAMED)
    constants = {name: value for name, value in expanded.parameters.items() if name not in NAMED}
    statement = re.sub(r"::[A-Z]+(?: WITH TIME ZONE)?| AS anon_\d+", "", expanded.statement)
    return re.sub(r"(?<!:):(\w+)", lambda found: _written(found[0], constants), statement)


def _written(name: str, constants: dict[str, object]) -> str:
    value = constants.get(name[1:], name)
    return str(value) if isinstance(value, int) or value is name else f"'{value}'"


def words(sql: str) -> list[str]:
    return re.findall(r"[(),]|[^\s(),]+", re.sub(r"--.*", "", sql))


def test_the_claim_is_executed_as_it_is_written_down() -> None:
    written = (Path(__file__).parent / "claim.sql").read_text()
    assert words(executed(claims.Wanted.ANYTHING)) == words(written)
