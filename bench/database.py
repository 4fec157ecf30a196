"""The measured database: an embedded PostgreSQL as the service has it, removed afterwards.

It runs with the service's settings and fsync on. Every measurement begins with empty tables.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from app.db.embedded import EmbeddedPostgres
from app.db.models import Base
from app.db.schema.migrate import migrate
from app.domain import DEFAULT_TENANT_ID
from app.installation import KeyScope
from app.services.events.cursors import Position
from app.services.tenancy.keys import new_token
from bench.measurements import Astray
from bench.processes import BenchError

#: The provider of failed messages in a database that is filled.
OTHER_PROVIDER = "other"
#: Messages in each conversation of such a database, on average.
_EACH = 50
_DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True)
class Database:
    """A migrated database at `url`, in libpq's form."""

    url: str

    def empty(self) -> None:
        """Remove all rows but the default tenant, restart ids at 1, and checkpoint, so that no writes are pending."""
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables if table.name != "tenants")
        self._execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        self._execute("DELETE FROM tenants WHERE id <> %s", DEFAULT_TENANT_ID)
        self._execute("CHECKPOINT")

    def add_conversations(self, pairs: int) -> None:
        """Make conversations 1 to `pairs`, as a run of the service would leave them."""
        self._execute(
            "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at) "
            "SELECT 1, '+1201666' || lpad((n %% 50)::text, 4, '0'), '+1804' || (5550000 + n), now() "
            "FROM generate_series(0, %s) n",
            pairs - 1,
        )

    def add_queue(self, count: int) -> None:
        """Queue `count` messages, as many in each conversation."""
        self._execute(
            "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, "
            "body, attachments, status, due_at, sent_at) SELECT 1, c.id, 'outbound', 'sms', 'sms', "
            "c.customer_address, c.contact_address, repeat('Lorem ipsum dolor ', 5), '[]', 'queued', now(), now() "
            "FROM generate_series(1, %s) n JOIN conversations c "
            "ON c.id = n %% (SELECT count(*) FROM conversations) + 1 ORDER BY n",
            count,
        )
        self._execute("VACUUM ANALYZE")

    def fill(self, messages: int) -> None:
        """Empty the database and store finished messages of a year, by rising ids, with counts and statistics.

        There are at least 50 conversations, of which the first has 50 messages or more. In a large database they have
        50 on average. Every second message is outbound, as is the first, and one in a hundred has failed.
        """
        self.empty()
        conversations = max(_EACH, messages // _EACH)
        self.add_conversations(conversations)
        self._execute(
            # The rows are right, and checking their foreign keys would take as long as storing them.
            "SET session_replication_role = replica; "
            "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, "
            "body, attachments, status, provider_type, provider_message_id, attempt_count, sent_at, created_at) "
            "SELECT 1, c.id, CASE WHEN is_outbound THEN 'outbound' ELSE 'inbound' END, 'sms', 'sms', "
            "c.customer_address, c.contact_address, repeat('Lorem ipsum dolor ', 5), '[]', "
            "CASE WHEN is_failed THEN 'failed' WHEN is_outbound THEN 'delivered' ELSE 'received' END, "
            "CASE WHEN is_failed THEN %(other)s ELSE 'sms' END, CASE WHEN NOT is_failed THEN 'sms-' || n END, "
            "is_outbound::int, at, at FROM generate_series(0, %(messages)s - 1) n "
            "CROSS JOIN LATERAL (SELECT (n + n / %(conversations)s) %% 2 = 0 AS is_outbound, "
            "now() - (%(messages)s - n) * interval '1 year' / %(messages)s AS at) drawn "
            "CROSS JOIN LATERAL (SELECT is_outbound AND n %% 100 >= 98 AS is_failed) failing "
            "JOIN conversations c ON c.id = CASE WHEN n < %(each)s THEN 1 ELSE n %% %(conversations)s + 1 END "
            "ORDER BY n; "
            "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, outcome, started_at, "
            "finished_at, provider_message_id) SELECT 1, id, 1, provider_type, "
            "CASE WHEN status = 'failed' THEN 'permanent' ELSE 'accepted' END, created_at, created_at, "
            "provider_message_id FROM messages WHERE direction = 'outbound' ORDER BY id; "
            "UPDATE conversations SET message_count = counted.messages FROM "
            "(SELECT conversation_id, count(*) AS messages FROM messages GROUP BY conversation_id) counted "
            "WHERE conversation_id = conversations.id",
            other=OTHER_PROVIDER,
            each=_EACH,
            conversations=conversations,
            messages=messages,
        )
        self._execute("VACUUM ANALYZE")
        self._execute("CHECKPOINT")

    def add_tenants(self, count: int) -> int:
        """Add tenants with one or two messages each, of which every hundredth tenant's first is two years old.

        Returns the number of messages that are not.
        """
        self._execute(
            "INSERT INTO tenants (id, name) SELECT n, 'bench-' || n FROM generate_series(2, %s) n", count + 1
        )
        self._execute("INSERT INTO event_logs (tenant_id) SELECT id FROM tenants ON CONFLICT DO NOTHING")
        self._execute(
            "INSERT INTO conversations (tenant_id, id, customer_address, contact_address, message_count, "
            "last_activity_at) SELECT id, id, '+12016660000', '+18045550000', 1 + id %% 2, now() "
            "FROM tenants WHERE id > %s",
            DEFAULT_TENANT_ID,
        )
        self._execute(
            "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, "
            "body, attachments, status, provider_type, sent_at, created_at) SELECT tenant_id, id, 'outbound', 'sms', "
            "'sms', customer_address, contact_address, 'Lorem ipsum', '[]', 'delivered', 'sms', now(), "
            "now() - CASE WHEN n = 1 AND tenant_id % 100 = 0 THEN interval '2 years' ELSE '0' END "
            "FROM conversations, generate_series(1, message_count) n ORDER BY n, id"
        )
        self._execute(
            "INSERT INTO events (tenant_id, generation, transaction_id, type, message_id, conversation_id) "
            "SELECT tenant_id, 0, id, 'message.accepted', id, conversation_id FROM messages"
        )
        self._execute("VACUUM ANALYZE")
        return int(self._value("SELECT count(*) FROM messages WHERE created_at > now() - interval '1 day'"))

    @contextmanager
    def snapshot(self) -> Iterator[Callable[[], int]]:
        """A transaction that has read and stays open. Gives a function that counts the queue as it was then."""
        with contextlib.closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            connection.set_session(isolation_level="REPEATABLE READ")

            def queued() -> int:
                cursor.execute("SELECT count(*) FROM messages WHERE due_at IS NOT NULL")
                return int((cursor.fetchone() or (0,))[0])

            queued()
            yield queued

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

    def drain_seconds(self, share: float = 1) -> float:
        """Seconds from the first accepted attempt's start until this share of them had ended."""
        return float(
            self._value(
                "SELECT extract(epoch FROM percentile_disc(%s) WITHIN GROUP (ORDER BY finished_at) "
                "- min(started_at)) FROM delivery_attempts WHERE outcome = 'accepted'",
                share,
            )
            or 0
        )

    def throttled(self) -> int:
        """The number of attempts that a provider has refused for now."""
        return int(self._value("SELECT count(*) FROM delivery_attempts WHERE outcome = 'temporary'"))

    def astray(self, *, throttling: bool = False) -> Astray:
        """The messages that were not delivered exactly once. A `throttling` provider may have refused them before."""
        found = self._execute(
            "SELECT count(*) FILTER (WHERE status <> 'sent'), count(*) FILTER (WHERE attempts <> 1) "
            "FROM (SELECT status, (SELECT count(*) FROM delivery_attempts a WHERE a.tenant_id = m.tenant_id "
            "AND message_id = m.id AND NOT (%s AND outcome = 'temporary')) AS attempts FROM messages m) AS messages",
            throttling,
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

    def receipts(self) -> int:
        """The number of messages that are delivered and have exactly one receipt."""
        return int(
            self._value(
                "SELECT count(*) FROM messages m WHERE status = 'delivered' AND 1 = (SELECT count(*) "
                "FROM provider_events r WHERE r.tenant_id = m.tenant_id AND message_id = m.id)"
            )
        )

    def written(self) -> tuple[int, int]:
        """Bytes in all tables with their indexes, and bytes of WAL since the beginning."""
        [found] = self._execute(
            "SELECT (SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace), "
            "pg_current_wal_lsn() - '0/0'::pg_lsn"
        )
        return int(found[0]), int(found[1])

    def require_durability(self) -> None:
        """Raise `BenchError` if this server could lose committed transactions."""
        for name in _DURABILITY:
            if (value := self._value("SELECT current_setting(%s)", name)) != "on":
                raise BenchError(f"{name} is {value} on this PostgreSQL: what it stores is not durable")

    def _value(self, statement: str, *parameters: object) -> Any:
        return self._execute(statement, *parameters)[0][0]

    def _execute(self, statement: str, *parameters: object, **named: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True  # CHECKPOINT can't stand in a transaction
            cursor.execute(statement, named or parameters or None)
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
