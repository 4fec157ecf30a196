"""The figures and the health of a process at a port of its own, which takes no key and has nothing else."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.db.engine import is_unavailable
from app.dependencies import services_of
from app.errors import DatabaseUnavailable
from app.metrics.exposition import CONTENT_TYPE, exposition
from app.metrics.snapshot import Snapshot
from app.wiring import Services

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def show_metrics(request: Request) -> Response:
    """The figures, at the port of the API: the operator's key is needed."""
    return await _figures(services_of(request))


def internal_application(services: Callable[[], Services | None]) -> Starlette:
    """`/metrics`, `/healthz` and `/readyz` of a process, which is not ready while it has no services."""

    async def metrics(_: Request) -> Response:
        return await _figures(services())

    async def liveness(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readiness(_: Request) -> Response:
        if (running := services()) is None:
            return JSONResponse({"status": "starting"}, 503)
        try:
            await running.readiness.confirm()
        except Exception as error:
            if not isinstance(error, DatabaseUnavailable) and not is_unavailable(error):
                raise
            return JSONResponse({"status": "the database does not answer"}, 503)
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", liveness), Route("/readyz", readiness)],
    )


async def _figures(services: Services | None) -> Response:
    snapshot = Snapshot.take() if services is None else await services.figures.total()
    return Response(exposition(snapshot), media_type=CONTENT_TYPE)
