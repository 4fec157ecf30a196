"""A real Citus cluster, whose coordinator CITUS_URL names: what only several nodes can show."""

import asyncio
import json
import os
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.backup.restoring import restore, settle
from app.backup.taking import take
from app.config import Settings
from app.db.connectivity.outage import sqlstate_of
from app.db.engine import create_serving_engine, is_unavailable, lost_a_race
from app.db.models import Base, WebhookLease
from app.db.schema.distribution import REFERENCE
from app.db.schema.migrate import migrate, prepare
from app.db.statements.batches import TENANT
from app.domain import EventType
from app.errors import ConfigurationError
from app.providers.registry import provider_registry
from app.services.event_log.entries import NewEvent, write_entries
from app.services.events.reading import log_states
from app.services.webhooks.leases import note_change, renew_leases, take_lease
from tests.cluster import workers_of
from tests.conftest import execute
from tests.factories import make_messages, sms, sms_webhook, until
from tests.live import LiveServer
from tests.providers import test_postmark
from tests.providers.vendors import payload
from tests.tenancy import give_address, make_tenant
from tests.wire import rows_of

CITUS_URL = os.environ.get("CITUS_URL", "")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not CITUS_URL, reason="CITUS_URL does not name the coordinator of a Citus cluster"),
]
E2E = Path(__file__).parents[1] / "bin" / "e2e.py"
Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
#: The ids that a worker node would draw are beyond.
COORDINATORS = 2**48


def test_every_table_is_on_the_nodes_and_a_second_time_changes_nothing(database_url: str) -> None:
    before = dict(rows_of(database_url, "SELECT logicalrelid::text, partmethod::text FROM pg_dist_partition"))
    by_tenant = {name for name, table in Base.metadata.tables.items() if "tenant_id" in table.c}
    assert {name for name, method in before.items() if method == "h"} == by_tenant.difference(REFERENCE)
    assert {name for name, method in before.items() if method == "n"} == set(REFERENCE)
    assert rows_of(database_url, "SELECT count(DISTINCT colocationid) FROM pg_dist_partition") == [(2,)]
    migrate(database_url, distributed=True)
    assert dict(rows_of(database_url, "SELECT logicalrelid::text, partmethod::text FROM pg_dist_partition")) == before


def test_a_worker_node_is_refused_in_one_sentence(database_url: str) -> None:
    host, port = workers_of(CITUS_URL)[0]
    worker = make_url(database_url).set(host=host, port=port).render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match="Name its coordinator"):
        migrate(worker, distributed=True)
    with pytest.raises(ConfigurationError, match="Name its coordinator"):
        prepare(worker, production=True)


async def test_what_is_accepted_and_delivered_has_the_coordinators_ids(
    client: httpx.AsyncClient, database_url: str
) -> None:
    for _ in range(2):
        assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
        assert (await client.post("/api/webhooks/sms", json=sms_webhook())).status_code == 200

    async def statuses() -> Counter[str]:
        return Counter(status for (status,) in rows_of(database_url, "SELECT status FROM messages"))

    await until(statuses, lambda found: found == {"delivered": 2, "received": 1})
    for table in ("messages", "conversations", "contacts", "provider_events"):
        [(lowest, highest)] = rows_of(database_url, f"SELECT min(id), max(id) FROM {table}")
        assert 0 < lowest <= highest < COORDINATORS, table


async def test_entries_have_the_transaction_of_the_node_that_has_them(engine: AsyncEngine, database_url: str) -> None:
    tenants = [1, *(make_tenant(database_url, f"Tenant {number}") for number in range(6))]
    for tenant_id in tenants:
        async with engine.begin() as connection:
            await make_messages(connection, tenant_id=tenant_id)
            await write_entries(connection, tenant_id, [NewEvent(EventType.MESSAGE_SENT, 1, 1)])
    wrong = "SELECT count(*) FROM events WHERE xmin::text::bigint <> transaction_id % (2^32)::bigint"
    assert rows_of(database_url, wrong) == [(0,)]
    asked = "SELECT tenant_id, pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM event_logs"
    bounds = dict(rows_of(database_url, asked))
    async with engine.connect() as connection:
        states = await log_states(connection, tenants)
    assert {tenant_id: state.bound >= bounds[tenant_id] for tenant_id, state in states.items()} == dict.fromkeys(
        tenants, True
    )
    # The coordinator's own transaction ids are others: of two nodes at least one differs by more than a few.
    again = dict(rows_of(database_url, asked))
    assert all(states[tenant_id].bound <= again[tenant_id] + 100 for tenant_id in tenants)


async def test_an_entry_is_not_read_before_an_earlier_transaction_of_its_node_ends(
    engine: AsyncEngine, database_url: str
) -> None:
    async with engine.connect() as slow, slow.begin() as transaction:
        await write_entries(slow, 1, [NewEvent(EventType.MESSAGE_SENT, 1, 1)])
        async with engine.begin() as quick:
            await write_entries(quick, 1, [NewEvent(EventType.MESSAGE_SENT, 2, 1)])
        async with engine.connect() as reader:
            held = (await log_states(reader, [1]))[1]
        assert held.decided < held.head
        await transaction.commit()

    async def is_decided() -> bool:
        async with engine.connect() as reader:
            state = (await log_states(reader, [1]))[1]
        return state.decided >= state.head

    await until(is_decided, bool)


async def test_a_lock_on_a_node_ends_a_request_with_503_and_leaves_nothing_there(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    hasty = {"database_statement_timeout_seconds": 1, "worker_enabled": False}
    client = await serve(settings.model_copy(update=hasty))
    assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
    [(part, host, port)] = rows_of(
        database_url,
        "SELECT shard_name, nodename, nodeport FROM citus_shards"
        " WHERE shardid = get_shard_id_for_distribution_column('conversations', 1)",
    )
    node = make_url(database_url).set(host=host, port=port).render_as_string(hide_password=False)
    key = {"Idempotency-Key": "once"}

    async def waiting_there() -> list[tuple[Any, ...]]:
        waits = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return rows_of(node, waits)

    with closing(psycopg2.connect(node)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {part} WHERE tenant_id = 1 FOR UPDATE")
        assert (await client.post("/api/messages/sms", json=sms(), headers=key)).status_code == 503
        await until(waiting_there, lambda found: not found)
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(1,)]
    for _ in range(2):
        assert (await client.post("/api/messages/sms", json=sms(), headers=key)).status_code == 200
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(2,)]


async def test_while_a_node_is_away_tenants_of_others_are_served(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    tenants = [1, *(make_tenant(database_url, f"Tenant {number}") for number in range(6))]
    on_node = "SELECT nodeid FROM pg_dist_placement JOIN pg_dist_node USING (groupid) WHERE shardid ="
    of_tenant = "get_shard_id_for_distribution_column('messages', {})"
    nodes = {tenant: rows_of(database_url, f"{on_node} {of_tenant.format(tenant)}")[0][0] for tenant in tenants}
    away = next(tenant for tenant in tenants if nodes[tenant] != nodes[1])
    numbers = {1: "+12025550101", away: "+12025550102"}
    for tenant, number in numbers.items():
        give_address(database_url, tenant, number)
    client = await serve(settings.model_copy(update={"worker_enabled": False}))

    async def received(tenant: int, call: str) -> int:
        said = sms_webhook(to=numbers[tenant], messaging_provider_id=call)
        return (await client.post("/api/webhooks/sms", json=said)).status_code

    [(port,)] = rows_of(database_url, f"SELECT nodeport FROM pg_dist_node WHERE nodeid = {nodes[away]}")
    execute(database_url, f"UPDATE pg_dist_node SET nodeport = 1 WHERE nodeid = {nodes[away]}")
    try:
        assert (await received(away, "one"), await received(1, "two")) == (503, 200)
    finally:
        execute(database_url, f"UPDATE pg_dist_node SET nodeport = {port} WHERE nodeid = {nodes[away]}")
    assert (await received(away, "one"), await received(1, "two")) == (200, 200)
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(2,)]


async def test_a_renewal_of_leases_that_loses_a_deadlock_over_nodes_is_done_again(
    settings: Settings, database_url: str
) -> None:
    tenants = [1, *(make_tenant(database_url, f"Tenant {number}") for number in range(6))]
    engine = create_serving_engine(
        database_url, settings.model_copy(update={"database_statement_timeout_seconds": 60})
    )
    async with engine.begin() as connection:
        for tenant_id in tenants:
            await note_change(connection, tenant_id)
    async with engine.begin() as connection:
        taken = [(tenant_id, await take_lease(connection, tenant_id)) for tenant_id in tenants]
    held = [(tenant_id, lease[0]) for tenant_id, lease in taken if lease is not None]
    lock = select(WebhookLease.number).where(WebhookLease.tenant_id == TENANT).with_for_update()

    async def renew() -> None:
        async with engine.begin() as connection:
            await renew_leases(connection, held)

    async def lock_waits() -> list[tuple[Any, ...]]:
        return rows_of(database_url, "SELECT 1 FROM citus_lock_waits")

    async with engine.connect() as other, other.begin():
        await other.execute(lock, {"tenant": 1})
        renewal = asyncio.create_task(renew())
        await until(lock_waits, bool)
        for tenant_id in tenants:  # the renewal has those on the other node
            await other.execute(lock, {"tenant": tenant_id})
        with pytest.raises(DBAPIError) as cancelled:
            await renewal
    assert is_unavailable(cancelled.value)
    assert lost_a_race(cancelled.value)
    await renew()
    await engine.dispose()


async def test_a_row_at_fault_is_told_by_its_class(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError) as refused:
        async with engine.begin() as connection:
            await write_entries(connection, 2**40, [NewEvent(EventType.MESSAGE_SENT, 1, 1)])
    assert sqlstate_of(refused.value) == "23502"


async def test_three_workers_hand_each_message_over_once(
    serve: Serve, settings: Settings, engine: AsyncEngine, database_url: str
) -> None:
    tenants = [1, make_tenant(database_url, "Acme"), make_tenant(database_url, "Other")]
    for tenant_id in tenants:
        async with engine.begin() as connection:
            await make_messages(connection, 200, tenant_id=tenant_id)
    await asyncio.gather(*(serve(settings) for _ in range(3)))

    async def left() -> int:
        [(count,)] = rows_of(database_url, "SELECT count(*) FROM messages WHERE status <> 'delivered'")
        return int(count)

    await until(left, lambda count: count == 0)
    assert rows_of(database_url, "SELECT count(*), max(number) FROM delivery_attempts") == [(600, 1)]
    workers = rows_of(database_url, "SELECT count(DISTINCT worker) FROM delivery_attempts")
    assert workers[0][0] >= 1


async def test_a_mail_of_thirty_megabytes_is_stored_and_read_back(
    serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "postmark", test_postmark.provider())
    patient = {"database_statement_timeout_seconds": 60, "file_max_bytes": 40_000_000}
    client = await serve(settings.model_copy(update=patient))
    content = os.urandom(22_000_000)
    mail = json.loads(payload("mail", "postmark.json"))
    mail["Attachments"] = [
        {"Name": "a.bin", "Content": b64encode(content).decode(), "ContentType": "application/octet-stream"}
    ]
    came = test_postmark.of(json.dumps(mail).encode())
    for _ in range(2):
        answer = await client.post("/api/webhooks/postmark", content=came.body, headers=dict(came.headers))
        assert answer.status_code == 200, answer.text
    [message] = (await client.get("/api/messages")).json()
    assert (await client.get(message["attachments"][0])).content == content
    assert rows_of(database_url, "SELECT length(body) FROM webhook_calls") == [(len(came.body),)] * 2
    content += content[:8_000_000]
    kind = {"Content-Type": "application/octet-stream"}
    uploaded = await client.post("/api/files?name=b.bin", content=content, headers=kind)
    assert uploaded.status_code == 200, uploaded.text
    assert (await client.get(uploaded.json()["path"])).content == content


async def test_a_backup_is_restored_and_distributed_again(
    engine: AsyncEngine, settings: Settings, database_url: str, new_database: Callable[..., str], tmp_path: Path
) -> None:
    tenants = [1, *(make_tenant(database_url, f"Tenant {number}") for number in range(3))]
    for tenant_id in tenants:
        async with engine.begin() as connection:
            await make_messages(connection, 3, tenant_id=tenant_id)
    take(database_url, settings, tmp_path / "backup")
    target = new_database(empty=True)
    # The second time it replaces tables that are distributed.
    for replace in (False, True):
        done = await asyncio.to_thread(
            restore, target, settings, tmp_path / "backup", replace=replace, keep_queue=not replace
        )
        assert done.in_doubt == (12 if replace else 0)
        migrate(target)
        [(on_nodes,)] = rows_of(target, "SELECT count(*) FROM pg_dist_partition")
        assert on_nodes == len(rows_of(database_url, "SELECT 1 FROM pg_dist_partition"))
        found = rows_of(target, "SELECT tenant_id, count(*) FROM messages GROUP BY 1 ORDER BY 1")
        assert found == [(tenant_id, 3) for tenant_id in tenants]


async def test_a_cluster_that_was_restored_in_another_way_is_settled(
    engine: AsyncEngine, settings: Settings, database_url: str
) -> None:
    async with engine.begin() as connection:
        await make_messages(connection, 3)
    await engine.dispose()
    assert await asyncio.to_thread(settle, database_url, settings) == 3
    assert rows_of(database_url, "SELECT DISTINCT status FROM messages") == [("unknown",)]


def test_the_end_to_end_check_passes(database_url: str, tmp_path: Path) -> None:
    server = LiveServer(tmp_path, DATABASE_URL=database_url)
    server.start()
    try:
        environment = {**os.environ, "BASE_URL": server.url}
        checked = subprocess.run([sys.executable, E2E], env=environment, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    finally:
        server.stop()


def test_a_statement_about_one_tenant_goes_to_one_node(database_url: str) -> None:
    plan = rows_of(database_url, "EXPLAIN SELECT id FROM messages WHERE tenant_id = 1 AND id = 1")
    assert any("Task Count: 1" in line for (line,) in plan)


def test_the_database_shows_the_parts_of_its_tables(database_url: str) -> None:
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW citus.override_table_visibility")
        assert cursor.fetchone() == ("off",)
    connection.close()
