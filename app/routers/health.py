"""The probes of an orchestrator: liveness and readiness."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from app.http.problems import responses
from app.schemas.views import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> Health:
    """The process answers. The database is not asked, because a restart would not mend it."""
    return Health()


@router.get("/readyz", responses=responses(HTTPStatus.SERVICE_UNAVAILABLE))
async def ready(request: Request) -> Health:
    """The process has reached its database within the last half second, so it can take requests."""
    await request.app.state.services.readiness.confirm()
    return Health()
