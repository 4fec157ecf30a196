"""The rules for statements find each form that a distributed database refuses, and nothing else."""

import re

import psycopg2
import pytest

from tests.cases import each_case
from tests.statement_rules import EXCEPTIONS, VOLATILITIES, Volatilities, refusals, refused

SET = "UPDATE messages SET {} WHERE tenant_id = $1 AND id = $2"
LOCK = "WITH locked AS (SELECT messages.id FROM messages {} FOR UPDATE) SELECT id FROM locked"


@pytest.fixture
def volatilities(database_url: str) -> Volatilities:
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute(VOLATILITIES)
        found = dict(cursor.fetchall())
    connection.close()
    return found


@each_case(
    ("sql", "reason"),
    [
        ("SELECT id FROM messages WHERE id = $1", "names no tenant"),
        ("SELECT m.id FROM messages m JOIN contacts c ON c.id = m.id WHERE m.tenant_id = $1", "different tenants"),
        (
            "WITH RECURSIVE t AS (SELECT min(tenant_id) AS id FROM messages UNION ALL SELECT (SELECT min(tenant_id)"
            " FROM messages WHERE tenant_id > t.id) FROM t) SELECT id FROM t",
            "recursive",
        ),
        ("SELECT tenant_id, (SELECT pg_current_snapshot()) FROM event_logs", "asks the coordinator"),
        (SET.format("due_at = clock_timestamp()"), "volatile function in SET"),
        (SET.format("status = CASE status WHEN 'a' THEN 'b' END"), "CASE x WHEN"),
        (SET.format("due_at = CASE WHEN status = 'a' THEN now() END"), "in CASE or COALESCE"),
        (SET.format("due_at = CASE WHEN status = 'a' THEN due_at + $3::interval END"), "in CASE or COALESCE"),
        (SET.format("body = concat(body, 'x')"), "of a column"),
        (SET.format("status = 'a'") + " RETURNING due_at < now()", "in RETURNING"),
        (
            "INSERT INTO webhook_leases (tenant_id, changes) VALUES ($1, 1) ON CONFLICT (tenant_id)"
            " DO UPDATE SET leased_until = now()",
            "ON CONFLICT",
        ),
        (
            "INSERT INTO batches (tenant_id, key) SELECT $1, key FROM batches WHERE tenant_id = $1",
            "ids that are drawn",
        ),
        (
            LOCK.format("JOIN unnest($2::bigint[]) AS given(id) ON given.id = messages.id WHERE tenant_id = $1"),
            "joins",
        ),
        (
            "WITH told AS (SELECT 1 AS id), "
            + LOCK[5:].format("WHERE tenant_id = $1 AND id IN (SELECT id FROM told)"),
            "joins",
        ),
    ],
)
def test_what_a_distributed_database_refuses_is_found(sql: str, reason: str, volatilities: Volatilities) -> None:
    assert any(reason in each for each in refusals(sql, volatilities)), refusals(sql, volatilities)


@each_case(
    "sql",
    [
        "SELECT id FROM messages WHERE tenant_id = $1::BIGINT AND id = $2",
        "SELECT m.id FROM messages m JOIN contacts c ON c.tenant_id = m.tenant_id WHERE m.tenant_id = $1",
        "SELECT id FROM tenants",
        "SELECT provider_type FROM provider_states FOR UPDATE",
        "UPDATE provider_states SET open_until = clock_timestamp()",
        SET.format("due_at = now() + $3::interval"),
        SET.format("due_at = (SELECT now())"),
        "INSERT INTO batches (tenant_id, key) SELECT $1, key FROM unnest($2::text[]) AS given(key)",
        LOCK.format("WHERE tenant_id = $1 AND id = ANY ($2)"),
    ],
)
def test_what_it_takes_is_let_through(sql: str, volatilities: Volatilities) -> None:
    assert refusals(sql, volatilities) == []


def test_an_exception_concerns_the_statements_that_it_names(volatilities: Volatilities) -> None:
    allowed = "SELECT DISTINCT contacts.tenant_id FROM contacts WHERE contacts.erasing_since < now()"
    assert refused(allowed, volatilities) is None
    assert refused(allowed.replace("DISTINCT ", ""), volatilities) is not None
    assert all(reason and re.compile(known) for known, reason in EXCEPTIONS.items())
