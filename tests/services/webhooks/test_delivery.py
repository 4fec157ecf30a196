"""Events reach endpoints signed, at least once, and no failing endpoint costs more than a few rows."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from app.config import Settings
from tests.conftest import execute
from tests.factories import email_webhook, sms_webhook, until
from tests.live import free_port
from tests.logs import captured
from tests.providers.certificates import write_certificate
from tests.receivers import WebhookReceiver, receiving
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
_ENDPOINTS = "/api/webhook-endpoints"


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.webhooks.dispatcher._POLL_SECONDS", 0.02)


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with receiving() as receiver:
        yield receiver


@dataclass
class Installation:
    client: httpx.AsyncClient
    receiver: WebhookReceiver
    url: str

    async def endpoint(self, **values: object) -> dict[str, Any]:
        answer = await self.client.post(_ENDPOINTS, json={"url": self.receiver.url} | values)
        assert answer.status_code == 200, answer.text
        endpoint: dict[str, Any] = answer.json()
        return endpoint

    async def arrive(self, count: int, first: int = 1) -> None:
        for number in range(first, first + count):
            answer = await self.client.post("/api/webhooks/sms", json=_text(number))
            assert answer.status_code == 200, answer.text

    async def events(self, *types: str) -> list[dict[str, Any]]:
        page = await self.client.get("/api/events", params={"limit": 500, "types": list(types)})
        events: list[dict[str, Any]] = page.json()["events"]
        return events

    async def show(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = (await self.client.get(f"{_ENDPOINTS}/{endpoint['id']}")).json()
        return shown

    async def attempts(self, endpoint: dict[str, Any]) -> list[dict[str, Any]]:
        listed = await self.client.get(f"{_ENDPOINTS}/{endpoint['id']}/attempts", params={"limit": 1000})
        attempts: list[dict[str, Any]] = listed.json()
        return attempts

    async def do(self, endpoint: dict[str, Any], action: str, **body: object) -> dict[str, Any]:
        answer = await self.client.post(f"{_ENDPOINTS}/{endpoint['id']}/{action}", json=body or None)
        assert answer.status_code == 200, answer.text
        done: dict[str, Any] = answer.json()
        return done

    async def until_received(self, count: int) -> None:
        async def known() -> int:
            return len(set(self.receiver.ids))

        await until(known, lambda number: number >= count)

    async def until_shown(self, endpoint: dict[str, Any], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return await until(lambda: self.show(endpoint), holds)

    def retries(self) -> int:
        [(count,)] = rows_of(self.url, "SELECT count(*) FROM webhook_retries")
        return int(count)

    def move(self, *statements: str) -> None:
        """Change what the worker has in its memory too: it reads the endpoints again."""
        with psycopg2.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE webhook_leases SET changes = changes + 1")
            cursor.execute("UPDATE webhook_endpoints SET version = version + 1")
            for statement in statements:
                cursor.execute(statement)
        connection.close()


def _text(number: int, **changes: object) -> dict[str, Any]:
    return sms_webhook(messaging_provider_id=f"in-{number}", body=f"text {number}", **changes)


@pytest.fixture
async def installation(client: httpx.AsyncClient, receiver: WebhookReceiver, database_url: str) -> Installation:
    return Installation(client, receiver, database_url)


async def test_events_arrive_signed_as_the_log_shows_them(installation: Installation) -> None:
    endpoint = await installation.endpoint(headers={"X-Key": "of the receiver"})
    await installation.arrive(3)
    events = await installation.events()
    await installation.until_received(len(events))
    received = {request.id: request for request in installation.receiver.requests}
    assert {id: request.event for id, request in received.items()} == {event["id"]: event for event in events}
    for request in received.values():
        assert request.verified(endpoint["secret"]) == request.event
        assert request.headers["content-type"] == "application/json"
        assert request.headers["x-key"] == "of the receiver"
    positions = {id: request.headers["webhook-position"] for id, request in received.items()}
    assert sorted(positions, key=lambda id: positions[id]) == [event["id"] for event in events]
    shown = await installation.until_shown(endpoint, lambda shown: shown["cursor"] == events[-1]["id"])
    assert shown["failing_since"] is None
    attempts = await installation.attempts(endpoint)
    assert {attempt["event_id"] for attempt in attempts} == set(received)
    assert {(attempt["number"], attempt["status"], attempt["error"]) for attempt in attempts} == {(1, 200, None)}


@pytest.mark.slow
async def test_an_endpoint_gets_what_happens_after_it_was_made_and_what_it_wants(installation: Installation) -> None:
    await installation.arrive(2)
    [first, *_] = await installation.events("message.received")
    typed = await installation.endpoint(url=installation.receiver.url + "/typed", types=["message.received"])
    await installation.endpoint(
        url=installation.receiver.url + "/conversation", conversation_id=first["data"]["conversation_id"]
    )
    await installation.client.post("/api/webhooks/sms", json=_text(3, from_="+18045559999"))
    await installation.arrive(1, first=4)
    events = await installation.events()
    new = events[next(number for number, event in enumerate(events) if "text 3" in str(event)) :]
    await installation.until_shown(typed, lambda shown: shown["cursor"] == events[-1]["id"])
    await installation.until_received(2)
    by_path = {
        path: [request.event for request in installation.receiver.requests if request.path == path]
        for path in ("/hook/typed", "/hook/conversation")
    }
    assert by_path["/hook/typed"] == [event for event in new if event["type"] == "message.received"]
    assert [event["type"] for event in by_path["/hook/conversation"]] == ["message.received"]


@pytest.mark.slow
async def test_an_endpoint_may_ask_for_no_automatic_messages(installation: Installation) -> None:
    kept = await installation.endpoint(url=installation.receiver.url + "/all", types=["message.received"])
    spared = await installation.endpoint(types=["message.received"], suppress_automatic=True)
    for endpoint in (kept, spared):
        await installation.client.patch(f"{_ENDPOINTS}/{endpoint['id']}", json={"enabled": False})
    for number in (1, 2):
        await installation.client.post("/api/webhooks/email", json=email_webhook(xillio_id=f"mail-{number}"))
    installation.move(
        """UPDATE messages SET details = '{"automatic": "reply"}' WHERE provider_message_id = 'mail-1'"""
    )
    for endpoint in (kept, spared):
        await installation.client.patch(f"{_ENDPOINTS}/{endpoint['id']}", json={"enabled": True})
    [automatic, written] = await installation.events("message.received")
    for endpoint in (kept, spared):
        await installation.until_shown(endpoint, lambda shown: shown["cursor"] == written["id"])
    by_path = [(request.path, request.id) for request in installation.receiver.requests]
    assert sorted(by_path) == sorted(
        [("/hook/all", automatic["id"]), ("/hook/all", written["id"]), ("/hook", written["id"])]
    )


async def test_an_outage_costs_no_row_per_event_and_everything_comes_after_it(installation: Installation) -> None:
    endpoint = await installation.endpoint(types=["message.received"])
    installation.receiver.says(503)
    await installation.arrive(30)
    stopped = await until(lambda: installation.attempts(endpoint), lambda attempts: len(attempts) == 21)
    assert installation.retries() == 20
    assert {attempt["error"] for attempt in stopped} == {"It answered 503 (Service Unavailable)."}
    events = [event["id"] for event in await installation.events("message.received")]
    assert (await installation.show(endpoint))["cursor"] == events[19]
    installation.move("UPDATE webhook_endpoints SET probe_at = now()")
    await until(lambda: installation.attempts(endpoint), lambda attempts: len(attempts) == 22)
    assert installation.retries() == 20

    installation.receiver.requests.clear()
    installation.receiver.says(200)
    installation.move("UPDATE webhook_endpoints SET probe_at = now()")
    await installation.until_received(30)
    assert sorted(installation.receiver.ids) == sorted(events)  # each once, with the id that it had
    await installation.until_shown(endpoint, lambda shown: shown["cursor"] == events[-1])
    assert installation.retries() == 0
    numbers = {attempt["event_id"]: attempt["number"] for attempt in reversed(await installation.attempts(endpoint))}
    assert [numbers[id] for id in events] == [2] * 20 + [1] * 10


async def test_a_retry_that_a_failover_lost_is_recorded_again(installation: Installation) -> None:
    endpoint = await installation.endpoint(types=["message.received"])
    place = ("cursor_generation", "cursor_transaction", "cursor_id")
    [before] = rows_of(installation.url, f"SELECT {', '.join(place)} FROM webhook_endpoints")
    installation.receiver.says(503)
    await installation.arrive(1)
    await until(lambda: installation.attempts(endpoint), lambda attempts: len(attempts) == 1)
    execute(
        installation.url,
        "BEGIN",
        "UPDATE event_logs SET generation = generation + 1",
        "DELETE FROM webhook_retries",
        f"UPDATE webhook_endpoints SET ({', '.join(place)}) = {before}",
        "COMMIT",
    )
    await installation.arrive(1, first=2)
    events = [event["id"] for event in await installation.events("message.received")]
    await installation.until_shown(endpoint, lambda shown: shown["cursor"] == events[-1])
    assert installation.retries() == 2


async def test_a_probe_that_has_nothing_to_try_is_not_waited_for(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.webhooks.dispatcher.RENEW_SECONDS", 0)
    await installation.endpoint()
    installation.move(
        "INSERT INTO webhook_retries SELECT 1, id, 1, 1, number, 1, now(), now() + interval '1 hour' "
        "FROM webhook_endpoints, generate_series(1, 20) AS number",
        "UPDATE webhook_endpoints SET probe_at = now(), failing_since = now()",
    )

    async def probes() -> list[tuple[Any, ...]]:
        return rows_of(installation.url, "SELECT probe_at FROM webhook_endpoints")

    await until(probes, lambda rows: rows == [(None,)])
    assert installation.retries() == 20


async def test_an_endpoint_with_a_fault_of_ours_is_left_alone_for_a_moment(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.webhooks.tenant_delivery._LATEST_SECONDS", 3600)
    faults: list[str] = []

    async def fail(*_: object, **__: object) -> None:
        faults.append("fault")
        raise ArithmeticError

    monkeypatch.setattr("app.services.webhooks.sender.WebhookSender.post", fail)
    await installation.endpoint(types=["message.received"])
    await installation.arrive(1)

    async def count() -> int:
        return len(faults)

    await until(count, lambda number: number == 1)
    for _ in range(20):
        await installation.events()
    assert len(faults) == 1


@pytest.mark.slow
async def test_a_retry_after_holds_back_everything_for_this_endpoint(installation: Installation) -> None:
    endpoint = await installation.endpoint(types=["message.received"])
    other = await installation.endpoint(url=installation.receiver.url + "/other", types=["message.received"])
    installation.receiver.answer = lambda request: (
        (200, {}, b"") if request.path.endswith("other") else (429, {"Retry-After": "3600"}, b"later")
    )
    await installation.arrive(1)
    await until(lambda: installation.attempts(endpoint), lambda attempts: len(attempts) == 1)
    await installation.arrive(2, first=2)
    await until(lambda: installation.attempts(other), lambda attempts: len(attempts) == 3)
    [[due]] = rows_of(installation.url, "SELECT extract(epoch FROM due_at - first_failed_at) FROM webhook_retries")
    assert due == 3600
    assert len(await installation.attempts(endpoint)) == 1
    installation.receiver.says(200)
    installation.move(
        "UPDATE webhook_endpoints SET paused_until = now()", "UPDATE webhook_retries SET due_at = now()"
    )
    await until(lambda: installation.attempts(endpoint), lambda attempts: len(attempts) == 4)


async def test_410_disables_an_endpoint_and_enabling_it_goes_on(installation: Installation) -> None:
    log = captured()
    endpoint = await installation.endpoint(types=["message.received"])
    installation.receiver.says(410)
    await installation.arrive(1)
    shown = await installation.until_shown(endpoint, lambda shown: not shown["enabled"])
    assert "410" in shown["disabled_reason"]
    [event] = await installation.events("webhook_endpoint.disabled")
    assert event["data"] == {"endpoint_id": endpoint["id"], "reason": shown["disabled_reason"]}
    assert "webhook_endpoint_disabled" in log.getvalue()
    await installation.arrive(2, first=2)
    installation.receiver.says(200)
    installation.receiver.requests.clear()
    answer = await installation.client.patch(f"{_ENDPOINTS}/{endpoint['id']}", json={"enabled": True})
    assert (answer.json()["enabled"], answer.json()["disabled_reason"]) == (True, None)
    await installation.until_received(3)
    assert len(installation.receiver.ids) == 3


@pytest.mark.slow
async def test_five_days_of_failure_disable_an_endpoint(installation: Installation) -> None:
    endpoint = await installation.endpoint(types=["message.received"])
    installation.receiver.says(500)
    await installation.arrive(1)
    await until(lambda: installation.attempts(endpoint), lambda attempts: len(attempts) == 1)
    installation.move(
        "UPDATE webhook_endpoints SET failing_since = now() - interval '5 days'",
        "UPDATE webhook_retries SET due_at = now()",
    )
    shown = await installation.until_shown(endpoint, lambda shown: not shown["enabled"])
    assert "five days" in shown["disabled_reason"]


async def test_a_failure_is_told_in_words(installation: Installation, tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(write_certificate(tmp_path, "receiver.example"))
    async with receiving(tls) as other:
        for url, error in (
            (f"http://127.0.0.1:{free_port()}/", "It refused the connection."),
            (f"https://127.0.0.1:{other.port}/", "Its certificate is not valid: self-signed certificate."),
            ("http://never.invalid/", "Its name can't be resolved."),
        ):
            tried = await installation.do(await installation.endpoint(url=url), "test")
            assert (tried["status"], tried["error"]) == (None, error)
        assert other.requests == []


async def test_a_redirect_is_not_followed_and_a_long_answer_is_cut(installation: Installation) -> None:
    endpoint = await installation.endpoint()
    installation.receiver.says(307, b"x" * 100_000, Location="http://127.0.0.1:1/")
    tried = await installation.do(endpoint, "test")
    assert tried["error"] == "It answered 307, and redirects are not followed."
    assert tried["answer"] == "x" * 1000
    assert len(installation.receiver.requests) == 1


@pytest.mark.slow
async def test_who_does_not_answer_is_given_up_in_time(
    serve: Serve, settings: Settings, receiver: WebhookReceiver, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"webhook_timeout_seconds": 0.05}))
    installation = Installation(client, receiver, database_url)
    receiver.answer = lambda _: None
    tried = await installation.do(await installation.endpoint(), "test")
    assert (tried["status"], tried["error"]) == (None, "It did not answer within 0.05 seconds.")


async def test_after_a_rotation_both_secrets_sign_for_a_day(installation: Installation) -> None:
    old = await installation.endpoint()
    new = await installation.do(old, "rotate")
    assert new["secret"] != old["secret"]
    await installation.do(old, "test")
    [request] = installation.receiver.requests
    assert len(request.headers["webhook-signature"].split()) == 2
    assert request.verified(old["secret"]) == request.verified(new["secret"])
    installation.move("UPDATE webhook_endpoints SET previous_secret_until = now()")
    await installation.do(old, "test")
    assert len(installation.receiver.requests[-1].headers["webhook-signature"].split()) == 1
    assert installation.receiver.requests[-1].verified(new["secret"])["type"] == "webhook_endpoint.test"


@pytest.mark.slow
async def test_one_event_is_sent_again_on_demand(installation: Installation) -> None:
    endpoint = await installation.endpoint(types=["message.received"])
    installation.receiver.says(500, b"no")
    await installation.arrive(1)
    await until(lambda: installation.attempts(endpoint), lambda attempts: len(attempts) == 1)
    [event] = await installation.events("message.received")
    installation.receiver.says(200, b"thanks")
    tried = await installation.do(endpoint, "redeliver", event_id=event["id"])
    assert (tried["event_id"], tried["number"], tried["answer"]) == (event["id"], 2, "thanks")
    assert installation.retries() == 0
    assert (await installation.show(endpoint))["failing_since"] is None
    tried = await installation.do(endpoint, "redeliver", event_id=event["id"])
    assert tried["number"] == 3
    assert installation.receiver.ids == [event["id"]] * 3


@pytest.mark.slow
async def test_everything_after_a_cursor_is_sent_again(installation: Installation) -> None:
    endpoint = await installation.endpoint(types=["message.received"])
    await installation.arrive(4)
    await installation.until_received(4)
    events = [event["id"] for event in await installation.events("message.received")]
    await installation.until_shown(endpoint, lambda shown: shown["cursor"] == events[-1])
    installation.receiver.requests.clear()
    assert (await installation.do(endpoint, "replay", after=events[1]))["cursor"] == events[1]
    await installation.until_shown(endpoint, lambda shown: shown["cursor"] == events[-1])
    assert sorted(installation.receiver.ids) == sorted(events[2:])


@pytest.mark.slow
async def test_connections_are_kept(installation: Installation) -> None:
    endpoint = await installation.endpoint()
    for _ in range(3):
        await installation.do(endpoint, "test")
    assert installation.receiver.connections == 1


@pytest.mark.slow
async def test_an_endpoint_behind_what_the_log_still_has_says_so(installation: Installation) -> None:
    endpoint = await installation.endpoint(types=["message.received"])
    await installation.client.patch(f"{_ENDPOINTS}/{endpoint['id']}", json={"enabled": False})
    await installation.arrive(2)
    trim = """
        UPDATE event_logs SET (trimmed_to_generation, trimmed_to_transaction, trimmed_to_id) =
            (SELECT generation, transaction_id, id FROM events WHERE type = 'message.received' ORDER BY id LIMIT 1)
    """
    installation.move(trim)
    await installation.client.patch(f"{_ENDPOINTS}/{endpoint['id']}", json={"enabled": True})
    [kept] = await installation.events("message.received")
    await installation.until_shown(endpoint, lambda shown: shown["skipped_at"] is not None)
    await installation.until_received(1)
    assert installation.receiver.ids == [kept["id"]]
