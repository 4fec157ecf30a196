"""Provider states: breaker, throttle, rate and pause, shared by all workers, and their effect on a route."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.providers.base import (
    BaseProvider,
    CredentialsRefused,
    OutboundMessage,
    PermanentFailure,
    ProviderResult,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.registry import provider_registry
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.sms import SmsProvider
from app.segments import units_of
from app.services.delivery.pacing.pace import Decision, Pace
from app.services.delivery.pacing.provider_states import (
    WELL,
    ProviderHealth,
    ProviderSignals,
    change_pace,
    draw_from_rate,
    health_of_providers,
    record_signals,
    resume,
    take_probe,
)
from tests.conftest import client_of, started
from tests.factories import email, sms, until
from tests.logs import captured
from tests.test_worker import Scripted
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
Register = Callable[[str, BaseProvider], None]
OK = ProviderResult()


class Worker:
    """The state of provider `first` as a worker in a process of its own reads and writes it."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self.engine = engine
        self._settings = settings

    async def health(self) -> ProviderHealth:
        async with self.engine.begin() as connection:
            return (await health_of_providers(connection)).get("first", WELL)

    async def saw(self, *, throttled_for: float = 0.0, **signals: Any) -> None:
        async with self.engine.begin() as connection:
            if throttled_for:
                seen = (await health_of_providers(connection)).get("first", WELL)
                await change_pace(connection, "first", Decision(seen.pace, throttled_for), seen=seen)
            await record_signals(connection, {"first": ProviderSignals(**signals)}, self._settings)

    async def probes(self) -> bool:
        async with self.engine.begin() as connection:
            return await take_probe(connection, "first", self._settings)

    async def books(self, units: int, rate: float) -> float:
        async with self.engine.begin() as connection:
            return await draw_from_rate(connection, "first", units / rate)

    async def learns(self, pace: Pace, seen: ProviderHealth) -> None:
        async with self.engine.begin() as connection:
            await change_pace(connection, "first", Decision(pace), seen=seen)

    async def resumes(self) -> bool:
        async with self.engine.begin() as connection:
            return await resume(connection, "first")

    async def ask(self, question: str) -> Any:
        async with self.engine.begin() as connection:
            return (await connection.execute(text(question))).scalar_one()

    async def lets_pass(self, column: str) -> None:
        """As if the time that the database has noted were over."""
        async with self.engine.begin() as connection:
            past = f"UPDATE provider_states SET {column} = now() - interval '1 second'"
            assert (await connection.execute(text(past))).rowcount == 1


@pytest.fixture
async def workers(settings: Settings, database_url: str) -> AsyncIterator[list[Worker]]:
    """Two, each with connections of its own."""
    engines = [create_serving_engine(database_url, settings) for _ in range(2)]
    cautious = settings.model_copy(update={"breaker_failures": 3, "breaker_seconds": 60})
    yield [Worker(engine, cautious) for engine in engines]
    for engine in engines:
        await engine.dispose()


@pytest.fixture
def worker(workers: list[Worker]) -> Worker:
    return workers[0]


async def test_whoever_had_no_trouble_is_well(worker: Worker) -> None:
    assert await worker.health() == WELL
    await worker.saw(successes=5)
    assert (await worker.health()).trouble is None


async def test_the_breaker_opens_after_so_many_failures_in_a_row(worker: Worker) -> None:
    for _ in range(2):
        await worker.saw(failures=1)
    assert not (await worker.health()).is_open
    await worker.saw(failures=1)
    assert (await worker.health()).trouble == "has failed repeatedly"


async def test_a_batch_of_failures_counts_each_of_them(worker: Worker) -> None:
    await worker.saw(failures=3)
    assert (await worker.health()).is_open


async def test_a_success_in_between_starts_the_count_again(worker: Worker) -> None:
    await worker.saw(failures=2)
    await worker.saw(successes=1)
    await worker.saw(failures=2)
    assert not (await worker.health()).is_open


async def test_the_breaker_opens_on_failures_that_two_workers_saw_and_both_know(workers: list[Worker]) -> None:
    await asyncio.gather(*(workers[number % 2].saw(failures=1) for number in range(3)))
    assert [(await each.health()).is_open for each in workers] == [True, True]


async def test_half_open_lets_a_single_probe_through(workers: list[Worker]) -> None:
    await workers[0].saw(failures=3)
    assert not await workers[0].probes()  # its pause is not over yet
    await workers[0].lets_pass("open_until")
    for each in workers:
        health = await each.health()
        assert (health.is_open, health.probing, health.trouble) == (False, True, None)
    taken = await asyncio.gather(*(workers[number % 2].probes() for number in range(10)))
    assert sum(taken) == 1
    assert [(await each.health()).is_open for each in workers] == [True, True]  # for everyone but the probe


async def test_a_success_of_the_probe_closes_the_breaker(workers: list[Worker]) -> None:
    await workers[0].saw(failures=3)
    await workers[0].lets_pass("open_until")
    assert await workers[0].probes()
    await workers[0].saw(successes=1)
    for each in workers:
        health = await each.health()
        assert (health.is_open, health.probing) == (False, False)
    await workers[1].saw(failures=2)  # and the count begins again
    assert not (await workers[1].health()).is_open


async def test_a_failure_of_the_probe_opens_it_again_at_once(workers: list[Worker]) -> None:
    await workers[0].saw(failures=3)
    await workers[0].lets_pass("open_until")
    assert await workers[1].probes()
    await workers[1].lets_pass("open_until")  # the probe has taken longer than the pause
    await workers[1].saw(failures=1)
    health = await workers[0].health()
    assert (health.is_open, health.probing) == (True, False)


async def test_a_throttled_provider_is_left_alone_for_as_long_as_it_asked(workers: list[Worker]) -> None:
    await workers[0].saw(throttled_for=120.0)
    await workers[1].saw(throttled_for=10.0)  # a shorter wish does not end a longer one
    assert [(await each.health()).trouble for each in workers] == ["asked for a pause"] * 2
    left = await workers[0].ask("SELECT extract(epoch FROM throttled_until - now())::float FROM provider_states")
    assert 100 < left <= 120
    await workers[0].lets_pass("throttled_until")
    assert (await workers[1].health()).trouble is None


async def test_being_throttled_is_no_failure(worker: Worker) -> None:
    for _ in range(10):
        await worker.saw(throttled_for=0.001)
    assert not (await worker.health()).is_open


async def test_a_pause_keeps_its_reason_and_its_beginning_until_it_is_lifted(workers: list[Worker]) -> None:
    await workers[0].saw(refused="401 Unauthorized")
    began = await workers[0].ask("SELECT paused_at FROM provider_states")
    await workers[1].saw(refused="403 Forbidden")
    await workers[1].saw(successes=1)  # of a call that was under way
    health = await workers[0].health()
    assert (health.trouble, health.paused_reason) == ("is paused", "403 Forbidden")
    assert await workers[0].ask("SELECT paused_at FROM provider_states") == began
    assert await workers[1].resumes()
    assert await workers[0].health() == WELL


async def test_resuming_forgets_the_breaker_and_the_throttle_as_well(workers: list[Worker]) -> None:
    assert not await workers[0].resumes()
    await workers[0].saw(failures=3, throttled_for=60.0, refused="401")
    await workers[1].resumes()
    assert await workers[0].health() == WELL
    await workers[0].saw(failures=2)
    assert not (await workers[0].health()).is_open


async def test_what_two_workers_book_against_a_rate_adds_up_and_their_turns_do_not_overlap(
    workers: list[Worker],
) -> None:
    turns = await asyncio.gather(*(workers[number % 2].books(5, 0.1) for number in range(4)))
    assert sorted(turns) == pytest.approx([0, 50, 100, 150], abs=10)
    assert [(await each.health()).slot_in for each in workers] == pytest.approx([200, 200], abs=10)


async def test_a_rate_that_was_not_used_for_a_while_is_not_saved_up(worker: Worker) -> None:
    await worker.books(1, 1)
    async with worker.engine.begin() as connection:
        await connection.execute(text("UPDATE provider_states SET next_slot_at = now() - interval '1 hour'"))
    assert (await worker.health()).slot_in == 0
    assert await worker.books(100, 1) == 0
    assert (await worker.health()).slot_in == pytest.approx(100, abs=10)


async def test_being_at_its_rate_is_no_trouble_that_would_pass_messages_on(worker: Worker) -> None:
    await worker.books(100, 1)
    assert (await worker.health()).trouble is None


async def test_a_learned_rate_is_changed_only_by_a_worker_that_saw_the_latest(workers: list[Worker]) -> None:
    seen = await workers[0].health()
    await asyncio.gather(*(workers[number % 2].learns(Pace(50.0 + number), seen) for number in range(4)))
    health = await workers[0].health()
    assert health.pace.rate in {50, 51, 52, 53}
    await workers[1].learns(Pace(5.0), seen)  # it has not heard of the change
    assert (await workers[1].health()).pace.rate == health.pace.rate
    await workers[1].learns(Pace(60.0, 55.0), health)
    found = (await workers[0].health()).pace
    assert (found.rate, found.ceiling, found.since_change < 100) == (60, 55, True)


# Below: through the API, with a worker that runs.


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    return lambda name, provider: monkeypatch.setitem(provider_registry, name, provider)


@pytest.fixture
def quick(settings: Settings) -> Settings:
    changes = {
        "routes": {"sms": ["first", "second"], "email": ["first"]},
        "retry_base_seconds": 0.01,
        "worker_poll_seconds": 0.05,
        "max_attempts": 3,
        "breaker_seconds": 60,
    }
    return settings.model_copy(update=changes)


#: The worker looks when it is rung, and hardly by itself: never on the eve of what a test then counts on.
ON_DEMAND = {"worker_poll_seconds": 1.0, "retry_base_seconds": 0.1, "max_attempts": 50}


def text_to(number: int, **changes: object) -> dict[str, Any]:
    return sms(to=f"+1804555{number:04}", **changes)


async def post(client: httpx.AsyncClient, number: int, **changes: object) -> str:
    answer = (await client.post("/api/messages/sms", json=text_to(number, **changes))).json()
    message_id: str = answer["message_id"]
    return message_id


async def becomes(client: httpx.AsyncClient, message_id: str, *statuses: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        message: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
        return message

    return await until(ask, lambda message: message["status"] in statuses)


async def trouble(client: httpx.AsyncClient, name: str = "first") -> tuple[str | None, str | None]:
    [provider] = [each for each in (await client.get("/api/providers")).json() if each["name"] == name]
    return provider["trouble"], provider["reason"]


TROUBLES: dict[str, dict[str, Any]] = {
    "is paused": {"refused": "401 Unauthorized"},
    "has failed repeatedly": {"failures": 3},
    "asked for a pause": {"throttled_for": 600.0},
}


@pytest.mark.parametrize("said", TROUBLES)
async def test_while_the_first_is_in_trouble_the_second_of_the_route_is_asked_and_the_attempt_says_why(
    serve: Serve, quick: Settings, register: Register, worker: Worker, said: str
) -> None:
    first, second = Scripted(OK), Scripted(ProviderResult("second-1"))
    register("first", first)
    register("second", second)
    await worker.saw(**TROUBLES[said])
    client = await serve(quick)
    message = await becomes(client, await post(client, 1), "sent", "failed")
    assert (message["status"], message["provider_type"]) == ("sent", "second")
    assert message["attempts"][0]["routed_because"] == f"first {said}"
    assert first.handed == []
    timeline = (await client.get(f"/api/messages/{message['id']}/timeline")).json()
    assert f"It goes to second, because first {said}." in [step["sentence"] for step in timeline]


async def test_when_the_first_is_well_again_it_is_asked_again(
    serve: Serve, quick: Settings, register: Register, worker: Worker
) -> None:
    first, second = Scripted(OK), Scripted(OK)
    register("first", first)
    register("second", second)
    await worker.saw(failures=3)
    client = await serve(quick)
    assert (await becomes(client, await post(client, 1), "sent"))["provider_type"] == "second"
    await worker.lets_pass("open_until")
    message = await becomes(client, await post(client, 2), "sent")
    assert message["provider_type"] == "first"  # the probe
    assert message["attempts"][0]["routed_because"] is None
    assert await trouble(client) == (None, None)
    assert (await becomes(client, await post(client, 3), "sent"))["provider_type"] == "first"


async def test_a_provider_that_keeps_failing_is_passed_over_by_its_own_messages_too(
    serve: Serve, quick: Settings, register: Register
) -> None:
    first, second = Scripted(TemporaryFailure("down")), Scripted(OK)
    register("first", first)
    register("second", second)
    client = await serve(quick.model_copy(update={"breaker_failures": 2, "max_attempts": 5}))
    message = await becomes(client, await post(client, 1), "sent", "failed")
    tries = [(each["provider_type"], each["outcome"]) for each in message["attempts"]]
    assert tries == [("first", "temporary"), ("first", "temporary"), ("second", "accepted")]


async def test_messages_over_which_a_provider_file_raises_hold_up_none_of_their_neighbours(
    serve: Serve, quick: Settings, register: Register
) -> None:
    class Picky(Scripted):
        async def send(self, payload: OutboundMessage) -> ProviderResult:
            if payload.body == "poison":
                raise KeyError("to")
            return await super().send(payload)

    register("first", Picky(OK))
    client = await serve(quick.model_copy(update={"breaker_failures": 2}))
    for number in range(3):
        await becomes(client, await post(client, number, body="poison"), "failed")
    assert await trouble(client) == (None, None)
    message = await becomes(client, await post(client, 3), "sent")
    assert message["provider_type"] == "first"


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), UnknownOutcome("cut off")], ids=repr)
async def test_a_provider_that_can_not_be_reached_is_in_trouble_whoever_says_so(
    serve: Serve, quick: Settings, register: Register, error: Exception
) -> None:
    register("first", Scripted(error))
    client = await serve(quick.model_copy(update={"breaker_failures": 1}))
    await post(client, 1)
    await until(lambda: trouble(client), lambda it: it == ("has failed repeatedly", None))


async def test_what_an_orderly_stop_cuts_off_says_nothing_about_the_provider(
    quick: Settings, register: Register, database_url: str
) -> None:
    class Silent(Scripted):
        async def send(self, payload: OutboundMessage) -> ProviderResult:
            self.handed.append(payload)
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    provider = Silent()
    register("first", provider)
    async with AsyncExitStack() as stack:
        hurried = quick.model_copy(update={"shutdown_grace_seconds": 0.1, "breaker_failures": 1})
        client = await stack.enter_async_context(client_of(await started(stack, hurried)))
        for number in range(3):
            await post(client, number)
        await until(lambda: asyncio.sleep(0, len(provider.handed)), lambda handed: handed == 3)
    assert rows_of(database_url, "SELECT DISTINCT status FROM messages") == [("unknown",)]
    assert rows_of(database_url, "SELECT provider_type FROM provider_states") == []


async def test_a_provider_that_refuses_messages_is_well(serve: Serve, quick: Settings, register: Register) -> None:
    register("first", Scripted(PermanentFailure("no such number")))
    client = await serve(quick.model_copy(update={"breaker_failures": 1}))
    for number in range(3):
        assert (await becomes(client, await post(client, number), "failed"))["provider_type"] == "first"
    assert await trouble(client) == (None, None)


@pytest.mark.slow
async def test_a_throttled_message_slows_its_provider_and_nobody_else(
    serve: Serve, quick: Settings, register: Register
) -> None:
    first, second = Scripted(TemporaryFailure("429", retry_after=3, throttled=True), OK), Scripted(OK)
    register("first", first)
    register("second", second)
    client = await serve(quick.model_copy(update={"routes": {"sms": ["first"], "email": ["second"]}}))
    slowed = await post(client, 1)
    await until(lambda: trouble(client), lambda it: it[0] == "asked for a pause")
    mail = (await client.post("/api/messages/email", json=email())).json()["message_id"]
    await becomes(client, mail, "sent")
    tries = (await becomes(client, slowed, "sent"))["attempts"]
    assert [each["outcome"] for each in tries] == ["temporary", "accepted"]


@pytest.mark.parametrize("asked", [None, 0, -5])
async def test_a_provider_that_asks_for_no_pause_gets_one_all_the_same(
    serve: Serve, quick: Settings, register: Register, asked: float | None
) -> None:
    first = Scripted(TemporaryFailure("429", retry_after=asked, throttled=True), OK)
    register("first", first)
    client = await serve(quick.model_copy(update={"routes": {"sms": ["first"]}, "retry_base_seconds": 60}))
    await post(client, 1)
    await until(lambda: trouble(client), lambda it: it == ("asked for a pause", None))
    assert len(first.handed) == 1


async def test_a_provider_is_throttled_also_by_a_message_that_has_no_attempt_left(
    serve: Serve, quick: Settings, register: Register
) -> None:
    first = Scripted(TemporaryFailure("429", retry_after=60, throttled=True), OK)
    register("first", first)
    client = await serve(quick.model_copy(update={"routes": {"sms": ["first"]}, "max_attempts": 1}))
    message_id = await post(client, 1)
    await until(lambda: trouble(client), lambda it: it == ("asked for a pause", None))
    await becomes(client, message_id, "queued")


@pytest.mark.slow
async def test_being_throttled_leaves_a_message_all_its_attempts(
    serve: Serve, quick: Settings, register: Register
) -> None:
    throttled, busy = TemporaryFailure("429", throttled=True), TemporaryFailure("503")
    first = Scripted(throttled, busy, throttled, throttled, busy, busy)
    register("first", first)
    client = await serve(quick.model_copy(update={"routes": {"sms": ["first"]}, "max_attempts": 3}))
    message = await becomes(client, await post(client, 1), "failed")
    assert message["status_reason"] == "Given up after 6 attempts. The last: 503"


@pytest.mark.slow
async def test_a_carrier_that_takes_less_than_is_handed_to_it_gets_all_of_it_in_the_end(
    serve: Serve, quick: Settings, register: Register
) -> None:
    class Counted(SmsProvider):
        asked = 0

        async def send(self, payload: OutboundMessage) -> ProviderResult:
            Counted.asked += 1
            await asyncio.sleep(0.02)  # as if over a wire
            return await super().send(payload)

    carrier = SimulatorSettings(_env_file=None, rate=50, retry_after_seconds=0.2, receipts=False)
    register("first", Counted(carrier))
    changes = {"routes": {"sms": ["first"]}, "max_attempts": 1, "retry_base_seconds": 0.2, "provider_concurrency": 50}
    client = await serve(quick.model_copy(update=changes))
    ids = await asyncio.gather(*(post(client, number) for number in range(150)))
    for message_id in ids:
        await becomes(client, message_id, "sent")
    assert Counted.asked < 2 * len(ids)


async def test_a_text_is_booked_by_its_segments_and_the_next_waits_for_them(
    serve: Serve, quick: Settings, register: Register, worker: Worker
) -> None:
    first, second = Scripted(OK), Scripted(OK)
    register("first", first)
    register("second", second)
    client = await serve(quick.model_copy(update={"provider_rates": {"first": 0.01}}))
    await becomes(client, await post(client, 1, body="a" * 400), "sent")  # three segments
    ahead = await worker.ask("SELECT extract(epoch FROM next_slot_at - now())::float FROM provider_states")
    assert 280 < ahead <= 300
    waiting = await post(client, 2)
    mail = (await client.post("/api/messages/email", json=email(body="a" * 400))).json()["message_id"]
    assert (await client.get(f"/api/messages/{waiting}")).json()["status"] == "queued"
    await worker.lets_pass("next_slot_at")
    await until(lambda: asyncio.sleep(0, len(first.handed)), lambda handed: handed == 2)
    assert second.handed == []  # a provider at its rate is not in trouble
    await worker.lets_pass("next_slot_at")
    for message_id in (waiting, mail):
        await becomes(client, message_id, "sent")


class Timed(BaseProvider):
    """Keeps when it was handed what."""

    def __init__(self) -> None:
        self.handed: list[tuple[float, int]] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.handed.append((asyncio.get_running_loop().time(), units_of(payload.channel, payload.body)))
        return OK

    def early(self, rate: float, begun: float) -> float:
        """By how many seconds a message was ahead of the rate at most, since `begun`. A slow machine is behind it."""
        befores = accumulate((units for _, units in self.handed), initial=0)
        turns = [begun + before / rate for before in befores]
        return max(turn - moment for turn, (moment, _) in zip(turns, self.handed, strict=False))


@pytest.mark.slow
async def test_a_provider_with_a_rate_is_handed_messages_at_that_pace_and_not_by_the_second(
    serve: Serve, quick: Settings, register: Register
) -> None:
    provider, rate = Timed(), 100.0
    register("first", provider)
    rated = {"provider_rates": {"first": rate}, "routes": {"sms": ["first"]}, "worker_poll_seconds": 5}
    idle = await serve(quick.model_copy(update=rated | {"worker_enabled": False}))
    await asyncio.gather(*(post(idle, number) for number in range(250)))
    begun = asyncio.get_running_loop().time()
    await serve(quick.model_copy(update=rated))
    await until(lambda: asyncio.sleep(0, len(provider.handed)), lambda handed: handed == 250)
    assert provider.early(rate, begun) < 0.1


@pytest.mark.slow
async def test_four_workers_keep_to_one_rate_and_count_segments_from_the_first_instant(
    serve: Serve, quick: Settings, register: Register, tmp_path: Path
) -> None:
    provider = Timed()
    register("first", provider)
    rated = {"provider_rates": {"first": 20.0}, "routes": {"sms": ["first"]}}
    idle = await serve(quick.model_copy(update=rated | {"worker_enabled": False}))
    await asyncio.gather(*(post(idle, number, body="a" * 1500) for number in range(12)))  # ten segments each
    begun = asyncio.get_running_loop().time()
    for number in range(4):
        await serve(quick.model_copy(update=rated | {"data_dir": tmp_path / str(number)}))
    await until(lambda: asyncio.sleep(0, len(provider.handed)), lambda handed: handed == 5)
    assert {units for _, units in provider.handed} == {10}
    assert provider.early(20, begun) < 0.1


async def test_what_waits_for_its_turn_when_the_service_stops_has_not_left(
    serve: Serve, quick: Settings, register: Register, database_url: str
) -> None:
    provider = Timed()
    register("first", provider)
    rated = quick.model_copy(
        update={"provider_rates": {"first": 100.0}, "routes": {"sms": ["first"]}, "shutdown_grace_seconds": 1}
    )
    idle = await serve(rated.model_copy(update={"worker_enabled": False}))
    await asyncio.gather(*(post(idle, number, body="a" * 1500) for number in range(25)))  # ten segments each
    async with AsyncExitStack() as stack:
        await started(stack, rated)
        await until(lambda: asyncio.sleep(0, len(provider.handed)), lambda handed: handed > 0)
    statuses = Counter(status for (status,) in rows_of(database_url, "SELECT status FROM messages"))
    assert statuses == {"sent": len(provider.handed), "queued": 25 - len(provider.handed)}
    assert 0 < len(provider.handed) < 25


async def test_a_mail_is_booked_as_one(serve: Serve, quick: Settings, register: Register, worker: Worker) -> None:
    register("first", Scripted(OK))
    client = await serve(quick.model_copy(update={"provider_rates": {"first": 0.01}}))
    mail = (await client.post("/api/messages/email", json=email(body="a" * 400))).json()["message_id"]
    await becomes(client, mail, "sent")
    ahead = await worker.ask("SELECT extract(epoch FROM next_slot_at - now())::float FROM provider_states")
    assert 80 < ahead <= 100


async def test_refused_credentials_pause_the_provider_and_keep_its_queue_until_it_is_resumed(
    serve: Serve, quick: Settings, register: Register
) -> None:
    first = Scripted(CredentialsRefused("401 Unauthorized"))
    register("first", first)
    register("elsewhere", Scripted(OK))
    client = await serve(quick.model_copy(update=ON_DEMAND | {"routes": {"sms": ["first"], "email": ["elsewhere"]}}))
    log = captured()
    ids = [await post(client, 1)]
    await until(lambda: trouble(client), lambda it: it == ("is paused", "401 Unauthorized"))
    [loud] = [line for line in log.getvalue().splitlines() if "provider_paused" in line]
    assert "error" in loud
    assert "POST /api/providers/first/resume" in loud
    tried = len(first.handed)
    ids += [await post(client, number) for number in range(2, 12)]
    mail = (await client.post("/api/messages/email", json=email())).json()["message_id"]
    await becomes(client, mail, "sent")  # so the worker has looked around since
    for message_id in ids:
        assert (await client.get(f"/api/messages/{message_id}")).json()["status"] == "queued"
    assert len(first.handed) == tried == 1
    first.answers = [OK]
    answer = await client.post("/api/providers/first/resume")
    assert answer.status_code == 200
    assert [each["trouble"] for each in answer.json() if each["name"] == "first"] == [None]
    for message_id in ids:
        await becomes(client, message_id, "sent")


async def test_nobody_can_resume_a_provider_that_there_is_not(serve: Serve, quick: Settings) -> None:
    client = await serve(quick)
    assert (await client.post("/api/providers/nobody/resume")).status_code == 404


async def test_providers_are_listed_with_the_channels_that_they_serve(
    serve: Serve, quick: Settings, register: Register
) -> None:
    register("first", Scripted(OK))
    register("second", Scripted(OK))
    client = await serve(quick)
    served = {each["name"]: sorted(each["channels"]) for each in (await client.get("/api/providers")).json()}
    assert (served["first"], served["second"]) == (["email", "sms"], ["sms"])


async def test_a_message_in_doubt_stays_with_its_provider(serve: Serve, quick: Settings, register: Register) -> None:
    """The provider that may have it is asked again, even where all others go to the second by now."""
    first, second = Scripted(UnknownOutcome("cut off"), OK), Scripted(OK)
    register("first", first)
    register("second", second)
    client = await serve(quick.model_copy(update={"in_doubt_after_timeout": "retry"}))
    message = await becomes(client, await post(client, 1), "sent", "failed")
    assert (message["status"], message["provider_type"], second.handed) == ("sent", "first", [])
    assert message["attempts"][1]["routed_because"] == "it may have it already"


async def test_a_message_in_doubt_never_goes_to_another_while_the_breaker_of_its_own_is_open(
    serve: Serve, quick: Settings, register: Register, worker: Worker
) -> None:
    first, second = Scripted(UnknownOutcome("cut off")), Scripted(OK)
    register("first", first)
    register("second", second)
    client = await serve(
        quick.model_copy(update=ON_DEMAND | {"in_doubt_after_timeout": "retry", "breaker_failures": 1})
    )
    doubtful = await post(client, 1)
    await until(lambda: trouble(client), lambda it: it[0] == "has failed repeatedly")
    tried = len(first.handed)
    for number in range(2, 6):
        assert (await becomes(client, await post(client, number), "sent"))["provider_type"] == "second"
    assert doubtful not in [str(payload.message_id) for payload in second.handed]
    assert len(first.handed) == tried  # it waits for its provider as the others do


async def test_why_a_provider_refused_us_is_kept_and_logged_without_addresses_and_keys(
    serve: Serve, quick: Settings, register: Register
) -> None:
    register("first", Scripted(CredentialsRefused("Bearer abcdef.ghijkl of jane.doe@example.com is revoked")))
    client = await serve(quick.model_copy(update=ON_DEMAND | {"routes": {"sms": ["first"]}}))
    log = captured()
    await post(client, 1)
    why = "Bearer *** of j***@***.com is revoked"
    assert await until(lambda: trouble(client), lambda it: it[0] is not None) == ("is paused", why)
    [loud] = [line for line in log.getvalue().splitlines() if "provider_paused" in line]
    assert why in loud


async def test_a_message_in_doubt_waits_while_its_provider_is_paused(
    serve: Serve, quick: Settings, register: Register
) -> None:
    first = Scripted(UnknownOutcome("cut off"), CredentialsRefused("401 Unauthorized"), OK)
    second = Scripted(OK)
    register("first", first)
    register("second", second)
    client = await serve(quick.model_copy(update=ON_DEMAND | {"in_doubt_after_timeout": "retry"}))
    doubtful = await post(client, 1)
    await until(lambda: trouble(client), lambda it: it[0] == "is paused")
    for number in range(2, 6):
        assert (await becomes(client, await post(client, number), "sent"))["provider_type"] == "second"
    assert len(first.handed) == 2
    await client.post("/api/providers/first/resume")
    assert (await becomes(client, doubtful, "sent"))["provider_type"] == "first"
