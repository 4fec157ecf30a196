"""Load shedding: a request that comes when the process can't serve more in time is refused at once.

Without it every client waits, and the work is done for clients that have given up.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.errors import Overloaded
from app.http.access import client_address
from app.http.body_budget import BodyBudget
from app.http.envelope import Headers, data_headers, id_for, request_ids
from app.http.monitoring.measured import MEASURED
from app.http.problems import service_problem
from app.log import Seldom
from app.metrics.catalogue import REQUESTS_SHED
from app.metrics.requests import MeasuredRequest
from app.services.limits.failed_keys import address_block

#: Health checks, which have to be answered truthfully under load as well.
NEVER_SHED = frozenset({"/healthz", "/readyz"})
#: Bytes of incomplete bodies: of all requests together, and of those from one network address.
_INCOMPLETE_BYTES, _INCOMPLETE_BYTES_OF_ONE = 300_000_000, 100_000_000
_ID = b"0" * 24  # stands for the request's id in the prepared answer


class Refusal:
    """The answer to a request that is shed, rendered in advance except for the request's id."""

    def __init__(self, settings: Settings) -> None:
        answer = service_problem(
            Overloaded("More requests are under way than the service can take on right now. Try again shortly.")
        )
        body = json.loads(bytes(answer.body)) | {"request_id": _ID.decode()}
        self._body = json.dumps(body, separators=(",", ":")).encode()
        headers = [(name, value) for name, value in answer.raw_headers if name != b"content-length"]
        self._headers = [*headers, *data_headers(settings)]
        self._ids = request_ids()
        self._shed = Seldom("requests_shed")

    def answer(self, given_id: bytes | None, *, in_flight: int) -> tuple[Headers, bytes]:
        """Headers and body for a request that shows `given_id` and comes while `in_flight` others are served."""
        self._shed.note(in_flight=in_flight)
        REQUESTS_SHED.values[()] += 1
        id_ = id_for(given_id, self._ids)
        body = self._body.replace(_ID, id_)
        return [(b"x-request-id", id_), (b"content-length", b"%d" % len(body)), *self._headers], body


#: Seconds in which a request is to be answered, and those after which its time says something about the load.
_TARGET_SECONDS, _SLOW_SECONDS = 0.5, 0.2
#: The lowest limit. A request that is slow while so few are in flight is slow by itself.
_LEAST = 20
#: The limit is adapted after so many requests. It falls once they have been slow for so many seconds, because a short
#: stall is no overload.
_SAMPLE, _SUSTAINED_SECONDS = 16, 0.2


class AdaptiveLimit:
    """The number of requests that may be in flight for each to be answered within half a second.

    If a request finds 300 in flight and takes 1.5 s, the process can answer 100 in 0.5 s (Little's law). While
    answers are quick the limit rises to `most` again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.allowed = most
        self._quick = self._slow = 0
        self._affordable = 0.0  # the sum of the limits that the slow requests suggest
        self._slow_since: float | None = None

    def record(self, seconds: float, in_flight: int, *, now: float) -> None:
        """Count a request that took `seconds` until now and began as one of `in_flight`."""
        if seconds > _SLOW_SECONDS and in_flight > _LEAST:
            self._slow += 1
            self._affordable += in_flight * _TARGET_SECONDS / seconds
        else:
            self._quick += 1
        if self._quick + self._slow < _SAMPLE:
            return
        if self._slow <= self._quick:
            self._slow_since = None
            self.allowed = min(self._most, self.allowed + self.allowed // 8)
        elif self._slow_since is None:
            self._slow_since = now
        elif now - self._slow_since > _SUSTAINED_SECONDS:
            self.allowed = min(self._most, max(_LEAST, round(self._affordable / self._slow)))
        self._quick = self._slow = 0
        self._affordable = 0.0


class OverloadGuard:
    """Refuses a request at once while `MAX_REQUESTS_IN_FLIGHT` are in flight, or fewer where those would take more
    than half a second (`AdaptiveLimit`).

    A request is not in flight while its body is still coming, so that slow clients can't keep others out. The memory
    of such bodies is bounded instead, and a request that exceeds it is refused. A request is not in flight either
    while it waits for something to happen, as it asked to: for a provider's answer, or for events.

    This is the outermost layer, since a refusal has to cost little. `TimedProtocol` refuses for even less.
    """

    def __init__(self, app: ASGIApp, *, most: int, refusal: Refusal) -> None:
        self._app = app
        self.limit = AdaptiveLimit(most)
        self.refusal = refusal
        self._entered = 0
        #: Requests that have entered and wait: for more of their bodies, or as they asked to.
        self.waiting = 0
        self._bodies = BodyBudget(_INCOMPLETE_BYTES, of_one=_INCOMPLETE_BYTES_OF_ONE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # the lifespan, which lasts as long as the process
            return
        in_flight = self._entered - self.waiting
        if in_flight >= self.limit.allowed and scope["path"] not in NEVER_SHED:
            await self._refuse(scope, send, in_flight)
            return
        sender, held = "", 0
        measured = scope[MEASURED] = MeasuredRequest(time.monotonic())

        async def receiving() -> Message:
            nonlocal sender, held
            if measured.is_stopped:
                return await receive()  # it waits for the client to leave, and is counted already
            self.waiting += 1
            try:
                message = await receive()
            finally:
                self.waiting -= 1
            if message.get("more_body"):
                sender = address_block(client_address(scope))
                self._bodies.take(sender, len(message["body"]))
                held += len(message["body"])
            elif held:
                measured.began = time.monotonic()  # a slow client says nothing about our load
            return message

        self._entered += 1
        try:
            await self._app(scope, receiving, send)
        finally:
            self._entered -= 1
            now = time.monotonic()
            seconds = now - measured.began
            self.limit.record(seconds, in_flight + 1, now=now)
            measured.count(scope["method"], seconds)
            if held:
                self._bodies.give_back(sender, held)

    async def _refuse(self, scope: Scope, send: Send, in_flight: int) -> None:
        headers, body = self.refusal.answer(dict(scope["headers"]).get(b"x-request-id"), in_flight=in_flight)
        await send({"type": "http.response.start", "status": Overloaded.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @contextmanager
    def not_in_flight(self, scope: Scope) -> Iterator[None]:
        """Count a request that waits as it asked to as not in flight, and the time as not ours."""
        measured: MeasuredRequest = scope[MEASURED]
        self.waiting += 1
        measured.is_stopped = True
        began = time.monotonic()
        try:
            yield
        finally:
            self.waiting -= 1
            measured.is_stopped = False
            measured.began += time.monotonic() - began
