"""Managing the installation over HTTP."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from tests.cases import each_case
from tests.conftest import client_of, execute
from tests.factories import sms
from tests.tenancy import bearer, make_key, production
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


async def created(client: httpx.AsyncClient, path: str, **body: object) -> dict[str, Any]:
    answer = await client.post(f"/api/admin/{path}", json=body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.fixture
async def admin(serve: Serve, settings: Settings, database_url: str) -> httpx.AsyncClient:
    """Shows a key of tenant 1, the operator's."""
    client = await serve(production(settings))
    client.headers.update(bearer(make_key(database_url, scopes=(KeyScope.ADMIN,))))
    return client


def without_key(client: httpx.AsyncClient) -> httpx.AsyncClient:
    return client_of(client._transport.app)  # type: ignore[attr-defined]


async def test_a_tenant_gets_a_key_and_an_address_and_sends(admin: httpx.AsyncClient) -> None:
    acme = await created(admin, "tenants", name="Acme")
    key = await created(admin, "keys", tenant_id=acme["id"], name="staging", scopes=["send"])
    await created(admin, f"tenants/{acme['id']}/addresses", address="(202) 555-0100")
    client = without_key(admin)
    client.headers.update(bearer(key["token"]))
    assert (await client.post("/api/messages/sms", json=sms(from_="+12025550100"))).status_code == 200
    problem_of(await client.get("/api/messages"), 403)


async def test_a_token_is_shown_once_and_kept_nowhere(admin: httpx.AsyncClient, database_url: str) -> None:
    key = await created(admin, "keys", tenant_id=1, name="x", scopes=["read"], expires_in_days=1)
    listed, _ = (await admin.get("/api/admin/keys?tenant_id=1")).json()
    assert listed == {name: value for name, value in key.items() if name != "token"}
    secret = key["token"][-43:]
    for table in ("api_keys", "audit_events"):
        assert secret not in str(rows_of(database_url, f"SELECT {table}::text FROM {table}"))


async def test_a_revoked_key_is_listed_as_such_and_revoking_it_again_changes_nothing(
    admin: httpx.AsyncClient, database_url: str
) -> None:
    key = await created(admin, "keys", tenant_id=1, name="x", scopes=["read"])
    for _ in range(2):
        assert (await admin.delete(f"/api/admin/keys/1/{key['id']}")).status_code == 200
    listed, _ = (await admin.get("/api/admin/keys?tenant_id=1")).json()
    assert listed["revoked_at"] is not None
    assert rows_of(database_url, "SELECT count(*) FROM audit_events WHERE kind = 'key_revoked'") == [(1,)]


@each_case(
    ("method", "path", "body", "status"),
    [
        ("POST", "tenants", {"name": "default"}, 409),
        ("POST", "tenants", {"name": "17"}, 422),
        ("POST", "tenants", {"name": "a\nb"}, 422),
        ("POST", "keys", {"tenant_id": 99, "name": "x", "scopes": ["read"]}, 404),
        ("POST", "keys", {"tenant_id": 2**63, "name": "x", "scopes": ["read"]}, 422),
        ("POST", "keys", {"tenant_id": 1, "name": "x", "scopes": ["root"]}, 422),
        ("POST", "keys", {"tenant_id": 1, "name": "x", "scopes": []}, 422),
        ("DELETE", "keys/1/99", None, 404),
        ("GET", "tenants/99/addresses", None, 404),
        ("POST", "tenants/99/addresses", {"address": "+12025550100"}, 404),
        ("DELETE", "tenants/1/addresses/99", None, 404),
    ],
)
async def test_what_cannot_be_done_is_said(
    admin: httpx.AsyncClient, method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    problem_of(await admin.request(method, f"/api/admin/{path}", json=body), status)


async def test_an_address_belongs_to_one_tenant_however_it_is_written(admin: httpx.AsyncClient) -> None:
    acme = await created(admin, "tenants", name="Acme")
    path = f"tenants/{acme['id']}/addresses"
    added = await created(admin, path, address="+12025550100")
    assert await created(admin, path, address="202-555-0100") == added
    problem_of(await admin.post("/api/admin/tenants/1/addresses", json={"address": "+12025550100"}), 409)
    assert locations_of(await admin.post(f"/api/admin/{path}", json={"address": "nonsense@"})) == ["body.address"]
    assert (await admin.delete(f"/api/admin/{path}/{added['id']}")).status_code == 200
    await created(admin, "tenants/1/addresses", address="+12025550100")


async def test_everything_that_was_done_is_recorded_newest_first(admin: httpx.AsyncClient) -> None:
    acme = (await created(admin, "tenants", name="Acme"))["id"]
    key = await created(admin, "keys", tenant_id=acme, name="x", scopes=["send"])
    address = await created(admin, f"tenants/{acme}/addresses", address="+12025550100")
    await admin.delete(f"/api/admin/tenants/{acme}/addresses/{address['id']}")
    await admin.delete(f"/api/admin/keys/{acme}/{key['id']}")
    await admin.post("/api/providers/sms/resume")
    events: list[dict[str, Any]] = []
    path: str | None = "/api/admin/audit?limit=2"
    while path:
        page = await admin.get(path)
        events += page.json()
        path = page.links.get("next", {}).get("url")
    assert [(event["kind"], event["tenant_id"]) for event in events] == [
        ("provider_resumed", 1),
        ("key_revoked", acme),
        ("address_removed", acme),
        ("address_added", acme),
        ("key_created", acme),
        ("tenant_created", acme),
    ]
    prefix = admin.headers["Authorization"].split("_")[2]
    assert {event["actor"] for event in events} == {prefix}
    assert "12025550100" not in str(events)
    assert len((await admin.get(f"/api/admin/audit?tenant_id={acme}")).json()) == 5


async def test_what_fails_is_not_recorded_as_done(admin: httpx.AsyncClient, database_url: str) -> None:
    await admin.post("/api/admin/tenants", json={"name": "default"})
    assert rows_of(database_url, "SELECT count(*) FROM audit_events") == [(0,)]


@pytest.mark.skipif("CITUS_URL" in os.environ, reason="a copied table has no triggers")
@pytest.mark.parametrize(("sqlstate", "status"), [("57P01", 503), ("40P01", 503), ("P0001", 500)])
async def test_a_commit_that_fails_is_answered_as_a_failure(
    admin: httpx.AsyncClient, database_url: str, sqlstate: str, status: int
) -> None:
    execute(
        database_url,
        f"""CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$""",
        "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON tenants DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    try:
        problem_of(await admin.post("/api/admin/tenants", json={"name": "Acme"}), status)
    finally:
        execute(database_url, "DROP FUNCTION fail CASCADE")
    assert rows_of(database_url, "SELECT count(*) FROM tenants WHERE name = 'Acme'") == [(0,)]
    await created(admin, "tenants", name="Acme")
