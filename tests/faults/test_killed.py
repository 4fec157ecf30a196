"""SIGKILL of the worker and of the web process, at moments that are drawn and at the one that hurts most."""

import time

import anyio
import httpx
import pytest

from tests.faults.client import Load
from tests.faults.poison import POISON
from tests.faults.rig import FULL, Carrier, MakeRig, Rig, WorkerProcess, drawn_seed, report, size, until

pytestmark = pytest.mark.anyio

#: Some of it is answered late, so that a kill finds messages that the carrier has and we do not know of.
LOADED = {"SIMULATOR_MIX": "ok:0.7 slow:0.3", "SIMULATOR_SLOW_SECONDS": "0.4", "SIMULATOR_RECEIPTS": "false"}
RANDOM: list[tuple[str, Carrier, int]] = [
    ("worker", "knows_keys", 100),
    ("worker", "nothing", 1),
    ("worker", "sends_receipts", 100),
    ("web", "knows_keys", 100),
]
AIMED: list[tuple[Carrier, str]] = [("knows_keys", "retry"), ("nothing", "retry")]
if FULL:
    RANDOM += [("worker", "nothing", 100), ("worker", "can_be_asked", 100)]
    RANDOM += [("web", "can_be_asked", 100), ("web", "nothing", 100), ("web", "nothing", 1)]
    RANDOM += [("web", "sends_receipts", 100)]
    AIMED += [("can_be_asked", "retry"), ("nothing", "wait"), ("nothing", "fail")]


@pytest.mark.parametrize(("killed", "carrier", "at_once"), RANDOM)
async def test_a_kill_loses_nothing(make_rig: MakeRig, killed: str, carrier: Carrier, at_once: int) -> None:
    """A carrier that offers nothing may get twice what was under way: with one call at a time, one message a kill."""
    dice, kills = drawn_seed(), size(2, 20)
    choices = LOADED | {"PROVIDER_CONCURRENCIES": f"simulator:{at_once}"}
    if carrier == "sends_receipts":
        choices |= {"SIMULATOR_RECEIPTS": "true", "IN_DOUBT_RECEIPT_SECONDS": "10"}
    rig = make_rig(carrier=carrier, web_delivers=killed == "web", callback=True, **choices)
    rig.start(workers=0 if killed == "web" else 1)
    victim = rig.web if killed == "web" else rig.workers[0]
    load = Load(rig.web.port, per_second=60 if at_once > 1 else 4)  # which can be delivered
    between = (20, size(50, 100)) if at_once > 1 else (10, 20)
    in_flight, recovery = 0, 0.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.run)
        for _ in range(kills):
            seen, more = len(rig.carrier.entries()), dice.randrange(*between)
            await until(lambda: len(rig.carrier.entries()) >= seen + more, within_seconds=120, why="hand-overs")  # noqa: B023
            await anyio.sleep(dice.uniform(0, 0.05))  # the moment of the kill is what is drawn
            victim.kill()
            killed_at = time.monotonic()
            in_flight += rig.in_hand()
            seen = len(rig.carrier.entries())
            victim.launch()
            await until(lambda: len(rig.carrier.entries()) > seen, within_seconds=120, why="the first one after")  # noqa: B023
            recovery = max(recovery, time.monotonic() - killed_at)
        load.stop()
    settled = await rig.settled(within_seconds=size(120, 300))
    account = rig.account(load)
    report(
        f"kill_{killed}/{carrier}/{at_once}_at_once",
        account,
        kills=kills,
        in_flight_at_kills=in_flight,
        recovery_seconds=recovery,
        settled_seconds=settled,
        statuses=rig.statuses(),
    )
    assert account.n > kills * 5
    assert account.lost == 0
    # What three workers died over is given up; at this many kills that befalls messages that did nothing wrong.
    ends = {"sent", "delivered", "failed"} if FULL else {"sent", "delivered"}
    assert rig.statuses().keys() <= ends
    reasons = rig.query("SELECT id FROM messages WHERE status = 'failed' AND status_reason NOT LIKE '%workers died%'")
    assert reasons == []
    # The process that takes the receipts is dead as often. It has until the next attempt to receive one.
    if carrier == "nothing" or (carrier, killed) == ("sends_receipts", "web"):
        assert account.doubled <= (in_flight if at_once > 1 else kills)
        rig.assert_doubts_are_visible(account.doubled_ids)
    else:
        assert account.doubled == 0
    if FULL:  # what depends on the machine is asked of a quiet one
        assert recovery < 35


@pytest.mark.parametrize(("carrier", "policy"), AIMED)
async def test_a_kill_between_the_carriers_acceptance_and_our_commit(
    make_rig: MakeRig, carrier: Carrier, policy: str
) -> None:
    kills, at_once = size(1, 20), 5
    rig = make_rig(
        carrier=carrier,
        SIMULATOR_MIX="slow:1",
        SIMULATOR_SLOW_SECONDS="60",
        SIMULATOR_RECEIPTS="false",
        IN_DOUBT_AFTER_CRASH=policy,
    )
    rig.start(workers=1)
    [worker] = rig.workers
    load = Load(rig.web.port)
    recovery = 0.0
    for _ in range(kills):
        due = len(rig.carrier.acceptances()) + at_once
        await load.send(at_once)
        await until(lambda: len(rig.carrier.acceptances()) >= due, within_seconds=120, why="acceptances")  # noqa: B023
        worker.kill()
        killed_at = time.monotonic()
        assert rig.in_hand() == at_once
        worker.launch()
        await rig.settled(within_seconds=120)
        recovery = max(recovery, time.monotonic() - killed_at)
    account = rig.account(load)
    report(
        f"aimed_kill/{carrier}/{policy}",
        account,
        kills=kills,
        recovery_seconds=recovery,
        statuses=rig.statuses(),
    )
    expected = {"retry": "sent", "wait": "unknown", "fail": "failed"}[policy]
    assert rig.statuses() == {expected: account.n}
    assert account.lost == 0
    assert account.doubled == (account.n if carrier == "nothing" and policy == "retry" else 0)
    assert account.in_doubt_visible == account.n
    rig.assert_doubts_are_visible(list(load.acknowledged.values()))
    if policy != "retry":  # a person reads why
        async with httpx.AsyncClient(base_url=rig.web.url, trust_env=False) as client:
            shown = (await client.get("/api/messages", params={"status": expected})).json()
        assert len(shown) == account.n
        assert all(message["status_reason"] for message in shown)


async def test_workers_that_do_not_see_each_other_go_by_leases(make_rig: MakeRig) -> None:
    """As on two machines: a call that outlasts its lease stays with its worker, until that is dead."""
    count, lease_seconds = 10, 3
    rig = make_rig(
        LEASE_SECONDS=str(lease_seconds),
        SIMULATOR_MIX="slow:1",
        SIMULATOR_SLOW_SECONDS=str(2.5 * lease_seconds),
        SIMULATOR_RECEIPTS="false",
    )
    rig.start(workers=1)
    elsewhere = rig.add_worker(DATA_DIR=str(rig.directory / "elsewhere"))
    elsewhere.wait_until(elsewhere.is_ready)
    load = Load(rig.web.port)
    await load.send(count)
    await rig.settled(within_seconds=120)
    assert rig.query("SELECT count(*) FROM delivery_attempts") == [(count,)]  # their leases were renewed
    await load.send(count)
    await until(lambda: len(rig.carrier.acceptances()) == 2 * count, within_seconds=120, why="acceptances")
    [(name, held), *_] = rig.query(
        "SELECT worker, count(*) FROM delivery_attempts WHERE outcome IS NULL GROUP BY worker ORDER BY count(*) DESC"
    )
    [victim] = [worker for worker in rig.workers if worker.process and f"-{worker.process.pid}-" in name]
    victim.kill()
    again = "SELECT count(*) FROM delivery_attempts WHERE number = 2"
    recovery = await until(
        lambda: rig.query(again) == [(held,)], within_seconds=120, why="what the dead one held is tried again"
    )
    settled = await rig.settled(within_seconds=120)
    account = rig.account(load)
    report("lease_of_the_dead", account, held=held, recovery_seconds=recovery, settled_seconds=settled)
    assert (account.n, account.lost, account.doubled, account.in_doubt_visible) == (2 * count, 0, 0, held)
    assert rig.statuses() == {"sent": 2 * count}
    assert recovery > lease_seconds / 2  # no other worker saw it die


class Supervisor:
    """Starts workers again that have died, but not at once."""

    RESTART_SECONDS = 3.0  # longer than a worker leaves alone what another has died over

    def __init__(self, rig: Rig) -> None:
        self.deaths = 0
        self._rig = rig
        self._found_at: dict[WorkerProcess, float] = {}

    def look(self) -> int:
        """The number of workers that are dead now."""
        for worker in self._rig.workers:
            if worker.process is None or worker.process.poll() is None:
                continue
            if worker not in self._found_at:
                self.deaths += 1
                self._found_at[worker] = time.monotonic()
            elif time.monotonic() - self._found_at[worker] > self.RESTART_SECONDS:
                del self._found_at[worker]
                worker.launch()
        return len(self._found_at)


async def test_a_message_that_kills_its_workers_is_given_up_and_hardly_holds_up_the_others(make_rig: MakeRig) -> None:
    """Two workers, each started again some seconds after it has died, as a service manager does."""
    poisoned = size(1, 10)
    rig = make_rig(module="tests.faults.poison", MAX_ATTEMPTS="3", SIMULATOR_RECEIPTS="false")
    rig.start(workers=2)
    load = Load(rig.web.port, per_second=20)
    supervisor = Supervisor(rig)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.run)
        async with httpx.AsyncClient(base_url=rig.web.url, trust_env=False) as client:
            for number in range(poisoned):
                await until(
                    lambda: supervisor.look() == 0 and all(worker.is_ready() for worker in rig.workers),
                    within_seconds=120,
                    why="workers",
                )
                message = {
                    "from": "+12016661234",
                    "to": f"+1917555{number:04}",
                    "type": "sms",
                    "body": f"{POISON}-{number}",
                }
                id = (await client.post("/api/messages/sms", json=message)).json()["message_id"]
                deadline = time.monotonic() + 120
                while (shown := (await client.get(f"/api/messages/{id}")).json())["status"] != "failed":
                    assert time.monotonic() < deadline, shown
                    assert supervisor.look() < 2, "nobody is left for the others"
                    await anyio.sleep(0.02)
                assert len(shown["attempts"]) == 3
        load.stop()
    await until(lambda: supervisor.look() == 0, within_seconds=120, why="the last one that died")
    settled = await rig.settled(within_seconds=120)
    delays = sorted(
        (float(seconds), int(attempts))
        for seconds, attempts in rig.query(
            "SELECT extract(epoch FROM max(a.started_at) - min(m.created_at)), count(*) FROM messages m"
            " JOIN delivery_attempts a ON a.tenant_id = m.tenant_id AND a.message_id = m.id"
            f" WHERE m.body NOT LIKE '{POISON}%' GROUP BY m.id"
        )
    )
    account = rig.account(load)
    median = delays[len(delays) // 2][0]
    report(
        "poison",
        account,
        poisoned=poisoned,
        deaths=supervisor.deaths,
        recovery_seconds=settled,
        median_delay_of_neighbours=median,
        longest_delay_of_those_in_the_queue=max(seconds for seconds, attempts in delays if attempts == 1),
        longest_delay_of_those_in_hand_beside_it=max(
            (seconds for seconds, attempts in delays if attempts > 1), default=0.0
        ),
    )
    assert supervisor.deaths == 3 * poisoned
    if FULL:  # of a quiet machine
        assert median < 1
    assert (account.lost, account.doubled) == (0, 0)
    assert rig.statuses() == {"sent": account.n, "failed": poisoned}
    assert max(attempts for _, attempts in delays) <= 3
