"""`python -m app tenants …`: creates and lists tenants, and gives them addresses."""

import argparse
from collections.abc import Iterable

from app.addresses import any_address
from app.commands import table
from app.commands.administering import PAGE, add_action, run
from app.config import Settings
from app.db.models import Tenant
from app.db.statements.paging import rows_of_all
from app.schemas.administration import NewTenant, TenantChange
from app.services.tenancy.administration import AdministrationService

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_subparsers(dest="action", required=True)
    add_action(chosen, "create", _create_tenant, "create a tenant").add_argument("name")
    add_action(chosen, "list", _list_tenants, "list all tenants")
    adding = add_action(chosen, "add-address", _add_address, "give a tenant a number or an email address")
    adding.add_argument("tenant", help="name or id")
    adding.add_argument("address")
    keeping = add_action(chosen, "keep", _set_retention, "set how long a tenant's messages are kept")
    keeping.add_argument("tenant", help="name or id")
    keeping.add_argument("days", help="a number of days, or `default` for RETENTION_DAYS")


async def _create_tenant(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.create_tenant(NewTenant(name=chosen.name).name)
    return [f"{tenant.id}  {tenant.name}"]


async def _list_tenants(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenants = rows_of_all(lambda cursor: service.tenants(limit=PAGE, cursor=cursor))
    rows = [(tenant.id, tenant.name, _retention(tenant)) async for tenant in tenants]
    return table(["ID", "NAME", "MESSAGES ARE KEPT"], rows)


def _retention(tenant: Tenant) -> str:
    return "as the settings say" if tenant.retention_days is None else f"for {tenant.retention_days} days"


async def _add_address(
    service: AdministrationService, chosen: argparse.Namespace, settings: Settings
) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    added = await service.add_address(tenant.id, any_address(chosen.address, region=settings.default_region))
    return [f"{added.address} belongs to {tenant.name}"]


def _number(written: str) -> int | str:
    return int(written) if written.isascii() and written.isdecimal() and len(written) < 10 else written


async def _set_retention(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    days = None
    if chosen.days != "default":
        days = TenantChange.model_validate({"retention_days": _number(chosen.days)}).retention_days
    changed = await service.set_retention(tenant.id, days)
    return [f"messages of {tenant.name} are kept {_retention(changed)}"]
