"""The probes of an orchestrator: liveness and readiness."""

from fastapi import APIRouter, Request

from app.dependencies import services_of
from app.errors import Stopping
from app.http.problems import responses
from app.schemas.views import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def check_liveness() -> Health:
    """The process answers. The database is not asked, because a restart would not mend it."""
    return Health()


@router.get("/readyz", responses=responses(503))
async def check_readiness(request: Request) -> Health:
    """The database has taken a write of the process within the last half second, so it can take requests.

    503 also while the database is read-only, while its commits hang, and when the process is about to stop.
    """
    if request.app.state.drain.has_begun:
        raise Stopping("This process is about to stop.")
    await services_of(request).readiness.confirm()
    return Health()
