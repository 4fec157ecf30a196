"""Limits: requests of a tenant, messages a day, and wrong keys of a client."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from app.config import Settings
from app.installation import KeyScope
from app.main import create_app
from app.services.limits.failed_keys import FailedKeys
from tests.cases import each_case
from tests.conftest import client_of, execute
from tests.factories import email, sms, sms_webhook, until
from tests.tenancy import bearer, make_key, make_tenant, production, revoke
from tests.wire import locations_of, problem_of, row_counts, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]

_LIMIT = re.compile(r'"requests";r=([0-9]+);t=([0-9]+)')


def left(answer: httpx.Response) -> int:
    match = _LIMIT.fullmatch(answer.headers["ratelimit"])
    assert match, answer.headers["ratelimit"]
    return int(match[1])


async def test_a_tenant_shares_its_rate_between_its_keys_and_all_processes(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    limited = production(settings, rate_limit_per_second=0.01, rate_limit_burst=10)
    both = [await serve(limited) for _ in range(2)]
    keys = [bearer(make_key(database_url)) for _ in range(2)]
    other = bearer(make_key(database_url, make_tenant(database_url)))
    asked = (process.get("/api/conversations", headers=key) for process in both for key in keys for _ in range(10))
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 30
    for process in both:
        assert (await process.get("/api/conversations", headers=other)).status_code == 200


async def test_answers_tell_the_limit_and_what_is_left(serve: Serve, settings: Settings, database_url: str) -> None:
    client = await serve(production(settings, rate_limit_per_second=0.001, rate_limit_burst=5))
    client.headers.update(bearer(make_key(database_url)))
    accepted = await client.post("/api/messages/sms", json=sms())
    missing = await client.get("/api/messages/999")
    too_large = await client.post("/api/messages/sms", content=b"x" * 2_000_000)
    for answer, status in ((accepted, 200), (missing, 404), (too_large, 413)):
        assert answer.status_code == status
        assert answer.headers["ratelimit-policy"] == '"requests";q=5;w=5000'
    assert left(accepted) == 4
    assert left(too_large) < left(accepted)

    async def refused() -> httpx.Response:
        return await client.get("/api/conversations")

    answer = await until(refused, lambda answer: answer.status_code == 429)
    assert problem_of(answer, 429)["title"] == "Too many requests"
    wait = int(answer.headers["retry-after"])
    assert 900 <= wait <= 1000  # seconds; some have passed since the last request
    assert answer.headers["ratelimit"] == f'"requests";r=0;t={wait}'


async def test_without_a_limit_or_without_a_key_nothing_is_told(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"rate_limit_per_second": 0.01, "rate_limit_burst": 1}))
    for _ in range(3):
        answer = await client.get("/api/conversations")
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers
    unlimited = await serve(production(settings, rate_limit_per_second=0))
    answer = await unlimited.get("/api/conversations", headers=bearer(make_key(database_url)))
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


async def test_webhooks_and_health_are_never_limited(client: httpx.AsyncClient, database_url: str) -> None:
    for number in range(30):
        body = sms_webhook(messaging_provider_id=f"message-{number}")
        answer = await client.post("/api/webhooks/sms", json=body, headers=bearer("msk_1_wrong"))
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers
    assert (await client.get("/healthz", headers=bearer("msk_1_wrong"))).status_code == 200


@pytest.mark.slow
async def test_an_administrator_gives_a_tenant_limits_of_its_own(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings))
    acme = make_tenant(database_url)
    admin = bearer(make_key(database_url, scopes=(KeyScope.ADMIN,)))
    limits = {"rate_limit_per_second": 0.01, "rate_limit_burst": 2, "daily_caps": {"US": 1, "*": 0}}
    changed = await client.patch(f"/api/admin/tenants/{acme}", json=limits, headers=admin)
    assert changed.status_code == 200
    assert {name: changed.json()[name] for name in limits} == limits
    key = bearer(make_key(database_url, acme))
    statuses = [(await client.get("/api/conversations", headers=key)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]

    back = dict.fromkeys(limits)
    assert (await client.patch(f"/api/admin/tenants/{acme}", json=back, headers=admin)).json() | back == (
        await client.patch(f"/api/admin/tenants/{acme}", json={"rate_limit_burst": None}, headers=admin)
    ).json()

    async def status() -> int:
        return (await client.get("/api/conversations", headers=key)).status_code

    await until(status, lambda code: code == 200)
    kinds = [kind for (kind,) in rows_of(database_url, "SELECT kind FROM audit_events ORDER BY id")]
    assert kinds == ["limits_set"] * 3


@each_case(
    ("change", "location"),
    [
        ({}, "body"),
        ({"rate_limit_per_second": -1}, "body.rate_limit_per_second"),
        ({"rate_limit_per_second": 1e10}, "body.rate_limit_per_second"),
        ({"rate_limit_per_second": 1e-308}, "body.rate_limit_per_second"),
        ({"rate_limit_burst": 0}, "body.rate_limit_burst"),
        ({"daily_caps": {"US": -1}}, "body.daily_caps.US"),
        ({"daily_caps": {"usa": 1}}, "body.daily_caps.usa.[key]"),
    ],
)
async def test_limits_that_make_no_sense_are_refused(
    client: httpx.AsyncClient, change: dict[str, Any], location: str
) -> None:
    assert locations_of(await client.patch("/api/admin/tenants/1", json=change)) == [location]


@pytest.mark.parametrize("rate", [0.001, 1e-308])
async def test_the_slowest_rate_is_told_as_any_other(
    serve: Serve, settings: Settings, database_url: str, rate: float
) -> None:
    """Also one that is slower than can be set today."""
    execute(database_url, f"UPDATE tenants SET rate_limit_per_second = {rate}, rate_limit_burst = 1000000000")
    client = await serve(production(settings))
    client.headers.update(bearer(make_key(database_url)))
    answer = await client.get("/api/conversations")
    assert answer.status_code == 200
    assert answer.headers["ratelimit-policy"] == '"requests";q=1000000000;w=1000000000000'
    execute(database_url, "UPDATE rate_budgets SET tokens = 0")
    refused = await until(lambda: client.get("/api/conversations"), lambda answer: answer.status_code == 429)
    assert int(refused.headers["retry-after"]) <= 1000


async def test_beyond_the_daily_cap_nothing_is_stored_and_repeats_are_still_answered(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"daily_caps": {"US": 3}, "worker_enabled": False}))
    key = {"Idempotency-Key": "once"}
    first = await client.post("/api/messages/sms", json=sms(), headers=key)
    for _ in range(5):
        again = await client.post("/api/messages/sms", json=sms(), headers=key)
        assert again.json() == first.json()
    conflict = await client.post("/api/messages/sms", json=sms(body="Other"), headers=key)
    problem_of(conflict, 422)
    assert [(await client.post("/api/messages/sms", json=sms())).status_code for _ in range(3)] == [200, 200, 429]

    refused = await client.post("/api/messages/sms", json=sms(to="+1 804 555 9999"))
    assert problem_of(refused, 429)["title"] == "Daily cap reached"
    assert 0 < int(refused.headers["retry-after"]) <= 86_401
    assert (await client.post("/api/messages/sms", json=sms(), headers=key)).json() == first.json()
    assert (await client.post("/api/messages/email", json=email())).status_code == 200
    assert (await client.post("/api/webhooks/sms", json=sms_webhook())).status_code == 200
    counts = row_counts(database_url)
    assert counts["messages"] == 5
    assert counts["conversations"] == 2


async def test_processes_that_send_at_once_stay_within_the_cap_together(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    capped = settings.model_copy(update={"daily_caps": {"US": 60}, "worker_enabled": False})
    both = [await serve(capped) for _ in range(2)]

    async def send(process: httpx.AsyncClient, key: str) -> int:
        async def post() -> int:
            headers = {"Idempotency-Key": key}
            return (await process.post("/api/messages/sms", json=sms(body=key), headers=headers)).status_code

        return await until(post, lambda code: code != 503)  # as a busy machine answers

    sends = [send(process, f"{n}-{place}") for n in range(50) for place, process in enumerate(both)]
    codes = await asyncio.gather(*sends)
    accepted = codes.count(200)
    assert accepted + codes.count(429) == 100
    assert 45 <= accepted <= 60
    assert row_counts(database_url)["messages"] == accepted


@pytest.mark.slow
async def test_a_key_that_was_good_once_is_limited_after_it_was_revoked(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings, auth_failures_per_minute=5))
    token = make_key(database_url)
    assert (await client.get("/api/conversations", headers=bearer(token))).status_code == 200
    revoke(database_url, token)

    async def status() -> int:
        return (await client.get("/api/conversations", headers=bearer(token))).status_code

    await until(status, lambda code: code == 401)
    assert [await status() for _ in range(6)] == [401] * 4 + [429] * 2


async def test_whoever_guesses_keys_is_told_to_wait_and_costs_no_look_up(
    settings: Settings, database_url: str
) -> None:
    app = create_app(production(settings, auth_failures_per_minute=20))
    async with app.router.lifespan_context(app), client_of(app) as client:
        asked: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
            if "api_keys" in statement:
                asked.append(statement)

        event.listen(app.state.services.sessions.kw["bind"].sync_engine, "before_cursor_execute", note)
        good, new = bearer(make_key(database_url)), bearer(make_key(database_url))
        assert (await client.get("/api/conversations", headers=good)).status_code == 200
        guesses = [make_key(database_url)[:-1] + "_" for _ in range(30)]
        answers = [await client.get("/api/conversations", headers=bearer(guess)) for guess in guesses]
        assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 10
        assert problem_of(answers[-1], 429)["title"] == "Too many failures"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert len(asked) == 21
        # A key that was right before stays right; one that is new to this process can't be told from a guess.
        assert (await client.get("/api/conversations", headers=good)).status_code == 200
        problem_of(await client.get("/api/conversations", headers=new), 429)
        problem_of(await client.get("/api/conversations"), 401)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=("192.0.2.7", 1)), base_url="http://messaging.test"
        ) as elsewhere:
            assert (await elsewhere.get("/api/conversations", headers=new)).status_code == 200


def test_failures_are_forgotten_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("app.services.limits.failed_keys.time.monotonic", lambda: now)
    failures = FailedKeys(a_minute=2)
    failures.note("192.0.2.1")
    assert failures.seconds_left("192.0.2.1") == 0
    now += 20
    failures.note("192.0.2.1")
    assert failures.seconds_left("192.0.2.1") == 40
    assert failures.seconds_left("192.0.2.2") == 0
    now += 40
    assert failures.seconds_left("192.0.2.1") == 0
    failures.note("192.0.2.1")
    assert failures.seconds_left("192.0.2.1") == 0


@each_case(
    ("one", "other", "are_one"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        (None, "", True),
    ],
)
def test_a_household_is_one_address(one: str | None, other: str, are_one: bool) -> None:
    failures = FailedKeys(a_minute=1)
    failures.note(one)
    assert (failures.seconds_left(other) > 0) is are_one


def test_a_flood_from_everywhere_takes_bounded_memory() -> None:
    failures = FailedKeys(a_minute=1, size=1000)
    for number in range(20_000):
        failures.note(f"10.0.{number // 250}.{number % 250}")
    assert len(failures._counts) == 1000
    assert failures.seconds_left("10.0.79.249") > 0
    assert failures.seconds_left("10.0.0.0") == 0


async def test_a_flood_does_not_wash_out_who_is_guessing_now() -> None:
    failures = FailedKeys(a_minute=1, size=1000)
    for number in range(1500):
        failures.note(f"10.0.{number // 250}.{number % 250}")
        failures.note("192.0.2.1")
    assert failures.seconds_left("192.0.2.1") > 0
