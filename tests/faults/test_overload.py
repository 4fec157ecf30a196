"""Ten times as many as it can take on: what is accepted is accepted in time and kept, the rest is told so at once."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from tests.conftest import execute
from tests.faults.client import Answer, Load
from tests.faults.rig import FULL, MakeRig, report, size

pytestmark = pytest.mark.anyio

#: What bounds the service is made of waiting, so that those who ask have the processors to themselves: a commit takes
#: so long, and holds so many.
COMMIT_SECONDS, AT_ONCE = 0.02, 12


async def test_ten_times_its_capacity(make_rig: MakeRig) -> None:
    rig = make_rig(ACCEPT_BATCH_SIZE=str(AT_ONCE))
    name = rig.database.rpartition("/")[2]
    for setting in (f"commit_delay = {int(COMMIT_SECONDS * 1e6)}", "commit_siblings = 0"):
        execute(rig.postgres.url, f"ALTER DATABASE {name} SET {setting}")
    rig.start()
    crowd = Load(rig.web.port)
    await crowd.send(1, at_once=1)
    began = time.monotonic()
    await crowd.send(size(400, 2_000), at_once=64)
    peak = size(400, 2_000) / (time.monotonic() - began)

    flood = Load(rig.web.port, per_second=10 * peak, patient=False)
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flood.run)
        await anyio.sleep(size(3, 60))  # so long it is asked for too much
        flood.stop()
    ended = time.monotonic()
    accepted = [answer for answer in flood.answers if answer.status == 200]
    refused = [answer for answer in flood.answers if answer.status != 200]
    after = Load(rig.web.port)
    await after.send(1)
    recovered = time.monotonic() - ended

    stored = dict(rig.query("SELECT body, id FROM messages"))
    lost = [
        body for load in (crowd, flood, after) for body, id in load.acknowledged.items() if stored.get(body) != id
    ]
    figures: dict[str, Any] = {
        "peak_per_second": peak,
        "asked_per_second": len(flood.answers) / (ended - began),
        "goodput": len(accepted) / (ended - began) / peak,
        "accepted_p99_seconds": percentile_99(accepted),
        "refused_p50_seconds": sorted(answer.seconds for answer in refused)[len(refused) // 2],
        "refused_p99_seconds": percentile_99(refused),
    }
    report(
        "overload",
        n=len(flood.acknowledged),
        lost=len(lost),
        doubled=0,
        recovery_seconds=recovered,
        answers=dict(Counter(answer.status for answer in flood.answers)),
        unanswered=flood.broken,
        **figures,
    )
    assert lost == []
    assert flood.broken == 0
    assert {answer.status for answer in refused} == {503}
    assert all(answer.retry_after for answer in refused)
    if FULL:  # what depends on the machine is asked of a quiet one
        assert figures["goodput"] >= 0.8
        assert figures["accepted_p99_seconds"] < 2
        assert recovered < 5


def percentile_99(answers: Sequence[Answer]) -> float:
    return sorted(answer.seconds for answer in answers)[int(len(answers) * 0.99)]
