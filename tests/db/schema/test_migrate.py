"""The schema: from nothing, by many at once, after tables were dropped by hand, and refused in production."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg2
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, inspect, text

from app.db.engine import create_command_engine
from app.db.models import REVISION, Base
from app.db.schema.migrate import migrate, prepare
from app.db.schema.revisions import alembic_config, differences
from app.errors import ConfigurationError
from tests.conftest import execute

NewDatabase = Callable[..., str]

DOCUMENTED_RESET = [
    f"DROP TABLE {table} CASCADE" for table in ("contacts", "conversation_participants", "messages", "conversations")
]


#: Version 1.0.0, from which every later one migrates in one step.
_FIRST_RELEASE = "20261130_17"
_ROWS_OF_THE_FIRST_RELEASE = [
    "INSERT INTO contacts (tenant_id, address, address_type, written) VALUES (1, 'b', 'phone', 'b')",
    "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at)"
    " VALUES (1, 'a', 'b', now())",
    "INSERT INTO conversation_participants (tenant_id, conversation_id, contact_id, role)"
    " VALUES (1, 1, 1, 'contact')",
    "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, body,"
    " attachments, status, sent_at) VALUES (1, 1, 'outbound', 'sms', 'sms', 'a', 'b', '', '[]', 'queued', now())",
    "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, started_at)"
    " VALUES (1, 1, 1, 'sms', now())",
    "INSERT INTO files (tenant_id, id, name, content_type, size, content) VALUES (1, 'x', 'a', 'text/plain', 1, 'x')",
]


def drift(url: str) -> list[object]:
    engine = create_command_engine(url)
    with engine.begin() as connection:
        found = differences(connection)
    engine.dispose()
    return found


def rows(url: str, table: str) -> int:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        [count] = cursor.fetchone() or [0]
    connection.close()
    return int(count)


def test_the_migrations_leave_what_the_models_say(new_database: NewDatabase) -> None:
    url = new_database(empty=True)
    migrate(url)
    assert drift(url) == []


def test_the_models_name_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == REVISION


def test_every_key_of_every_table_leads_with_the_tenant(database_url: str) -> None:
    engine = create_command_engine(database_url)
    seen = inspect(engine)
    for table in Base.metadata.tables:
        # The installation's own, and the one that a tenant is found by.
        if table in {"tenants", "provider_states", "shared_tasks", "installation", "tenant_addresses", "figures"}:
            continue
        # Rows are only added to it and taken from it, and it has no key.
        if table == "search_queue":
            assert not seen.get_indexes(table)
            continue
        keys: list[list[str] | list[str | None]] = [seen.get_pk_constraint(table)["constrained_columns"]]
        keys += [key["column_names"] for key in seen.get_unique_constraints(table)]
        keys += [key["constrained_columns"] for key in seen.get_foreign_keys(table)]
        # The callbacks of all tenants are listed and searched by the operator of the installation.
        if table != "webhook_calls":
            # Each word in an index of words begins with the tenant (`app.services.search.words`).
            of_words = {"ix_search_texts_words", "ix_search_contacts_words"}
            keys += [index["column_names"] for index in seen.get_indexes(table) if index["name"] not in of_words]
        assert [key for key in keys if key[0] != "tenant_id"] == [], table
    engine.dispose()


def test_without_the_extension_tables_are_not_distributed(new_database: NewDatabase) -> None:
    url = new_database()
    with pytest.raises(ConfigurationError, match="has no extension `citus`"):
        migrate(url, distributed=True)
    execute(url, "UPDATE installation SET is_distributed = true")  # as in the dump of a cluster
    migrate(url)
    prepare(url, production=True)


def test_downgrading_takes_everything_away_again(new_database: NewDatabase) -> None:
    url = new_database(empty=True)
    migrate(url)
    engine = create_command_engine(url)
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    engine.dispose()


def test_a_database_of_the_first_release_is_upgraded_with_its_rows(new_database: NewDatabase) -> None:
    url = new_database(empty=True)
    engine = create_command_engine(url)
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, _FIRST_RELEASE)
        tables = inspect(connection).get_table_names()
    engine.dispose()
    execute(url, *_ROWS_OF_THE_FIRST_RELEASE)
    before = {table: rows(url, table) for table in tables}
    migrate(url)
    assert drift(url) == []
    assert {table: rows(url, table) for table in tables} == before
    prepare(url, production=True)


def test_many_processes_may_migrate_at_once(new_database: NewDatabase) -> None:
    url = new_database(empty=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: migrate(url), range(8)))
    assert drift(url) == []
    assert rows(url, "tenants") == 1


def test_tables_dropped_by_hand_are_back_after_the_next_start(new_database: NewDatabase) -> None:
    url = new_database()
    execute(
        url,
        "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at)"
        " VALUES (1, 'a', 'b', now())",
        "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, body,"
        " attachments, status, sent_at) VALUES (1, 1, 'outbound', 'sms', 'sms', 'a', 'b', '', '[]', 'queued', now())",
        "INSERT INTO delivery_attempts (tenant_id, message_id, number, provider_type, started_at)"
        " VALUES (1, 1, 1, 'sms', now())",
        *DOCUMENTED_RESET,
    )
    prepare(url, production=False)
    assert drift(url) == []
    assert rows(url, "delivery_attempts") == 0
    assert rows(url, "tenants") == 1


def test_one_missing_table_does_not_cost_the_others_their_rows(new_database: NewDatabase) -> None:
    url = new_database()
    execute(
        url,
        "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at)"
        " VALUES (1, 'a', 'b', now())",
        "DROP TABLE delivery_attempts",
    )
    prepare(url, production=False)
    assert drift(url) == []
    assert rows(url, "conversations") == 1


def test_tables_of_others_in_the_same_database_are_left_alone(new_database: NewDatabase) -> None:
    url = new_database()
    execute(url, "CREATE TABLE theirs (id int)", "INSERT INTO theirs VALUES (1)", *DOCUMENTED_RESET)
    prepare(url, production=False)
    assert rows(url, "theirs") == 1
    prepare(url, production=True)


def test_production_refuses_a_schema_that_is_behind(new_database: NewDatabase) -> None:
    url = new_database(empty=True)
    with pytest.raises(ConfigurationError, match="python -m app migrate"):
        prepare(url, production=True)
    assert rows(url, "pg_tables WHERE schemaname = 'public'") == 0


def test_a_schema_of_a_newer_version_is_left_alone(new_database: NewDatabase) -> None:
    url = new_database()
    prepare(url, production=True)
    execute(url, "UPDATE alembic_version SET version_num = '99991231_01'")
    for prepared in (partial(prepare, production=True), partial(prepare, production=False), migrate):
        with pytest.raises(ConfigurationError, match="99991231_01, which this version does not know"):
            prepared(url)
    assert rows(url, "alembic_version WHERE version_num = '99991231_01'") == 1


def test_a_schema_from_before_the_first_release_is_left_alone(new_database: NewDatabase) -> None:
    url = new_database()
    execute(url, "UPDATE alembic_version SET version_num = '20261122_99'")
    for prepared in (partial(prepare, production=True), partial(prepare, production=False), migrate):
        with pytest.raises(ConfigurationError, match="20261122_99, from before version"):
            prepared(url)
    assert rows(url, "alembic_version WHERE version_num = '20261122_99'") == 1


def test_production_refuses_a_schema_that_was_changed_by_hand(new_database: NewDatabase) -> None:
    url = new_database()
    prepare(url, production=True)
    execute(url, *DOCUMENTED_RESET)
    with pytest.raises(ConfigurationError, match="changed by hand"):
        prepare(url, production=True)
    assert rows(url, "pg_tables WHERE tablename = 'messages'") == 0


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE messages SET status = 'lost'", "ck_messages_status"),
        ("UPDATE messages SET direction = 'sideways'", "ck_messages_direction"),
        ("UPDATE messages SET channel = 'Not a name'", "ck_messages_channel"),
        ("UPDATE messages SET sent_at = '-infinity'", "ck_messages_sent_at"),
        ("UPDATE messages SET conversation_id = 2", "fk_messages_conversations_conversation_id"),
        ("UPDATE messages SET provider_message_id = repeat('x', 513)", "ck_messages_provider_message_id"),
    ],
)
def test_the_database_keeps_its_promises_by_itself(database_url: str, statement: str, constraint: str) -> None:
    execute(
        database_url,
        "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at)"
        " VALUES (1, 'a', 'b', now())",
        "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, body,"
        " attachments, status, sent_at) VALUES (1, 1, 'outbound', 'sms', 'sms', 'a', 'b', '', '[]', 'queued', now())",
    )
    engine = create_command_engine(database_url)
    with pytest.raises(Exception, match=constraint), engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_checks_are_called_what_the_models_call_them(database_url: str) -> None:
    """Alembic compares columns and indexes, but not CHECKs."""
    engine = create_command_engine(database_url)
    seen = inspect(engine)
    for name, table in Base.metadata.tables.items():
        expected = {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}
        assert {check["name"] for check in seen.get_check_constraints(name)} == expected, name
    engine.dispose()


def test_busy_tables_are_vacuumed_early_and_quickly(database_url: str) -> None:
    engine = create_command_engine(database_url)
    with engine.connect() as connection:
        statement = text("SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND reloptions IS NOT NULL")
        options = {name: dict(each.split("=") for each in found) for name, found in connection.execute(statement)}
    engine.dispose()
    busy = {"messages", "delivery_attempts", "provider_events", "conversations", "events", "search_queue"}
    assert set(options) == busy
    for of_table in options.values():
        assert float(of_table["autovacuum_vacuum_scale_factor"]) <= 0.01
        assert int(of_table["autovacuum_vacuum_cost_limit"]) == 1000
