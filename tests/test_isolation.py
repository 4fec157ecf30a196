"""Tenants from outside: on no route can one see, infer or change the data of another."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI, HTTPException, Request
from sqlalchemy import func, select, update

from app.config import Settings
from app.db.models import Message
from app.domain import MessageStatus
from app.http.access import NEEDS
from app.installation import KeyScope
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult, Receipt
from app.providers.registry import provider_registry
from app.providers.simulator import SimulatorProvider
from app.references import reference_of
from tests.conftest import started
from tests.factories import WEBHOOKS, sms, until
from tests.providers import simulator_settings
from tests.residents import SHARED_CONTACT, Asked, Resident, texts_of
from tests.tenancy import make_tenant
from tests.walk import (
    CHANNEL,
    MADE,
    Served,
    api_routes,
    gather_cursors,
    is_of_the_installation,
    leaks,
    needs_admin,
    parameters_of,
    said,
    steps,
    tenants_routes,
    views,
)
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

READ = KeyScope.READ


@dataclass(slots=True)
class Installation:
    """An application without a worker, and three tenants that have nothing yet but addresses and keys."""

    app: FastAPI
    first: Resident
    kestrel: Resident
    osprey: Resident

    @property
    def routes(self) -> list[Served]:
        """Those that are about the tenant who asks; those that remove something come last."""
        return sorted(tenants_routes(self.app), key=lambda served: served[1] == "DELETE")

    async def furnish(self, *residents: Resident) -> None:
        for resident in residents or (self.kestrel, self.osprey):
            await resident.furnish()
            await gather_cursors(self.app, resident)


class Whatsapp(BaseProvider):
    channels: ClassVar = {CHANNEL: "phone"}

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult()


@pytest.fixture
async def installation(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Installation]:
    monkeypatch.setitem(provider_registry, CHANNEL, Whatsapp())
    quiet = settings.model_copy(
        update={"worker_enabled": False, "rate_limit_per_second": 0, "auth_failures_per_minute": 0}
    )
    kestrel, osprey = (make_tenant(database_url, name) for name in ("Kestrel", "Osprey"))
    async with AsyncExitStack() as stack:
        app = await started(stack, quiet)
        yield Installation(
            app,
            Resident(app, database_url, 1, word="heron", number="+12025550100"),
            Resident(app, database_url, kestrel, word="kestrel", number="+12025550200"),
            Resident(app, database_url, osprey, word="osprey", number="+12025550300"),
        )


@pytest.mark.slow
async def test_nothing_of_one_tenant_reaches_another_on_any_route(installation: Installation) -> None:
    await installation.furnish(installation.first, installation.kestrel, installation.osprey)
    asking = installation.osprey
    for having in (installation.kestrel, installation.first):
        assert await leaks(installation.routes, asking, having) == []
        assert having.rows() == having.things


@pytest.mark.slow
async def test_tenant_1_is_shown_no_more_than_others(installation: Installation) -> None:
    await installation.furnish(installation.first, installation.kestrel)
    assert await leaks(installation.routes, installation.first, installation.kestrel) == []
    assert installation.kestrel.rows() == installation.kestrel.things


@pytest.mark.slow
async def test_what_one_tenant_has_changes_nothing_of_what_another_sees(installation: Installation) -> None:
    app, osprey = installation.app, installation.osprey
    await osprey.furnish()
    await gather_cursors(app, osprey)
    before = await views(installation.routes, osprey)
    await installation.kestrel.furnish()
    await installation.first.furnish()
    assert await views(installation.routes, osprey) == before


#: Pages that only answer to what a person has written in a form or uploads, or to an installation that is empty.
TAKE_FORMS = {"/inbox/preview", "/inbox/files", "/inbox/demo", "/inbox/demo/remove"}


@pytest.mark.slow
async def test_what_the_walk_asks_for_is_there_for_whom_it_belongs_to(installation: Installation) -> None:
    """A walk with ids that do not exist would find nothing wrong."""
    await installation.furnish()
    kestrel = installation.kestrel
    asked = 0
    for route, method in installation.routes:
        scope = NEEDS[route.path][method]
        assert scope is not None
        if route.path in TAKE_FORMS:
            continue
        for step in steps(route, method, kestrel, kestrel):
            answer = await kestrel.ask(scope, step.theirs)
            asked += 1
            if step.never is None:
                assert answer.status_code < 400, f"{step}: {answer.text}"
            else:
                assert said(answer) != said(await kestrel.ask(scope, step.never)), str(step)
    print(f"{asked} requests for what is theirs, {len(installation.routes)} routes")
    assert asked > 200
    assert kestrel.marks(installation.osprey) > {"kestrel text", "+12025550200", "kestrel-key-1", "kestrel raw"}
    assert all(kestrel.cursors.values())


def existing(message_id: int) -> Any:
    return (
        select(Message.body)
        .where(Message.id == message_id)
        .execution_options(all_tenants="this route leaks on purpose")
    )


async def shows(message_id: int, request: Request) -> list[str]:
    async with request.app.state.services.sessions() as session:
        return [*await session.scalars(existing(message_id))]


async def tells(message_id: int, request: Request) -> None:
    async with request.app.state.services.sessions() as session:
        raise HTTPException(404 if (await session.scalars(existing(message_id))).first() is None else 403)


async def changes(message_id: int, request: Request) -> None:
    statement = update(Message).where(Message.id == message_id).values(status_reason="changed")
    async with request.app.state.services.sessions.begin() as session:
        await session.execute(statement, execution_options={"all_tenants": "this route leaks on purpose"})


async def counts(request: Request) -> int:
    statement = select(func.count(Message.id)).execution_options(all_tenants="this route leaks on purpose")
    async with request.app.state.services.sessions() as session:
        return int((await session.execute(statement)).scalar_one())


@pytest.fixture
def leaking(installation: Installation) -> Callable[..., list[Served]]:
    """Adds a route to the application, and gives it as one to walk."""

    def add(path: str, endpoint: Callable[..., Awaitable[Any]], method: str = "GET") -> list[Served]:
        installation.app.add_api_route(path, endpoint, methods=[method])
        return [(route, method) for route, method in installation.routes if route.path == path]

    return add


@pytest.mark.slow
@pytest.mark.parametrize("leak", [shows, tells])
async def test_a_route_that_shows_or_tells_of_another_tenants_message_is_caught(
    installation: Installation, leaking: Callable[..., list[Served]], leak: Callable[..., Awaitable[Any]]
) -> None:
    routes = leaking("/api/leaky/{message_id}", leak)
    await installation.furnish()
    found = await leaks(routes, installation.osprey, installation.kestrel)
    assert len(found) >= len(installation.kestrel.things["messages"])


@pytest.mark.slow
async def test_a_route_that_changes_another_tenants_message_is_caught(
    installation: Installation, leaking: Callable[..., list[Served]]
) -> None:
    routes = leaking("/api/leaky/{message_id}", changes, "POST")
    await installation.furnish()
    assert await leaks(routes, installation.osprey, installation.kestrel) == []
    assert installation.kestrel.rows() != installation.kestrel.things


async def test_a_route_that_counts_what_all_tenants_have_is_caught(
    installation: Installation, leaking: Callable[..., list[Served]]
) -> None:
    routes = leaking("/api/leaky", counts)
    await installation.osprey.furnish()
    before = await views(routes, installation.osprey)
    await installation.kestrel.furnish()
    assert await views(routes, installation.osprey) != before


def test_a_route_that_takes_something_new_is_not_passed_over(settings: Settings) -> None:
    app = FastAPI()

    @app.get("/api/new/{invoice_id}")
    async def new(invoice_id: int) -> None: ...

    [(route, _)] = api_routes(app)
    with pytest.raises(AssertionError, match="invoice_id"):
        parameters_of(route)


async def test_a_key_may_do_what_its_scope_says_and_nothing_else(installation: Installation) -> None:
    for route, method in api_routes(installation.app):
        needs = NEEDS[route.path][method]
        if route.path.startswith("/inbox/static/"):
            continue  # files that are the same for all
        none = dict.fromkeys(("name", "provider", "channel", "token"), "none")
        path = route.path.format_map(dict.fromkeys(MADE, "999999999") | none)
        if path == "/login":
            continue  # it takes the key in its form
        for who, scope in product((installation.first, installation.osprey), KeyScope):
            answer = await who.ask(scope, Asked(method, path, body={} if method != "GET" else None))
            if needs not in {None, scope}:
                assert f"`{needs}`" in problem_of(answer, 403)["detail"]
            elif is_of_the_installation(route, method) and who is not installation.first:
                assert problem_of(answer, 403)["title"] == "Not the operator"
            else:
                assert answer.status_code not in {401, 403}, f"{method} {path} as {scope}: {answer.text}"


async def test_what_only_the_operator_may_do_is_this(installation: Installation) -> None:
    """A new route with the scope `admin` is either here, or walked like all that is a tenant's own."""
    managing = [(route, method) for route, method in api_routes(installation.app) if needs_admin(route, method)]
    theirs = {f"{method} {route.path}" for route, method in managing if not is_of_the_installation(route, method)}
    operators = {f"{method} {route.path}" for route, method in managing if is_of_the_installation(route, method)}
    endpoint = "/api/webhook-endpoints/{endpoint_id}"
    assert theirs == {
        "DELETE /api/contacts/{contact_id}",
        "POST /api/webhook-endpoints",
        f"PATCH {endpoint}",
        f"DELETE {endpoint}",
        *(f"POST {endpoint}/{action}" for action in ("rotate", "test", "redeliver", "replay")),
        "POST /api/suppressions/batch",
        "PUT /api/quiet-hours",
        "POST /api/suppressions/{suppression_id}/lift",
        "POST /api/providers/{name}/pause",
        "POST /api/providers/{name}/resume",
        "POST /inbox/demo",
        "POST /inbox/demo/remove",
    }
    assert {each for each in operators if " /api/admin/" not in each} == {"GET /metrics", "GET /status"}


async def test_whoever_manages_their_own_tenant_manages_no_other(installation: Installation) -> None:
    osprey = installation.osprey
    key = {"tenant_id": osprey.tenant_id, "name": "mine", "scopes": ["admin"]}
    for asked in (
        Asked("GET", "/api/admin/keys"),
        Asked("GET", "/api/admin/keys/"),
        Asked("POST", "/api/admin/keys", body=key),
        Asked("POST", "/api/admin/tenants", body={"name": "Mine"}),
        Asked("PATCH", f"/api/admin/tenants/{osprey.tenant_id}", body={"daily_caps": {}}),
        Asked("POST", "/api/providers/sms/resume", query={"of": "installation"}),
    ):
        problem_of(await osprey.ask(KeyScope.ADMIN, asked), 403)
    assert rows_of(osprey.url, "SELECT count(*) FROM api_keys WHERE name = 'mine'") == [(0,)]
    assert rows_of(osprey.url, "SELECT count(*) FROM tenants WHERE name = 'Mine'") == [(0,)]

    async def denied() -> list[Any]:
        return rows_of(osprey.url, "SELECT tenant_id FROM audit_events WHERE kind = 'tenant_denied'")

    await until(denied, lambda rows: rows == [(osprey.tenant_id,)] * 6)


@pytest.mark.parametrize("path", WEBHOOKS)
async def test_what_comes_in_is_its_recipients_whatever_the_sender_writes(
    installation: Installation, path: str
) -> None:
    kestrel, osprey = installation.kestrel, installation.osprey
    await installation.furnish()
    number, mail = kestrel.addresses
    name = "xillio_id" if path.endswith("email") else "messaging_provider_id"
    ospreys = osprey.number if path.endswith("sms") else osprey.mail
    claims = {
        "tenant_id": osprey.tenant_id,
        "tenant": "Osprey",
        "conversation_id": osprey.things["conversations"][0]["id"],
    }
    body = WEBHOOKS[path](from_=ospreys, to=number if path.endswith("sms") else mail, **claims)
    # An id that Osprey has had, of the same provider, doesn't make it a repeat.
    body |= {name: "osprey-in-1" if path.endswith("sms") else "osprey-in-2", "body": "for Kestrel"}
    headers = {"X-Tenant-Id": str(osprey.tenant_id), "Forwarded": "for=osprey", "Idempotency-Key": "osprey-key-0"}
    for scope in KeyScope:
        answer = await osprey.ask(scope, Asked("POST", path, headers=headers, query={"tenant_id": "3"}, body=body))
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    stored = rows_of(kestrel.url, "SELECT tenant_id FROM messages WHERE body = 'for Kestrel'")
    assert stored == [(kestrel.tenant_id,)]
    assert osprey.rows() == osprey.things


async def test_a_receipt_speaks_only_of_the_message_that_its_provider_was_handed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`simulator` has had none of these messages; what names them there is parked, and moves nothing."""
    await installation.furnish()
    monkeypatch.setitem(provider_registry, "simulator", SimulatorProvider(settings=simulator_settings()))
    kestrel, osprey = installation.kestrel, installation.osprey
    calls: list[dict[str, Any]] = []
    for having in (kestrel, osprey):
        for message in having.things["messages"]:
            created_at = datetime.fromisoformat(message["created_at"])
            reference = reference_of(having.tenant_id, message["id"], created_at)
            forged = reference_of(osprey.tenant_id, message["id"], created_at)
            for named in ({"reference": reference}, {"reference": forged}, {"id": message["provider_message_id"]}):
                event_id = f"forged-{len(calls)}"
                calls.append({"event": "receipt", "event_id": event_id, "status": "delivered"} | named)
    for key in KeyScope:
        answer = await osprey.ask(key, Asked("POST", "/api/webhooks/simulator", body=calls))
        assert answer.status_code == 200, answer.text
    parked = rows_of(kestrel.url, "SELECT tenant_id, message_id FROM provider_events WHERE event_id LIKE 'forged-%'")
    assert parked == [(1, None)] * len(calls)
    for having in (kestrel, osprey):
        assert having.rows() == having.things


async def test_a_receipt_that_mixes_two_tenants_moves_the_message_of_our_own_reference(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await installation.furnish()
    monkeypatch.setitem(provider_registry, "sms", SimulatorProvider(settings=simulator_settings()))
    kestrel, osprey = installation.kestrel, installation.osprey
    theirs, others = (
        next(row for row in who.things["messages"] if row["status"] == "sent") for who in (kestrel, osprey)
    )
    reference = reference_of(kestrel.tenant_id, theirs["id"], datetime.fromisoformat(theirs["created_at"]))
    call = {"event": "receipt", "event_id": "mixed", "status": "delivered"}
    call |= {"reference": reference, "id": others["provider_message_id"]}
    assert (await osprey.ask(READ, Asked("POST", "/api/webhooks/sms-x", body=call))).status_code == 404
    assert (await osprey.ask(READ, Asked("POST", "/api/webhooks/sms", body=call))).status_code == 422
    await installation.app.state.services.callback_items.accept(
        "sms", Receipt("mixed", MessageStatus.DELIVERED, others["provider_message_id"], reference)
    )
    assert osprey.rows() == osprey.things
    moved = rows_of(kestrel.url, f"SELECT status FROM messages WHERE id = {theirs['id']}")
    assert moved == [("delivered",)]


async def test_metadata_finds_only_what_is_the_tenants_own(installation: Installation) -> None:
    await installation.furnish()
    for asking, having in product((installation.kestrel, installation.osprey), repeat=2):
        for kind in ("messages", "conversations", "contacts"):
            query = {"metadata.owner": f"{having.word} owner"}
            found = await asking.ask(KeyScope.READ, Asked("GET", f"/api/{kind}", query=query))
            assert found.status_code == 200, found.text
            assert len(found.json()) == (1 if asking is having else 0), (kind, asking.word, having.word)


async def test_an_idempotency_key_is_its_tenants_own(installation: Installation) -> None:
    kestrel, osprey = installation.kestrel, installation.osprey
    await installation.furnish()
    headers = {"Idempotency-Key": "kestrel-key-0"}
    for body in ("kestrel text", "another"):
        asked = Asked(
            "POST",
            "/api/messages/sms",
            headers=headers | ({} if body == "kestrel text" else {"Idempotency-Key": "kestrel-key-1"}),
            body=sms(from_=osprey.number, to=SHARED_CONTACT, body=body, attachments=["https://kestrel.example/a"]),
        )
        first, again = [await osprey.ask(KeyScope.SEND, asked) for _ in range(2)]
        assert first.status_code == again.status_code == 200
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert first.json() == again.json()
        assert first.json()["message_id"] not in {str(row["id"]) for row in kestrel.things["messages"]}
    assert kestrel.rows() == kestrel.things


async def test_who_manages_the_installation_is_not_shown_what_tenants_write(installation: Installation) -> None:
    await installation.furnish()
    things = ("contacts", "conversations", "messages", "delivery_attempts", "provider_events")
    texts = {text for table in things for text in texts_of(installation.kestrel.things[table]) if "kestrel" in text}
    texts -= set(installation.kestrel.addresses)
    assert texts
    for route, method in api_routes(installation.app):
        if method == "GET" and route.path.startswith("/api/admin/"):
            # A callback is shown to the operator who asks for that one callback; there is none here.
            if "{call_id}" in route.path:
                continue
            path = route.path.format_map({"tenant_id": installation.kestrel.tenant_id})
            answer = await installation.first.ask(KeyScope.ADMIN, Asked(method, path))
            assert answer.status_code == 200, answer.text
            assert not {text for text in texts if text in answer.text}


async def test_only_what_is_called_here_is_open_to_everybody(installation: Installation) -> None:
    """The walk passes these over, because they ask for no key: each has its own tests above."""
    is_open = {
        f"{method} {route.path}"
        for route, method in api_routes(installation.app)
        if NEEDS[route.path][method] is None
    }
    assert is_open == {
        "POST /api/webhooks/sms",
        "POST /api/webhooks/email",
        "GET /api/webhooks/{provider}",
        "POST /api/webhooks/{provider}",
        "GET /healthz",
        "GET /readyz",
        "GET /openapi.json",
        "GET /docs",
        "GET /",
        "GET /login",
        "POST /login",
        "GET /login.css",
        "GET /status.css",
        "GET /u/{token}",
        "POST /u/{token}",
        "GET /inbox/static/{hash}/{path:path}",
    }
