"""All figures of a process at one moment: to be written down, compared with earlier ones, and added up."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import psutil

from app.metrics.catalogue import COUNTERS, CPU_SECONDS, GAUGES, HISTOGRAMS, MEMORY, PROCESSES
from app.metrics.requests import fill_in_requests
from app.metrics.values import Labels


@dataclass(slots=True)
class Snapshot:
    """Numbers by the name of a metric, and then by the values of its labels."""

    counters: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, list[float]]] = field(default_factory=dict)
    gauges: dict[str, dict[Labels, float]] = field(default_factory=dict)

    @classmethod
    def take(cls) -> Self:
        """The figures of this process."""
        fill_in_requests()
        CPU_SECONDS.values[()] = time.process_time()
        gauges = {gauge.name: gauge.read() for gauge in GAUGES}
        gauges[PROCESSES.name] = {(): 1.0}
        gauges[MEMORY.name] = {(): float(psutil.Process().memory_info().rss)}
        return cls(
            {counter.name: dict(counter.values) for counter in COUNTERS},
            {
                each.name: {labels: list(counts) for labels, counts in dict(each.values).items()}
                for each in HISTOGRAMS
            },
            gauges,
        )

    def add(self, other: "Snapshot", *, is_dead: bool = False) -> None:
        """Add the figures of another process; of a dead one, only those that must not fall."""
        for name, numbers in other.counters.items():
            own = self.counters.setdefault(name, {})
            for labels, number in numbers.items():
                own[labels] = own.get(labels, 0.0) + number
        for name, observed in other.histograms.items():
            histogram = self.histograms.setdefault(name, {})
            for labels, counts in observed.items():
                before = histogram.get(labels)
                histogram[labels] = (
                    list(counts) if before is None else [sum(pair) for pair in zip(before, counts, strict=True)]
                )
        if is_dead:
            return
        for gauge in GAUGES:
            read = self.gauges.setdefault(gauge.name, {})
            for labels, number in other.gauges.get(gauge.name, {}).items():
                if gauge.is_shared:
                    read.setdefault(labels, number)
                else:
                    read[labels] = read.get(labels, 0.0) + number

    def since(self, earlier: "Snapshot") -> "Snapshot":
        """The part of counters and histograms that has been added since then, without zeros."""
        counters = {}
        for name, numbers in self.counters.items():
            before = earlier.counters.get(name, {})
            if grown := {
                labels: n - before.get(labels, 0.0) for labels, n in numbers.items() if n != before.get(labels)
            }:
                counters[name] = grown
        histograms = {}
        for name, observed in self.histograms.items():
            known = earlier.histograms.get(name, {})
            if more := {
                labels: _grown(counts, known.get(labels))
                for labels, counts in observed.items()
                if counts != known.get(labels)
            }:
                histograms[name] = more
        return Snapshot(counters, histograms)

    def document(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "counters": _listed(self.counters),
            "histograms": _listed(self.histograms),
            "gauges": _listed(self.gauges),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The snapshot in a document. Raises `KeyError`, `TypeError` or `ValueError` if it is none."""
        return cls(*(_by_labels(document[part]) for part in ("counters", "histograms", "gauges")))


def _grown(counts: Iterable[float], before: list[float] | None) -> list[float]:
    return list(counts) if before is None else [now - then for now, then in zip(counts, before, strict=True)]


def _listed(part: Mapping[str, Mapping[Labels, Any]]) -> dict[str, list[Any]]:
    return {name: [[list(labels), value] for labels, value in numbers.items()] for name, numbers in part.items()}


def _by_labels(part: Mapping[str, Iterable[Any]]) -> dict[str, dict[Labels, Any]]:
    return {name: {tuple(labels): value for labels, value in numbers} for name, numbers in part.items()}
