"""Ten times as many as it can take on: what is accepted is accepted in time and kept, the rest is told so at once."""

import json
import sys
import time
from typing import Any

import anyio
import pytest
from sqlalchemy.engine import make_url

from bench.load import percentile
from tests.conftest import execute
from tests.faults.client import Load
from tests.faults.flood import Flood
from tests.faults.rig import FULL, MakeRig, report, size

pytestmark = pytest.mark.anyio

#: The service is slowed down by waiting, so that the clients have the processors. A commit takes so long, and holds
#: so many messages.
COMMIT_SECONDS, AT_ONCE = 0.02, 12


async def flooded(port: int, *, per_second: float, seconds: float) -> Flood:
    words = [sys.executable, "-m", "tests.faults.flood", str(port), str(per_second), str(seconds), "flood"]
    said = await anyio.run_process(words, stderr=None)
    return Flood(**json.loads(said.stdout))


async def test_ten_times_its_capacity(make_rig: MakeRig) -> None:
    rig = make_rig(ACCEPT_BATCH_SIZE=str(AT_ONCE))
    name = make_url(rig.database).database
    for setting in (f"commit_delay = {int(COMMIT_SECONDS * 1e6)}", "commit_siblings = 0"):
        execute(rig.postgres.url, f"ALTER DATABASE {name} SET {setting}")
    rig.start()
    crowd = Load(rig.web.port)
    await crowd.send(1, at_once=1)
    began = time.monotonic()
    await crowd.send(size(400, 2_000), at_once=64)
    peak = size(400, 2_000) / (time.monotonic() - began)

    flood = await flooded(rig.web.port, per_second=10 * peak, seconds=size(3, 60))
    ended = time.monotonic()
    after = Load(rig.web.port)
    await after.send(1)
    recovered = time.monotonic() - ended

    stored = dict(rig.query("SELECT body, id FROM messages"))
    lost = [
        body for each in (crowd, flood, after) for body, id in each.acknowledged.items() if stored.get(body) != id
    ]
    refused = sorted(flood.refused_seconds)
    figures: dict[str, Any] = {
        "peak_per_second": peak,
        "asked_per_second": sum(flood.statuses.values()) / flood.seconds,
        "goodput": len(flood.acknowledged) / flood.seconds / peak,
        "accepted_p99_seconds": percentile(sorted(flood.accepted_seconds), 99),
        "refused_p50_seconds": percentile(refused, 50),
        "refused_p99_seconds": percentile(refused, 99),
    }
    report(
        "overload",
        n=len(flood.acknowledged),
        lost=len(lost),
        doubled=0,
        recovery_seconds=recovered,
        answers=flood.statuses,
        unanswered=flood.broken,
        **figures,
    )
    assert lost == []
    assert flood.broken == 0
    assert flood.statuses.keys() == {"200", "503"}
    assert flood.without_retry_after == 0
    if FULL:  # what depends on the machine is asked of a quiet one
        assert figures["goodput"] >= 0.8
        assert figures["accepted_p99_seconds"] < 2
        assert recovered < 5
