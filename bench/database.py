"""The database that is measured on: an embedded PostgreSQL of the service's own kind, thrown away afterwards.

It runs as it would for anyone, with fsync on. Every measurement begins with empty tables.
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from app.embedded import EmbeddedPostgres
from app.migrate import migrate
from app.models import Base
from bench.processes import BenchError

_DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True)
class Database:
    """A migrated database at `url`, which libpq reads."""

    url: str

    def empty(self) -> None:
        """Remove every row but the default tenant's, begin ids at 1 again, and leave nothing for later to write."""
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables if table.name != "tenants")
        self._execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        self._execute("CHECKPOINT")

    def add_conversations(self, pairs: int) -> None:
        """Make conversations 1 to `pairs`, as a run of the service would have left them."""
        self._execute(
            "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at) "
            "SELECT 1, '+1201666' || lpad((n %% 50)::text, 4, '0'), '+1804' || (5550000 + n), now() "
            "FROM generate_series(1, %s) n",
            pairs,
        )

    def messages(self) -> int:
        """How many messages are stored."""
        return int(self._execute("SELECT count(*) FROM messages")[0])

    def delivered(self) -> int:
        """How many messages a provider has taken."""
        return int(self._execute("SELECT count(*) FROM messages WHERE status = 'sent'")[0])

    def require_durability(self) -> None:
        """Raise `BenchError` if this server could forget what it has committed."""
        for name in _DURABILITY:
            if (value := self._execute("SELECT current_setting(%s)", name)[0]) != "on":
                raise BenchError(f"{name} is {value} on this PostgreSQL: what it stores is not durable")

    def _execute(self, statement: str, *parameters: object) -> tuple[Any, ...]:
        with contextlib.closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True  # CHECKPOINT can't stand in a transaction
            cursor.execute(statement, parameters or None)
            return cursor.fetchone() or () if cursor.description else ()


@contextmanager
def throw_away_database(data_dir: Path, bindir: Path | None) -> Iterator[Database]:
    """A database that a service with this DATA_DIR shares; its server stops with its last user."""
    data_dir.chmod(0o711)  # where we are root, another user runs PostgreSQL and has to get through
    with EmbeddedPostgres(data_dir / "postgres", bindir=bindir) as url:
        migrate(url)
        database = Database(url)
        database.require_durability()
        yield database
