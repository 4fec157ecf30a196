"""Retention removes expired rows, whole and in small steps, and nothing else."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain import WAITING, MessageStatus
from app.providers.plivo import PlivoProvider, PlivoSettings
from app.providers.registry import provider_registry
from app.services.people.removal import BATCH
from app.services.people.retention import remove_what_is_over
from tests.conftest import make_settings
from tests.factories import make_messages
from tests.logs import captured
from tests.services.delivery.results.test_receipts import Ledger
from tests.tenancy import make_tenant

pytestmark = pytest.mark.anyio

KEPT = make_settings(retention_days=30)


class Past:
    """Lets what is stored be older than it is."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.ledger = Ledger(engine)

    async def run(self, statement: str) -> list[Any]:
        async with self.engine.begin() as connection:
            anything = text(statement).execution_options(all_tenants="a test looks at all there is")
            result = await connection.execute(anything)
            return [tuple(row) for row in result] if result.returns_rows else []

    async def messages(
        self, count: int, *, days: float, status: MessageStatus = MessageStatus.DELIVERED
    ) -> list[int]:
        ids = await self.ledger.make(count, status=status)
        age = f"UPDATE messages SET created_at = now() - {days} * interval '1 day'"
        await self.run(f"{age} WHERE id BETWEEN {ids[0]} AND {ids[-1]}")
        return ids

    async def left(self) -> list[int]:
        return [id for (id,) in await self.run("SELECT id FROM messages ORDER BY id")]


@pytest.fixture
def past(engine: AsyncEngine) -> Past:
    return Past(engine)


async def test_without_a_term_messages_are_kept_for_ever(engine: AsyncEngine, past: Past) -> None:
    ids = await past.messages(2, days=5000)
    await remove_what_is_over(engine, make_settings())
    assert await past.left() == ids


async def test_messages_past_their_time_go_with_all_that_hangs_on_them(engine: AsyncEngine, past: Past) -> None:
    old = await past.messages(2, days=31)
    for table, columns in {
        "delivery_attempts": "number, provider_type, started_at) SELECT 1, id, 1, 'sms', now()",
        "provider_events": "event_id, provider_type, raw) SELECT 1, id, id::text, 'sms', '{}'",
        "message_events": "kind) SELECT 1, id, 'retried'",
    }.items():
        await past.run(f"INSERT INTO {table} (tenant_id, message_id, {columns} FROM messages WHERE id = {old[0]}")
    young = await past.messages(1, days=29)  # in the conversation of the first

    log = captured()
    await remove_what_is_over(engine, KEPT)
    assert await past.left() == young
    for table in ("delivery_attempts", "provider_events", "message_events"):
        assert await past.run(f"SELECT count(*) FROM {table}") == [(0,)], table
    assert await past.run("SELECT contact_address, message_count FROM conversations") == [("+18045550000", 1)]
    assert await past.run("SELECT address FROM contacts ORDER BY 1") == [("+12016661234",), ("+18045550000",)]
    [line] = [line for line in log.getvalue().splitlines() if "retention_removed" in line]
    assert "+1" not in line
    await remove_what_is_over(engine, KEPT)
    assert log.getvalue().count("retention_removed") == 1


@pytest.mark.parametrize("status", MessageStatus)
async def test_what_a_worker_still_has_to_do_with_stays(
    engine: AsyncEngine, past: Past, status: MessageStatus
) -> None:
    ids = await past.messages(1, days=31, status=status)
    await remove_what_is_over(engine, KEPT)
    assert await past.left() == (ids if status in WAITING else [])


async def test_one_that_stays_does_not_hide_those_behind_it(engine: AsyncEngine, past: Past) -> None:
    staying = await past.messages(BATCH + 1, days=40, status=MessageStatus.SCHEDULED)
    await past.messages(BATCH + 1, days=40)
    await remove_what_is_over(engine, KEPT)
    assert await past.left() == staying


async def test_a_tenant_may_have_a_term_of_its_own(engine: AsyncEngine, past: Past, database_url: str) -> None:
    ids = await past.messages(2, days=20)
    acme = make_tenant(database_url)
    await past.run(f"UPDATE tenants SET retention_days = 10 WHERE id = {acme}")
    await remove_what_is_over(engine, KEPT)
    assert await past.left() == ids
    await past.run("UPDATE tenants SET retention_days = 10 WHERE id = 1")
    await remove_what_is_over(engine, make_settings())
    assert await past.left() == []


async def test_several_workers_remove_each_message_once_and_keep_the_counts(engine: AsyncEngine, past: Past) -> None:
    for _ in range(3):  # three times the same conversations
        await past.messages(BATCH, days=31)
    young = await past.messages(BATCH // 2, days=1)

    async def write() -> None:
        for _ in range(20):
            async with engine.begin() as connection:
                young.extend(await make_messages(connection, 20))

    await asyncio.gather(write(), *(remove_what_is_over(engine, KEPT) for _ in range(4)))
    await remove_what_is_over(engine, KEPT)  # what was passed over
    assert await past.left() == sorted(young)
    counted = await past.run(
        "SELECT c.message_count = count(m.id) AND count(m.id) > 0 FROM conversations c LEFT JOIN messages m"
        " ON m.tenant_id = c.tenant_id AND m.conversation_id = c.id GROUP BY c.tenant_id, c.id"
    )
    assert {right for (right,) in counted} == {True}


@pytest.mark.parametrize(("days", "left"), [(6, 1), (8, 0)])
async def test_receipts_without_a_message_go_after_a_week(
    engine: AsyncEngine, past: Past, days: int, left: int
) -> None:
    await past.run(
        "INSERT INTO provider_events (tenant_id, provider_type, event_id, provider_message_id, raw, received_at)"
        f" VALUES (1, 'sms', 'parked', 'never', '{{}}', now() - interval '{days} days')"
    )
    await past.messages(1, days=days)
    await past.run(
        "INSERT INTO provider_events (tenant_id, provider_type, event_id, message_id, raw, received_at)"
        f" SELECT 1, 'sms', 'attached', id, '{{}}', now() - interval '{days} days' FROM messages"
    )
    await remove_what_is_over(engine, make_settings())
    assert await past.run("SELECT count(*) FROM provider_events WHERE message_id IS NULL") == [(left,)]
    assert await past.run("SELECT count(*) FROM provider_events WHERE message_id IS NOT NULL") == [(1,)]


async def test_the_audit_is_kept_for_a_year(engine: AsyncEngine, past: Past) -> None:
    for days in (364, 366):
        await past.run(
            "INSERT INTO audit_events (tenant_id, kind, detail, created_at)"
            f" SELECT 1, 'd{days}', '{{}}', now() - interval '{days} days' FROM generate_series(1, {BATCH + 1})"
        )
    await past.run("UPDATE audit_events SET id = -id WHERE kind = 'd366'")  # they came first
    await remove_what_is_over(engine, make_settings())
    assert await past.run("SELECT DISTINCT kind FROM audit_events") == [("d364",)]


async def test_tokens_of_signatures_go_when_those_are_out_of_date(engine: AsyncEngine, past: Past) -> None:
    for hours in (23, 25):
        await past.run(
            "INSERT INTO signature_tokens (tenant_id, provider_type, token, events, created_at)"
            f" VALUES (1, 'mailgun', '{hours}', 'hash', now() - {hours} * interval '1 hour')"
        )
    await remove_what_is_over(engine, make_settings())
    assert await past.run("SELECT token FROM signature_tokens") == [("23",)]


async def test_tokens_of_signatures_without_a_time_are_remembered_for_a_year(
    engine: AsyncEngine, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "plivo", PlivoProvider(PlivoSettings(_env_file=None)))
    for days in (2, 364, 366):
        await past.run(
            "INSERT INTO signature_tokens (tenant_id, provider_type, token, events, created_at)"
            f" VALUES (1, 'plivo', '{days}', 'hash', now() - {days} * interval '1 day')"
        )
    await remove_what_is_over(engine, make_settings())
    assert sorted(await past.run("SELECT token FROM signature_tokens")) == [("2",), ("364",)]


async def test_calls_of_providers_go_after_their_time(engine: AsyncEngine, past: Past, database_url: str) -> None:
    acme = make_tenant(database_url)
    for tenant_id, days in ((1, 8), (1, 8), (acme, 8), (1, 6), (acme, 6)):
        await past.run(
            "INSERT INTO webhook_calls"
            " (tenant_id, provider_type, received_at, method, url, headers, body, verdict, events, addresses)"
            f" VALUES ({tenant_id}, 'sms', now() - {days} * interval '1 day', 'POST', '/', '[]', '',"
            " 'taken', 0, '{}')"
        )
    await remove_what_is_over(engine, make_settings())
    assert await past.run("SELECT id FROM webhook_calls ORDER BY id") == [(4,), (5,)]
    await remove_what_is_over(engine, make_settings(webhook_days=5))
    assert await past.run("SELECT id FROM webhook_calls") == []


async def test_tenants_with_nothing_to_remove_cost_no_statement(
    engine: AsyncEngine, past: Past, database_url: str
) -> None:
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    await remove_what_is_over(engine, KEPT)  # so that connections are open
    event.listen(engine.sync_engine, "before_cursor_execute", count)
    await remove_what_is_over(engine, KEPT)
    alone, statements = statements, 0
    for number in range(5):
        tenant_id = make_tenant(database_url, f"Tenant {number}")
        async with engine.begin() as connection:
            await make_messages(connection, tenant_id=tenant_id, status=MessageStatus.DELIVERED)
        await past.run(
            f"INSERT INTO audit_events (tenant_id, kind, detail) VALUES ({tenant_id}, 'key_created', '{{}}')"
        )
    statements = 0
    await remove_what_is_over(engine, KEPT)
    assert statements == alone


async def test_a_batch_goes_when_it_is_old_and_has_no_message(engine: AsyncEngine, past: Past) -> None:
    ids = await past.messages(2, days=31)
    for key, days in (("gone", 31), ("pending", 31), ("young", 1)):
        await past.run(
            "INSERT INTO batches (tenant_id, key, priority, created_at)"
            f" VALUES (1, '{key}', 2, now() - {days} * interval '1 day')"
        )
    await past.run(f"UPDATE messages SET batch_id = 1, batch_line = 1 WHERE id = {ids[0]}")
    await past.run(f"UPDATE messages SET batch_id = 2, batch_line = 1, due_at = now() WHERE id = {ids[1]}")
    await remove_what_is_over(engine, KEPT)
    assert await past.run("SELECT key FROM batches ORDER BY id") == [("pending",), ("young",)]
