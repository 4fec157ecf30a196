"""The web application: `create_app(settings)`, and `app` for `uvicorn app.main:app`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.config import Settings
from app.db.engine import provided_database
from app.db.obstacles import obstacle
from app.db.schema.migrate import prepare
from app.files import FileAddresses
from app.http import problems
from app.http.admission import Admission
from app.http.envelope import Envelope
from app.http.hot_route import HotRoute
from app.http.monitoring.internal_port import InternalPort
from app.http.monitoring.traced import TracedRequests
from app.http.overload import OverloadGuard, Refusal
from app.http.read_route import reads_of
from app.http.reference import docs, openapi
from app.http.stop_signals import Drain, called_at_stop
from app.log import configure_logging
from app.routers import (
    admin,
    batches,
    contacts,
    conversations,
    events,
    files,
    health,
    internal,
    messages,
    preview,
    providers,
    quiet_hours,
    search,
    suppressions,
    templates,
    unsubscribe,
    webhook_endpoints,
    webhooks,
)
from app.routers.inbox import changes as inbox_changes
from app.routers.inbox import pages as inbox_pages
from app.routers.pages import inbox_sources, login, status
from app.schemas.fields import reading_context
from app.wiring import must_have_providers, running_services

log = structlog.get_logger(__name__)

_DESCRIPTION = """Messages are accepted once they are durably stored, and delivered in the background.

- Requests carry an API key: `Authorization: Bearer msk_...`. In development none is needed.
- Lists are paged: the `Link` header of an answer has the addresses of the next and the previous page.
- Errors are `application/problem+json` (RFC 9457), with one entry for each field of the request that is wrong.
- A send with an `Idempotency-Key` can be repeated safely.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """An application whose lifespan holds a database, a writer and, if so configured, a delivery worker."""
    settings = settings or Settings()
    configure_logging(settings)
    must_have_providers(settings)
    app = _Application(
        title="Messaging service",
        summary="SMS, MMS and email through one API, and the conversations that hold the answers.",
        description=_DESCRIPTION,
        version=__version__,
        license_info={"name": "MIT License", "identifier": "MIT"},
        contact={"name": "The operator of this installation"},
        lifespan=_lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `app.tracing` does that, for all routes
    )
    app.state.settings = settings
    app.state.webhook_keys = settings.webhook_keys()
    app.state.drain = Drain(settings.drain_seconds)
    app.state.has_warned_of_public_use = False
    app.state.file_addresses = FileAddresses(
        settings.consent_secrets, settings.public_url, hours=settings.file_address_hours
    )
    app.state.reading_context = reading_context(settings)
    hot = {route.path: route for route in messages.hot.routes + webhooks.hot.routes if isinstance(route, HotRoute)}
    reads = reads_of(conversations.reads.routes + messages.reads.routes)
    app.front = app.state.overload = OverloadGuard(
        Envelope(Admission(app.front, settings=settings, hot=hot, reads=reads), settings=settings),
        most=settings.max_requests_in_flight,
        refusal=Refusal(settings),
    )
    if settings.otel_exporter_otlp_endpoint is not None:
        app.front = TracedRequests(app.front)
    if settings.metrics_port is not None:
        inside = internal.internal_application(lambda: getattr(app.state, "services", None))
        app.front = InternalPort(app.front, inside, port=settings.metrics_port)
    problems.install(app)
    openapi.install(app)
    # Hot routes come first, because routes are tried in order. They are added as they are: `include_router` copies
    # each for every application while its first request waits, and then matches a request twice.
    for router in (
        messages.hot,
        webhooks.hot,
        preview.hot,
        webhooks.router,
        messages.reads,
        messages.router,
        messages.channels,
        batches.router,
        conversations.reads,
        conversations.router,
        events.router,
        webhook_endpoints.router,
        files.router,
        suppressions.batch,
        suppressions.router,
        quiet_hours.router,
        templates.router,
        search.router,
        contacts.router,
        providers.router,
        admin.router,
        health.router,
        internal.router,
        unsubscribe.router,
        login.router,
        status.router,
        inbox_sources.router,
        inbox_pages.router,
        inbox_changes.router,
    ):
        app.router.routes.extend(router.routes)
    if settings.serves_docs:
        docs.install(app)
    return app


class _Application(FastAPI):
    """FastAPI behind layers of ours, so that hot routes do not pay for FastAPI's work on each request."""

    front: ASGIApp

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.front = super().__call__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] == "lifespan":
            send = _in_one_sentence(send)
        await self.front(scope, receive, send)


def _in_one_sentence(send: Send) -> Send:
    """Tell the log what keeps the application from starting; the server would print a traceback."""

    async def tell(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed" and (reason := obstacle(sys.exception())):
            log.error("cannot_start", reason=reason)
            message = {**message, "message": ""}
        await send(message)

    return tell


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Start the services in the order of their dependencies, and stop them in the opposite order.

    The server gets the settings, the overload guard and the drain with the lifespan's state (`app.http.protocol`).
    """
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        database = provided_database(settings, keep_running=True)
        url = await asyncio.to_thread(database.__enter__)
        stack.push_async_callback(asyncio.to_thread, database.__exit__, None, None, None)
        await asyncio.to_thread(prepare, url, production=settings.is_production)
        app.state.services = await stack.enter_async_context(
            running_services(url, settings, deliver=settings.worker_enabled)
        )
        stack.enter_context(called_at_stop(app.state.services.events.close))
        stack.enter_context(called_at_stop(app.state.services.batches.close))
        stack.enter_context(app.state.drain.begun_at_stop())
        yield {"settings": settings, "overload": app.state.overload, "drain": app.state.drain}


app = create_app()
