"""A primary with a synchronous standby: commits that hang without it, and its promotion under load."""

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy.engine import make_url

from app.doctor.examination import examine
from app.doctor.findings import Level
from tests import factories
from tests.conftest import execute, make_settings
from tests.factories import sms
from tests.faults.client import Load
from tests.faults.rig import MakeRig, Postgres, Rig, report, size, until
from tests.faults.standby import Standby

pytestmark = pytest.mark.anyio


class Pair(Postgres):
    """A primary and its synchronous standby, under one URL that names both."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "primary")
        self.standby = Standby(directory / "standby", self)
        self.wait_for("*")

    def wait_for(self, names: str) -> None:
        """Have commits wait for one of these standbys."""
        execute(self.url, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "SELECT pg_reload_conf()")

    def new_database(self) -> str:
        """As libpq has it: the ports of both, and the role that is wanted."""
        url = make_url(super().new_database())
        ports = f"{url.port},{make_url(self.standby.url).port}"
        both = {"host": f"{url.host},{url.host}", "port": ports, "target_session_attrs": "read-write"}
        several = url.set(host=None, port=None).update_query_dict(both)
        return several.render_as_string(hide_password=False)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.standby.stop()
    pair.stop()


async def test_nothing_that_was_acknowledged_is_lost_when_a_standby_takes_over(tmp_path: Path, pair: Pair) -> None:
    directory = tmp_path / "rig"
    directory.mkdir()
    rig = Rig(directory, pair, web_delivers=True, SIMULATOR_RECEIPTS="false")
    load = Load(rig.web.port, per_second=50)
    try:
        rig.start()
        process = rig.web.process
        assert process is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            await until(lambda: len(load.acknowledged) > size(100, 1000), within_seconds=300, why="messages")
            await anyio.to_thread.run_sync(pair.stop_immediately)
            killed_at = time.monotonic()
            await anyio.to_thread.run_sync(pair.standby.promote)
            promoted_at = time.monotonic()
            pair.url = pair.standby.url  # for what the rig does at its end

            def first_success() -> float | None:
                return next((each.came_at for each in load.answers if _ok_after(each, promoted_at)), None)

            await until(first_success, within_seconds=120, why="a message accepted by the new primary")
            recovered = first_success() or 0.0
            due = len(load.acknowledged) + size(50, 500)
            await until(lambda: len(load.acknowledged) > due, within_seconds=300, why="more messages")
            load.stop()
        settled = await rig.settled(within_seconds=120)
        account = rig.account(load)
        report(
            "failover",
            account,
            from_kill_to_promotion_seconds=promoted_at - killed_at,
            from_promotion_to_first_200_seconds=recovered - promoted_at,
            settled_seconds=settled,
            slowest_answer_seconds=max(answer.seconds for answer in load.answers),
            unanswered=load.broken,
            answers=dict(Counter(answer.status for answer in load.answers)),
        )
        assert rig.web.process is process
        assert process.poll() is None
        assert (account.lost, account.doubled, load.broken) == (0, 0, 0)
        assert {answer.status for answer in load.answers} <= {200, 503}
    finally:
        rig.close()


def _ok_after(answer: Any, moment: float) -> bool:
    return bool(answer.status == 200 and answer.began >= moment)


async def test_without_its_synchronous_standby_it_is_not_ready_and_says_what_may_be_stored(
    make_rig: MakeRig, postgres: Postgres
) -> None:
    rig = make_rig(web_delivers=True)
    rig.start()
    settings = "ALTER SYSTEM {} synchronous_standby_names {}", "SELECT pg_reload_conf()"
    async with httpx.AsyncClient(base_url=rig.web.url, timeout=60, trust_env=False) as client:
        assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
        execute(postgres.url, settings[0].format("SET", "= 'away'"), settings[1])
        try:
            readiness = await factories.until(
                partial(client.get, "/readyz"), lambda answer: answer.status_code != 200
            )
            refused = await client.post("/api/messages/sms", json=sms(body="stored after all"))
            found = await anyio.to_thread.run_sync(examine, make_settings(database_url=rig.database))
        finally:
            execute(postgres.url, settings[0].format("RESET", ""), settings[1])
        assert (refused.status_code, readiness.status_code) == (503, 503)
        assert "may store it all the same" in refused.json()["detail"]
        assert "commits hang" in readiness.json()["detail"]
        assert [each.level for name, each in found.findings if name == "writes"] == [Level.PROBLEM]
        await until(rig.web.is_ready, within_seconds=60, why="a service that works again")
        await rig.settled(within_seconds=60)
    assert rig.query("SELECT count(*) FROM messages WHERE body = 'stored after all'") == [(1,)]
