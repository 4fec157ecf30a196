"""The calls of providers that are kept: listed, shown, verified and taken again, by HTTP and by command line."""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.__main__ import main
from app.config import Settings
from app.installation import KeyScope
from app.providers.base import Unread
from app.providers.registry import provider_registry
from app.providers.toolbox.verification import hash_of
from tests.signing import PATH, PUBLIC_URL, SigningProvider, call, inbound, items_of
from tests.tenancy import bearer, give_address, make_key, make_tenant, production
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
KEPT = "/api/admin/webhook-calls"


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> SigningProvider:
    provider = SigningProvider()
    monkeypatch.setitem(provider_registry, "signing", provider)
    return provider


@pytest.fixture
async def client(serve: Serve, settings: Settings, vendor: SigningProvider) -> httpx.AsyncClient:
    return await serve(settings.model_copy(update={"public_url": PUBLIC_URL, "quarantine_refused": True}))


async def listed(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"{KEPT}{query}")
    assert answer.status_code == 200, answer.text
    calls: list[dict[str, Any]] = answer.json()
    return calls


async def asked(client: httpx.AsyncClient, id_: int, what: str = "", tenant_id: int = 1) -> dict[str, Any]:
    path = f"{KEPT}/{tenant_id}/{id_}{what}"
    answer = await (client.post(path) if what else client.get(path))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def bodies(url: str) -> list[str]:
    return [body for (body,) in rows_of(url, "SELECT body FROM messages ORDER BY id")]


async def test_calls_are_listed_by_what_became_of_them(client: httpx.AsyncClient, database_url: str) -> None:
    await call(client, inbound(1))
    await call(client, b"?")
    await call(client, inbound(2), key="other")
    everything = await listed(client)
    assert [(one["id"], one["verdict"]) for one in everything] == [
        (3, "refused"),
        (2, "not_understood"),
        (1, "taken"),
    ]
    assert {one["provider"] for one in everything} == {"signing"}
    assert "body" not in everything[0]
    for query, ids in {
        "?verdict=taken": [1],
        "?verdict=refused": [3],
        "?verdict=not_understood": [2],
        "?provider=signing": [3, 2, 1],
        "?provider=twilio": [],
        f"?since={(datetime.now(UTC) - timedelta(minutes=1)).isoformat().replace('+', '%2B')}": [3, 2, 1],
        "?until=2024-01-01T00:00:00Z": [],
    }.items():
        assert [one["id"] for one in await listed(client, query)] == ids, query
    first = await client.get(f"{KEPT}?limit=2")
    following = await client.get(first.links["next"]["url"].removeprefix(PUBLIC_URL))
    assert [one["id"] for one in first.json() + following.json()] == [3, 2, 1]
    assert locations_of(await client.get(f"{KEPT}?verdict=lost")) == ["query.verdict"]


async def test_a_call_is_shown_as_it_came_without_what_lets_somebody_in(client: httpx.AsyncClient) -> None:
    await call(client, inbound(1), query="?x=1")
    await call(client, b"\xff\x00")
    await call(client, inbound(2), query="?to%6ben=marker&a=b&X-Api-Key=marker&c")
    shown = await asked(client, 1)
    assert (shown["method"], shown["url"], shown["encoding"]) == ("POST", f"{PUBLIC_URL}{PATH}?x=1", "text")
    assert '"Hello 1"' in shown["body"]
    assert dict(shown["headers"])["authorization"] == f"Basic {hash_of('secret')}"
    shown = await asked(client, 2)
    assert (base64.b64decode(shown["body"]), shown["encoding"]) == (b"\xff\x00", "base64")
    shown, marker = await asked(client, 3), hash_of("marker")
    assert shown["url"].endswith(f"?to%6ben={marker}&a=b&X-Api-Key={marker}&c")
    for method, path in (("GET", "1/9"), ("GET", "2/1"), ("POST", "1/9/verify"), ("POST", "1/9/replay")):
        problem_of(await client.request(method, f"{KEPT}/{path}"), 404)


async def test_a_call_is_verified_by_todays_settings_and_the_time_at_which_it_came(
    client: httpx.AsyncClient, vendor: SigningProvider, database_url: str
) -> None:
    await call(client, inbound(1))
    await call(client, inbound(2), key="second")
    an_hour_ago = "UPDATE webhook_calls SET received_at = now() - interval '1 hour'"
    assert (await asked(client, 1, "/verify"))["genuine"]
    found = await asked(client, 2, "/verify")
    assert (found["genuine"], found["reason"].split(".")[0]) == (False, "The signature is another one")
    assert len(found["expected"]) <= 15
    vendor.key = "second"
    assert not (await asked(client, 1, "/verify"))["genuine"]
    assert (await asked(client, 2, "/verify"))["genuine"]
    vendor.key = None
    assert "SIGNING_SECRET" in (await asked(client, 1, "/verify"))["reason"]
    vendor.key = "second"
    rows_of(database_url, f"{an_hour_ago} WHERE id = 2 RETURNING id")
    assert (await asked(client, 2, "/verify"))["reason"].startswith("The signature is out of date.")
    assert [one["verdict"] for one in await listed(client)] == ["refused", "taken"]
    assert bodies(database_url) == ["Hello 1"]


async def test_a_refused_call_is_taken_once_its_secret_is_set_right_and_once_only(
    client: httpx.AsyncClient, vendor: SigningProvider, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem_of(await call(client, [inbound(1), inbound(2)], key="second"), 401)
    assert (await asked(client, 1, "/replay"))["verdict"] == "refused"
    assert bodies(database_url) == []
    vendor.key = "second"
    for _ in range(2):
        found = await asked(client, 1, "/replay")
        assert (found["verdict"], found["events"], found["reason"]) == ("taken", 2, None)
    await asyncio.gather(*(asked(client, 1, "/replay") for _ in range(10)))
    assert bodies(database_url) == ["Hello 1", "Hello 2"]
    [shown] = await listed(client)
    assert (shown["verdict"], shown["events"], shown["seen"], shown["expected"]) == ("taken", 2, None, None)
    assert shown["replayed_at"] is not None
    audited = rows_of(database_url, "SELECT detail FROM audit_events WHERE kind = 'replay' ORDER BY id")
    assert len(audited) == 13
    assert audited[0] == ({"call_id": 1, "provider": "signing", "verdict": "refused"},)
    vendor.key = "third"  # it was found genuine, and needs to be so no more
    assert (await asked(client, 1, "/replay"))["verdict"] == "taken"


async def test_what_was_not_understood_is_taken_once_it_can_be_read(
    client: httpx.AsyncClient, vendor: SigningProvider, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(vendor, "parse", lambda callback: 1 / 0)
        await call(client, inbound(1))
    rows_of(database_url, "UPDATE webhook_calls SET received_at = now() - interval '6 days' RETURNING id")
    assert (await asked(client, 1))["reason"] == "ZeroDivisionError: division by zero"
    assert (await asked(client, 1, "/replay"))["verdict"] == "taken"
    assert bodies(database_url) == ["Hello 1"]
    assert rows_of(database_url, "SELECT addresses FROM webhook_calls") == [(["+12016661234", "+18045551234"],)]


async def test_the_part_of_a_call_that_could_not_be_read_is_listed_and_taken_once_it_can(
    client: httpx.AsyncClient, vendor: SigningProvider, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(vendor, "parse", lambda callback: [items_of(callback)[0], Unread("it says nothing")])
        await call(client, [inbound(1), inbound(2)])
    assert bodies(database_url) == ["Hello 1"]
    [found] = await listed(client, "?verdict=not_understood")
    assert (found["events"], found["reason"]) == (1, "Event 2: it says nothing.")
    assert (await asked(client, found["id"], "/replay"))["verdict"] == "taken"
    assert bodies(database_url) == ["Hello 1", "Hello 2"]
    assert await listed(client, "?verdict=not_understood") == []


async def test_who_wrote_what_could_not_be_read_is_erased_with_it(
    client: httpx.AsyncClient, database_url: str
) -> None:
    """The callback's other events are about another contact."""
    await call(client, inbound(1))
    unread = inbound(2, body="a secret of theirs") | {"unread": True}
    await call(client, [inbound(3, from_="+18045559999"), unread])
    [contact] = (await client.get("/api/contacts?address=%2B18045551234")).json()
    assert (await client.delete(f"/api/contacts/{contact['id']}")).json()["webhook_calls"] == 2
    assert await listed(client) == []
    assert rows_of(database_url, "SELECT raw FROM provider_events") == []


async def test_a_handshake_that_was_refused_is_answered_when_it_is_taken_again(
    client: httpx.AsyncClient, vendor: SigningProvider
) -> None:
    problem_of(await call(client, b"", method="GET", query="?challenge=1&word=ours", key="second"), 401)
    vendor.key = "second"
    assert await asked(client, 1, "/replay") == {
        "verdict": "taken",
        "reason": None,
        "seen": None,
        "expected": None,
        "events": 0,
    }


async def test_a_call_of_a_provider_that_is_gone_is_shown_and_not_taken(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call(client, inbound(1))
    monkeypatch.delitem(provider_registry, "signing")
    assert (await asked(client, 1))["provider"] == "signing"
    problem_of(await client.post(f"{KEPT}/1/1/replay"), 404)


async def test_only_who_manages_the_installation_sees_calls(
    serve: Serve, settings: Settings, vendor: SigningProvider, database_url: str
) -> None:
    client = await serve(production(settings, public_url=PUBLIC_URL))
    assert (await call(client, inbound(1))).status_code == 200
    for scopes, status in (((KeyScope.READ, KeyScope.SEND), 403), ((KeyScope.ADMIN,), 200)):
        key = bearer(make_key(database_url, scopes=scopes))
        for method, path in (("GET", ""), ("GET", "/1/1"), ("POST", "/1/1/verify"), ("POST", "/1/1/replay")):
            assert (await client.request(method, KEPT + path, headers=key)).status_code == status


async def test_who_is_erased_is_in_no_call_any_more(client: httpx.AsyncClient, database_url: str) -> None:
    await call(client, inbound(1))
    await call(client, {"id": "r-1", "status": "sent", "of": "x", "to": "8045551234"})
    await call(client, b"From=%2B18045551234&Body=Hi")
    await call(client, b"{}", query="?to=%2B18045551234")
    await call(client, b"+1804555123")
    await call(client, inbound(2, from_="+18045559999"))
    [contact] = (await client.get("/api/contacts?address=%2B18045551234")).json()
    assert (await client.get(f"/api/contacts/{contact['id']}/export")).json()["webhook_calls"] == 4
    assert (await client.delete(f"/api/contacts/{contact['id']}")).json()["webhook_calls"] == 4
    assert [one["id"] for one in await listed(client)] == [6, 5]


@pytest.mark.parametrize(
    ("address", "content"),
    [
        ("jane.doe@example.com", b"from=Jane.DOE%40Example.com"),
        ("Jane.Doe@example.com", b'\x00\xff{"from": "JANE.DOE@example.com"}'),
        ("+5541988887777", b"From=554188887777"),
        ("+525512345678", b"From=%2B5215512345678"),
    ],
)
async def test_an_erased_person_is_found_in_any_spelling(
    client: httpx.AsyncClient, database_url: str, address: str, content: bytes
) -> None:
    is_mail = "@" in address
    ends = {"channel": "email", "to": "us@shop.example"} if is_mail else {}
    await call(client, inbound(1, from_=address, **ends))
    await call(client, content)
    [contact] = (await client.get("/api/contacts", params={"address": address})).json()
    assert (await client.delete(f"/api/contacts/{contact['id']}")).json()["webhook_calls"] == 2
    assert await listed(client) == []


async def test_of_another_tenant_only_what_is_nobodys_is_erased(
    client: httpx.AsyncClient, database_url: str, settings: Settings
) -> None:
    acme, bolt = make_tenant(database_url, "Acme"), make_tenant(database_url, "Bolt")
    give_address(database_url, acme, "+12025550101")
    give_address(database_url, bolt, "+12025550102")
    await call(client, inbound(1, to="+12025550101"))
    await call(client, inbound(2, to="+12025550102"))
    await call(client, [inbound(3, to="+12025550101"), inbound(4, to="+12025550102")])
    as_acme = bearer(make_key(database_url, acme))
    [contact] = (await client.get("/api/contacts?address=%2B18045551234", headers=as_acme)).json()
    export = await client.get(f"/api/contacts/{contact['id']}/export", headers=as_acme)
    assert export.json()["webhook_calls"] == 1
    erased = await client.delete(f"/api/contacts/{contact['id']}", headers=as_acme)
    assert erased.json()["webhook_calls"] == 1
    assert [(one["tenant_id"], one["id"]) for one in await listed(client)] == [(bolt, 2)]


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _on_the_test_database(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("DATABASE_URL", database_url)
        handlers = logging.getLogger().handlers[:]
        yield
        logging.getLogger().handlers[:] = handlers

    @pytest.fixture
    async def said(
        self, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., Awaitable[tuple[int, list[str]]]]:
        async def say(*words: str) -> tuple[int, list[str]]:
            status = await asyncio.to_thread(main, ["webhooks", *words])
            captured = capsys.readouterr()
            return status, (captured.out or captured.err).splitlines()

        return say

    async def test_calls_are_listed_shown_and_taken_again(
        self,
        client: httpx.AsyncClient,
        said: Callable[..., Awaitable[tuple[int, list[str]]]],
        vendor: SigningProvider,
        database_url: str,
    ) -> None:
        await call(client, inbound(1))
        await call(client, inbound(2, body="\x1b[31mred"), key="second")
        await call(client, inbound(3), key="third")
        status, lines = await said("list", "--verdict", "refused", "--since", "2024-01-01")
        assert (status, [line.split()[0] for line in lines]) == (0, ["ID", "3", "2"])
        status, lines = await said("show", "2")
        assert status == 0
        assert f"POST {PUBLIC_URL}{PATH}" in lines
        assert f"authorization: Basic {hash_of('secret')}" in lines
        assert "\x1b" not in "".join(lines)
        vendor.key = "second"
        status, lines = await said("verify", "2", "3")
        assert status == 1
        assert lines[-1] == "1 genuine, 1 refused"
        assert bodies(database_url) == ["Hello 1"]
        status, lines = await said("replay", "--all", "--provider", "signing", "--verdict", "refused")
        assert (status, lines[-1]) == (1, "1 refused, 1 taken")
        assert (await said("replay", "2"))[0] == 0
        assert bodies(database_url) == ["Hello 1", "\x1b[31mred"]
        assert rows_of(database_url, "SELECT DISTINCT actor FROM audit_events WHERE kind = 'replay'") == [
            ("command line",)
        ]

    @pytest.mark.parametrize("words", [("replay",), ("replay", "1", "--all"), ("replay", "99"), ("show", "99")])
    async def test_what_cannot_be_done_ends_with_2_and_a_sentence(
        self, said: Callable[..., Awaitable[tuple[int, list[str]]]], words: tuple[str, ...]
    ) -> None:
        status, [*_, sentence] = await said(*words)
        assert status == 2
        assert sentence.endswith(".")
