"""The figures of requests.

Each request costs one look-up and two additions. The metrics are made of that when they are read.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass

from app.metrics.catalogue import ACCEPT_SECONDS, REQUEST_SECONDS, REQUESTS
from app.metrics.values import Labels

#: The route of a request to an address that there is not.
NO_ROUTE = "none"

_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ACCEPTING = frozenset(
    {
        "/api/messages/sms",
        "/api/messages/email",
        "/api/messages/{channel}",
        "/api/conversations/{conversation_id}/messages",
    }
)
_OK = 200
_BOUNDS = REQUEST_SECONDS.bounds
#: Counts of the buckets and the sum of the seconds, by route, method and status.
_served: dict[tuple[str, str, int], list[float]] = {}


@dataclass(slots=True)
class MeasuredRequest:
    """The start of the time that a request costs us, its route and its status.

    It is mutable, because layers of ASGI copy the scope. `status` is 0 until the answer begins.
    """

    began: float
    is_stopped: bool = False
    route: str = NO_ROUTE
    status: int = 0

    def count(self, method: str, seconds: float) -> None:
        """Count the request, at its end."""
        served = _served.get((self.route, method, self.status))
        if served is None:
            known = self.route, method if method in _METHODS else "other", self.status
            served = _served.setdefault(known, [0.0] * (len(_BOUNDS) + 2))
        served[bisect_left(_BOUNDS, seconds)] += 1
        served[-1] += seconds


def fill_in_requests() -> None:
    """Bring the metrics of requests up to date."""
    requests: defaultdict[Labels, float] = defaultdict(float)
    by_route: dict[Labels, list[float]] = {}
    accepting = [0.0] * (len(_BOUNDS) + 2)
    for (route, method, status), served in list(_served.items()):
        requests[route, method, _CLASSES[status // 100]] += sum(served[:-1])
        _add(by_route.setdefault((route,), [0.0] * len(served)), served)
        if status == _OK and method == "POST" and route in _ACCEPTING:
            _add(accepting, served)
    REQUESTS.values, REQUEST_SECONDS.values, ACCEPT_SECONDS.values = requests, by_route, {(): accepting}


def _add(total: list[float], counts: list[float]) -> None:
    total[:] = [sum(pair) for pair in zip(total, counts, strict=True)]
