"""Of a shared task, one worker of all takes each turn, and a slow one comes less often."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.delivery import periodic
from app.services.delivery.periodic import PeriodicTask, repeat, take_turn
from tests.factories import until

pytestmark = pytest.mark.anyio


async def set_turn(engine: AsyncEngine, moment: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE shared_tasks SET due_at = {moment}"))


async def turn_in(engine: AsyncEngine) -> float | None:
    """Seconds until the next turn of the only task; None before the first."""
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT extract(epoch FROM due_at - now()) FROM shared_tasks"))
        seconds = found.scalar()
        return None if seconds is None else float(seconds)


async def test_of_all_workers_one_takes_a_turn(engine: AsyncEngine) -> None:
    assert sum(await asyncio.gather(*(take_turn(engine, "tidy", 60) for _ in range(8)))) == 1
    assert await take_turn(engine, "tidy", 60) is False
    assert await take_turn(engine, "other", 60) is True
    await set_turn(engine, "now() - interval '1 second'")
    assert sum(await asyncio.gather(*(take_turn(engine, "tidy", 60) for _ in range(8)))) == 1


async def test_a_clock_that_went_back_stops_no_task(engine: AsyncEngine) -> None:
    assert await take_turn(engine, "tidy", 60) is True
    await set_turn(engine, "now() + interval '1 hour'")
    assert await take_turn(engine, "tidy", 60) is True
    assert await take_turn(engine, "tidy", 60) is False


async def test_a_task_that_is_not_shared_asks_for_no_turn(engine: AsyncEngine) -> None:
    done = asyncio.Event()

    async def run() -> None:
        done.set()

    worker = asyncio.create_task(repeat(engine, PeriodicTask("own", 0.01, run, "failed")))
    await asyncio.wait_for(done.wait(), 60)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert await turn_in(engine) is None


async def test_a_shared_task_that_takes_long_is_put_off(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "_SHARE", 1e-9)
    worker = asyncio.create_task(repeat(engine, PeriodicTask("slow", 0.01, lambda: asyncio.sleep(0), "failed", True)))
    await until(lambda: turn_in(engine), lambda seconds: seconds is not None and seconds > 1)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
