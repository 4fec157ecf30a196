"""The span of a request. FastAPI's own is switched off, because hot routes pass FastAPI by."""

from http import HTTPStatus

from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.monitoring.measured import MEASURED
from app.tracing import context_of, current_tracer


class TracedRequests:
    """Gives each request a span, in the trace that its `traceparent` names.

    The span has the route and the status. Addresses are left out: some hold secrets, others people.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tracer = current_tracer()
        if scope["type"] != "http" or tracer is None:
            await self._app(scope, receive, send)
            return
        shown = dict(scope["headers"]).get(b"traceparent")
        context = context_of(None if shown is None else shown.decode("latin-1"))
        method: str = scope["method"]
        with tracer.start_as_current_span(method, context, SpanKind.SERVER) as span:
            span.set_attribute("http.request.method", method)
            try:
                await self._app(scope, receive, send)
            finally:
                if (measured := scope.get(MEASURED)) is not None:
                    span.update_name(f"{method} {measured.route}")
                    span.set_attribute("http.route", measured.route)
                    span.set_attribute("http.response.status_code", measured.status)
                    if measured.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                        span.set_status(StatusCode.ERROR)
