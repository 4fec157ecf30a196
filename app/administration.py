"""The command line's part of managing the installation: `python -m app tenants …` and `python -m app keys …`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.addresses import InvalidAddress, any_address
from app.config import Settings
from app.database import create_serving_engine, provided_database
from app.errors import ServiceError
from app.migrate import prepare
from app.models import ApiKey
from app.schemas.administration import NewKey, NewTenant, TenantChange
from app.services.administration import AdministrationService
from app.services.paging import Page, Row

_ACTOR = "command line"
_PAGE = 1000


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `tenants` and `keys` to the command line."""
    tenants = commands.add_parser("tenants", help="create and list tenants, and give them addresses")
    chosen = tenants.add_subparsers(dest="action", required=True)
    _command(chosen, "create", _create_tenant, "a new tenant").add_argument("name")
    _command(chosen, "list", _list_tenants, "every tenant")
    adding = _command(chosen, "add-address", _add_address, "give a tenant a number or an email address")
    adding.add_argument("tenant", help="name or id")
    adding.add_argument("address")

    keeping = _command(chosen, "keep", _set_retention, "how long a tenant's messages are kept")
    keeping.add_argument("tenant", help="name or id")
    keeping.add_argument("days", help="days, or `default` for what the settings say")

    keys = commands.add_parser("keys", help="create, list and revoke API keys")
    chosen = keys.add_subparsers(dest="action", required=True)
    creating = _command(chosen, "create", _create_key, "a new key; its token is printed this once")
    creating.add_argument("--tenant", default="1", help="name or id; the first tenant, if left out")
    creating.add_argument("--name", required=True, help="what it is for")
    creating.add_argument(
        "--scopes",
        default="send,read",
        help="of send, read and admin, with commas between them; admin of the first tenant manages the installation, "
        "of any other it erases that tenant's contacts",
    )
    creating.add_argument("--expires-in-days", type=int)
    listing = _command(chosen, "list", _list_keys, "the keys, the newest first")
    listing.add_argument("--tenant", help="name or id; all, if left out")
    revoking = _command(chosen, "revoke", _revoke_key, "let a key's holder in no longer")
    revoking.add_argument("tenant", help="name or id")
    revoking.add_argument("key_id", type=int)


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Do what was chosen, also while the service runs; 0 when it is done, 2 when it can't be."""
    with provided_database(settings) as url:
        prepare(url, production=settings.is_production)
        try:
            asyncio.run(_in_a_transaction(url, settings, chosen))
        except (ServiceError, InvalidAddress) as error:
            return _refused(str(error))
        except ValidationError as error:
            return _refused(*(f"{each['loc'][0]}: {each['msg']}" for each in error.errors(include_input=False)))
    return 0


def _refused(*sentences: str) -> int:
    for sentence in sentences:
        print(sentence, file=sys.stderr)  # noqa: T201 - for whoever typed it
    return 2


async def _in_a_transaction(url: str, settings: Settings, chosen: argparse.Namespace) -> None:
    engine = create_serving_engine(url, settings)
    try:
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            lines = list(await chosen.does(AdministrationService(session, actor=_ACTOR), chosen, settings))
    finally:
        await engine.dispose()
    for line in lines:
        print(line, file=sys.stdout)  # noqa: T201 - it is what was asked for


Deed = Callable[[AdministrationService, argparse.Namespace, Settings], Awaitable[Iterable[str]]]


def _command(
    chosen: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: Deed, help: str
) -> argparse.ArgumentParser:
    parser = chosen.add_parser(name, help=help)
    parser.set_defaults(does=does)
    return parser


async def _create_tenant(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.create_tenant(NewTenant(name=chosen.name).name)
    return [f"{tenant.id}  {tenant.name}"]


async def _list_tenants(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenants = await _all(lambda cursor: service.tenants(limit=_PAGE, cursor=cursor))
    return [f"{tenant.id}  {tenant.name}" for tenant in tenants]


async def _add_address(
    service: AdministrationService, chosen: argparse.Namespace, settings: Settings
) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    address = any_address(chosen.address, region=settings.default_region)
    added = await service.add_address(tenant.id, address)
    return [f"{added.address} belongs to {tenant.name}"]


def _number(written: str) -> int | str:
    return int(written) if written.isascii() and written.isdecimal() and len(written) < 10 else written


async def _set_retention(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    days = None
    if chosen.days != "default":
        days = TenantChange.model_validate({"retention_days": _number(chosen.days)}).retention_days
    changed = await service.set_retention(tenant.id, days)
    kept = "as the settings say" if changed.retention_days is None else f"for {changed.retention_days} days"
    return [f"messages of {tenant.name} are kept {kept}"]


async def _create_key(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    new = NewKey.model_validate(
        {
            "tenant_id": tenant.id,
            "name": chosen.name,
            "scopes": chosen.scopes.split(","),
            "expires_in_days": chosen.expires_in_days,
        }
    )
    expires_at = datetime.now(UTC) + timedelta(days=new.expires_in_days) if new.expires_in_days else None
    _key, token = await service.create_key(tenant.id, name=new.name, scopes=new.scopes, expires_at=expires_at)
    return [token]


async def _list_keys(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant_id = None if chosen.tenant is None else (await service.tenant(chosen.tenant)).id
    keys = await _all(lambda cursor: service.keys(tenant_id, limit=_PAGE, cursor=cursor))
    return [f"{key.tenant_id} {key.id}  {_standing(key)}  {','.join(key.scopes)}  {key.name}" for key in keys]


def _standing(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    return f"expires {key.expires_at:%Y-%m-%d}" if key.expires_at is not None else "valid"


async def _revoke_key(service: AdministrationService, chosen: argparse.Namespace, _: Settings) -> Iterable[str]:
    tenant = await service.tenant(chosen.tenant)
    await service.revoke_key(tenant.id, chosen.key_id)
    return ["revoked"]


async def _all(page_at: Callable[[str | None], Awaitable[Page[Row]]]) -> list[Row]:
    page = await page_at(None)
    rows = list(page.rows)
    while page.next is not None:
        page = await page_at(page.next)
        rows += page.rows
    return rows
