"""A rolling restart: two processes behind a proxy are restarted one after the other, and no client notices."""

import signal
from collections import Counter
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.faults.client import Load
from tests.faults.haproxy import CHECK_MS, PROGRAM, haproxy
from tests.faults.rig import MakeRig, report, size, until
from tests.live import LiveServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="HAProxy is not installed (Debian: apt-get install haproxy)"),
]

#: Many times what the proxy needs to take a process out, because this machine may have much else to do.
DRAIN_SECONDS = 15 * CHECK_MS / 1000
_MANY = 10**6


async def test_no_request_is_refused_while_processes_restart_in_turn(make_rig: MakeRig, tmp_path: Path) -> None:
    rig = make_rig(web_delivers=True, DRAIN_SECONDS=str(DRAIN_SECONDS))
    (tmp_path / "second").mkdir()
    second = LiveServer(tmp_path / "second", port=0, module="app", **rig.environment)
    rig.started.append(second)
    rig.start()
    await anyio.to_thread.run_sync(second.start)
    servers, rounds = [rig.web, second], size(1, 10)
    restarts = rounds * len(servers)
    with haproxy(tmp_path, [server.port for server in servers]) as proxy:
        for number in range(len(servers)):
            await until(partial(proxy.is_up, number), within_seconds=30, why="the proxy finds a process")
        load = Load(proxy.port)
        async with anyio.create_task_group() as tasks:
            # Each client waits for its answer, so that a busy machine is no overload.
            tasks.start_soon(partial(load.send, _MANY, at_once=size(4, 8)))
            for _ in range(rounds):
                for number, server in enumerate(servers):
                    sent = len(load.acknowledged)
                    await until(partial(_has_more, load, sent + 50), within_seconds=60, why="clients are answered")
                    await anyio.to_thread.run_sync(server.stop, signal.SIGTERM)
                    await anyio.to_thread.run_sync(server.start)
                    await until(partial(proxy.is_up, number), within_seconds=30, why="the proxy takes it back")
            load.stop()
    await rig.settled(within_seconds=300)
    statuses = Counter(answer.status for answer in load.answers)
    account = rig.account(load)
    report("rolling_restart", account, restarts=restarts, broken=load.broken, statuses=dict(statuses))
    assert load.broken == 0
    assert set(statuses) == {200}
    assert (account.lost, account.doubled) == (0, 0)


def _has_more(load: Load, count: int) -> bool:
    return len(load.acknowledged) >= count
