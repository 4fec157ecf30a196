"""The measured database: an embedded PostgreSQL as the service has it, removed afterwards.

It runs with the service's settings and fsync on. Every measurement begins with empty tables.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from app.db.embedded import EmbeddedPostgres
from app.db.migrate import migrate
from app.db.models import Base
from app.domain import DEFAULT_TENANT_ID, KeyScope
from app.services.events.cursors import Position
from app.services.tenancy.keys import new_token
from bench.measurements import Astray
from bench.processes import BenchError

_DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True)
class Database:
    """A migrated database at `url`, in libpq's form."""

    url: str

    def empty(self) -> None:
        """Remove all rows but the default tenant, restart ids at 1, and checkpoint, so that no writes are pending."""
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables if table.name != "tenants")
        self._execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        self._execute("CHECKPOINT")

    def add_conversations(self, pairs: int) -> None:
        """Make conversations 1 to `pairs`, as a run of the service would leave them."""
        self._execute(
            "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at) "
            "SELECT 1, '+1201666' || lpad((n %% 50)::text, 4, '0'), '+1804' || (5550000 + n), now() "
            "FROM generate_series(0, %s) n",
            pairs - 1,
        )

    def add_messages(self, each: int) -> None:
        """Give every conversation `each` finished messages, with counts and fresh statistics."""
        self._execute(
            "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, "
            "body, attachments, status, provider_type, provider_message_id, sent_at) "
            "SELECT 1, c.id, CASE WHEN n %% 2 = 0 THEN 'outbound' ELSE 'inbound' END, 'sms', 'sms', "
            "c.customer_address, c.contact_address, repeat('Lorem ipsum dolor ', 5), '[]', "
            "CASE WHEN n %% 2 = 0 THEN 'delivered' ELSE 'received' END, 'sms', c.id || '-' || n, "
            "now() - n * interval '1 minute' FROM conversations c, generate_series(1, %s) n ORDER BY n, c.id",
            each,
        )
        self._execute("UPDATE conversations SET message_count = %s", each)
        self._execute("VACUUM ANALYZE")

    def add_entries(self, count: int) -> Position:
        """Write `count` entries about the messages into the event log. Returns the position in their middle."""
        self._execute(
            "INSERT INTO events (tenant_id, generation, transaction_id, type, message_id, conversation_id) "
            "SELECT 1, 0, n / 10, 'message.received', n %% messages + 1, n %% messages + 1 "
            "FROM generate_series(1, %s) n, (SELECT greatest(count(*), 1) AS messages FROM messages) counted",
            count,
        )
        self._execute("VACUUM ANALYZE events")
        self._execute("CHECKPOINT")
        middle = "SELECT 0, transaction_id, id FROM events WHERE transaction_id >= %s ORDER BY 1, 2, 3 LIMIT 1"
        return Position(*self._execute(middle, count // 20)[0])

    def add_key(self) -> str:
        """Make a key that may send, and return its token."""
        token = new_token(DEFAULT_TENANT_ID)
        self._execute(
            "INSERT INTO api_keys (tenant_id, name, prefix, secret_hash, scopes) VALUES (%s, 'bench', %s, %s, %s)",
            DEFAULT_TENANT_ID,
            token.prefix,
            token.secret_hash,
            json.dumps([KeyScope.SEND]),
        )
        return token.written

    def messages(self) -> int:
        """The number of stored messages."""
        return int(self._value("SELECT count(*) FROM messages"))

    def delivered(self) -> int:
        """The number of messages that a provider has accepted."""
        return int(self._value("SELECT count(*) FROM messages WHERE provider_message_id IS NOT NULL"))

    def has_attempts(self) -> bool:
        """Return True once a worker has claimed a message."""
        return bool(self._value("SELECT EXISTS (SELECT FROM delivery_attempts)"))

    def is_drained(self) -> bool:
        """Return True once no message is due or in flight."""
        return not self._value("SELECT EXISTS (SELECT FROM messages WHERE due_at IS NOT NULL)")

    def drain_seconds(self) -> float:
        """Seconds from the first attempt's start to the end of the last."""
        return float(
            self._value("SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM delivery_attempts") or 0
        )

    def astray(self) -> Astray:
        """The messages that were not delivered exactly once."""
        found = self._execute(
            "SELECT count(*) FILTER (WHERE status <> 'sent'), count(*) FILTER (WHERE attempts <> 1) "
            "FROM (SELECT status, (SELECT count(*) FROM delivery_attempts a WHERE a.tenant_id = m.tenant_id "
            "AND message_id = m.id) AS attempts FROM messages m) AS messages"
        )
        return Astray(*found[0])

    def attempt_times(self) -> list[tuple[float, float]]:
        """Milliseconds from acceptance to each attempt's start and end, in the order of messages."""
        found = self._execute(
            "SELECT extract(epoch FROM started_at - created_at) * 1000, "
            "extract(epoch FROM finished_at - created_at) * 1000 "
            "FROM messages m JOIN delivery_attempts a ON a.tenant_id = m.tenant_id AND message_id = m.id "
            "WHERE finished_at IS NOT NULL ORDER BY m.id, number"
        )
        return [(float(called), float(recorded)) for called, recorded in found]

    def require_durability(self) -> None:
        """Raise `BenchError` if this server could lose committed transactions."""
        for name in _DURABILITY:
            if (value := self._value("SELECT current_setting(%s)", name)) != "on":
                raise BenchError(f"{name} is {value} on this PostgreSQL: what it stores is not durable")

    def _value(self, statement: str, *parameters: object) -> Any:
        return self._execute(statement, *parameters)[0][0]

    def _execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True  # CHECKPOINT can't stand in a transaction
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def throw_away_database(data_dir: Path, bindir: Path | None) -> Iterator[Database]:
    """A database for services with this DATA_DIR. Its server stops with its last user."""
    data_dir.chmod(0o711)  # under root, PostgreSQL runs as another user, which needs access
    with EmbeddedPostgres(data_dir / "postgres", bindir=bindir) as url:
        migrate(url)
        database = Database(url)
        database.require_durability()
        yield database
