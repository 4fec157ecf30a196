"""The numbers of the service, as Prometheus reads them, and who may read them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI

from app.config import Settings
from app.errors import Overloaded
from app.installation import KeyScope
from app.main import create_app
from app.metrics import catalogue
from app.metrics.snapshot import Snapshot
from tests.conftest import client_of
from tests.factories import email_webhook, sms, until
from tests.live import LOCAL, LiveProcess, LiveServer, free_port
from tests.metrics.scrape import number, series
from tests.tenancy import bearer, make_key, make_tenant, production
from tests.wire import problem_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
REQUESTS = "messaging_requests_total"


async def scrape(client: httpx.AsyncClient, url: str = "/metrics") -> str:
    answer = await client.get(url)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


async def test_a_request_is_counted_by_its_route_method_and_class_of_status(client: httpx.AsyncClient) -> None:
    asked = [
        (client.post("/api/messages/sms", json=sms()), "/api/messages/sms", "POST", "2xx"),
        (client.post("/api/messages/sms", json=sms(to="")), "/api/messages/sms", "POST", "4xx"),
        (client.get("/api/messages/987654"), "/api/messages/{message_id}", "GET", "4xx"),
        (client.get("/api/messages?limit=x"), "/api/messages", "GET", "4xx"),
        (client.head("/api/conversations"), "/api/conversations", "HEAD", "2xx"),
        (client.delete("/api/conversations/"), "/api/conversations", "DELETE", "4xx"),
        (client.request("PROPFIND", "/nothing/here"), "none", "other", "4xx"),
    ]
    before = await scrape(client)
    for request, *_ in asked:
        await request
    after = await scrape(client)
    for _, route, method, status in asked:
        labels = {"route": route, "method": method, "status": status}
        assert number(after, REQUESTS, **labels) - number(before, REQUESTS, **labels) == 1, labels
    stored = "messaging_accept_duration_seconds_count"
    assert number(after, stored) - number(before, stored) == 1
    timed = "messaging_request_duration_seconds_count"
    assert number(after, timed, route="/api/messages/sms") - number(before, timed, route="/api/messages/sms") == 2


async def test_a_refusal_before_routing_is_counted_by_its_route(serve: Serve, settings: Settings) -> None:
    client = await serve(production(settings))
    labels = {"route": "/api/conversations/{conversation_id}", "method": "GET", "status": "4xx"}
    key = bearer(make_key(str(settings.database_url and settings.database_url.get_secret_value())))
    before = number((await client.get("/metrics", headers=key)).text, REQUESTS, **labels)
    assert (await client.get("/api/conversations/1")).status_code == 401
    assert number((await client.get("/metrics", headers=key)).text, REQUESTS, **labels) == before + 1


async def test_sends_receipts_and_callbacks_are_counted_by_their_provider(client: httpx.AsyncClient) -> None:
    before = await scrape(client)
    await client.post("/api/messages/sms", json=sms())
    await client.post("/api/webhooks/email", json=email_webhook())

    async def now() -> str:
        return await scrape(client)

    def grew(text: str, name: str, **labels: str) -> bool:
        return number(text, name, **labels) > number(before, name, **labels)

    after = await until(now, lambda text: grew(text, "messaging_receipts_total", provider="sms", status="delivered"))
    assert grew(after, "messaging_attempts_total", provider="sms", outcome="accepted")
    assert grew(after, "messaging_attempt_duration_seconds_count", provider="sms")
    for batch in ("accept", "outcomes", "receipts"):
        assert grew(after, "messaging_batch_size_count", batch=batch)
        assert grew(after, "messaging_batch_duration_seconds_sum", batch=batch)
    assert number(after, "messaging_database_connections_limit", pool="pool") > 0
    assert number(after, "messaging_database_connections", pool="pool") > 0
    assert number(after, "messaging_processes") == 1


async def answers_nothing(app: FastAPI, method: str, path: str) -> None:
    """A request as the server hands it over, without the price of a client."""
    head = {"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode()}
    about: dict[str, Any] = {"query_string": b"", "headers": [(b"host", b"messaging.test")], "client": None}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: object) -> None:
        return None

    await app(head | about | {"scheme": "http", "server": None, "root_path": ""}, receive, send)


@pytest.mark.slow
async def test_ten_thousand_ids_and_names_make_no_new_series(settings: Settings, database_url: str) -> None:
    app = create_app(production(settings, worker_enabled=False, auth_failures_per_minute=0))
    key = bearer(make_key(database_url))

    async def ask(number: int) -> None:
        for method, path in (
            ("GET", f"/api/messages/{number}"),
            ("GET", f"/nothing/{number}"),
            (f"M{number}", f"/api/contacts/{number}"),
            ("POST", f"/api/webhooks/provider-{number}"),
        ):
            await answers_nothing(app, method, path)

    async with app.router.lifespan_context(app), client_of(app) as client:
        await ask(0)
        before = set(series((await client.get("/metrics", headers=key)).text))
        await client.get("/metrics", headers=key)
        for number in range(1, 2501):
            await ask(number)
        after = set(series((await client.get("/metrics", headers=key)).text))
    assert {each for each in after - before if "/metrics" not in dict(each[1]).values()} == set()


async def test_in_production_only_the_operator_reads_the_numbers(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings))
    problem_of(await client.get("/metrics"), 401)
    reader = bearer(make_key(database_url, scopes=(KeyScope.READ, KeyScope.SEND)))
    problem_of(await client.get("/metrics", headers=reader), 403)
    other = bearer(make_key(database_url, make_tenant(database_url)))
    assert problem_of(await client.get("/metrics", headers=other), 403)["title"] == "Not the operator"
    operator = bearer(make_key(database_url, scopes=(KeyScope.ADMIN,)))
    assert (await client.get("/metrics", headers=operator)).status_code == 200


async def test_a_request_that_is_shed_is_counted(client: httpx.AsyncClient) -> None:
    app: Any = client._transport.app  # type: ignore[attr-defined]
    before = number(await scrape(client), "messaging_requests_shed_total")
    allowed, app.state.overload.limit.allowed = app.state.overload.limit.allowed, 0
    assert (await client.get("/api/messages")).status_code == Overloaded.status
    app.state.overload.limit.allowed = allowed
    assert number(await scrape(client), "messaging_requests_shed_total") == before + 1


@pytest.mark.slow
async def test_any_process_of_a_port_tells_of_all_of_them(tmp_path: Path) -> None:
    port = free_port()
    inside = f"http://127.0.0.1:{port}"
    server = LiveServer(tmp_path, METRICS_PORT=str(port), WEB_CONCURRENCY="2", WORKER_ENABLED="false")
    server.start()
    try:
        sent = {"route": "/api/messages/sms", "method": "POST", "status": "2xx"}

        async def ask(url: str, **options: Any) -> httpx.Response:  # on a connection of its own
            async with httpx.AsyncClient(verify=LOCAL) as client:
                return await client.request("POST" if options else "GET", url, timeout=60, **options)

        async def numbers() -> str:
            answer = await ask(f"{inside}/metrics")
            assert answer.status_code == 200
            return answer.text

        await until(numbers, lambda text: number(text, "messaging_processes") == 2)
        answers = [await ask(f"{server.url}/api/messages/sms", json=sms()) for _ in range(30)]
        assert {answer.status_code for answer in answers} == {200}
        await until(numbers, lambda text: number(text, REQUESTS, **sent) == 30)

        assert (await ask(f"{inside}/readyz")).status_code == 200
        assert (await ask(f"{inside}/api/messages")).status_code == 404
        assert (await ask(f"{server.url}/metrics")).status_code == 200  # in development
        written = server.data_dir / "metrics"
        await until(lambda: asyncio.to_thread(counted_in, written), lambda count: count == 30)  # what a kill leaves
        victim = serving(server)[0]
        victim.kill()
        await until(numbers, lambda text: number(text, "messaging_processes") == 1)
        await asyncio.to_thread(server.wait_until, lambda: len(serving(server)) == 2)
        for _ in range(5):
            await until(numbers, lambda text: number(text, "messaging_processes") == 2)
            assert number(await numbers(), REQUESTS, **sent) == 30
        files = list((server.data_dir / "metrics").rglob("figures/*.json"))
        assert len(files) == 2
    finally:
        server.stop()


def counted_in(directory: Path) -> float:
    """The sends in the files of all processes."""
    total = Snapshot()
    for file in directory.rglob("figures/*.json"):
        total.add(Snapshot.of(json.loads(file.read_bytes())))
    found = total.counters.get(catalogue.REQUESTS.name, {}).items()
    return sum(count for labels, count in found if "/api/messages/sms" in labels and "2xx" in labels)


def serving(server: LiveServer) -> list[psutil.Process]:
    """The processes that answer requests; a killed one is there until its parent looks."""
    assert server.process is not None
    found = psutil.Process(server.process.pid).children()
    found = [each for each in found if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in found if "multiprocessing.spawn" in " ".join(each.cmdline())]


@pytest.mark.slow
async def test_a_worker_tells_its_numbers_and_its_health_where_it_is_told_to(
    tmp_path: Path, database_url: str
) -> None:
    port = free_port()
    worker = LiveProcess(
        tmp_path / "worker.log", "worker", DATABASE_URL=database_url, DATA_DIR=str(tmp_path), WORKER_PORT=str(port)
    )
    worker.launch()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=LOCAL) as client:

        async def status(path: str) -> int:
            try:
                return (await client.get(path)).status_code
            except httpx.TransportError:
                return 0

        await until(lambda: status("/readyz"), lambda found: found == 200)
        assert await status("/healthz") == 200
        assert await status("/api/messages") == 404

        async def numbers() -> str:
            return await scrape(client)

        await until(
            numbers, lambda text: ("messaging_queue_due_messages", frozenset({("channel", "sms")})) in series(text)
        )
        assert number(await numbers(), "messaging_database_up") == 1
    assert worker.stop() == 0
