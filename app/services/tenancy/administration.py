"""Administration of the installation: tenants, their keys and addresses, and the audit log."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import ApiKey, AuditEvent, Tenant, TenantAddress
from app.db.statements.paging import Page, fetch_page
from app.domain import Address
from app.errors import AddressNotFound, AddressTaken, KeyNotFound, TenantExists, TenantNotFound
from app.installation import KeyScope
from app.services.event_log.entries import add_log
from app.services.tenancy.audit import record
from app.services.tenancy.keys import new_token


class AdministrationService:
    """The tasks of the operator, about any tenant.

    Each change is recorded in the same transaction, with `actor` and `client` as in `AuditEvent`.
    """

    def __init__(self, session: AsyncSession, *, actor: str | None, client: str | None = None) -> None:
        self._session = session
        self._actor = actor
        self._client = client

    async def tenants(self, *, limit: int, cursor: str | None = None) -> Page[Tenant]:
        """All tenants, the oldest first."""
        return await fetch_page(
            self._session, select(Tenant), order=(Tenant.id,), newest_first=False, limit=limit, cursor=cursor
        )

    async def create_tenant(self, name: str) -> Tenant:
        """Raises `TenantExists`."""
        return await self._new_tenant(name)

    async def _new_tenant(self, name: str, *, test_of: int | None = None) -> Tenant:
        adding = insert(Tenant).values(name=name, test_of=test_of).on_conflict_do_nothing().returning(Tenant)
        tenant = await self._session.scalar(adding)
        if tenant is None:
            raise TenantExists(f"There is a tenant of the name {name}.")
        await add_log(await self._session.connection(), tenant.id)
        await self._record(tenant.id, "tenant_created", name=name)
        return tenant

    async def set_retention(self, tenant_id: int, days: int | None) -> Tenant:
        """Keep a tenant's messages for so many days; None goes by the settings. Raises `TenantNotFound`."""
        return await self._change(tenant_id, {"retention_days": days}, "retention_set", days=days)

    async def tenant(self, name_or_id: str) -> Tenant:
        """The tenant of this name, or of this id. Raises `TenantNotFound`."""
        is_it = Tenant.name == name_or_id
        if name_or_id.isdecimal() and len(name_or_id) <= 18:
            is_it |= Tenant.id == int(name_or_id)
        found = await self._session.scalar(select(Tenant).where(is_it).order_by(Tenant.id))
        if found is None:
            raise TenantNotFound("There is no such tenant.")
        return found

    async def set_limits(self, tenant_id: int, limits: Mapping[str, object]) -> Tenant:
        """Change the given limits of a tenant, by column; None goes by the settings.

        They take effect in every process within three seconds. Raises `TenantNotFound`.
        """
        return await self._change(tenant_id, limits, "limits_set", **limits)

    async def keys(self, tenant_id: int | None, *, limit: int, cursor: str | None = None) -> Page[ApiKey]:
        """The keys of a tenant, or all, the newest first; revoked ones too."""
        statement = select(ApiKey).join(Tenant, Tenant.id == ApiKey.tenant_id).where(_is_or_any(tenant_id))
        return await fetch_page(
            self._session, statement, order=(ApiKey.id,), newest_first=True, limit=limit, cursor=cursor
        )

    async def create_key(
        self,
        tenant_id: int,
        *,
        name: str,
        scopes: Sequence[KeyScope],
        expires_at: datetime | None = None,
        is_test: bool = False,
    ) -> tuple[ApiKey, str]:
        """Create a key; returns it with its token, which can't be read again later.

        A test key belongs to the test tenant of `tenant_id`, which its first one creates.

        Raises `TenantNotFound`, and `TenantExists` where another tenant has the name of the test tenant.
        """
        tenant = await self._existing(tenant_id)
        if is_test and tenant.test_of is None:
            tenant = await self._test_tenant(tenant)
        tenant_id = tenant.id
        token = new_token(tenant_id, is_test=tenant.test_of is not None)
        key = ApiKey(
            tenant_id=tenant_id,
            prefix=token.prefix,
            name=name,
            secret_hash=token.secret_hash,
            scopes=sorted(set(scopes)),
            expires_at=expires_at,
        )
        self._session.add(key)
        await self._session.flush()
        await self._record(tenant_id, "key_created", key_id=key.id, prefix=key.prefix, scopes=key.scopes)
        return key, token.written

    async def revoke_key(self, tenant_id: int, key_id: int) -> ApiKey:
        """Refuse a key from now on, in other processes within five seconds. A revoked key stays as it is.

        Raises `KeyNotFound`.
        """
        is_it = (ApiKey.tenant_id == tenant_id, ApiKey.id == key_id)
        revoking = update(ApiKey).where(*is_it, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
        revoked = (await self._session.scalars(revoking.returning(ApiKey))).one_or_none()
        if revoked is not None:
            await self._record(tenant_id, "key_revoked", key_id=key_id, prefix=revoked.prefix)
            return revoked
        known = await self._session.scalar(select(ApiKey).where(*is_it))
        if known is None:
            raise KeyNotFound("There is no key with this id.")
        return known

    async def addresses(self, tenant_id: int, *, limit: int, cursor: str | None = None) -> Page[TenantAddress]:
        """A tenant's addresses, the oldest first. Raises `TenantNotFound`."""
        await self._existing(tenant_id)
        statement = select(TenantAddress).where(TenantAddress.tenant_id == tenant_id)
        return await fetch_page(
            self._session, statement, order=(TenantAddress.id,), newest_first=False, limit=limit, cursor=cursor
        )

    async def add_address(self, tenant_id: int, address: Address) -> TenantAddress:
        """Give a tenant an address. It takes effect for inbound and outbound messages within five seconds.

        An address that the tenant has already is returned as it is. Raises `TenantNotFound`, and `AddressTaken` where
        another tenant owns the address.
        """
        await self._existing(tenant_id)
        values = {"tenant_id": tenant_id, "address": address.value, "address_type": address.type}
        adding = insert(TenantAddress).values(values).on_conflict_do_nothing().returning(TenantAddress)
        added = await self._session.scalar(adding)
        if added is not None:
            await self._record(tenant_id, "address_added", address_id=added.id, address_type=added.address_type)
            return added
        known = await self._session.scalar(select(TenantAddress).filter_by(**values))
        if known is None:
            raise AddressTaken("This address belongs to another tenant.")
        return known

    async def remove_address(self, tenant_id: int, address_id: int) -> TenantAddress:
        """Take an address from a tenant. It then counts as tenant 1's. Raises `AddressNotFound`."""
        is_it = (TenantAddress.tenant_id == tenant_id, TenantAddress.id == address_id)
        removing = delete(TenantAddress).where(*is_it).returning(TenantAddress)
        removed = (await self._session.scalars(removing)).one_or_none()
        if removed is None:
            raise AddressNotFound("There is no address with this id.")
        await self._record(tenant_id, "address_removed", address_id=address_id, address_type=removed.address_type)
        return removed

    async def audit(self, tenant_id: int | None, *, limit: int, cursor: str | None = None) -> Page[AuditEvent]:
        """The audit events of a tenant, or of all, the newest first."""
        statement = select(AuditEvent).join(Tenant, Tenant.id == AuditEvent.tenant_id).where(_is_or_any(tenant_id))
        return await fetch_page(
            self._session, statement, order=(AuditEvent.id,), newest_first=True, limit=limit, cursor=cursor
        )

    async def provider_paused(self, name: str, *, tenant_id: int, is_for_all: bool, reason: str) -> None:
        """Record that a tenant has paused a provider, for itself or as the operator for all."""
        await self._record(tenant_id, "provider_paused", provider=name, is_for_all=is_for_all, reason=reason)

    async def provider_resumed(self, name: str, *, tenant_id: int, is_for_all: bool) -> None:
        """Record that a tenant has resumed a provider."""
        await self._record(tenant_id, "provider_resumed", provider=name, is_for_all=is_for_all)

    async def _change(self, tenant_id: int, values: Mapping[str, object], kind: str, **detail: object) -> Tenant:
        changing = update(Tenant).where(Tenant.id == tenant_id).values(**values).returning(Tenant)
        tenant = (await self._session.scalars(changing)).one_or_none()
        if tenant is None:
            raise TenantNotFound("There is no tenant with this id.")
        await self._record(tenant_id, kind, **detail)
        return tenant

    async def _existing(self, tenant_id: int) -> Tenant:
        tenant = await self._session.get(Tenant, tenant_id)
        if tenant is None:
            raise TenantNotFound("There is no tenant with this id.")
        return tenant

    async def _test_tenant(self, live: Tenant) -> Tenant:
        found = await self._session.scalar(select(Tenant).where(Tenant.test_of == live.id))
        if found is not None:
            return found
        return await self._new_tenant(f"{live.name} (test)", test_of=live.id)

    async def _record(self, tenant_id: int, kind: str, **detail: object) -> None:
        await record(self._session, tenant_id, kind, actor=self._actor, client=self._client, **detail)


def _is_or_any(tenant_id: int | None) -> ColumnElement[bool]:
    return true() if tenant_id is None else Tenant.id == tenant_id
