"""Managing webhook endpoints: what is taken, what is refused with a sentence, and what is never shown again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from app.services.events.cursors import Position, cursor_at
from tests.cases import each_case
from tests.factories import sms_webhook
from tests.tenancy import bearer, make_key, make_tenant, production
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

_PATH = "/api/webhook-endpoints"
_URL = "https://shop.example/hook"
Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def client(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """Without a worker: nothing is sent."""
    return await serve(settings.model_copy(update={"worker_enabled": False}))


async def _made(client: httpx.AsyncClient, **values: object) -> dict[str, Any]:
    answer = await client.post(_PATH, json={"url": _URL} | values)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_an_endpoint_is_made_shown_changed_and_deleted(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/api/webhooks/sms", json=sms_webhook())
    values = {
        "types": ["message.received"],
        "conversation_id": 1,
        "description": "Orders",
        "suppress_automatic": True,
        "headers": {"Authorization": "Bearer hush-hush", "X-B": ""},
    }
    made = await _made(client, **values)
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made["header_names"] == ["Authorization", "X-B"]
    assert made == made | {name: value for name, value in values.items() if name != "headers"}
    assert (made["signature"], made["public_key"], made["enabled"]) == ("hmac", None, True)
    shown = await client.get(f"{_PATH}/{made['id']}")
    listed = await client.get(_PATH)
    assert shown.json() == made
    assert listed.json() == [made]
    assert "hush" not in shown.text + listed.text
    assert secret not in shown.text + listed.text

    change = {
        "types": None,
        "conversation_id": None,
        "description": None,
        "url": _URL + "/2",
        "headers": {"X-C": "1"},
    }
    changed = (await client.patch(f"{_PATH}/{made['id']}", json=change)).json()
    expected = {name: value for name, value in change.items() if name != "headers"} | {"header_names": ["X-C"]}
    assert changed == made | expected
    assert (await client.delete(f"{_PATH}/{made['id']}")).json() == changed
    problem_of(await client.get(f"{_PATH}/{made['id']}"), 404)
    assert (await client.get(_PATH)).json() == []
    kinds = rows_of(database_url, "SELECT kind FROM audit_events ORDER BY id")
    assert [kind for (kind,) in kinds] == [f"webhook_endpoint_{what}" for what in ("created", "changed", "deleted")]


async def test_with_ed25519_only_the_public_key_is_shown(client: httpx.AsyncClient) -> None:
    made = await _made(client, signature="ed25519")
    assert made["secret"] is None
    assert made["public_key"].startswith("whpk_")
    rotated = (await client.post(f"{_PATH}/{made['id']}/rotate")).json()
    assert rotated["secret"] is None
    assert rotated["public_key"] != made["public_key"]
    assert rotated["previous_secret_until"] is not None


async def test_the_list_is_paged(client: httpx.AsyncClient) -> None:
    made = [(await _made(client))["id"] for _ in range(3)]
    first = await client.get(_PATH, params={"limit": 2})
    second = await client.get(first.links["next"]["url"])
    assert [each["id"] for each in first.json() + second.json()] == made


_MANY = {f"X-{number}": "v" for number in range(21)}


@each_case(
    ("values", "location"),
    [
        ({"url": None}, "body.url"),
        ({"url": 5}, "body.url"),
        ({"url": "javascript:alert(1)"}, "body.url"),
        ({"url": "https://user:password@shop.example/"}, "body.url"),
        ({"url": "https://shop.example/#x"}, "body.url"),
        ({"url": "http://10.0.0.1/"}, "body.url"),
        ({"url": "https://shop.example/ x"}, "body.url"),
        ({"url": "https://shop.example/\r\nX: y"}, "body.url"),
        ({"url": "https://shop.example/" + "x" * 2000}, "body.url"),
        ({"types": []}, "body.types"),
        ({"types": ["message.*"]}, "body.types.0"),
        ({"types": "message.received"}, "body.types"),
        ({"types": ["message.received"] * 101}, "body.types"),
        ({"conversation_id": 99}, "body.conversation_id"),
        ({"conversation_id": "1"}, "body.conversation_id"),
        ({"conversation_id": 0}, "body.conversation_id"),
        ({"description": "x" * 501}, "body.description"),
        ({"description": "two\nlines"}, "body.description"),
        ({"suppress_automatic": "true"}, "body.suppress_automatic"),
        ({"signature": "rsa"}, "body.signature"),
        ({"headers": None}, "body.headers"),
        ({"headers": _MANY}, "body.headers"),
        ({"headers": {"X-A": 1}}, "body.headers.X-A"),
        ({"headers": {"X-A": "a\r\nHost: b"}}, "body.headers"),
        ({"headers": {"X-A": "a\x00"}}, "body.headers"),
        ({"headers": {"X-A": " a"}}, "body.headers"),
        ({"headers": {"X-A": "ä"}}, "body.headers"),
        ({"headers": {"X-A": "x" * 2001}}, "body.headers"),
        ({"headers": {"": "a"}}, "body.headers"),
        ({"headers": {"X A": "a"}}, "body.headers"),
        ({"headers": {"X:A": "a"}}, "body.headers"),
        ({"headers": {"X-Ä": "a"}}, "body.headers"),
        ({"headers": {"X-A": "a", "x-a": "b"}}, "body.headers"),
        ({"headers": {"Host": "a"}}, "body.headers"),
        ({"headers": {"content-type": "a"}}, "body.headers"),
        ({"headers": {"Content-Length": "0"}}, "body.headers"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "body.headers"),
        ({"headers": {"Connection": "close"}}, "body.headers"),
        ({"headers": {"TE": "trailers"}}, "body.headers"),
        ({"headers": {"Proxy-Authorization": "a"}}, "body.headers"),
        ({"headers": {"Upgrade": "h2c"}}, "body.headers"),
        ({"headers": {"User-Agent": "a"}}, "body.headers"),
        ({"headers": {"Webhook-Signature": "v1,x"}}, "body.headers"),
        ({"headers": {"webhook-id": "x"}}, "body.headers"),
    ],
)
async def test_bad_input_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, database_url: str, values: dict[str, Any], location: str
) -> None:
    answer = await client.post(_PATH, json={"url": _URL} | values)
    assert locations_of(answer) == [location]
    assert rows_of(database_url, "SELECT count(*) FROM webhook_endpoints") == [(0,)]


@each_case(
    "values",
    [
        {},
        {"url": None},
        {"headers": None},
        {"enabled": None},
        {"enabled": 1},
        {"suppress_automatic": None},
        {"url": "http://10.0.0.1/"},
        {"conversation_id": 99},
        {"types": ["nothing"]},
        {"headers": {"Host": "a"}},
    ],
)
async def test_a_bad_change_changes_nothing(client: httpx.AsyncClient, values: dict[str, Any]) -> None:
    made = await _made(client)
    made.pop("secret")
    problem_of(await client.patch(f"{_PATH}/{made['id']}", json=values), 422)
    assert (await client.get(f"{_PATH}/{made['id']}")).json() == made


async def test_a_tenant_has_so_many_endpoints_at_most(serve: Serve, settings: Settings, database_url: str) -> None:
    client = await serve(settings.model_copy(update={"worker_enabled": False, "max_webhook_endpoints": 3}))
    answers = await asyncio.gather(*(client.post(_PATH, json={"url": _URL}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [409] * 5
    assert rows_of(database_url, "SELECT count(*) FROM webhook_endpoints") == [(3,)]
    problem = problem_of(next(answer for answer in answers if answer.status_code == 409), 409)
    assert problem["detail"] == "There are 3 endpoints already. Delete one that you don't need."
    await client.delete(f"{_PATH}/1")
    await _made(client)


async def test_cursors_and_ids_of_another_log_are_refused(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/api/webhooks/sms", json=sms_webhook())
    made = await _made(client)
    other = make_tenant(database_url)
    event = (await client.get("/api/events?wait=60")).json()["events"][0]["id"]
    for action, name in (("replay", "after"), ("redeliver", "event_id")):
        path = f"{_PATH}/{made['id']}/{action}"
        for wrong in (cursor_at(other, Position(1, 1, 1)), "evt_AAAA", event + "x", ""):
            assert locations_of(await client.post(path, json={name: wrong})) == [f"body.{name}"]
        problem_of(await client.post(f"{_PATH}/99/{action}", json={name: event}), 404)
    future = cursor_at(1, Position(2**62, 1, 1))
    assert locations_of(await client.post(f"{_PATH}/{made['id']}/replay", json={"after": future})) == ["body.after"]
    problem_of(await client.post(f"{_PATH}/{made['id']}/redeliver", json={"event_id": future}), 404)
    assert (await client.get(f"{_PATH}/{made['id']}/attempts")).json() == []


async def test_each_tenant_has_its_own_and_needs_the_scope(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings, worker_enabled=False))
    acme = make_tenant(database_url)
    reading, managing = (
        bearer(make_key(database_url, acme, scopes=(scope,))) for scope in (KeyScope.READ, KeyScope.ADMIN)
    )
    first = bearer(make_key(database_url))
    made = await client.post(_PATH, json={"url": _URL}, headers=managing)
    assert made.status_code == 200
    path = f"{_PATH}/{made.json()['id']}"
    assert len((await client.get(_PATH, headers=reading)).json()) == 1
    problem_of(await client.post(_PATH, json={"url": _URL}, headers=reading), 403)
    problem_of(await client.delete(path, headers=reading), 403)
    assert (await client.get(_PATH, headers=first)).json() == []
    for asked in (
        client.get(path, headers=first),
        client.patch(path, json={"enabled": False}, headers=first),
        client.post(path + "/rotate", headers=first),
        client.post(path + "/test", headers=first),
        client.delete(path, headers=first),
    ):
        problem_of(await asked, 404)
