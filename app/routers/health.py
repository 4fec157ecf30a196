"""Whether the process lives, and whether it can work."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from app.http.problems import responses
from app.schemas.views import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> Health:
    """The process answers. It asks nothing of the database: a restart would not mend that."""
    return Health()


@router.get("/readyz", responses=responses(HTTPStatus.SERVICE_UNAVAILABLE))
async def ready(request: Request) -> Health:
    """The process could reach its database within the last half second, so it can be sent requests."""
    await request.app.state.services.readiness.confirm()
    return Health()
