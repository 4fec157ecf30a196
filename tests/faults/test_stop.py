"""A STOP while messages to the person are on their way: nothing leaves later than a second after its commit."""

from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import httpx
import pytest

from tests import factories
from tests.factories import sms, sms_webhook
from tests.faults.rig import MakeRig, Rig, report, size, until
from tests.live import LOCAL

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("limit", ["PROVIDER_RATES", "PROVIDER_CONCURRENCY"])
async def test_nothing_leaves_after_a_stop(make_rig: MakeRig, limit: str) -> None:
    count = size(300, 2_000)
    slow = {"PROVIDER_RATES": "simulator:60", "PROVIDER_CONCURRENCY": "20"}[limit]
    answers = {"SIMULATOR_MIX": "slow:1", "SIMULATOR_SLOW_SECONDS": "0.4", "SIMULATOR_RECEIPTS": "false"}
    rig = make_rig(LEASE_SECONDS="60", **{limit: slow}, **answers)
    rig.start()
    async with httpx.AsyncClient(base_url=rig.web.url, verify=LOCAL, timeout=60) as client:
        await _send(client, count)
        for _ in range(2):
            rig.add_worker()
        await until(lambda: len(rig.carrier.entries()) > count // 10, within_seconds=60, why="sends under way")
        answer = await client.post("/api/webhooks/sms", json=sms_webhook(body="STOP"))
        stopped_at = datetime.now(UTC)
        assert answer.status_code == 200
    await rig.settled(within_seconds=120)
    left = [datetime.fromisoformat(entry["received_at"]) for entry in rig.carrier.entries()]
    late = [moment for moment in left if moment > stopped_at + timedelta(seconds=1)]
    after = [(moment - stopped_at).total_seconds() for moment in left if moment > stopped_at]
    statuses = rig.statuses()
    report(
        f"stop_under_way_{limit.lower()}",
        n=count,
        sent=statuses["sent"],
        suppressed=statuses["suppressed"],
        last_after_seconds=max(after, default=0.0),
        late=len(late),
    )
    assert late == []
    assert statuses == {"sent": len(left), "suppressed": count - len(left)}
    assert statuses["suppressed"] > 0
    _assert_evidence(rig)


async def _send(client: httpx.AsyncClient, count: int) -> None:
    """Messages to one person from many senders, so that no conversation holds up another."""

    async def send(number: int) -> None:
        message = sms(from_=f"+1201{6660000 + number}")
        answer = await factories.until(
            lambda: client.post("/api/messages/sms", json=message), lambda answer: answer.status_code != 503
        )
        assert answer.status_code == 200

    for first in range(0, count, 50):
        async with anyio.create_task_group() as tasks:
            for number in range(first, min(first + 50, count)):
                tasks.start_soon(partial(send, number))


def _assert_evidence(rig: Rig) -> None:
    """Each suppressed message names the entry of the STOP, and the log has an event for it."""
    [(without,)] = rig.query(
        "SELECT count(*) FROM messages m WHERE status = 'suppressed' AND NOT EXISTS (SELECT FROM message_events e"
        " JOIN consent_entries c ON c.id = e.consent_entry_id WHERE e.message_id = m.id AND c.source = 'keyword')"
    )
    [(events,)] = rig.query("SELECT count(*) FROM events WHERE type = 'message.suppressed'")
    assert (without, events) == (0, rig.statuses()["suppressed"])
