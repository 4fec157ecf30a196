"""The figures in the database: what each process writes, and what all of them share."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.connectivity.pool import MeasuredPool
from app.db.engine import create_serving_engine
from app.db.models import Message
from app.domain import MessageStatus
from app.metrics.catalogue import ATTEMPTS, DATABASE_UP, PROVIDER_STATE, QUEUE_AGE, QUEUE_DUE
from app.metrics.requests import MeasuredRequest
from app.services.delivery.pacing.provider_states import pause_for_all
from app.services.figures.queue_sample import DEPTH, sample_queue
from app.services.figures.recorder import FiguresRecorder
from tests.factories import make_messages, until
from tests.live import free_port

pytestmark = pytest.mark.anyio


async def rows(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list(await connection.execute(text("SELECT source, content FROM figures ORDER BY taken_at")))


async def test_a_process_writes_what_it_has_counted_since_the_last_time(
    engine: AsyncEngine, settings: Settings
) -> None:
    recorder = FiguresRecorder(engine, settings, role="worker")
    ATTEMPTS.values["acme", "accepted"] += 3
    for route in ("/a", "/b"):
        MeasuredRequest(0, route=route, status=200).count("GET", 0.1)
    await recorder.record()
    ATTEMPTS.values["acme", "accepted"] += 1
    await recorder.record()
    await recorder.record()
    first, second = [row.content for row in await rows(engine) if row.source != "queue"]
    assert first["role"] == "worker"
    assert first["counters"]["messaging_attempts"] == [[["acme", "accepted"], 3]]
    assert first["counters"]["messaging_requests"] == [[["2xx"], 2]]
    assert second["counters"] == {"messaging_attempts": [[["acme", "accepted"], 1]]}


async def test_one_of_all_processes_looks_at_the_queue_and_all_know_it(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with engine.begin() as connection:
        ids = await make_messages(connection, 3)
        await connection.execute(
            update(Message)
            .where(Message.tenant_id == 1, Message.id == ids[0])
            .values(due_at=Message.due_at - timedelta(minutes=2))
        )
        await pause_for_all(connection, "acme", "They are asleep.")
    recorders = [FiguresRecorder(engine, settings, role="web") for _ in range(3)]
    for recorder in recorders:
        async with recorder:
            await recorder.record()
            assert QUEUE_DUE.read()["sms",] == 3
            assert QUEUE_AGE.read()["sms",] == pytest.approx(120, abs=60)
            assert QUEUE_DUE.read()["email",] == 0
            assert PROVIDER_STATE.read()["acme", "paused"] == 1
            assert PROVIDER_STATE.read()["sms", "open"] == 0
            assert DATABASE_UP.read() == {(): 1}
    assert [row.source for row in await rows(engine)].count("queue") == 1


async def test_what_is_not_due_does_not_count_as_waiting(engine: AsyncEngine, settings: Settings) -> None:
    async with engine.begin() as connection:
        await make_messages(connection, 2, status=MessageStatus.SENT)
        [later] = await make_messages(connection, 1)
        await connection.execute(
            update(Message)
            .where(Message.tenant_id == 1, Message.id == later)
            .values(due_at=Message.due_at + timedelta(hours=1))
        )
        assert await sample_queue(connection, {"sms"}) == {"sms": (0, 0.0)}


async def test_figures_are_forgotten_after_an_hour_and_a_half(engine: AsyncEngine, settings: Settings) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO figures VALUES (now() - interval '91 min', 'a', '{}'), (now(), 'b', '{}')")
        )
    await FiguresRecorder(engine, settings, role="web").record()
    assert {"b", "queue"} <= {row.source for row in await rows(engine)} - {"a"}
    assert "a" not in {row.source for row in await rows(engine)}


async def test_the_pool_tells_who_waits_for_it(engine: AsyncEngine) -> None:
    pool = engine.pool
    assert isinstance(pool, MeasuredPool)
    taken = [await engine.connect() for _ in range(pool.limit)]
    assert (pool.checkedout(), pool.waiting) == (pool.limit, 0)
    waiting = asyncio.create_task(_one(engine))

    async def count() -> int:
        return pool.waiting

    await until(count, lambda found: found == 1)
    await taken.pop().close()
    assert await waiting == 1
    assert pool.waiting == 0
    for connection in taken:
        await connection.close()


async def _one(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


async def test_the_depth_is_read_by_the_index_of_due_messages(engine: AsyncEngine) -> None:
    statement = DEPTH.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
    async with engine.begin() as connection:
        await make_messages(connection, 3)
        for way in ("seqscan", "bitmapscan", "sort", "incremental_sort"):  # as in a table of more than three rows
            await connection.execute(text(f"SET LOCAL enable_{way} = off"))
        explained = text(f"EXPLAIN {statement}").execution_options(all_tenants="a plan")
        plan = "\n".join((await connection.execute(explained)).scalars())
    assert "using ix_messages_due" in plan
    assert "Sort Key: messages" not in plan


async def test_without_the_database_what_all_share_is_not_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = create_serving_engine(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing", settings)
    monkeypatch.setattr(FiguresRecorder, "pause_seconds", 0.01)

    async def is_up() -> float:
        return DATABASE_UP.read()[()]

    async with FiguresRecorder(away, settings, role="web"):
        await until(is_up, lambda up: up == 0)
        assert QUEUE_DUE.read() == QUEUE_AGE.read() == PROVIDER_STATE.read() == {}
    await away.dispose()
