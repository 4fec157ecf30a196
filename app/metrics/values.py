"""Counters, histograms and gauges of this process.

They are plain dictionaries by label values, because a hot route has a microsecond for all of them. The event loop is
the only thread that writes. Other threads may read.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

#: The values of the labels, in the order of their names.
Labels = tuple[str, ...]
ReadGauge = Callable[[], Mapping[Labels, float]]


class Counter:
    """A number for each combination of labels that only rises. Add to `values[labels]`."""

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.about = about
        self.labels = tuple(labels)
        self.values: defaultdict[Labels, float] = defaultdict(float)


class Histogram:
    """Observed numbers, counted by the first of `bounds` that each does not exceed.

    `values` has a list for each combination of labels: the count of each bucket, that of larger numbers, and the sum.
    """

    def __init__(self, name: str, about: str, labels: Sequence[str] = (), *, bounds: Sequence[float]) -> None:
        self.name = name
        self.about = about
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self.values: dict[Labels, list[float]] = {}

    def observe(self, labels: Labels, number: float) -> None:
        found = self.values.get(labels)
        if found is None:
            found = self.values[labels] = [0.0] * (len(self.bounds) + 2)
        found[bisect_left(self.bounds, number)] += 1
        found[-1] += number


class Gauge:
    """A number that is read when it is asked for; those of several readers and processes are added.

    One that `is_shared` is the same in all processes, and is not added.
    """

    def __init__(self, name: str, about: str, labels: Sequence[str] = (), *, is_shared: bool = False) -> None:
        self.name = name
        self.about = about
        self.labels = tuple(labels)
        self.is_shared = is_shared
        self._readers: list[ReadGauge] = []

    @contextmanager
    def read_by(self, read: ReadGauge) -> Iterator[None]:
        """Ask `read` while the context is open."""
        self._readers.append(read)
        try:
            yield
        finally:
            self._readers.remove(read)

    def read(self) -> dict[Labels, float]:
        """The present numbers."""
        numbers: dict[Labels, float] = {}
        for read in list(self._readers):
            for labels, number in read().items():
                before = 0.0 if self.is_shared else numbers.get(labels, 0.0)
                numbers[labels] = before + number
        return numbers
