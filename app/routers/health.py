"""The probes of an orchestrator: liveness and readiness."""

from fastapi import APIRouter, Request

from app.dependencies import services_of
from app.http.problems import responses
from app.schemas.views import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def check_liveness() -> Health:
    """The process answers. The database is not asked, because a restart would not mend it."""
    return Health()


@router.get("/readyz", responses=responses(503))
async def check_readiness(request: Request) -> Health:
    """The process has reached its database within the last half second, so it can take requests."""
    await services_of(request).readiness.confirm()
    return Health()
