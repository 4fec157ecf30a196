"""PostgreSQL stopped, killed, cut off and frozen under load: no message is lost, without a restart of ours."""

import re
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import text

from app.config import Settings
from app.db.engine import PromptSessions, create_serving_engine
from app.main import create_app
from app.services.events.cursors import Position, cursor_at
from tests.factories import CONTACT, CUSTOMER, email, email_webhook, sms, sms_webhook
from tests.faults.client import Answer, Load
from tests.faults.rig import FULL, MakeRig, Postgres, Rig, drawn_seed, report, size, until
from tests.walk import api_routes

pytestmark = pytest.mark.anyio

#: The promise: the service gives up after three seconds, and some tenths that look-ups may take. The long form holds
#: it to that on a quiet machine; the short one only tells that it ends.
ANSWER_SECONDS = size(60, 5)
#: From the return of the server to the first message that is accepted again.
RECOVERY_SECONDS = size(60, 10)


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
                assert time.monotonic() - began < size(60, 1)  # the loop lives: PostgreSQL is away for longer
                await anyio.sleep(0.2)


class Reads:
    """A client that reads lists and messages twice a second, without waiting for the last answers."""

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
            await until(lambda: len(load.acknowledged) >= due, within_seconds=120, why="accepted messages")  # noqa: B023
            took_away = time.monotonic()
            await fault(postgres, rig)
            returned = time.monotonic()

            def first_success() -> float | None:
                return next((each.came_at for each in load.answers if _accepted_after(each, returned)), None)  # noqa: B023

            await until(first_success, within_seconds=120, why="a message accepted after the return")
            recovered = first_success()
            assert recovered is not None
            away.append((took_away, recovered))
            recovery = max(recovery, recovered - returned)
        load.stop()
        reads.stop()
    settled = await rig.settled(within_seconds=120)
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
    if FULL:  # on a busy machine the service also refuses what it can't do in time
        assert all(any(gone <= each.came_at <= back + ANSWER_SECONDS for gone, back in away) for each in refusals)
    assert slowest < ANSWER_SECONDS
    assert max(answer.seconds for answer in reads.answers) < ANSWER_SECONDS
    assert recovery < RECOVERY_SECONDS


def _accepted_after(answer: Answer, moment: float) -> bool:
    return answer.status == 200 and answer.came_at >= moment


#: By path, what is asked with. It need not be there: who asks for it waits for the same answer.
BODIES: dict[str, Any] = {
    "/api/conversations/{conversation_id}": {"metadata": {"order": "17"}},
    "/api/conversations/{conversation_id}/messages": {"body": "We are open until six."},
    "/api/conversations/{conversation_id}/read": {},
    "/api/contacts/{contact_id}": {"metadata": {"order": "17"}},
    "/api/messages/sms": sms(),
    "/api/messages/email": email(),
    "/api/messages/preview": {"channel": "sms", **sms()},
    "/api/webhooks/sms": sms_webhook(),
    "/api/webhooks/email": email_webhook(),
    "/api/webhooks/{provider}": {"event": "receipt", "event_id": "event-1", "status": "delivered", "id": "sms-1"},
    "/api/webhook-endpoints": {"url": "http://127.0.0.1:9/"},
    "/api/webhook-endpoints/{endpoint_id}": {"enabled": True},
    "/api/webhook-endpoints/{endpoint_id}/redeliver": {"event_id": cursor_at(1, Position(1, 1, 1))},
    "/api/webhook-endpoints/{endpoint_id}/replay": {"after": cursor_at(1, Position(1, 1, 1))},
    "/api/files": {"any": "document"},
    "/inbox/files": {"any": "document"},
    "/api/suppressions": {"address": CONTACT},
    "/api/suppressions/batch": {"address": CONTACT},
    "/api/batches": {"channel": "sms", **sms()},
    "/api/messages/retry": {"status": "failed"},
    "/api/providers/{name}/pause": {"reason": "Their texts arrive twice."},
    "/api/suppressions/{suppression_id}/lift": {"reason": "They have asked for it."},
    "/api/quiet-hours": [{"begins": "21:00", "ends": "08:00", "time_zone": "Europe/Berlin"}],
    "/api/admin/tenants": {"name": "Acme"},
    "/api/admin/tenants/{tenant_id}": {"retention_days": 30, "rate_limit_burst": 10},
    "/api/admin/keys": {"tenant_id": 1, "name": "laptop", "scopes": ["send"]},
    "/api/admin/tenants/{tenant_id}/addresses": {"address": CUSTOMER},
}
HEADERS = {
    "/api/suppressions/batch": {"Content-Type": "application/jsonl"},
    "/api/batches": {"Content-Type": "application/x-ndjson", "Idempotency-Key": "batch"},
}
QUERIES = {"/api/search": "?q=late"}
IN_PATHS = {"provider": "simulator", "name": "sms", "file_id": "0" * 64}
#: What is told without looking: among it that there is no other channel.
ASK_NOTHING = {
    "/",
    "/healthz",
    "/docs",
    "/openapi.json",
    "/api/messages/{channel}",
    "/api/templates",
    "/u/{token}",
    "/login",
    "/login.css",
    "/metrics",
    "/status.css",
    "/logout",
    "/inbox",
    "/inbox/search",
    "/inbox/static/{hash}/{path:path}",
}


async def test_whoever_asks_a_frozen_postgres_for_anything_is_told_in_time(
    make_rig: MakeRig, postgres: Postgres
) -> None:
    rig = make_rig()
    rig.start()
    asked = [
        (
            method,
            re.sub(r"{(\w+)}", lambda name: IN_PATHS.get(name[1], "1"), route.path) + QUERIES.get(route.path, ""),
            BODIES.get(route.path),
        )
        for route, method in api_routes(create_app(Settings(_env_file=None)))
        if route.path not in ASK_NOTHING and (method, route.path) != ("GET", "/api/webhooks/{provider}")
    ]
    assert len(asked) > 30
    slowest: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=rig.web.url, timeout=60, trust_env=False) as client:

        async def ask(method: str, path: str, body: dict[str, Any] | None) -> None:
            began = time.monotonic()
            headers = of_pages if path.startswith("/inbox/") else HEADERS.get(path, {})
            answer = await client.request(method, path, json=body, headers=headers)
            named = f"{method} {path}"
            slowest[named] = max(time.monotonic() - began, slowest.get(named, 0))
            assert answer.status_code == 503, f"{named}: {answer.status_code} {answer.text}"
            assert int(answer.headers["retry-after"]) > 0

        await client.get("/api/conversations")  # there are connections that froze, too
        page = (await client.get("/inbox")).text
        of_pages = {"X-CSRF-Token": re.findall('data-csrf="([^"]+)"', page)[0], "Origin": rig.web.url}
        with postgres.frozen():
            await anyio.sleep(0.6)  # so long /readyz remembers
            for _ in range(2):
                async with anyio.create_task_group() as tasks:
                    for each in asked:
                        tasks.start_soon(ask, *each)
        report("postgres_frozen_for_all", asked=len(asked), slowest_answer_seconds=max(slowest.values()))
        assert {named: seconds for named, seconds in slowest.items() if seconds >= ANSWER_SECONDS} == {}
        await until(rig.web.is_ready, within_seconds=RECOVERY_SECONDS, why="a service that works again")


async def test_a_transaction_that_freezes_halfway_is_given_up_and_so_is_its_connection(postgres: Postgres) -> None:
    """SQLAlchemy would wait for another two seconds until it closes one, and for ever where the pool is closed."""
    engine = create_serving_engine(postgres.new_database(), Settings(_env_file=None))
    sessions = PromptSessions(engine, deadline_seconds=0.5)

    async def freezes_halfway() -> None:
        async with sessions.begin() as session:
            await session.execute(text("SELECT 1"))
            frozen.enter_context(postgres.frozen())
            await session.execute(text("SELECT 1"))

    async with engine.connect():  # leaves one that is idle
        pass
    with ExitStack() as frozen:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await freezes_halfway()
        assert time.monotonic() - began < size(60, 2)
        with anyio.fail_after(size(60, 2)):
            await engine.dispose()
