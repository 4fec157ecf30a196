"""SIGKILL of the web process and of the worker while a batch streams, is paused, resumed or canceled."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from tests.batches import PATH, TYPE, body_of
from tests.faults.rig import MakeRig, Rig, drawn_seed, report, size, until
from tests.live import LOCAL

pytestmark = pytest.mark.anyio

COUNT = size(2_000, 100_000)
#: Answers come late, so that a kill finds messages that the carrier has and we do not know of.
LOADED = {"SIMULATOR_MIX": "ok:0.9 slow:0.1", "SIMULATOR_SLOW_SECONDS": "0.2", "SIMULATOR_RECEIPTS": "false"}
#: Bytes of a piece of the body: a kill comes between two of them, or while one is stored.
PIECE = 8_000


def lines() -> list[dict[str, Any]]:
    return [
        {"channel": "sms", "from": "+12016661234", "to": f"+1804{5000000 + n}", "type": "sms", "body": f"line {n}"}
        for n in range(1, COUNT + 1)
    ]


async def stream(rig: Rig, content: bytes) -> list[dict[str, Any]]:
    """Send the batch in pieces; the lines of the answer, as many as came before it was cut off."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), PIECE):
            yield content[start : start + PIECE]

    said = b""
    headers = TYPE | {"Idempotency-Key": "campaign"}
    async with httpx.AsyncClient(base_url=rig.web.url, timeout=60, trust_env=False, verify=LOCAL) as client:
        with contextlib.suppress(httpx.TransportError):
            async with client.stream("POST", PATH, content=pieces(), headers=headers) as response:
                if response.status_code != 200:
                    return []
                async for piece in response.aiter_bytes():
                    said += piece
    return [json.loads(line) for line in said.split(b"\n")[:-1]]


def stored(rig: Rig) -> int:
    [(count,)] = rig.query("SELECT count(*) FROM messages WHERE batch_id IS NOT NULL")
    return int(count)


async def test_a_batch_is_complete_after_repeats_whatever_is_killed(make_rig: MakeRig) -> None:
    dice, kills = drawn_seed(), size(3, 20)
    rig = make_rig(**LOADED)
    rig.start(workers=1)
    [worker] = rig.workers
    content = body_of(lines())
    answered: dict[int, str] = {}
    cuts, finished = 0, False

    async def send_until_complete() -> None:
        nonlocal cuts, finished
        while not finished:
            results = await stream(rig, content)
            for each in results:
                if "line" in each:
                    assert each["status"] == "accepted"
                    # A repeat has the answer of the first time.
                    assert answered.setdefault(each["line"], each["message_id"]) == each["message_id"]
            finished = bool(results) and results[-1]["status"] == "complete"
            cuts += not finished
            await anyio.sleep(0 if finished else 0.1)  # between two tries, as a client does

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_until_complete)
        for number in range(kills):
            goal = min(stored(rig) + dice.randrange(COUNT // (4 * kills), COUNT // (2 * kills)), COUNT)
            await until(lambda: finished or stored(rig) >= goal, within_seconds=120, why="lines")  # noqa: B023
            victim = worker if number % 3 == 2 else rig.web
            victim.kill()
            victim.launch()
            await until(rig.web.is_ready, within_seconds=120, why="a service that works again")
    settled = await rig.settled(within_seconds=size(300, 1500))
    bodies = rig.query("SELECT batch_line, id::text, body, status FROM messages ORDER BY batch_line")
    assert [(line, body) for line, _, body, _ in bodies] == [(n, f"line {n}") for n in range(1, COUNT + 1)]
    assert {line: id_ for line, id_, _, _ in bodies} == answered
    taken = Counter(entry["body_sha256"] for entry in rig.carrier.acceptances())
    report("batch_killed", lines=COUNT, kills=kills, cuts=cuts, settled_seconds=settled, statuses=rig.statuses())
    assert set(rig.statuses()) == {"sent"}
    assert len(taken) == COUNT
    assert set(taken.values()) == {1}
    assert cuts > 0


@pytest.mark.parametrize("killed", ["web", "worker"])
async def test_what_is_asked_of_a_batch_outlives_kills(make_rig: MakeRig, killed: str) -> None:
    """Paused, resumed and canceled, each cut off by a kill at a moment that is drawn."""
    dice = drawn_seed()
    # Slow enough that most of it waits until the end.
    rig = make_rig(PROVIDER_RATES="simulator:5", **LOADED)
    rig.start(workers=1)
    results = await stream(rig, body_of(lines()))
    assert results[-1]["status"] == "complete"
    victim = rig.web if killed == "web" else rig.workers[0]

    async def act(action: str) -> None:
        async with httpx.AsyncClient(base_url=rig.web.url, timeout=60, trust_env=False, verify=LOCAL) as client:
            asking = asyncio.create_task(client.post(f"{PATH}/1/{action}"))
            await anyio.sleep(dice.uniform(0, 0.3))  # the moment of the kill is what is drawn
            victim.kill()
            with contextlib.suppress(httpx.TransportError):
                await asking
            victim.launch()
            await until(rig.web.is_ready, within_seconds=120, why="a service that works again")
            if (await client.get(f"{PATH}/1")).json()["state"] == before:  # it was killed before it began
                await client.post(f"{PATH}/1/{action}")

    def waiting(condition: str) -> int:
        [(count,)] = rig.query(
            f"SELECT count(*) FROM messages WHERE status IN ('queued', 'scheduled') AND {condition}"
        )
        return int(count)

    before = "running"
    await act("pause")
    await until(lambda: not waiting("due_at < '2100-01-01'") and not rig.in_hand(), within_seconds=120, why="a pause")
    sent = len(rig.carrier.acceptances())
    before = "paused"
    await act("resume")
    await until(lambda: not waiting("due_at >= '2100-01-01'"), within_seconds=120, why="the end of the pause")
    await until(lambda: len(rig.carrier.acceptances()) > sent, within_seconds=120, why="messages that leave")
    before = "running"
    await act("cancel")
    await rig.settled(within_seconds=120)
    statuses = rig.statuses()
    report(f"batch_asked/{killed}", statuses=statuses)
    assert set(statuses) == {"sent", "canceled"}
    assert sum(statuses.values()) == COUNT
    [(events,)] = rig.query("SELECT count(*) FROM events WHERE type = 'message.canceled'")
    assert events == statuses["canceled"]
    taken = Counter(entry["body_sha256"] for entry in rig.carrier.acceptances())
    assert len(taken) == statuses["sent"]
    assert set(taken.values()) == {1}
