"""`python -m app keys …`: creates, lists and revokes API keys."""

import argparse
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from app.commands import table
from app.commands.administering import PAGE, add_action, run
from app.config import Settings
from app.db.models import ApiKey
from app.db.statements.paging import rows_of_all
from app.schemas.administration import NewKey
from app.services.tenancy.administration import AdministrationService

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_subparsers(dest="action", required=True)
    creating = add_action(chosen, "create", _create_key, "create a key; its token is shown only now")
    creating.add_argument("--tenant", default="1", help="name or id (the first tenant)")
    creating.add_argument("--name", required=True, help="what it is for")
    scopes = "a comma-separated list of send, read and admin (send,read)"
    admin = "admin of the first tenant manages the installation, admin of another tenant may erase its contacts"
    creating.add_argument("--scopes", default="send,read", help=f"{scopes}; {admin}")
    creating.add_argument("--expires-in-days", type=int)
    creating.add_argument("--test", action="store_true", help="a test key: its messages reach no person")
    listing = add_action(chosen, "list", _list_keys, "list keys, newest first")
    listing.add_argument("--tenant", help="name or id (all tenants)")
    revoking = add_action(chosen, "revoke", _revoke_key, "revoke a key")
    revoking.add_argument("tenant", help="name or id")
    revoking.add_argument("key_id", type=int)


async def _create_key(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    asked = {"name": chosen.name, "scopes": chosen.scopes.split(","), "expires_in_days": chosen.expires_in_days}
    new = NewKey.model_validate({"tenant_id": tenant.id, "test": chosen.test, **asked})
    expires_at = datetime.now(UTC) + timedelta(days=new.expires_in_days) if new.expires_in_days else None
    _key, token = await service.create_key(
        tenant.id, name=new.name, scopes=new.scopes, expires_at=expires_at, is_test=new.test
    )
    return [token]


async def _list_keys(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant_id = None if chosen.tenant is None else (await service.tenant(chosen.tenant)).id
    keys = rows_of_all(lambda cursor: service.keys(tenant_id, limit=PAGE, cursor=cursor))
    rows = [(key.tenant_id, key.id, _state(key), ",".join(key.scopes), key.name) async for key in keys]
    return table(["TENANT", "ID", "STATE", "SCOPES", "NAME"], rows)


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    return f"expires {key.expires_at:%Y-%m-%d}" if key.expires_at is not None else "valid"


async def _revoke_key(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    await service.revoke_key(tenant.id, chosen.key_id)
    return ["revoked"]
