"""PostgreSQL stopped, killed, cut off and frozen under load: no accepted message is lost, and nobody restarts us."""

import time
from collections import Counter

import anyio
import httpx
import pytest

from tests.faults.client import Answer, Load
from tests.faults.rig import MakeRig, Postgres, Rig, drawn_seed, report, size, until

pytestmark = pytest.mark.anyio

#: What is promised: the service gives up after three, and some tenths that look-ups may take.
ANSWER_SECONDS = 5.0
#: From the return of the server to the first message that is accepted again.
RECOVERY_SECONDS = 10.0


async def stop_immediately(postgres: Postgres, rig: Rig) -> None:
    await anyio.to_thread.run_sync(postgres.stop_immediately)
    await anyio.to_thread.run_sync(postgres.start)


async def restart_fast(postgres: Postgres, rig: Rig) -> None:
    await anyio.to_thread.run_sync(postgres.stop_fast)
    await anyio.to_thread.run_sync(postgres.start)


async def kill(postgres: Postgres, rig: Rig) -> None:
    await anyio.to_thread.run_sync(postgres.kill)
    await anyio.to_thread.run_sync(postgres.start)


async def terminate_backends(postgres: Postgres, rig: Rig) -> None:
    await anyio.to_thread.run_sync(postgres.terminate_backends, rig.database)


async def freeze(postgres: Postgres, rig: Rig) -> None:
    with postgres.frozen():
        frozen_at = time.monotonic()
        async with httpx.AsyncClient(base_url=rig.web.url, trust_env=False) as client:
            while time.monotonic() - frozen_at < size(7, 30):  # that long, and the process lives all the while
                began = time.monotonic()
                assert (await client.get("/healthz")).status_code == 200
                assert time.monotonic() - began < size(3, 1)  # the loop lives: PostgreSQL is away for longer
                await anyio.sleep(0.2)


class Reads:
    """Somebody who looks at lists and messages twice a second, whether or not the last look has been answered."""

    PATHS = ("/api/providers", "/api/conversations", "/api/messages", "/api/messages/1", "/api/messages/1/timeline")

    def __init__(self, url: str) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._stopping = False

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # none that the server has closed
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=60, trust_env=False, limits=limits) as client,
            anyio.create_task_group() as tasks,
        ):
            while not self._stopping:
                for path in self.PATHS:
                    tasks.start_soon(self._read, client, path)
                await anyio.sleep(0.5)  # the pace

    def stop(self) -> None:
        self._stopping = True

    async def _read(self, client: httpx.AsyncClient, path: str) -> None:
        began = time.monotonic()
        answer = await client.get(path)
        seconds = time.monotonic() - began
        self.answers.append(Answer(began, seconds, answer.status_code, answer.headers.get("retry-after")))


FAULTS = {each.__name__: each for each in (stop_immediately, restart_fast, kill, terminate_backends, freeze)}


@pytest.mark.parametrize("name", FAULTS)
async def test_postgres_goes_away_and_comes_back(make_rig: MakeRig, postgres: Postgres, name: str) -> None:
    fault = FAULTS[name]
    dice, rounds = drawn_seed(), size(1, 3 if fault is freeze else 10)
    rig = make_rig(web_delivers=True, SIMULATOR_RECEIPTS="false")
    rig.start()
    assert rig.web.process is not None
    process = rig.web.process
    load, reads = Load(rig.web.port, per_second=50), Reads(rig.web.url)
    await load.send(1)  # which the reads ask for
    recovery, took_away, returned = 0.0, 0.0, 0.0
    away: list[tuple[float, float]] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.run)
        tasks.start_soon(reads.run)
        for _ in range(rounds):
            due = len(load.acknowledged) + dice.randrange(25, 75)
            await until(lambda: len(load.acknowledged) >= due, within_seconds=60, why="accepted messages")  # noqa: B023
            took_away = time.monotonic()
            await fault(postgres, rig)
            returned = time.monotonic()

            def first_success() -> float | None:
                return next((each.came_at for each in load.answers if _accepted_after(each, returned)), None)  # noqa: B023

            await until(first_success, within_seconds=60, why="a message accepted after the return")
            recovered = first_success()
            assert recovered is not None
            away.append((took_away, recovered))
            recovery = max(recovery, recovered - returned)
        load.stop()
        reads.stop()
    settled = await rig.settled(within_seconds=60)
    account = rig.account(load)
    slowest = max(answer.seconds for answer in load.answers)
    report(
        f"postgres_{name}",
        account,
        rounds=rounds,
        recovery_seconds=recovery,
        settled_seconds=settled,
        slowest_answer_seconds=slowest,
        unanswered=load.broken,
        answers=dict(Counter(answer.status for answer in load.answers)),
        slowest_read_seconds=max(answer.seconds for answer in reads.answers),
        reads=dict(Counter(answer.status for answer in reads.answers)),
    )
    assert process.poll() is None, "it went down with the database"
    assert rig.web.process is process
    assert (account.lost, account.doubled, load.broken) == (0, 0, 0)
    assert rig.statuses().keys() == {"sent"}
    refusals = [answer for answer in load.answers + reads.answers if answer.status != 200]
    assert {answer.status for answer in refusals} <= {503}
    assert all(answer.retry_after for answer in refusals)
    assert all(any(gone <= each.came_at <= back + ANSWER_SECONDS for gone, back in away) for each in refusals)
    assert slowest < ANSWER_SECONDS
    assert max(answer.seconds for answer in reads.answers) < ANSWER_SECONDS
    assert recovery < RECOVERY_SECONDS


def _accepted_after(answer: Answer, moment: float) -> bool:
    return answer.status == 200 and answer.came_at >= moment
