"""A backup taken under load, and the loss of everything after it: what was acknowledged before is there, and once."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.conftest import database_named, execute
from tests.faults.client import Load
from tests.faults.rig import MakeRig, Rig, report, size, until
from tests.live import LiveServer

pytestmark = pytest.mark.anyio

_ROOT = Path(__file__).parent.parent.parent


async def test_a_backup_under_load_is_complete_and_its_restore_sends_nothing_twice(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    # The carrier knows no keys, so a second send would be a second message.
    rig = make_rig(carrier="nothing", SIMULATOR_RECEIPTS="false", PROVIDER_RATES=f"simulator:{size(60, 150)}")
    rig.start(workers=1)
    load, backup = Load(rig.web.port, per_second=size(100, 200)), tmp_path / "backup"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.run)
        await until(
            lambda: len(load.acknowledged) >= size(300, 5_000), within_seconds=120, why="messages are accepted"
        )
        before = dict(load.acknowledged)
        began = time.monotonic()
        await command(rig.environment, "backup", str(backup))
        backup_seconds = time.monotonic() - began
        after = len(load.acknowledged)
        await until(lambda: len(load.acknowledged) >= after + 100, within_seconds=120, why="and after the backup")
        load.stop()
    await rig.settled(within_seconds=300)
    for process in (rig.web, *rig.workers):
        process.kill()

    restored = Restored(rig, tmp_path)
    began = time.monotonic()
    await command(restored.environment, "restore", str(backup))
    restore_seconds = time.monotonic() - began
    there: dict[str, int] = dict(restored.query("SELECT body, id FROM messages WHERE direction = 'outbound'"))
    doubtful = {body for (body,) in restored.query("SELECT body FROM messages WHERE status = 'unknown'")}
    sent_by_then = len(rig.carrier.acceptances())
    server = restored.start()
    fresh = Load(server.port)
    await fresh.send(50)
    await until(
        lambda: not restored.query("SELECT 1 FROM messages WHERE due_at IS NOT NULL"),
        within_seconds=120,
        why="messages settle",
    )
    server.stop()
    taken = Counter(entry["body_sha256"] for entry in rig.carrier.acceptances())
    missing = [body for body, id in before.items() if there.get(body) != id]
    doubled = [body for body, count in taken.items() if count > 1]
    report(
        "backup_under_load",
        n=len(before),
        missing=len(missing),
        doubled=len(doubled),
        in_doubt=len(doubtful),
        lost_after_the_backup=len(load.acknowledged) - len(there),
        backup_seconds=backup_seconds,
        restore_seconds=restore_seconds,
    )
    assert missing == []
    assert doubled == []
    assert doubtful
    assert len(rig.carrier.acceptances()) == sent_by_then + len(fresh.acknowledged) == sent_by_then + 50
    assert min(fresh.acknowledged.values()) > max(load.acknowledged.values())


class Restored:
    """The installation that the backup is restored to: another database, the same carrier."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        self._rig = rig
        self._directory = directory / "restored"
        self._directory.mkdir()
        name = f"faults_restored_{os.getpid()}"
        execute(rig.postgres.url, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
        self._url = database_named(rig.postgres.url, name)
        self.environment = rig.environment | {"DATABASE_URL": self._url}

    def query(self, statement: str) -> list[Any]:
        return self._rig.query(statement, self._url)

    def start(self) -> LiveServer:
        server = LiveServer(self._directory, port=0, module="tests.faults.nothing", **self.environment)
        self._rig.started.append(server)
        server.start()
        return server


async def command(environment: dict[str, str], *words: str) -> None:
    """Run a command of the service to its end."""
    given = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | environment
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-m", "app", *words], cwd=_ROOT, env=given, capture_output=True, text=True, timeout=600
        )
    )
    assert done.returncode == 0, done.stdout + done.stderr
