"""Figures as Prometheus reads them."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app.metrics.catalogue import COUNTERS, GAUGES, HISTOGRAMS
from app.metrics.snapshot import Snapshot

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def exposition(snapshot: Snapshot) -> bytes:
    """A snapshot in the text format 0.0.4. A metric without numbers is named all the same."""
    return generate_latest(_Families(snapshot))


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for counter in COUNTERS:
            counted = CounterMetricFamily(counter.name, counter.about, labels=counter.labels)
            for labels, number in self._snapshot.counters.get(counter.name, {}).items():
                counted.add_metric(labels, number)
            yield counted
        for histogram in HISTOGRAMS:
            observed = HistogramMetricFamily(histogram.name, histogram.about, labels=histogram.labels)
            bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
            for labels, counts in self._snapshot.histograms.get(histogram.name, {}).items():
                buckets = list(zip(bounds, accumulate(counts[:-1]), strict=True))
                observed.add_metric(labels, buckets, counts[-1])
            yield observed
        for gauge in GAUGES:
            read = GaugeMetricFamily(gauge.name, gauge.about, labels=gauge.labels)
            for labels, number in self._snapshot.gauges.get(gauge.name, {}).items():
                read.add_metric(labels, number)
            yield read
