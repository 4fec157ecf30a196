"""Managing the installation: tenants, keys, addresses, kept callbacks and the audit.

It takes the scope `admin` of a key of tenant 1, who operates the installation (`app.http.access`).
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.db.models import ApiKey, AuditEvent, KeptCallback, Tenant, TenantAddress
from app.dependencies import AdministrationDep, Id, PagesDep, ReadSession, address_in, client_network, services_of
from app.http.json_body import JsonRoute
from app.http.problems import responses
from app.http.query import QueryTime
from app.installation import CallbackVerdict
from app.schemas.administration import (
    AddressView,
    AuditView,
    CallJudgement,
    CallVerification,
    KeyCreated,
    KeyView,
    NewAddress,
    NewKey,
    NewTenant,
    TenantChange,
    TenantView,
    WebhookCallDetail,
    WebhookCallView,
)
from app.schemas.fields import Words
from app.services.callbacks.callback_store import CallbackResult
from app.services.callbacks.kept_callbacks import get_callback, list_callbacks

router = APIRouter(prefix="/api/admin", route_class=JsonRoute, tags=["administration"], responses=responses(422, 503))
_BODY = responses(413, 415)
_OfTenant = Annotated[Id | None, Query(description="Of this tenant; of all, if left out.")]


@router.get("/tenants", response_model=list[TenantView])
async def list_tenants(service: AdministrationDep, pages: PagesDep) -> Sequence[Tenant]:
    """Every tenant, the oldest first."""
    return pages.linked(await service.tenants(limit=pages.limit, cursor=pages.cursor))


@router.post("/tenants", response_model=TenantView, responses=_BODY | responses(409))
async def create_tenant(new: NewTenant, service: AdministrationDep) -> Tenant:
    """Create a tenant. It has no key and no address yet."""
    return await service.create_tenant(new.name)


@router.patch("/tenants/{tenant_id}", response_model=TenantView, responses=_BODY | responses(404))
async def change_tenant(tenant_id: Id, change: TenantChange, service: AdministrationDep) -> Tenant:
    """Set how long a tenant's messages are kept, and how much it may ask for and send.

    From the next minute on, older messages are removed for good. Limits apply within three seconds. A field that is
    left out stays as it is.
    """
    limits = change.model_dump(exclude_unset=True)
    if "retention_days" in limits:
        tenant = await service.set_retention(tenant_id, limits.pop("retention_days"))
    if limits:
        tenant = await service.set_limits(tenant_id, limits)
    return tenant


@router.get("/keys", response_model=list[KeyView])
async def list_keys(service: AdministrationDep, pages: PagesDep, tenant_id: _OfTenant = None) -> Sequence[ApiKey]:
    """Keys, the newest first, revoked ones too. Their secrets are not stored."""
    return pages.linked(await service.keys(tenant_id, limit=pages.limit, cursor=pages.cursor))


@router.post("/keys", responses=_BODY | responses(404, 409))
async def create_key(new: NewKey, service: AdministrationDep) -> KeyCreated:
    """Create a key for a tenant. Its token is in this answer and is not stored.

    A test key is one of the tenant's test tenant, which the first of them creates.
    """
    expires_at = datetime.now(UTC) + timedelta(days=new.expires_in_days) if new.expires_in_days else None
    key, token = await service.create_key(
        new.tenant_id, name=new.name, scopes=new.scopes, expires_at=expires_at, is_test=new.test
    )
    return KeyCreated(**KeyView.model_validate(key).model_dump(), token=token)


@router.delete("/keys/{tenant_id}/{key_id}", response_model=KeyView, responses=responses(404))
async def revoke_key(tenant_id: Id, key_id: Id, service: AdministrationDep) -> ApiKey:
    """Revoke a key, in every process within five seconds. It stays in the list."""
    return await service.revoke_key(tenant_id, key_id)


@router.get("/tenants/{tenant_id}/addresses", response_model=list[AddressView], responses=responses(404))
async def list_addresses(tenant_id: Id, service: AdministrationDep, pages: PagesDep) -> Sequence[TenantAddress]:
    """A tenant's addresses, the oldest first."""
    return pages.linked(await service.addresses(tenant_id, limit=pages.limit, cursor=pages.cursor))


@router.post("/tenants/{tenant_id}/addresses", response_model=AddressView, responses=_BODY | responses(404, 409))
async def add_address(tenant_id: Id, new: NewAddress, service: AdministrationDep, request: Request) -> TenantAddress:
    """Give a tenant an address. Messages to it are the tenant's, and only the tenant may send from it."""
    return await service.add_address(tenant_id, address_in(request, new.address, location="body.address"))


@router.delete("/tenants/{tenant_id}/addresses/{address_id}", response_model=AddressView, responses=responses(404))
async def remove_address(tenant_id: Id, address_id: Id, service: AdministrationDep) -> TenantAddress:
    """Take an address away. Later messages to it are tenant 1's; earlier ones stay with the tenant."""
    return await service.remove_address(tenant_id, address_id)


@router.get("/audit", response_model=list[AuditView])
async def list_audit(
    service: AdministrationDep, pages: PagesDep, tenant_id: _OfTenant = None
) -> Sequence[AuditEvent]:
    """Changes and refused requests, with their actors, the newest first."""
    return pages.linked(await service.audit(tenant_id, limit=pages.limit, cursor=pages.cursor))


@router.get("/webhook-calls", response_model=list[WebhookCallView])
async def list_webhook_calls(
    session: ReadSession,
    pages: PagesDep,
    provider: Annotated[Words | None, Query(max_length=63)] = None,
    verdict: CallbackVerdict | None = None,
    since: Annotated[QueryTime | None, Query(description="Received at this time or later.")] = None,
    until: Annotated[QueryTime | None, Query(description="Received before this time.")] = None,
) -> Sequence[KeptCallback]:
    """Callbacks that are kept, the newest first."""
    page = await list_callbacks(
        session, provider=provider, verdict=verdict, since=since, until=until, limit=pages.limit, cursor=pages.cursor
    )
    return pages.linked(page)


_CALL = "/webhook-calls/{tenant_id}/{call_id}"


@router.get(_CALL, responses=responses(404))
async def get_webhook_call(tenant_id: Id, call_id: Id, session: ReadSession) -> WebhookCallDetail:
    """A callback as it came, with headers and body. It may hold what people have written."""
    call = await get_callback(session, call_id, tenant_id)
    try:
        body, encoding = call.body.decode(), "text"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(call.body).decode(), "base64"
    return WebhookCallDetail.model_validate(vars(call) | {"body": body, "encoding": encoding})


@router.post(_CALL + "/verify", response_model=CallVerification, responses=responses(404))
async def verify_webhook_call(tenant_id: Id, call_id: Id, request: Request) -> CallbackResult:
    """Verify a callback again, with today's settings and the time at which it came. Nothing is changed."""
    return await services_of(request).callbacks.verify(tenant_id, call_id)


@router.post(_CALL + "/replay", response_model=CallJudgement, responses=responses(404))
async def replay_webhook_call(tenant_id: Id, call_id: Id, request: Request) -> CallbackResult:
    """Replay a callback as if it came now. Its receipts and messages are stored once, however often it is replayed.

    One that was refused has to be genuine with today's settings, at the time at which it came.
    """
    actor, client = request.state.access.prefix, client_network(request)
    return await services_of(request).callbacks.replay(tenant_id, call_id, actor=actor, client=client)
