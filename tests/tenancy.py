"""Tenants, their keys and addresses, written past the service, and the production profile as tests use it."""

import json
from contextlib import closing
from typing import Any

import psycopg2

from app.config import Settings
from app.domain import KeyScope
from app.services.tenancy.keys import new_token
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
    statement = """
        WITH made AS (INSERT INTO tenants (name) VALUES (%s) RETURNING id)
        INSERT INTO event_logs (tenant_id, generation, server_started_at)
        SELECT id, 1, pg_postmaster_start_time() FROM made RETURNING tenant_id
    """
    return int(insert(url, statement, (name,)))


def make_key(
    url: str, tenant_id: int = 1, *, scopes: tuple[KeyScope, ...] = EVERYTHING, seconds: float | None = None
) -> str:
    """A key's token; with `seconds` it expires after so many, or did, where they are negative."""
    token = new_token(tenant_id)
    insert(
        url,
        "INSERT INTO api_keys (tenant_id, prefix, name, secret_hash, scopes, expires_at)"
        " VALUES (%s, %s, 'test', %s, %s, now() + %s * interval '1 second') RETURNING id",
        (tenant_id, token.prefix, token.secret_hash, json.dumps(scopes), seconds),
    )
    return token.written


def revoke(url: str, token: str) -> None:
    tenant_id, prefix = token.split("_")[1:3]
    insert(
        url,
        "UPDATE api_keys SET revoked_at = now() WHERE tenant_id = %s AND prefix = %s RETURNING id",
        (tenant_id, prefix),
    )


def give_address(url: str, tenant_id: int, address: str, address_type: str = "phone") -> None:
    insert(
        url,
        "INSERT INTO tenant_addresses (tenant_id, address, address_type) VALUES (%s, %s, %s) RETURNING id",
        (tenant_id, address, address_type),
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
