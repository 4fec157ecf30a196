"""Readers of the event log while PostgreSQL is stopped: the stream stays open, and nothing is missed."""

from functools import partial

import anyio
import httpx
import pytest

from tests.faults.rig import MakeRig, Postgres, report, until
from tests.live import LOCAL

pytestmark = pytest.mark.anyio

ROUNDS, MESSAGES = 2, 10


async def test_a_stream_outlives_the_database_and_misses_nothing(make_rig: MakeRig, postgres: Postgres) -> None:
    rig = make_rig(EVENT_HEARTBEAT_SECONDS="0.2")
    rig.start()
    seen: list[str] = []
    heartbeats = 0
    async with httpx.AsyncClient(base_url=rig.web.url, verify=LOCAL, timeout=60) as client:

        async def read() -> None:
            nonlocal heartbeats
            place = ""
            async with client.stream("GET", "/api/events/stream") as stream:
                async for line in stream.aiter_lines():
                    heartbeats += line == ":"
                    place = line.removeprefix("id: ") if line.startswith("id: ") else place
                    if line.startswith("event: "):
                        seen.append(place)

        def enough(wanted: int) -> bool:
            return heartbeats >= wanted

        async def accept(number: int) -> None:
            body = {"from": "+12016661234", "to": f"+1804555{number:04}", "type": "sms", "body": "text"}
            answer = await client.post("/api/messages/sms", json=body)
            while answer.status_code == 503:
                await anyio.sleep(0.1)
                answer = await client.post("/api/messages/sms", json=body)
            assert answer.status_code == 200

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            for turn in range(ROUNDS):
                for number in range(MESSAGES):
                    await accept(turn * MESSAGES + number)
                await anyio.to_thread.run_sync(postgres.kill if turn else postgres.stop_fast)
                wanted = heartbeats + 3
                await until(partial(enough, wanted), within_seconds=60, why="heartbeats without a database")
                await anyio.to_thread.run_sync(postgres.start)
                for number in range(MESSAGES):
                    await accept(turn * MESSAGES + number)
            written = [each["id"] for each in (await client.get("/api/events?limit=500")).json()["events"]]
            await until(lambda: len(seen) >= len(written), within_seconds=60, why="all events in the stream")
            tasks.cancel_scope.cancel()
    assert seen == written
    report("postgres_restarted_under_a_stream", events=len(seen), heartbeats=heartbeats)
