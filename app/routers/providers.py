"""The health of the providers, and pausing and resuming them."""

from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Query, Request

from app.dependencies import AdministrationDep, ReadSession, TenantDep, WriteSession, services_of
from app.domain import DEFAULT_TENANT_ID
from app.errors import NotTheOperator, ProviderNotFound
from app.http.access import note_denied
from app.http.json_body import JsonRoute
from app.http.problems import responses
from app.installation import KeyScope
from app.providers.registry import provider_registry
from app.routing import channels_of
from app.schemas.administration import ProviderPauseRequest
from app.schemas.views import ProviderView
from app.services.delivery.notifier import Notifier
from app.services.delivery.pacing.provider_states import (
    WELL,
    PauseReasons,
    ProviderHealth,
    health_of_providers,
    pause_for_all,
    pause_for_tenant,
    reasons_of_pauses,
    resume,
    resume_for_tenant,
)

router = APIRouter(prefix="/api/providers", route_class=JsonRoute, tags=["providers"], responses=responses(503))

_Of = Annotated[
    Literal["tenant", "installation"] | None,
    Query(description="For your own messages, or for those of all tenants, which is the operator's default."),
]


@router.get("")
async def list_providers(session: ReadSession, request: Request, tenant: TenantDep) -> list[ProviderView]:
    """Every provider, the channels it serves, and why it gets no messages, if so."""
    connection = await session.connection()
    health, reasons = await health_of_providers(connection), await reasons_of_pauses(connection, tenant)
    return [
        _view(name, channels_of(request.app.state.settings, name), health.get(name, WELL), reasons, tenant)
        for name in provider_registry
    ]


def _view(
    name: str, channels: list[str], health: ProviderHealth, reasons: PauseReasons, tenant_id: int
) -> ProviderView:
    pauses: list[tuple[Literal["provider", "operator", "tenant"], str | None]] = [
        ("provider", health.paused_reason),
        ("operator", reasons.operator.get(name)),
        ("tenant", reasons.tenant.get(name)),
    ]
    paused_by, reason = next(((by, why) for by, why in pauses if why is not None), (None, None))
    return ProviderView(
        name=name, channels=channels, trouble=health.trouble_for(tenant_id), reason=reason, paused_by=paused_by
    )


@router.post("/{name}/pause", responses=responses(403, 404, 413, 415, 422))
async def pause_provider(
    name: str,
    pause: ProviderPauseRequest,
    session: WriteSession,
    administration: AdministrationDep,
    tenant: TenantDep,
    request: Request,
    of: _Of = None,
) -> list[ProviderView]:
    """Hand nothing to a provider until it is resumed. Answers like the list.

    Messages go to the next provider of their route, or wait. One that the provider may have already waits for it.
    """
    is_for_all = _is_for_all(name, of, request)
    connection = await session.connection()
    if is_for_all:
        await pause_for_all(connection, name, pause.reason)
    else:
        await pause_for_tenant(connection, tenant, name, pause.reason)
    await administration.provider_paused(name, tenant_id=tenant, is_for_all=is_for_all, reason=pause.reason)
    return await list_providers(session, request, tenant)


@router.post("/{name}/resume", responses=responses(403, 404, 422))
async def resume_provider(
    name: str,
    session: WriteSession,
    administration: AdministrationDep,
    tenant: TenantDep,
    request: Request,
    after_the_answer: BackgroundTasks,
    of: _Of = None,
) -> list[ProviderView]:
    """Resume a provider that was paused. For all tenants, also one whose breaker is open. Answers like the list."""
    is_for_all = _is_for_all(name, of, request)
    connection = await session.connection()
    if is_for_all:
        await resume(connection, name)
    if of != "installation":
        await resume_for_tenant(connection, tenant, name)
    await administration.provider_resumed(name, tenant_id=tenant, is_for_all=is_for_all)
    after_the_answer.add_task(_wake_workers, services_of(request).notifier)  # the commit comes before it
    return await list_providers(session, request, tenant)


def _is_for_all(name: str, of: str | None, request: Request) -> bool:
    """True for all tenants, False for one. Raises `ProviderNotFound`, `NotTheOperator`."""
    if name not in provider_registry:
        raise ProviderNotFound("There is no provider of this name.")
    is_operator = request.state.access.tenant_id == DEFAULT_TENANT_ID
    if of == "installation" and not is_operator:
        note_denied(request.scope, request.state.access, KeyScope.ADMIN)
        raise NotTheOperator("To pause or resume a provider for all tenants takes a key of tenant 1.")
    return is_operator and of != "tenant"


async def _wake_workers(notifier: Notifier) -> None:
    notifier.notify()
