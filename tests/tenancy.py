"""Tenants, their keys and addresses, written past the service, and the production profile as tests use it."""

import hashlib
import json
import secrets
from contextlib import closing
from typing import Any

import psycopg2

from app.config import Settings
from app.http.browser.requests import needs_session
from app.installation import KeyScope
from app.services.tenancy.keys import new_token
from app.services.tenancy.sessions import csrf_token
from tests.conftest import make_settings

EVERYTHING = tuple(KeyScope)
CONSENT_SECRET = "q7Zt2Vd9Lw4Xk8Bn3Rm6Yc1H"  # noqa: S105 - of these tests alone
WEBHOOK_SECRET = "whsec_cE1vdlSbYvGn0sZ4h4V9tLr6kQm3x8Wy"  # noqa: S105 - of these tests alone
#: Of the test vector that Standard Webhooks publishes.
PUBLISHED_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - published


def production(settings: Settings, **changes: object) -> Settings:
    """The same in production, delivering to the simulated carriers."""
    secrets = {"webhook_secret": WEBHOOK_SECRET, "consent_secret": CONSENT_SECRET}
    own = secrets | {"env": "production", "simulated_carriers": True}
    return make_settings(**(settings.model_dump(exclude_unset=True) | own | changes))


def insert(url: str, statement: str, values: tuple[object, ...]) -> Any:
    """Run one INSERT … RETURNING, and give what it returns first."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return (cursor.fetchone() or [None])[0]


def make_tenant(url: str, name: str = "Acme") -> int:
    tenant_id = int(insert(url, "INSERT INTO tenants (name) VALUES (%s) RETURNING id", (name,)))
    insert(url, "INSERT INTO event_logs (tenant_id, generation) VALUES (%s, 1) RETURNING tenant_id", (tenant_id,))
    # On a cluster it is the start of the node that has the tenant's rows.
    asked = "SELECT pg_postmaster_start_time() FROM event_logs WHERE tenant_id = %s"
    started = insert(url, asked, (tenant_id,))
    noted = "UPDATE event_logs SET server_started_at = %s WHERE tenant_id = %s RETURNING tenant_id"
    insert(url, noted, (started, tenant_id))
    return tenant_id


def make_key(
    url: str,
    tenant_id: int = 1,
    *,
    scopes: tuple[KeyScope, ...] = EVERYTHING,
    seconds: float | None = None,
    name: str = "test",
) -> str:
    """A key's token; with `seconds` it expires after so many, or did, where they are negative."""
    token = new_token(tenant_id)
    insert(
        url,
        "INSERT INTO api_keys (tenant_id, prefix, name, secret_hash, scopes, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, now() + %s * interval '1 second') RETURNING id",
        (tenant_id, token.prefix, name, token.secret_hash, json.dumps(scopes), seconds),
    )
    return token.written


def revoke(url: str, token: str) -> None:
    tenant_id, prefix = token.split("_")[1:3]
    insert(
        url,
        "UPDATE api_keys SET revoked_at = now() WHERE tenant_id = %s AND prefix = %s RETURNING id",
        (tenant_id, prefix),
    )


def make_session(url: str, token: str, *, seconds: float = 3600) -> str:
    """A session of a key: its cookie. With negative `seconds` it has expired."""
    tenant_id, prefix = token.removeprefix("msk_").removeprefix("test_").split("_")[:2]
    secret = secrets.token_urlsafe(32)
    id = insert(
        url,
        "INSERT INTO sessions (tenant_id, key_id, secret_hash, expires_at)"
        " SELECT tenant_id, id, %s, now() + %s * interval '1 second' FROM api_keys"
        " WHERE tenant_id = %s AND prefix = %s RETURNING id",
        (hashlib.sha256(secret.encode()).digest(), seconds, tenant_id, prefix),
    )
    return f"mss_{tenant_id}_{id}_{secret}"


def in_browser(cookie: str) -> dict[str, str]:
    """The headers of a page's own requests with a session."""
    shown = {"Cookie": f"messaging_session={cookie}", "Origin": "http://messaging.test"}
    return shown | {"X-CSRF-Token": csrf_token(cookie.encode())}


def shown_at(url: str, path: str, token: str) -> dict[str, str]:
    """The headers that show a key where a path takes one, and a new session of it where it takes that."""
    return in_browser(make_session(url, token)) if needs_session(path) else bearer(token)


def give_address(url: str, tenant_id: int, address: str, address_type: str = "phone") -> None:
    insert(
        url,
        "INSERT INTO tenant_addresses (tenant_id, address, address_type) VALUES (%s, %s, %s) RETURNING id",
        (tenant_id, address, address_type),
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
