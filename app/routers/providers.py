"""The health of the providers, and resuming one that was paused."""

from fastapi import APIRouter, BackgroundTasks, Request

from app.dependencies import AdministrationDep, ReadSession, WriteSession, services_of
from app.errors import ProviderNotFound
from app.http.problems import responses
from app.providers.registry import provider_registry
from app.routing import channels_of
from app.schemas.views import ProviderView
from app.services.delivery.notifier import Notifier
from app.services.delivery.provider_states import WELL, health_of_providers, resume

router = APIRouter(prefix="/api/providers", tags=["providers"], responses=responses(503))


@router.get("")
async def list_providers(session: ReadSession, request: Request) -> list[ProviderView]:
    """Every provider, the channels it serves, and why it gets no messages, if so."""
    health = await health_of_providers(await session.connection())
    return [
        ProviderView(
            name=name,
            channels=channels_of(request.app.state.settings, name),
            trouble=health.get(name, WELL).trouble,
            reason=health.get(name, WELL).paused_reason,
        )
        for name in provider_registry
    ]


@router.post("/{name}/resume", responses=responses(404, 422))
async def resume_provider(
    name: str,
    session: WriteSession,
    administration: AdministrationDep,
    request: Request,
    after_the_answer: BackgroundTasks,
) -> list[ProviderView]:
    """Resume a provider that was paused, or whose breaker is open. Answers like the list."""
    if name not in provider_registry:
        raise ProviderNotFound("There is no provider of this name.")
    await resume(await session.connection(), name)
    await administration.provider_resumed(name)
    after_the_answer.add_task(_wake_workers, services_of(request).notifier)  # the commit comes before it
    return await list_providers(session, request)


async def _wake_workers(notifier: Notifier) -> None:
    notifier.notify()
