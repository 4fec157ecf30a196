"""API keys: clients that are let in, and clients that are refused without being told why."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from app.config import Settings
from app.http.access import NEEDS
from app.installation import KeyScope
from app.main import create_app
from app.services.tenancy.keys import KeyCache
from tests.cases import each_case
from tests.conftest import client_of, make_settings
from tests.factories import sms, sms_webhook, until
from tests.logs import captured
from tests.tenancy import EVERYTHING, bearer, make_key, make_tenant, production, revoke, shown_at
from tests.wire import OPERATIONS, problem_of, row_counts, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
OPEN = {"/healthz", "/readyz", "/api/webhooks/sms", "/api/webhooks/email", "/api/webhooks/{provider}"}
AUDITED = "SELECT kind, actor, detail FROM audit_events ORDER BY id"


@pytest.fixture
async def guarded(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """A client of a service in production; it shows no key unless a test does."""
    return await serve(production(settings))


def test_every_route_of_the_application_says_what_it_needs() -> None:
    def shape(path: str) -> str:  # what a parameter is called makes no other address
        return re.sub(r"\{\w+", "{", path)

    app = create_app(make_settings())
    served = {(shape(path), method) for method, path, _ in OPERATIONS}
    served |= {
        (shape(path), method)
        for route in app.routes
        if (path := getattr(route, "path", None))
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
    }
    named = {(shape(path), method) for path, methods in NEEDS.items() for method in methods}
    assert served - named == set()
    assert {path for path, methods in NEEDS.items() if None in methods.values()} - OPEN == {
        "/",
        "/docs",
        "/docs/assets",
        "/docs/assets/{path:path}",
        "/login",
        "/login.css",
        "/status.css",
        "/inbox/static/{hash}/{path:path}",
        "/openapi.json",
        "/u/{token}",
    }


@each_case(("method", "path"), [(method, path) for method, path, _ in OPERATIONS])
async def test_without_a_key_every_route_is_shut_but_those_that_need_none(
    guarded: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await guarded.request(method, re.sub(r"\{\w+\}", "1", path), json={})
    if path in OPEN:
        assert response.headers.get("www-authenticate") is None
    else:
        problem_of(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


async def test_every_refusal_of_credentials_looks_the_same(guarded: httpx.AsyncClient, database_url: str) -> None:
    good = make_key(database_url)
    revoked = make_key(database_url)
    revoke(database_url, revoked)
    refused: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer msk_1_short"},
        {"Authorization": f"Basic {good}"},
        {"Authorization": f"Bearer {good}\u00e9".encode("latin-1")},  # type: ignore[dict-item]
        bearer(good + "x"),
        bearer(good[:-1] + ("A" if good[-1] != "A" else "B")),
        bearer(re.sub(r"^msk_1_[a-z2-7]{10}", "msk_1_aaaaaaaaaa", good)),
        bearer(good.replace("msk_1_", "msk_2_")),
        bearer(good.replace("msk_1_", "msk_999999999999999999_")),
        bearer(good.replace("msk_1_", "msk_9999999999999999999_")),
        bearer(revoked),
        bearer(make_key(database_url, seconds=-1)),
    ]
    answers = [await guarded.get("/api/conversations", headers=headers) for headers in refused]
    answers.append(await guarded.get(f"/api/conversations?api_key={good}&access_token={good}"))
    answers.append(await guarded.get("/api/conversations", headers=[("Authorization", f"Bearer {good}")] * 2))
    seen = set()
    for answer in answers:
        problem_of(answer, 401)
        headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
        seen.add((answer.content, tuple(sorted(headers.items()))))
    assert len(seen) == 1
    assert (await guarded.get("/api/conversations", headers=bearer(good))).status_code == 200


async def test_a_send_without_a_key_stores_nothing(guarded: httpx.AsyncClient, database_url: str) -> None:
    problem_of(await guarded.post("/api/messages/sms", json=sms()), 401)
    assert set(row_counts(database_url).values()) == {0}


@each_case(
    ("method", "path", "scope"),
    [(method, path, scope) for path, methods in NEEDS.items() for method, scope in methods.items() if scope],
)
async def test_a_key_needs_the_scope_of_the_route(
    guarded: httpx.AsyncClient, database_url: str, method: str, path: str, scope: KeyScope
) -> None:
    address = re.sub(r"\{\w+\}", "1", path.replace("{channel}", "chat"))
    others = tuple(each for each in EVERYTHING if each != scope)
    headers = shown_at(database_url, path, make_key(database_url, scopes=others))
    refused = await guarded.request(method, address, headers=headers)
    assert f"`{scope}`" in problem_of(refused, 403)["detail"]
    headers = shown_at(database_url, path, make_key(database_url, scopes=(scope,)))
    passed = await guarded.request(method, address, headers=headers)
    assert passed.status_code not in {401, 403}


async def test_what_no_table_names_is_nothing_even_to_a_key_that_may_do_everything(
    serve: Serve, settings: Settings
) -> None:
    app = create_app(production(settings))

    @app.get("/api/forgotten")
    async def forgotten() -> str:
        return "secret"

    async with app.router.lifespan_context(app), client_of(app) as client:
        headers = bearer(make_key(settings.database_url.get_secret_value()))  # type: ignore[union-attr]
        problem_of(await client.get("/api/forgotten"), 401)
        problem_of(await client.get("/api/forgotten", headers=headers), 404)
        refused = await client.put("/api/messages/sms", headers=headers, json=sms())
        problem_of(refused, 405)
        assert refused.headers["allow"] == "POST"


async def test_in_development_everything_is_open_but_a_key_that_is_shown_counts(
    client: httpx.AsyncClient, database_url: str
) -> None:
    assert (await client.get("/api/conversations")).status_code == 200
    problem_of(await client.get("/api/conversations", headers=bearer("msk_1_wrong")), 401)
    key = make_key(database_url, scopes=(KeyScope.SEND,))
    problem_of(await client.get("/api/conversations", headers=bearer(key)), 403)
    assert (await client.post("/api/messages/sms", json=sms(), headers=bearer(key))).status_code == 200
    assert (await client.post("/api/webhooks/sms", json=sms_webhook(), headers=bearer("x"))).status_code == 200


PAGE = "http://localhost:3000"


@each_case(
    "of_another_site",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3001"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"Sec-Fetch-Site": "", "Origin": "http://messaging.test"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://messaging.test.evil.example"},
        {"Origin": "http://messaging.test:8080"},
        {"Origin": "null"},
        {"Origin": ""},
    ],
    ids=str,
)
async def test_in_development_a_page_of_another_site_changes_nothing(
    serve: Serve, settings: Settings, database_url: str, of_another_site: dict[str, str]
) -> None:
    client = await serve(settings.model_copy(update={"cors_origins": [PAGE], "worker_enabled": False}))
    sent = await client.post("/api/messages/sms", json=sms())
    message = f"/api/messages/{sent.json()['message_id']}"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in (f"{message}/cancel", f"{message}/retry", "/api/providers/sms/resume", "/api/messages/sms"):
        refused = await client.post(path, headers=form | of_another_site)
        assert problem_of(refused, 403)["title"] == "Cross-site request"
    problem_of(await client.delete("/api/contacts/1", headers=of_another_site), 403)
    assert (await client.get(message, headers=of_another_site)).json()["status"] == "queued"
    assert (await client.post("/api/messages/sms", json=sms(), headers=of_another_site)).status_code == 403
    keyed = bearer(make_key(database_url)) | of_another_site
    assert (await client.post(f"{message}/cancel", headers=keyed)).status_code == 200


@each_case(
    "of_this_site",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://messaging.test"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://messaging.test"},
        {"Sec-Fetch-Site": "cross-site", "Origin": PAGE},
        {"Origin": PAGE},
    ],
    ids=str,
)
async def test_in_development_our_own_pages_and_those_that_are_named_may_change_things(
    serve: Serve, settings: Settings, of_this_site: dict[str, str]
) -> None:
    client = await serve(settings.model_copy(update={"cors_origins": [PAGE], "worker_enabled": False}))
    sent = await client.post("/api/messages/sms", json=sms(), headers=of_this_site)
    assert sent.status_code == 200
    canceled = await client.post(f"/api/messages/{sent.json()['message_id']}/cancel", headers=of_this_site)
    assert canceled.status_code == 200


def client_at(app: FastAPI, address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://messaging.test"
    )


async def test_development_warns_once_when_somebody_without_a_key_comes_from_another_machine(
    settings: Settings, database_url: str
) -> None:
    app = create_app(settings)
    written = captured()
    headers = bearer(make_key(database_url))
    async with app.router.lifespan_context(app):
        for address in ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", ""):
            async with client_at(app, address) as here:
                assert (await here.get("/api/conversations")).status_code == 200
        async with client_at(app, "192.0.2.7") as elsewhere:
            assert (await elsewhere.get("/api/conversations", headers=headers)).status_code == 200
            assert (await elsewhere.get("/healthz")).status_code == 200
            assert "development_profile_is_public" not in written.getvalue()
            for _ in range(3):
                assert (await elsewhere.get("/api/conversations")).status_code == 200
    assert written.getvalue().count("development_profile_is_public") == 1
    assert "192.0.2.0/24" in written.getvalue()


@pytest.mark.slow
async def test_a_key_that_was_revoked_is_refused_by_every_process_soon(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    both = [await serve(production(settings)) for _ in range(2)]
    headers = bearer(make_key(database_url))
    for one in both:
        assert (await one.get("/api/conversations", headers=headers)).status_code == 200
    revoke(database_url, headers["Authorization"].removeprefix("Bearer "))

    async def statuses() -> list[int]:
        return [(await one.get("/api/conversations", headers=headers)).status_code for one in both]

    await until(statuses, lambda codes: codes == [401, 401])


async def test_a_key_lets_nobody_in_from_the_moment_it_expires(guarded: httpx.AsyncClient, database_url: str) -> None:
    headers = bearer(make_key(database_url, seconds=1))
    began = asyncio.get_running_loop().time()
    assert (await guarded.get("/api/conversations", headers=headers)).status_code == 200

    async def status() -> int:
        return (await guarded.get("/api/conversations", headers=headers)).status_code

    await until(status, lambda code: code == 401)
    assert asyncio.get_running_loop().time() - began < 2  # sooner than what is remembered is forgotten


async def test_many_who_come_at_once_cost_one_look_up_and_strangers_are_not_remembered(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    app = create_app(production(settings))
    async with app.router.lifespan_context(app), client_of(app) as client:
        services = app.state.services
        asked: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
            if "api_keys" in statement:
                asked.append(statement)

        engine = services.sessions.kw["bind"].sync_engine
        event.listen(engine, "before_cursor_execute", note)
        headers = bearer(make_key(database_url))
        answers = await asyncio.gather(*(client.get("/api/conversations", headers=headers) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(asked) == 1
        keys: KeyCache = services.keys
        for _ in range(50):
            await client.get("/api/conversations", headers=bearer(make_key(database_url)[:-1] + "_"))
        assert len(keys._cached._kept) == 1


async def test_who_is_turned_away_is_recorded_without_what_they_showed(
    guarded: httpx.AsyncClient, database_url: str
) -> None:
    acme = make_tenant(database_url)
    wrong = make_key(database_url)[:-4] + "____"
    reader = make_key(database_url, acme, scopes=(KeyScope.READ,))
    await guarded.get("/api/conversations", headers=bearer(wrong))
    await guarded.get("/api/conversations")
    await guarded.get("/api/admin/tenants", headers=bearer(reader))

    async def events() -> list[Any]:
        return rows_of(database_url, AUDITED)

    found = await until(events, lambda rows: len(rows) == 3)
    prefix = wrong.split("_")[2]
    assert ("authentication_failed", None, {"reason": "wrong secret", "prefix": prefix}) in found
    assert ("authentication_failed", None, {"reason": "missing"}) in found
    assert ("tenant_denied", reader.split("_")[2], {"scope": "admin"}) in found
    [(owner,)] = rows_of(database_url, "SELECT tenant_id FROM audit_events WHERE kind = 'tenant_denied'")
    assert owner == acme


async def test_a_flood_of_refusals_is_counted_and_not_written(
    guarded: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.tenancy.audit.REFUSALS_A_MINUTE", 5)
    monkeypatch.setattr("app.services.tenancy.audit._minute", lambda: 1)
    for _ in range(20):
        await guarded.get("/api/conversations")
    monkeypatch.setattr("app.services.tenancy.audit._minute", lambda: 2)
    await guarded.get("/api/conversations")

    async def events() -> list[Any]:
        return rows_of(database_url, AUDITED)

    found = await until(events, lambda rows: len(rows) >= 6)
    assert len(found) == 6
    assert [row[2]["unrecorded"] for row in found if "unrecorded" in row[2]] == [15]


async def test_a_flood_hides_neither_what_a_tenant_is_denied_nor_what_another_is(
    guarded: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.tenancy.audit.REFUSALS_A_MINUTE", 5)
    monkeypatch.setattr("app.services.tenancy.audit._minute", lambda: 1)
    tenants = [make_tenant(database_url, name) for name in ("Acme", "Bolt")]
    acme, bolt = (bearer(make_key(database_url, tenant, scopes=(KeyScope.SEND,))) for tenant in tenants)
    for _ in range(20):
        await guarded.get("/api/conversations")
        await guarded.get("/api/conversations", headers=acme)
    await guarded.get("/api/conversations", headers=bolt)
    await guarded.post("/api/messages/sms", headers=bolt, json=sms())

    async def events() -> dict[tuple[str, int], int]:
        question = "SELECT kind, tenant_id, count(*) FROM audit_events GROUP BY 1, 2"
        return {(kind, tenant): count for kind, tenant, count in rows_of(database_url, question)}

    expected = {
        ("authentication_failed", 1): 5,
        ("tenant_denied", tenants[0]): 5,
        ("tenant_denied", tenants[1]): 1,
        ("sender_denied", tenants[1]): 1,
    }
    await until(events, lambda found: found == expected)


async def test_a_sender_that_is_another_tenants_is_recorded_without_the_address(
    guarded: httpx.AsyncClient, database_url: str
) -> None:
    key = make_key(database_url, make_tenant(database_url))
    problem_of(await guarded.post("/api/messages/sms", headers=bearer(key), json=sms()), 422)

    async def events() -> list[Any]:
        return rows_of(database_url, AUDITED)

    found = await until(events, lambda rows: len(rows) == 1)
    assert found == [("sender_denied", key.split("_")[2], {"channel": "sms"})]
