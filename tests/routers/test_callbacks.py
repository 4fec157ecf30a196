"""Callbacks of providers: their tenant, the rows that they leave, and the replies."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from typing import Any

import httpx
import psycopg2
import pytest

from app.config import Settings
from app.domain import MessageStatus
from app.http.body_budget import BodyBudget
from app.providers.base import Callback, CallbackItem, CallbackUnverifiable, Receipt, Reply, Unread
from app.providers.registry import provider_registry
from app.providers.toolbox.verification import hash_of
from app.routers import webhooks
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import sms, until
from tests.logs import captured
from tests.signing import PATH, PUBLIC_URL, SigningProvider, call, inbound, items_of, signed
from tests.tenancy import give_address, make_tenant
from tests.wire import locations_of, problem_of, row_counts, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
CALLS = "SELECT tenant_id, verdict, events, reason FROM webhook_calls ORDER BY id"
REFUSED = "SELECT detail FROM audit_events WHERE kind = 'signature_refused'"


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> SigningProvider:
    provider = SigningProvider()
    monkeypatch.setitem(provider_registry, "signing", provider)
    return provider


@pytest.fixture
async def client(serve: Serve, settings: Settings, vendor: SigningProvider) -> httpx.AsyncClient:
    return await serve(settings.model_copy(update={"public_url": f"{PUBLIC_URL}/"}))


def bodies(url: str) -> list[str]:
    return [body for (body,) in rows_of(url, "SELECT body FROM messages ORDER BY id")]


async def test_what_is_taken_is_stored_and_answered_as_the_provider_expects(
    client: httpx.AsyncClient, database_url: str
) -> None:
    answer = await call(client, [inbound(1), {"id": "r-1", "status": "delivered", "of": "x", "to": "8045551234"}])
    assert (answer.status_code, answer.text) == (200, "<ok/>")
    assert answer.headers["content-type"] == "application/xml"
    assert bodies(database_url) == ["Hello 1"]
    [kept] = rows_of(
        database_url,
        "SELECT verdict, events, method, url, headers, body, addresses, provider_type FROM webhook_calls",
    )
    assert kept[:4] == ("taken", 2, "POST", PUBLIC_URL + PATH)
    headers = dict(kept[4])
    assert headers["authorization"] == f"Basic {hash_of('secret')}"
    assert headers["x-signature"]
    assert json.loads(bytes(kept[5]))[0] == inbound(1)
    assert kept[6:] == (["+12016661234", "+18045551234"], "signing")


async def test_the_same_call_many_times_at_once_is_stored_once(client: httpx.AsyncClient, database_url: str) -> None:
    said = [inbound(1), {"id": "r-1", "status": "delivered", "of": "signing-1"}]
    answers = await asyncio.gather(*(call(client, said) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert row_counts(database_url)["messages"] == 1
    assert rows_of(database_url, "SELECT count(*) FROM provider_events") == [(1,)]


@each_case(
    "changed",
    [
        {"X-Signature": ""},
        {"X-Signature": "é" * 20},
        {"X-Signature": "f" * 64},
        {"X-Time": "2020-01-01T00:00:00+00:00"},
        {"Authorization": "x"},
    ],
)
async def test_what_is_not_signed_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, database_url: str, changed: dict[str, str]
) -> None:
    asked = signed(inbound())
    asked["headers"] |= {name: value.encode("latin-1") for name, value in changed.items()}
    answer = await client.request(**asked)
    if "Authorization" in changed:  # which it doesn't sign
        assert answer.status_code == 200
        return
    assert "signature" in problem_of(answer, 401)["detail"]
    assert set(row_counts(database_url).values()) == {0}
    assert rows_of(database_url, CALLS) == []
    [(detail,)] = await until(lambda: _rows(database_url, REFUSED), bool)
    assert detail["path"] == PATH
    assert detail["reason"] == "The signature is another one."
    assert len(detail["expected"]) <= 15


async def _rows(url: str, question: str) -> list[tuple[Any, ...]]:
    return rows_of(url, question)


async def test_a_signature_that_is_out_of_date_is_refused(client: httpx.AsyncClient) -> None:
    assert (await call(client, inbound(), seconds_ago=290)).status_code == 200
    problem_of(await call(client, inbound(), seconds_ago=310), 401)


async def test_without_a_secret_the_provider_is_to_call_again(
    client: httpx.AsyncClient, vendor: SigningProvider, database_url: str
) -> None:
    vendor.key = None
    log = captured()
    answer = await call(client, inbound())
    problem_of(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    [line] = [line for line in log.getvalue().splitlines() if "callback_unverifiable" in line]
    assert "signing" in line
    assert "error" in line
    vendor.key = "first"
    assert (await call(client, inbound())).status_code == 200
    assert bodies(database_url) == ["Hello 1"]


@each_case("path", ["/api/webhooks/nobody", "/api/webhooks/scripted"])
@each_case("method", ["GET", "POST"])
async def test_who_does_not_call_back_has_no_address_here(client: httpx.AsyncClient, path: str, method: str) -> None:
    problem_of(await client.request(method, path), 404)


async def test_with_a_public_url_host_and_forwarding_headers_do_not_matter(client: httpx.AsyncClient) -> None:
    asked = signed(inbound(), query="?a=%2Fb%20c&A=+&a=")
    asked["headers"] |= {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
        "Forwarded": "host=evil.example",
    }
    assert (await client.request(**asked)).status_code == 200


async def test_without_a_public_url_the_address_is_the_one_that_was_asked_for(
    serve: Serve, settings: Settings, vendor: SigningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def verify(callback: Callback) -> None:
        seen.append(callback.url)

    monkeypatch.setattr(vendor, "verify", verify)
    client = await serve(settings)
    for path in ("/api/webhooks/signing?a=%41&b", "/api/webhooks/signing/?"):
        await client.post(path, json=inbound(), headers={"Host": "here.example:8443"})
    assert seen == [
        "http://here.example:8443/api/webhooks/signing?a=%41&b",
        "http://here.example:8443/api/webhooks/signing/",
    ]


async def test_a_handshake_is_answered_and_nothing_is_kept(client: httpx.AsyncClient, database_url: str) -> None:
    answer = await call(client, b"", method="GET", query="?challenge=123&word=ours")
    assert (answer.status_code, answer.text) == (200, "123")
    assert answer.headers["content-type"].startswith("text/plain")
    problem_of(await call(client, b"", method="GET", query="?challenge=123&word=theirs"), 401)
    assert rows_of(database_url, CALLS) == []


async def test_a_reply_that_takes_a_request_of_its_own_is_waited_for(
    client: httpx.AsyncClient, vendor: SigningProvider, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    async def confirmed(callback: Callback) -> Reply:
        await asyncio.sleep(0)
        if callback.body == b"away":
            raise CallbackUnverifiable("The vendor can't be reached.")
        return Reply(b"confirmed", "text/plain")

    monkeypatch.setattr(vendor, "parse", confirmed)
    for body in (b"small", b"large" * 100_000):
        answer = await call(client, body)
        assert (answer.status_code, answer.text) == (200, "confirmed")
    problem_of(await call(client, b"away"), 503)
    assert rows_of(database_url, CALLS) == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"\xff\xfe", b'{"id": "in-1"}', b'{"id": "r", "status": "teleported"}', b"[" * 100_000],
)
async def test_what_is_genuine_and_not_understood_is_kept_as_it_came(
    client: httpx.AsyncClient, database_url: str, body: bytes
) -> None:
    answer = await call(client, body)
    assert (answer.status_code, answer.text) == (200, "<ok/>")
    [(tenant, verdict, events, reason)] = rows_of(database_url, CALLS)
    assert (tenant, verdict, events) == (1, "not_understood", 0)
    assert reason
    assert [bytes(kept) for (kept,) in rows_of(database_url, "SELECT body FROM webhook_calls")] == [body]


@pytest.mark.parametrize(
    "bad",
    [
        inbound(2, to=""),
        inbound(2, channel="Not A Channel"),
        inbound(2, id="x" * 513),
        {"id": "", "status": "delivered"},
        {"id": "x" * 20_000, "status": "delivered"},
        {"unread": True},
    ],
)
async def test_one_event_that_cannot_be_stored_costs_no_other(
    client: httpx.AsyncClient, database_url: str, bad: dict[str, Any]
) -> None:
    assert (await call(client, [inbound(1), bad, inbound(3)])).status_code == 200
    assert bodies(database_url) == ["Hello 1", "Hello 3"]
    [(_, verdict, events, reason)] = rows_of(database_url, CALLS)
    assert (verdict, events) == ("not_understood", 2)
    assert reason.startswith("Event 2: ")


@each_case(
    ("channel", "address"),
    [
        ("email", "root@localhost"),
        ("email", "Jane..X.@docomo.example"),
        ("email", '"Jane Doe"@client.example'),
        ("email", "x" * 65 + "@client.example"),
        ("email", "ticket@exam_ple.com"),
        ("sms", "+99912345678"),
        ("sms", "+5215512345678"),
    ],
)
async def test_a_person_who_has_written_can_be_answered(
    client: httpx.AsyncClient, channel: str, address: str
) -> None:
    ours = {"email": "us@shop.example", "sms": "+12016661234"}[channel]
    assert (
        await call(client, inbound(id=f"in-{address}", channel=channel, from_=address, to=ours))
    ).status_code == 200
    answer = {"from": ours, "to": address, "body": "Yes"} | ({"type": "sms"} if channel == "sms" else {})
    assert (await client.post(f"/api/messages/{channel}", json=answer)).status_code == 200
    preview = (await client.post("/api/messages/preview", json={"channel": channel} | answer)).json()
    assert preview["refused"] == []


@each_case(
    ("channel", "address"),
    [("email", "root@localhost"), ("email", "me@exam_ple.com"), ("sms", "+99912345678"), ("sms", "+1201666")],
)
async def test_an_odd_address_that_never_wrote_is_refused(
    client: httpx.AsyncClient, channel: str, address: str
) -> None:
    ours = {"email": "us@shop.example", "sms": "+12016661234"}[channel]
    mistaken = {"from": ours, "to": address, "body": "Hi"} | ({"type": "sms"} if channel == "sms" else {})
    assert locations_of(await client.post(f"/api/messages/{channel}", json=mistaken)) == ["body.to"]
    preview = (await client.post("/api/messages/preview", json={"channel": channel} | mistaken)).json()
    assert [each["location"] for each in preview["refused"]] == ["body.to"]


@each_case("address", ["", "  ", "anonymous", "Crédit Mutuel", "*100#", "+266696687", "Line\nbreak"])
async def test_a_text_is_stored_with_any_sender(client: httpx.AsyncClient, address: str) -> None:
    assert (await call(client, inbound(id=f"in-{address!r}", from_=address))).status_code == 200
    [newest, *_] = (await client.get("/api/messages")).json()
    assert newest["from"] == (" ".join(address.split()) or "anonymous")
    assert newest["provider_message_id"] == f"in-{address!r}"


async def test_whose_an_event_is_that_can_not_be_read_nobody_knows(
    client: httpx.AsyncClient, database_url: str
) -> None:
    acme = make_tenant(database_url, "Acme")
    give_address(database_url, acme, "+12025550101")
    assert (await call(client, [inbound(1, to="+12025550101"), {"unread": True}])).status_code == 200
    assert rows_of(database_url, "SELECT tenant_id FROM messages") == [(acme,)]
    assert [row[:2] for row in rows_of(database_url, CALLS)] == [(1, "not_understood")]


async def test_what_shows_only_when_it_is_stored_costs_no_other_either(
    client: httpx.AsyncClient, vendor: SigningProvider, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number with more digits than Python writes."""
    huge = [Receipt("r-1", MessageStatus.SENT, raw={"n": 10**5000}), Receipt("r-2", MessageStatus.SENT)]

    def parse(callback: Callback) -> Sequence[CallbackItem | Unread]:
        return [*items_of(callback), *huge]

    monkeypatch.setattr(vendor, "parse", parse)
    assert (await call(client, inbound(1))).status_code == 200
    assert bodies(database_url) == ["Hello 1"]
    assert rows_of(database_url, "SELECT event_id FROM provider_events") == [("r-2",)]
    [(_, verdict, events, reason)] = rows_of(database_url, CALLS)
    assert (verdict, events) == ("not_understood", 2)
    assert "ValueError" in reason


async def test_characters_that_no_text_can_hold_are_replaced(client: httpx.AsyncClient, database_url: str) -> None:
    said = [inbound(1, body="a\x00b"), inbound(2, body="c\ud800d")]
    receipt = {"id": "r\x00", "status": "delivered", "n\x00": ["\x00", "\udfff", 1e300, True, None]}
    assert (await call(client, [*said, receipt])).status_code == 200
    assert bodies(database_url) == ["a\ufffdb", "c\ufffdd"]
    assert rows_of(database_url, "SELECT event_id FROM provider_events") == [("r\ufffd",)]
    assert [row[1] for row in rows_of(database_url, CALLS)] == ["taken"]


async def test_a_bug_in_a_providers_file_loses_nothing(
    client: httpx.AsyncClient, vendor: SigningProvider, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(callback: Callback) -> list[Any]:
        raise KeyError("MessageSid of +18045551234")

    monkeypatch.setattr(vendor, "parse", parse)
    log = captured()
    assert (await call(client, inbound())).status_code == 200
    assert "callback_not_parsed" in log.getvalue()
    [(_, verdict, _, reason)] = rows_of(database_url, CALLS)
    assert (verdict, reason) == ("not_understood", "KeyError: 'MessageSid of ***1234'")


@pytest.mark.parametrize("text", ["Hello!", "x" * 300_000], ids=["in a batch", "large, and alone"])
async def test_what_comes_in_is_the_tenants_whose_number_it_was_sent_to(
    client: httpx.AsyncClient, database_url: str, text: str
) -> None:
    acme, bolt = make_tenant(database_url, "Acme"), make_tenant(database_url, "Bolt")
    give_address(database_url, acme, "+12025550101")
    give_address(database_url, bolt, "+12025550102")
    for said in (
        inbound(1, to="+1 202 555 0101", body=text),
        inbound(2, to="(202) 555-0102", body=text),
        [inbound(3, to="+12025550101", body=text), inbound(4, to="+12025550102")],
        {"id": "r-1", "status": "delivered", "reference": f"{acme}-1-1", "text": text},
        {"id": "r-2", "status": "delivered", "reference": "999999-1-1", "text": text},
    ):
        assert (await call(client, said)).status_code == 200
    messages = rows_of(database_url, "SELECT provider_message_id, tenant_id FROM messages ORDER BY 1")
    assert messages == [("in-1", acme), ("in-2", bolt), ("in-3", acme), ("in-4", bolt)]
    assert [row[0] for row in rows_of(database_url, CALLS)] == [acme, bolt, 1, acme, 1]


async def test_the_limit_is_the_providers_own(
    serve: Serve, settings: Settings, vendor: SigningProvider, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"public_url": PUBLIC_URL, "max_body_bytes": 1_000}))
    assert (await call(client, inbound(1, body="x" * 2_999_000))).status_code == 200
    [(size, verdict)] = rows_of(database_url, "SELECT length(body), verdict FROM webhook_calls")
    assert size > 2_999_000
    assert verdict == "taken"
    problem_of(await call(client, inbound(2, body="x" * 3_000_000)), 413)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(31):
            yield b"x" * 100_000

    problem_of(await client.post(PATH, content=pieces()), 413)
    problem_of(await client.post("/api/messages/sms", json=sms(body="x" * 2_000)), 413)


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> BodyBudget:
    budget = BodyBudget(4_600_000, of_one=1_533_333, of_strangers=3_066_666)
    monkeypatch.setattr(webhooks, "_large_bodies", budget)
    return budget


async def test_large_bodies_have_to_fit_into_memory_together(client: httpx.AsyncClient, budget: BodyBudget) -> None:
    large = (call(client, inbound(number, body="x" * 2_500_000), query="?token=first") for number in range(4))
    answers = await asyncio.gather(*large, call(client, inbound(9)))
    assert sorted(answer.status_code for answer in answers[:4]) == [200, 200, 200, 503]
    assert answers[-1].status_code == 200
    assert budget.held == 0
    assert (await call(client, inbound(6, body="x" * 2_300_000))).status_code == 200
    assert budget.held == 0


async def test_stalled_uploads_of_strangers_keep_out_nobody_who_shows_a_secret(
    client: httpx.AsyncClient, budget: BodyBudget, stalled: Callable[[], Awaitable[None]], database_url: str
) -> None:
    for _ in range(5):
        await stalled()
    problem_of(await call(client, inbound(1, body="x" * 2_500_000)), 503)
    for number in (2, 3):
        answer = await call(client, inbound(number, body="x" * 2_900_000), query="?token=first")
        assert answer.status_code == 200
    assert len(bodies(database_url)) == 2
    assert budget.held == 1_400_000


async def test_who_shows_a_wrong_secret_is_refused_before_the_body_is_there(
    client: httpx.AsyncClient, budget: BodyBudget, database_url: str
) -> None:
    problem_of(await asyncio.wait_for(client.post(f"{PATH}?token=wrong", content=_never_ending()), 60), 401)
    assert budget.held == 0
    assert set(row_counts(database_url).values()) == {0}
    [(detail,)] = await until(lambda: _rows(database_url, REFUSED), bool)
    assert detail["reason"] == "The token is another one."


@pytest.fixture
async def stalled(client: httpx.AsyncClient) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Begins a large call that doesn't get on."""
    begun: list[asyncio.Task[httpx.Response]] = []

    async def begin() -> None:
        arrived = asyncio.Event()
        content = _never_ending(arrived)
        begun.append(asyncio.create_task(client.post(PATH, content=content)))
        waiting = asyncio.create_task(arrived.wait())
        await asyncio.wait([begun[-1], waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    yield begin
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


async def _never_ending(arrived: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for _ in range(24):
        yield b"x" * 100_000
    if arrived:
        arrived.set()
    await asyncio.Event().wait()


async def test_what_can_not_be_kept_in_time_is_answered_503_and_taken_when_it_comes_again(
    serve: Serve, settings: Settings, vendor: SigningProvider, database_url: str
) -> None:
    impatient = {"public_url": PUBLIC_URL, "database_statement_timeout_seconds": 0.5}
    client = await serve(settings.model_copy(update=impatient))
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE webhook_calls")
        answer = await call(client, inbound())
    problem_of(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert (await call(client, inbound())).status_code == 200
    assert bodies(database_url) == ["Hello 1"]


async def test_a_call_whose_events_could_not_be_stored_does_not_pass_for_taken(
    serve: Serve, settings: Settings, vendor: SigningProvider, database_url: str
) -> None:
    impatient = {"public_url": PUBLIC_URL, "database_statement_timeout_seconds": 0.5}
    client = await serve(settings.model_copy(update=impatient))
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE messages")
        problem_of(await call(client, inbound()), 503)
    [(verdict, reason)] = rows_of(database_url, "SELECT verdict, reason FROM webhook_calls")
    assert verdict == "not_understood"
    assert "could not be stored" in reason


@pytest.mark.slow
async def test_a_provider_does_not_wait_twice_where_its_call_can_not_be_stored(
    serve: Serve, settings: Settings, vendor: SigningProvider, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"public_url": PUBLIC_URL, "database_lock_timeout_seconds": 1}))
    slow = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(120); RETURN NEW; END'"
    execute(database_url, slow, "CREATE TRIGGER wait BEFORE UPDATE ON webhook_calls EXECUTE FUNCTION wait()")
    try:
        with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE messages")
            async with asyncio.timeout(50):  # less than a statement may take
                problem_of(await call(client, inbound()), 503)
    finally:
        execute(database_url, "DROP TRIGGER wait ON webhook_calls", "DROP FUNCTION wait")


@pytest.mark.parametrize(("public_url", "told"), [(f"{PUBLIC_URL}/", PUBLIC_URL + PATH), (None, None)])
async def test_a_provider_is_told_where_to_send_receipts(
    serve: Serve, settings: Settings, vendor: SigningProvider, public_url: str | None, told: str | None
) -> None:
    client = await serve(settings.model_copy(update={"public_url": public_url, "routes": {"sms": ["signing"]}}))
    assert (await client.post("/api/messages/sms", json=sms(), headers={"Prefer": "wait=10"})).status_code == 200
    assert [message.callback_url for message in vendor.handed_over] == [told]


class TestQuarantine:
    @pytest.fixture
    async def client(self, serve: Serve, settings: Settings, vendor: SigningProvider) -> httpx.AsyncClient:
        return await serve(
            settings.model_copy(update={"public_url": PUBLIC_URL, "quarantine_refused": True, "quarantine_most": 3})
        )

    async def test_refused_calls_are_kept_up_to_a_number(self, client: httpx.AsyncClient, database_url: str) -> None:
        for number in range(5):
            problem_of(await call(client, inbound(number), key="other"), 401)
        kept = rows_of(database_url, "SELECT id, verdict, reason, seen, expected FROM webhook_calls ORDER BY id")
        assert [row[0] for row in kept] == [3, 4, 5]
        assert {row[1:3] for row in kept} == {("refused", "The signature is another one.")}
        assert all(len(seen) == len(expected) == 15 and seen != expected for *_, seen, expected in kept)
        assert bodies(database_url) == []

    async def test_large_ones_are_kept_and_so_many_bytes_a_minute(
        self, client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.services.callbacks.callback_store.time.monotonic", lambda: 600.0)
        sizes = "SELECT length(body) > 2000000 FROM webhook_calls ORDER BY id"
        for number in range(2):
            problem_of(await call(client, inbound(number, body="x" * 2_500_000), key="other"), 401)
        assert rows_of(database_url, sizes) == [(True,), (True,)]
        monkeypatch.setattr("app.services.callbacks.callback_store._BYTES_A_MINUTE", 6_000_000)
        problem_of(await call(client, inbound(2, body="x" * 2_500_000), key="other"), 401)
        problem_of(await call(client, inbound(3), key="other"), 401)
        assert rows_of(database_url, sizes) == [(True,), (True,), (False,)]

    async def test_together_they_have_so_many_bytes(
        self, client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.services.callbacks.callback_store._MOST_BYTES", 5_500_000)
        for number in range(3):
            problem_of(await call(client, inbound(number, body="x" * 2_500_000), key="other"), 401)
        assert rows_of(database_url, "SELECT id FROM webhook_calls ORDER BY id") == [(2,), (3,)]

    async def test_what_could_not_be_judged_is_kept_too(
        self, client: httpx.AsyncClient, vendor: SigningProvider, database_url: str
    ) -> None:
        vendor.key = None
        problem_of(await call(client, inbound(1)), 503)
        [(_, verdict, _, reason)] = rows_of(database_url, CALLS)
        assert (verdict, reason) == ("refused", "SIGNING_SECRET is not set.")
        vendor.key = "first"
        replayed = await client.post("/api/admin/webhook-calls/1/1/replay")
        assert replayed.json()["verdict"] == "taken"
        assert bodies(database_url) == ["Hello 1"]

    async def test_a_flood_of_them_is_not(
        self, client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.services.callbacks.callback_store._REFUSED_A_MINUTE", 2)
        monkeypatch.setattr("app.services.callbacks.callback_store.time.monotonic", lambda: 600.0)
        for number in range(5):
            problem_of(await call(client, inbound(number), key="other"), 401)
        assert len(rows_of(database_url, CALLS)) == 2
