"""Whether the process lives, and whether it can work."""

from http import HTTPStatus

from fastapi import APIRouter
from sqlalchemy import text

from app.dependencies import SessionDep
from app.routers.problems import responses
from app.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> Health:
    """The process answers. It asks nothing of the database: a restart would not mend that."""
    return Health()


@router.get("/readyz", responses=responses(HTTPStatus.SERVICE_UNAVAILABLE))
async def ready(session: SessionDep) -> Health:
    """The process can reach its database, so it can be sent requests."""
    await session.execute(text("SELECT 1"))
    return Health()
