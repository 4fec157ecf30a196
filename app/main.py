"""The web application: `create_app(settings)`, and `app` for `uvicorn app.main:app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.types import ASGIApp, Receive, Scope, Send

from app.config import Settings
from app.database import create_serving_engine, provided_database
from app.log import configure_logging
from app.migrate import prepare
from app.routers import conversations, docs, health, messages, problems, webhooks
from app.services.messages import MessageService
from app.services.writer import MessageWriter
from app.worker import DeliveryWorker

log = structlog.get_logger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """An application that, while its lifespan is open, has a database, a writer and, if set, a delivery worker."""
    settings = settings or Settings()
    configure_logging(settings)
    app = FastAPI(
        title="Messaging service",
        description="SMS, MMS and email through one API, and the conversations that hold the answers.",
        version="0.1.0",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=settings.max_body_bytes,
    )
    app.state.settings = settings
    app.add_middleware(EitherSlash)
    problems.install(app)
    # The hot routes first: routes are tried in order.
    for router in (messages.hot, webhooks.hot, messages.router, conversations.router, health.router):
        app.include_router(router)
    docs.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start what requests need, each thing after what it stands on; stop in the opposite order."""
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        database = provided_database(settings)
        url = await asyncio.to_thread(database.__enter__)
        stack.push_async_callback(asyncio.to_thread, database.__exit__, None, None, None)
        await asyncio.to_thread(prepare, url, production=settings.is_production)
        engine = create_serving_engine(url, settings)
        stack.push_async_callback(engine.dispose)
        worker = await _worker(stack, engine, settings)
        writer = MessageWriter(engine, settings, on_outbound=worker.ring if worker else lambda: None)
        await stack.enter_async_context(writer)
        app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
        app.state.messages = MessageService(writer, app.state.sessions)
        yield


async def _worker(stack: AsyncExitStack, engine: AsyncEngine, settings: Settings) -> DeliveryWorker | None:
    if not settings.worker_enabled:
        return None
    return await stack.enter_async_context(DeliveryWorker(engine, settings))


class EitherSlash:
    """Lets every route answer with a slash at its end and without one, and without a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"][:-1]}
        await self._app(scope, receive, send)


app = create_app()
