"""Carriers that fail, lie and throttle, receipts in disorder, many workers on one queue, and orderly ends."""

import asyncio
import json
import re
import signal
import time
from collections import Counter, defaultdict
from datetime import datetime, timedelta

import httpx
import pytest

from app.providers.simulated.behaviours import Behaviour, SimulatorSettings
from app.providers.simulated.script import Script
from tests.faults.client import Load
from tests.faults.rig import FULL, Carrier, MakeRig, Rig, drawn_seed, report, size, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("workers", [2, 8] if FULL else [2])
async def test_workers_on_one_queue_hand_over_each_message_once(make_rig: MakeRig, workers: int) -> None:
    count = size(1_000, 20_000)
    rig = make_rig(carrier="nothing", SIMULATOR_RECEIPTS="false", LEASE_SECONDS="30")
    rig.start()
    load = Load(rig.web.port)
    await load.send(count)
    began = time.monotonic()
    for _ in range(workers):
        rig.add_worker()
    await rig.settled(within_seconds=size(120, 600))
    drained = time.monotonic() - began
    account = rig.account(load)
    report(
        f"{workers}_workers",
        account,
        recovery_seconds=0,
        drained_seconds=drained,
        per_second=account.n / drained,
    )
    assert (account.n, account.lost, account.doubled, account.in_doubt_visible) == (count, 0, 0, 0)
    assert len(rig.carrier.entries()) == count
    assert rig.statuses() == {"sent": count}


RECEIPTS = {
    Behaviour.SHUFFLED_RECEIPTS: ("delivered", {"queued", "sent", "delivered"}),
    Behaviour.DUPLICATE_RECEIPTS: ("delivered", {"sent", "delivered"}),
    Behaviour.RECEIPT_FIRST: ("delivered", {"sent", "delivered"}),
    Behaviour.CORRECTED: ("delivered", {"sent", "undelivered", "delivered"}),
    Behaviour.BOUNCED: ("delivered", {"sent", "delivered", "undelivered"}),
    Behaviour.UNDELIVERED: ("undelivered", {"sent", "undelivered"}),
    Behaviour.LOST_RECEIPT: ("sent", set[str]()),
}


async def test_receipts_shuffled_and_tripled(make_rig: MakeRig) -> None:
    """The carrier repeats and mixes up its receipts, and then all come twice more in another order."""
    dice, count = drawn_seed(), size(200, 10_000)
    mix = " ".join(f"{behaviour}:1" for behaviour in RECEIPTS)
    rig = make_rig(web_delivers=True, callback=True, SIMULATOR_MIX=mix, SIMULATOR_RECEIPT_DELAY_SECONDS="0.05")
    rig.start()
    load = Load(rig.web.port)
    began = time.monotonic()
    await load.send(count)
    await rig.settled(within_seconds=size(120, 300))
    script = Script(SimulatorSettings(_env_file=None, mix=mix))
    expected = {
        int(entry["reference"].split("-")[1]): (
            entry["provider_message_id"],
            *RECEIPTS[script.behaviour(entry["to"], entry["reference"])],
        )
        for entry in rig.carrier.acceptances()
    }
    assert len(expected) == count
    due = sum(len(statuses) for _, _, statuses in expected.values())
    await until(lambda: _events(rig) >= due, within_seconds=size(120, 300), why=f"{due} receipts")
    posted = [
        {"event": "receipt", "event_id": f"{id}:{status}", "status": status, "id": id}
        for id, _, statuses in expected.values()
        for status in statuses
    ] * 2
    dice.shuffle(posted)
    await _post(rig, posted)
    took = time.monotonic() - began

    history: dict[int, list[str]] = defaultdict(list)
    for message_id, event_id in rig.query("SELECT message_id, event_id FROM provider_events"):
        history[message_id].append(event_id.rpartition(":")[2])
    final = dict(rig.query("SELECT id, status FROM messages WHERE direction = 'outbound'"))
    wrong = [id for id, (_, status, _) in expected.items() if final[id] != status]
    incomplete = [
        id for id, (_, _, statuses) in expected.items() if Counter(history.get(id, [])) != Counter(statuses)
    ]
    account = rig.account(load)
    report(
        "receipts_shuffled_and_tripled",
        account,
        recovery_seconds=0,
        receipts=due,
        wrong_status=len(wrong),
        incomplete_history=len(incomplete),
        took_seconds=took,
        statuses=rig.statuses(),
    )
    assert (account.lost, account.doubled, wrong, incomplete) == (0, 0, [], [])
    assert None not in history  # none is parked for good
    await _assert_timelines(rig, {id: expected[id][2] for id in dice.sample(sorted(expected), 50)})


def _events(rig: Rig) -> int:
    [(count,)] = rig.query("SELECT count(*) FROM provider_events WHERE message_id IS NOT NULL")
    return int(count)


async def _post(rig: Rig, events: list[dict[str, str]]) -> None:
    """Hand events in as the carrier does, many to a call and eight calls at once."""
    batches = iter([events[start : start + 50] for start in range(0, len(events), 50)])
    async with httpx.AsyncClient(base_url=rig.web.url, timeout=60, trust_env=False) as client:

        async def post() -> None:
            for batch in batches:
                answer = await client.post("/api/webhooks/simulator", content=json.dumps(batch))
                assert answer.status_code == 200, answer.text

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(post())


async def _assert_timelines(rig: Rig, expected: dict[int, set[str]]) -> None:
    async with httpx.AsyncClient(base_url=rig.web.url, trust_env=False) as client:
        for id, statuses in expected.items():
            steps = (await client.get(f"/api/messages/{id}/timeline")).json()
            kinds = Counter(step["kind"] for step in steps)
            assert kinds["receipt"] == len(statuses), steps
            assert (kinds["accepted"], kinds["attempt"], kinds["outcome"]) == (1, 1, 1), steps
            assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)


MIXES = {
    "throttling": "ok:9 throttled:1",
    "failing": "ok:2 failing:1 reset_before:1 redirect:1 refusing:1",
    "lying": "ok:2 failing_after:1 reset_after:1 silent:1 malformed:1 huge:1 slow:1",
}
if not FULL:
    MIXES = {"throttling_failing_lying": "ok:6 " + re.sub(r"ok:\d ", "", " ".join(MIXES.values()))}
QUICK = {
    "SIMULATOR_RETRY_AFTER_SECONDS": "0.2",
    "SIMULATOR_TIMEOUT_SECONDS": "1",
    "SIMULATOR_SLOW_SECONDS": "0.5",
    "SIMULATOR_RECEIPTS": "false",
    "BREAKER_SECONDS": "0.5",
    "MAX_ATTEMPTS": "20",
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("carrier", ["knows_keys", "can_be_asked", "sends_receipts"] if FULL else ["knows_keys"])
async def test_a_bad_carrier_leaves_every_message_explained(make_rig: MakeRig, mix: str, carrier: Carrier) -> None:
    count = size(150, 2_000)
    # What has no receipt after a time was not taken, and is handed over again.
    told = {"SIMULATOR_RECEIPTS": "true", "IN_DOUBT_AFTER_TIMEOUT": "retry", "IN_DOUBT_RECEIPT_SECONDS": "20"}
    receipts = told if carrier == "sends_receipts" else {}
    rig = make_rig(carrier=carrier, web_delivers=True, callback=True, SIMULATOR_MIX=MIXES[mix], **QUICK | receipts)
    rig.start()
    load = Load(rig.web.port)
    began = time.monotonic()
    await load.send(count)
    await rig.settled(within_seconds=size(120, 300))
    if receipts:
        await until(lambda: "unknown" not in rig.statuses(), within_seconds=120, why="receipts for what is in doubt")
    settled = time.monotonic() - began
    script = Script(SimulatorSettings(_env_file=None, mix=MIXES[mix]))
    refused = {
        entry["reference"]
        for entry in rig.carrier.entries()
        if script.behaviour(entry["to"], entry["reference"]) is Behaviour.REFUSING
    }
    taken = Counter(entry["reference"] for entry in rig.carrier.acceptances())
    statuses = rig.statuses()
    lost = count - len(refused) - len(taken)
    doubled = sum(taken.values()) - len(taken)
    account = rig.account(load)
    report(
        f"bad_carrier/{mix}/{carrier}",
        account,
        lost=lost,
        doubled=doubled,
        recovery_seconds=0,
        settled_seconds=settled,
        refused=len(refused),
        statuses=statuses,
    )
    assert (lost, doubled) == (0, 0)
    assert statuses.get("failed", 0) == len(refused)
    assert statuses.keys() <= {"sent", "delivered", "failed"}
    unexplained = rig.query("SELECT id FROM messages WHERE status = 'failed' AND coalesce(status_reason, '') = ''")
    assert unexplained == []
    assert rig.query("SELECT message_id FROM delivery_attempts WHERE outcome IS NULL") == []


async def test_a_carrier_without_keys_that_answers_500_gets_none_twice(make_rig: MakeRig) -> None:
    """It took some of them before its error. Neither a key nor a receipt tells which."""
    count, mix = size(200, 4_000), "ok:3 failing:1 failing_after:1"
    rig = make_rig(
        carrier="nothing", web_delivers=True, **QUICK | {"SIMULATOR_MIX": mix, "SIMULATOR_TIMEOUT_SECONDS": "60"}
    )
    rig.start()
    load = Load(rig.web.port)
    await load.send(count)
    await rig.settled(within_seconds=size(120, 300))
    script = Script(SimulatorSettings(_env_file=None, mix=mix))
    said = Counter(script.behaviour(entry["to"], entry["reference"]) for entry in rig.carrier.entries())
    account = rig.account(load)
    not_taken = said[Behaviour.FAILING]  # they are shown as in doubt, for a person to decide
    lost = account.lost - not_taken
    report("answers_500", account, lost=lost, recovery_seconds=0, asked=said.total(), statuses=rig.statuses())
    assert (lost, account.doubled, account.in_doubt_visible) == (0, 0, count - said[Behaviour.OK])
    assert said.total() == count
    assert rig.statuses() == {"sent": said[Behaviour.OK], "unknown": count - said[Behaviour.OK]}


@pytest.mark.parametrize("workers", [1, 3] if FULL else [1])
async def test_a_carrier_that_takes_less_than_we_could_hand_over_gets_all_of_it(
    make_rig: MakeRig, workers: int
) -> None:
    """It says 429 to messages beyond its rate, which we are not told; the settings are those of a fresh clone."""
    count, rate = size(150, 2_000), size(30, 50)
    rig = make_rig(SIMULATOR_RATE=str(rate), SIMULATOR_RECEIPTS="false")
    rig.start(workers=workers)
    load = Load(rig.web.port)
    began = time.monotonic()
    await load.send(count)
    await rig.settled(within_seconds=size(120, 600))
    took = time.monotonic() - began
    account = rig.account(load)
    times = [datetime.fromisoformat(entry["received_at"]) for entry in rig.carrier.entries()]
    asked, found = len(times), [each for each in times if each - times[0] > timedelta(seconds=10)]
    report(
        f"rated_carrier/{workers}_workers",
        account,
        recovery_seconds=0,
        asked=asked,
        per_second=account.n / took,
        of_its_rate=account.n / took / rate,
        most_asked_of_its_rate_at_first=_most_within(times, 3) / 3 / rate,
        most_asked_of_its_rate_after_10_seconds=_most_within(found, 3) / 3 / rate,
    )
    assert (account.lost, account.doubled) == (0, 0)
    assert rig.statuses() == {"sent": count}
    assert asked < 2 * count


def _most_within(times: list[datetime], seconds: float) -> int:
    """The most moments that lie within so many seconds of each other."""
    most = start = 0
    for end, each in enumerate(times):
        while each - times[start] > timedelta(seconds=seconds):
            start += 1
        most = max(most, end - start + 1)
    return most


@pytest.mark.parametrize("workers", [1, 3] if FULL else [1])
async def test_random_429s_hold_up_only_the_messages_that_got_them(make_rig: MakeRig, workers: int) -> None:
    count, rates = size(500, 5_000), []
    for mix in ("ok:1", "ok:99 throttled:1"):
        rig = make_rig(SIMULATOR_MIX=mix, SIMULATOR_RECEIPTS="false", SIMULATOR_FAILURES_BEFORE_OK="1")
        rig.start()
        load = Load(rig.web.port)
        await load.send(count)
        began = time.monotonic()
        for _ in range(workers):
            rig.add_worker()
        await rig.settled(within_seconds=size(120, 600))
        rates.append(count / (time.monotonic() - began))
        account = rig.account(load)
        replies = Counter(entry["reply"] for entry in rig.carrier.entries())
        report(
            f"random_429s/{workers}_workers",
            account,
            recovery_seconds=0,
            throttled=replies["throttled"],
            per_second=rates[-1],
            of_none_throttled=rates[-1] / rates[0],
        )
        assert (account.n, account.lost, account.doubled) == (count, 0, 0)
        assert replies["id"] == count
        assert rig.statuses() == {"sent": count}


async def test_a_carrier_that_refuses_our_key_is_paused_and_loses_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(web_delivers=True, SIMULATOR_MIX="ok:9 unauthorised:1", SIMULATOR_RECEIPTS="false")
    rig.start()
    load = Load(rig.web.port)
    await load.send(size(100, 2_000))
    pauses, deadline = 0, time.monotonic() + size(120, 300)
    async with httpx.AsyncClient(base_url=rig.web.url, trust_env=False) as client:
        while not rig.is_settled():
            assert time.monotonic() < deadline, rig.statuses()
            [provider] = [each for each in (await client.get("/api/providers")).json() if each["name"] == "simulator"]
            if provider["trouble"] == "is paused":
                assert "401" in provider["reason"]
                pauses += 1
                await client.post("/api/providers/simulator/resume")
            await asyncio.sleep(0.05)
    account = rig.account(load)
    report(
        "refused_credentials",
        account,
        recovery_seconds=0,
        pauses=pauses,
    )
    assert pauses > 0
    assert (account.lost, account.doubled) == (0, 0)
    assert rig.statuses() == {"sent": account.n}


@pytest.mark.parametrize("stopped", ["worker", "web"])
async def test_sigterm_finishes_what_is_in_hand(make_rig: MakeRig, stopped: str) -> None:
    dice, stops = drawn_seed(), size(1, 20)
    # A carrier that would take everything twice shows each message that was not finished in order.
    rig = make_rig(
        carrier="nothing",
        web_delivers=stopped == "web",
        SIMULATOR_MIX="ok:0.7 slow:0.3",
        SIMULATOR_SLOW_SECONDS="0.4",
        SIMULATOR_RECEIPTS="false",
        LEASE_SECONDS="30",  # a worker that is slow to renew a shorter one would leave doubts
    )
    rig.start(workers=0 if stopped == "web" else 1)
    target = rig.web if stopped == "web" else rig.workers[0]
    load = Load(rig.web.port, per_second=60)
    ended, recovery = 0.0, 0.0
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        for _ in range(stops):
            await _hand_overs(rig, dice.randrange(20, size(50, 100)))
            began = time.monotonic()
            assert await asyncio.to_thread(target.stop) == 0
            ended = max(ended, time.monotonic() - began)
            assert rig.in_hand() == 0
            seen = len(rig.carrier.entries())
            began = time.monotonic()
            target.launch()
            await asyncio.to_thread(target.wait_until, target.is_ready)
            await _hand_overs(rig, 1, seen=seen)
            recovery = max(recovery, time.monotonic() - began)
        load.stop()
    await rig.settled(within_seconds=size(120, 120))
    account = rig.account(load)
    report(
        f"sigterm_{stopped}",
        account,
        stops=stops,
        recovery_seconds=recovery,
        ended_seconds=ended,
    )
    assert (account.lost, account.doubled, account.in_doubt_visible) == (0, 0, 0)
    assert rig.statuses() == {"sent": len(rig.carrier.acceptances())}


async def _hand_overs(rig: Rig, more: int, *, seen: int | None = None) -> None:
    wanted = (len(rig.carrier.entries()) if seen is None else seen) + more
    await until(lambda: len(rig.carrier.entries()) >= wanted, within_seconds=120, why="hand-overs")


@pytest.mark.parametrize("stopped", ["worker", "web"])
async def test_a_second_sigterm_ends_it_at_once(make_rig: MakeRig, stopped: str) -> None:
    rig = make_rig(web_delivers=stopped == "web", SIMULATOR_MIX="silent:1", SIMULATOR_RECEIPTS="false")
    rig.start(workers=0 if stopped == "web" else 1)
    target = rig.web if stopped == "web" else rig.workers[0]
    assert target.process is not None
    load = Load(rig.web.port)
    await load.send(20)
    await until(lambda: len(rig.carrier.acceptances()) == 20, within_seconds=120, why="acceptances")
    target.process.send_signal(signal.SIGTERM)
    said = b"worker_stopping" if stopped == "worker" else b"Shutting down"
    await until(lambda: said in target.log.read_bytes(), within_seconds=120, why="the first SIGTERM")
    began = time.monotonic()
    code = await asyncio.to_thread(target.stop)
    ended = time.monotonic() - began
    target.launch()
    await asyncio.to_thread(target.wait_until, target.is_ready)
    began = time.monotonic()
    await rig.settled(within_seconds=120)
    recovery = time.monotonic() - began
    account = rig.account(load)
    report(
        f"second_sigterm_{stopped}",
        account,
        recovery_seconds=recovery,
        ended_seconds=ended,
    )
    assert code == 128 + signal.SIGTERM
    if FULL:  # what depends on the machine is asked of a quiet one
        assert ended < 1
    assert (account.lost, account.doubled, account.in_doubt_visible) == (0, 0, 20)
    assert rig.statuses() == {"sent": 20}
