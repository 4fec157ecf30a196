"""OpenTelemetry, an extra: traces that follow a message from its request to its provider, and the metrics by OTLP.

It is off without OTEL_EXPORTER_OTLP_ENDPOINT, and then nothing of its SDK is loaded. The SDK reads its other
settings from the environment by itself, such as `OTEL_SERVICE_NAME` and `OTEL_TRACES_SAMPLER`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.config import Settings
from app.errors import ConfigurationError
from app.metrics.catalogue import COUNTERS, GAUGES, HISTOGRAMS
from app.metrics.snapshot import Snapshot

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor

#: A collector that is away must not keep a process from stopping.
_EXPORT_SECONDS = 2
#: Instruments that are read at about the same time share a snapshot.
_SAME_SECONDS = 0.5
_NAME = "messaging-service"
_TRACEPARENT = "traceparent"

_propagator = TraceContextTextMapPropagator()
_tracer: Tracer | None = None


def current_tracer() -> Tracer | None:
    """The tracer of this process; None while tracing is off."""
    return _tracer


def traceparent() -> str | None:
    """The current span as W3C Trace Context writes it; None if it is not recorded."""
    if _tracer is None or not get_current_span().get_span_context().trace_flags.sampled:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(_TRACEPARENT)


def context_of(written: str | None) -> Context:
    """The context that a `traceparent` names; an empty one where it is none."""
    return _propagator.extract({} if written is None else {_TRACEPARENT: written}, Context())


@asynccontextmanager
async def tracing(settings: Settings) -> AsyncIterator[None]:
    """Send traces and metrics while the context is open, if they are switched on.

    Raises `ConfigurationError` if OpenTelemetry is not installed.
    """
    global _tracer
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        yield
        return
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import TracerProvider

        traces = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        traces.add_span_processor(span_processor(endpoint))
        metrics = MeterProvider([metric_reader(endpoint)], resource=_resource(), shutdown_on_exit=False)
    except ImportError as error:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: "
            "`pip install -r requirements-otel.txt` does it."
        ) from error
    _observe(metrics.get_meter(_NAME))
    _tracer = traces.get_tracer(_NAME)
    try:
        yield
    finally:
        _tracer = None
        await asyncio.to_thread(traces.shutdown)
        await asyncio.to_thread(metrics.shutdown, _EXPORT_SECONDS * 1000)


def span_processor(endpoint: str) -> "SpanProcessor":
    """The way of finished spans to a collector."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS))


def metric_reader(endpoint: str) -> "MetricReader":
    """The way of the metrics to a collector."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(f"{endpoint.rstrip('/')}/v1/metrics", timeout=_EXPORT_SECONDS)
    return PeriodicExportingMetricReader(exporter)


def _resource() -> "Resource":
    from opentelemetry.sdk.resources import Resource

    found = Resource.create({"service.instance.id": secrets.token_hex(8)})
    is_named = not str(found.attributes.get("service.name", "unknown_service")).startswith("unknown_service")
    return found if is_named else found.merge(Resource({"service.name": _NAME}))


def _observe(meter: "Meter") -> None:
    """Show all metrics to a meter. A histogram becomes counters of its buckets, of its numbers and of their sum."""
    latest = _Latest()
    for counter in COUNTERS:
        read = _reader(latest, lambda taken, name=counter.name: taken.counters.get(name, {}), counter.labels)
        meter.create_observable_counter(counter.name, [read], description=counter.about)
    for gauge in GAUGES:
        read = _reader(latest, lambda taken, name=gauge.name: taken.gauges.get(name, {}), gauge.labels)
        meter.create_observable_gauge(gauge.name, [read], description=gauge.about)
    for histogram in HISTOGRAMS:
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]

        def buckets(taken: Snapshot, name: str = histogram.name, bounds: list[str] = bounds) -> dict[Any, float]:
            return {
                (*labels, bound): count
                for labels, counts in taken.histograms.get(name, {}).items()
                for bound, count in zip(bounds, accumulate(counts[:-1]), strict=True)
            }

        def sums(taken: Snapshot, name: str = histogram.name) -> dict[Any, float]:
            return {labels: counts[-1] for labels, counts in taken.histograms.get(name, {}).items()}

        named = (*histogram.labels, "le")
        meter.create_observable_counter(f"{histogram.name}_bucket", [_reader(latest, buckets, named)])
        meter.create_observable_counter(f"{histogram.name}_sum", [_reader(latest, sums, histogram.labels)])


class _Latest:
    """A snapshot that is taken anew after half a second."""

    def __init__(self) -> None:
        self._taken = Snapshot()
        self._taken_at = 0.0

    def get(self) -> Snapshot:
        if time.monotonic() - self._taken_at > _SAME_SECONDS:
            self._taken, self._taken_at = Snapshot.take(), time.monotonic()
        return self._taken


def _reader(
    latest: _Latest, numbers: Callable[..., Mapping[Any, float]], names: Iterable[str]
) -> "Callable[[CallbackOptions], Iterable[Observation]]":
    from opentelemetry.metrics import Observation

    def read(_: "CallbackOptions") -> "Iterable[Observation]":
        for labels, number in numbers(latest.get()).items():
            yield Observation(number, dict(zip(names, labels, strict=True)))

    return read
