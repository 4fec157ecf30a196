"""The migration that merges contacts, conversations and owners whose addresses have become one."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from app.addresses import contact_address
from app.db.engine import create_command_engine
from app.db.migrate import migrate
from app.db.schema import alembic_config
from tests.cases import each_case

NewDatabase = Callable[..., str]
US, TEXTS = "us@shop.example", "+12016661234"

#: Tenant, customer, contact, messages of each conversation; contacts have ids in the order of their first mention.
CONVERSATIONS = [
    (1, US, "Jane.Doe@client.example", 2),
    (1, US, "jane.doe@client.example", 1),
    (1, "US@shop.example", "JANE.DOE@client.example", 3),
    (1, US, "other@client.example", 1),
    (2, US, "Jane.Doe@client.example", 1),
    (2, "A@client.example", "a@client.example", 1),
    (1, TEXTS, "+554188887777", 1),
    (1, TEXTS, "+5541988887777", 1),
    (1, TEXTS, "+551133334444", 1),
    (1, TEXTS, "+541123456789", 1),
    (1, TEXTS, "+5491123456789", 1),
    (1, TEXTS, "+22997123456", 1),
    (1, TEXTS, "+841663123456", 1),
    (1, TEXTS, "ALERTS", 1),
    (1, TEXTS, "alerts", 1),
    (1, "slack:A1", "slack:c1", 1),
    (1, "slack:A1", "slack:C1", 1),
    (1, US, "ΟΔΟΣ@client.example", 1),
    (1, US, "οδος@client.example", 1),
    (1, US, "erased:99", 1),
]


@pytest.fixture(scope="module")
def merged(new_database: NewDatabase) -> str:
    url = new_database(empty=True)
    upgrade(url, "20261128_01")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO tenants (name) VALUES ('Acme'), ('Bolt')")
        for number, (tenant, customer, contact, messages) in enumerate(CONVERSATIONS, start=1):
            fill(cursor, number, tenant, customer, contact, messages)
        for tenant, address in [(3, "info@shop.example"), (2, "Info@shop.example"), (2, "INFO@shop.example")]:
            cursor.execute("INSERT INTO tenant_addresses VALUES (%s, 'email', %s)", (address, tenant))
        for address in ("Sales@shop.example", "sales@shop.example"):
            cursor.execute("INSERT INTO tenant_addresses VALUES (%s, 'email', 3)", (address,))
        cursor.execute(
            "INSERT INTO webhook_calls (tenant_id, provider_type, received_at, method, url, headers, body, verdict,"
            " events, addresses) VALUES (1, 'x', now(), 'POST', '/', '[]', '', 'taken', 1, %s),"
            " (1, 'x', now(), 'POST', '/', '[]', '', 'taken', 1, '{}')",
            (["Jane.Doe@client.example", "jane.doe@client.example", "+554188887777", "slack:C1"],),
        )
    migrate(url)
    return url


def upgrade(url: str, revision: str) -> None:
    engine = create_command_engine(url)
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def fill(cursor: Any, number: int, tenant: int, customer: str, contact: str, messages: int) -> None:
    ids = [contact_id(cursor, tenant, address) for address in (customer, contact)]
    cursor.execute(
        "INSERT INTO conversations (tenant_id, customer_address, contact_address, message_count, last_activity_at)"
        " VALUES (%s, %s, %s, %s, timestamptz '2026-01-01Z' + %s * interval '1 day') RETURNING id",
        (tenant, customer, contact, messages, number),
    )
    [conversation] = cursor.fetchone()
    for role, id_ in zip(("customer", "contact"), ids, strict=True):
        cursor.execute(
            "INSERT INTO conversation_participants VALUES (%s, %s, %s, %s)", (tenant, conversation, role, id_)
        )
    for _ in range(messages):
        cursor.execute(
            "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address,"
            " body, attachments, status, sent_at)"
            " VALUES (%s, %s, 'inbound', 'email', 'email', %s, %s, '', '[]', 'received', now())",
            (tenant, conversation, contact, customer),
        )


def contact_id(cursor: Any, tenant: int, address: str) -> int:
    kind = "email" if "@" in address else "slack" if address.startswith("slack:") else "phone"
    values = (tenant, address, kind, address)
    cursor.execute("INSERT INTO contacts (tenant_id, address, address_type, written) VALUES (%s, %s, %s, %s)"
                   " ON CONFLICT (tenant_id, address, address_type) DO UPDATE SET written = excluded.written"
                   " RETURNING id", values)  # fmt: skip
    [found] = cursor.fetchone()
    return int(found)


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


@each_case(
    ("tenant", "customer", "contact", "expected"),
    [
        (1, US, "jane.doe@client.example", (1, 6, 3)),
        (1, US, "other@client.example", (4, 1, 4)),
        (2, US, "jane.doe@client.example", (5, 1, 5)),
        (2, "a@client.example", "a@client.example", (6, 1, 6)),
        (1, TEXTS, "+5541988887777", (7, 2, 8)),
        (1, TEXTS, "+551133334444", (9, 1, 9)),
        (1, TEXTS, "+5491123456789", (10, 2, 11)),
        (1, TEXTS, "+2290197123456", (12, 1, 12)),
        (1, TEXTS, "+84363123456", (13, 1, 13)),
        (1, TEXTS, "ALERTS", (14, 1, 14)),
        (1, TEXTS, "alerts", (15, 1, 15)),
        (1, "slack:A1", "slack:c1", (16, 1, 16)),
        (1, "slack:A1", "slack:C1", (17, 1, 17)),
        (1, US, "οδοσ@client.example", (18, 2, 19)),
        (1, US, "erased:99", (20, 1, 20)),
    ],
)
def test_conversations_whose_addresses_are_one_are_one(
    merged: str, tenant: int, customer: str, contact: str, expected: tuple[int, int, int]
) -> None:
    found = rows(
        merged,
        "SELECT id, message_count, last_activity_at::date - date '2026-01-01' FROM conversations"
        f" WHERE tenant_id = {tenant} AND customer_address = '{customer}' AND contact_address = '{contact}'",
    )
    assert found == [expected]
    [(messages,)] = rows(merged, f"SELECT count(*) FROM messages WHERE conversation_id = {expected[0]}")
    assert messages == expected[1]
    participants = rows(
        merged,
        "SELECT role, address FROM conversation_participants p JOIN contacts c ON c.id = p.contact_id"
        f" WHERE conversation_id = {expected[0]} ORDER BY role DESC",
    )
    assert participants == [("customer", customer), ("contact", contact)]


def test_nothing_else_is_left_and_no_message_is_lost(merged: str) -> None:
    total = sum(messages for *_, messages in CONVERSATIONS)
    ids = [id_ for (id_,) in rows(merged, "SELECT id FROM messages ORDER BY id")]
    assert ids == list(range(1, total + 1))
    assert rows(merged, "SELECT count(*) FROM conversations") == [(15,)]
    assert rows(merged, "SELECT address FROM contacts WHERE address ~ '[A-Z]' AND address LIKE '%@%'") == []
    assert rows(merged, "SELECT tenant_id, written FROM contacts WHERE address = 'jane.doe@client.example'") == [
        (1, "Jane.Doe@client.example"),
        (2, "Jane.Doe@client.example"),
    ]
    assert rows(merged, "SELECT from_address FROM messages WHERE conversation_id = 1 AND id = 4") == [
        ("JANE.DOE@client.example",)
    ]


def test_an_address_stays_with_its_first_owner_and_the_audit_tells_the_other(merged: str) -> None:
    owned = rows(merged, "SELECT address, tenant_id FROM tenant_addresses ORDER BY address")
    assert owned == [("info@shop.example", 3), ("sales@shop.example", 3)]
    lost = rows(merged, "SELECT tenant_id, kind, actor FROM audit_events")
    assert lost == [(2, "address_removed", "migration")] * 2


def test_kept_callbacks_name_the_new_form(merged: str) -> None:
    named = rows(merged, "SELECT addresses FROM webhook_calls ORDER BY id")
    assert named == [(["+5541988887777", "jane.doe@client.example", "slack:C1"],), ([],)]


def test_the_migration_changes_nothing_the_second_time(merged: str) -> None:
    tables = (
        "contacts",
        "conversations",
        "conversation_participants",
        "messages",
        "tenant_addresses",
        "webhook_calls",
    )
    queries = [f"SELECT * FROM {table} ORDER BY 1, 2, 3" for table in tables]
    before = [rows(merged, query) for query in queries]
    engine = create_command_engine(merged)
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "20261128_01")
    engine.dispose()
    migrate(merged)
    assert [rows(merged, query) for query in queries] == before


@each_case(
    "address",
    [
        *("+525512345678", "+5215512345678", "+554188887777", "+551133334444", "+541123456789", "+548005551234"),
        *("+22507123456", "+22580123456", "+22545123456", "+22588123456", "+22521812345", "+22520212345"),
        *("+2250707123456", "+22997123456", "+2290197123456", "+841201234567", "+841991234567", "+84912345678"),
        *("+2417123456", "+24106123456", "+24177123456", "+23777123456", "+237677123456", "+23788123456"),
        *("+24273", '"Jane..X"@client.example', '"a.b"@client.example', "Jane@client.example."),
        *("Jane.DOE@client.example", "İ@client.example", "ΣΑΣ@client.example"),
        *("Straße@client.example", '"A b"@client.example', "JOSE\u0301@client.example"),
    ],
)
def test_the_migration_compares_as_the_service_does(address: str) -> None:
    revision = ScriptDirectory.from_config(alembic_config()).get_revision("20261128_02")
    assert revision.module._compared(address) == contact_address(address, region="US").value
