"""Traces and metrics by OpenTelemetry: a message is followed to its provider; while it is off, nothing is loaded."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import tracing
from app.config import Settings
from app.errors import ConfigurationError
from tests.factories import CONTACT, CUSTOMER, sms, until
from tests.wire import rows_of

pytest.importorskip("opentelemetry.sdk", reason="the extra is not installed: pip install -r requirements-otel.txt")

from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch, reader: InMemoryMetricReader) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "span_processor", lambda _: SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "metric_reader", lambda _: reader)
    return exporter


@pytest.fixture
async def client(serve: Serve, settings: Settings, exporter: InMemorySpanExporter) -> httpx.AsyncClient:
    return await serve(settings.model_copy(update={"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}))


async def spans_until(exporter: InMemorySpanExporter, name: str) -> dict[str, ReadableSpan]:
    """The finished spans by their names, once there is one of this name."""

    async def finished() -> dict[str, ReadableSpan]:
        return {span.name: span for span in exporter.get_finished_spans()}

    return await until(finished, lambda found: name in found)


async def test_a_message_is_followed_from_its_request_to_its_provider(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert (await client.post("/api/messages/sms?secret=1", json=sms(), headers=headers)).status_code == 200
    spans = await spans_until(exporter, "send sms")
    request, send = spans["POST /api/messages/sms"], spans["send sms"]
    assert request.context is not None
    assert request.parent is not None
    assert send.context is not None
    assert send.parent is not None
    assert f"{request.parent.span_id:016x}" == SPAN
    assert {f"{span.context.trace_id:032x}" for span in (request, send) if span.context} == {TRACE}
    assert send.parent.span_id == request.context.span_id
    assert send.attributes == {
        "messaging.system": "sms",
        "messaging.message.id": 1,
        "messaging.channel": "sms",
        "messaging.attempt": 1,
        "messaging.outcome": "accepted",
    }
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/messages/sms",
        "http.response.status_code": 200,
    }
    told = " ".join(span.to_json() for span in spans.values())
    assert not [private for private in (CUSTOMER, CONTACT, "Hello!", "secret") if private in told]


async def test_a_route_of_the_framework_is_a_span_too(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await client.get("/api/messages/12345/timeline")
    await spans_until(exporter, "GET /api/messages/{message_id}/timeline")
    assert len(exporter.get_finished_spans()) == 1


async def test_a_trace_that_is_not_recorded_is_not_stored(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/api/messages/sms", json=sms(), headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert rows_of(database_url, "SELECT details FROM messages") == [(None,)]


async def test_a_repeat_in_another_trace_is_the_same_request(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "one"}
    answers = [
        await client.post("/api/messages/sms", json=sms(), headers=key | {"traceparent": f"00-{TRACE}-{span}-01"})
        for span in (SPAN, SPAN[::-1])
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["idempotent-replayed"] == "true"


async def test_the_metrics_go_along(client: httpx.AsyncClient, reader: InMemoryMetricReader) -> None:
    await client.post("/api/messages/sms", json=sms())
    data = reader.get_metrics_data()
    assert data is not None
    found: dict[str, Any] = {
        metric.name: metric.data
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    points = {tuple(sorted((p.attributes or {}).items())): p.value for p in found["messaging_requests"].data_points}
    route = ("route", "/api/messages/sms")
    assert points[("method", "POST"), route, ("status", "2xx")] >= 1
    bounds = {p.attributes["le"] for p in found["messaging_accept_duration_seconds_bucket"].data_points}
    assert {"0.001", "+Inf"} <= bounds
    assert found["messaging_database_connections"].data_points


async def test_without_an_endpoint_nothing_is_stored(
    serve: Serve, settings: Settings, exporter: InMemorySpanExporter, database_url: str
) -> None:
    client = await serve(settings)
    await client.post("/api/messages/sms", json=sms(), headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert tracing.current_tracer() is None
    assert rows_of(database_url, "SELECT details FROM messages") == [(None,)]
    assert exporter.get_finished_spans() == ()


async def test_without_the_extra_it_says_how_to_install_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r"requirements-otel\.txt"):
        async with tracing.tracing(settings.model_copy(update={"otel_exporter_otlp_endpoint": "http://x"})):
            pass


@pytest.mark.slow
def test_nothing_of_the_sdk_is_loaded_while_it_is_off() -> None:
    program = "import sys, app.main; sys.exit('opentelemetry.sdk' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
