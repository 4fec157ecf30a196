"""The door of the process: when more is under way than it can do in time, whoever comes next is turned away at once.

Without it everybody waits, and the work that is done is for callers who have given up.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.errors import Overloaded
from app.http.envelope import Headers, data_headers, id_for, request_ids
from app.http.problems import problem
from app.log import Seldom
from app.services.limits.failed_keys import household_of

#: Whoever watches over the process has to be told the truth also when it is busy.
NEVER_SHED = frozenset({"/healthz", "/readyz"})
#: Bytes of bodies that are not whole yet, of all requests together, and of those that one address sends.
_ROOM, _ROOM_OF_ONE = 300_000_000, 100_000_000
_ID = b"0" * 24


class Refusal:
    """The answer to those who are too many, made beforehand but for the request's id."""

    def __init__(self, settings: Settings) -> None:
        self._headers, self._body = _busy(settings)
        self._ids = request_ids()
        self._shed = Seldom("requests_shed")

    def answer(self, given_id: bytes | None, *, in_flight: int) -> tuple[Headers, bytes]:
        """Headers and body for one request, which shows this id, if any, and comes while so many are under way."""
        self._shed.note(in_flight=in_flight)
        id_ = id_for(given_id, self._ids)
        body = self._body.replace(_ID, id_)
        return [(b"x-request-id", id_), (b"content-length", b"%d" % len(body)), *self._headers], body


_VISIT = "visit"
#: Seconds that a request may take, with all that it waits for here, and those after which it tells how many may.
_LONG, _TELLING = 0.5, 0.2
#: What takes long while so few are under way takes long by itself.
_FEW = 20
#: So many requests are looked at together, and so many seconds it has to last: a moment's stall is no overload.
_TOGETHER, _LASTING = 16, 0.2


class Pace:
    """How many may be under way for each to be answered within about half a second: as many as are answered in one.

    Of a request that found 300 under way and took 1.5 seconds that is 100, by Little's law. While answers are quick
    nobody waits, and `most` may be there.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.allowed = most
        self._quick = self._slow = 0
        self._affordable = 0.0  # the sum of what each that was slow has told
        self._slow_since: float | None = None

    def took(self, seconds: float, among: int, *, now: float) -> None:
        """Note a request that took so long until now, and had found so many under way, itself among them."""
        if seconds > _TELLING and among > _FEW:
            self._slow += 1
            self._affordable += among * _LONG / seconds
        else:
            self._quick += 1
        if self._quick + self._slow < _TOGETHER:
            return
        if self._slow <= self._quick:
            self._slow_since = None
            self.allowed = min(self._most, self.allowed + self.allowed // 8)
        elif self._slow_since is None:
            self._slow_since = now
        elif now - self._slow_since > _LASTING:
            self.allowed = min(self._most, max(_FEW, round(self._affordable / self._slow)))
        self._quick = self._slow = 0
        self._affordable = 0.0


@dataclass(slots=True)
class _Visit:
    """A request that has entered: since when it takes our time. The layers within hand on copies of its scope."""

    began: float


class OverloadGuard:
    """Turns away at once what comes while `MAX_REQUESTS_IN_FLIGHT` are under way, or fewer where that would take more
    than half a second (`Pace`).

    A request whose body is still coming is not under way: whoever sends a byte now and then would keep everybody else
    out. What such bodies hold together is bounded instead, and who goes beyond that is turned away too. Neither is
    one that waits for a provider, because it asked to.

    The outermost layer: the less it costs to say no, the more is left for those who are let in. `TimedProtocol` says
    it for even less.
    """

    def __init__(self, app: ASGIApp, *, most: int, refusal: Refusal) -> None:
        self._app = app
        self.pace = Pace(most)
        self.refusal = refusal
        self._entered = 0
        #: Requests that have entered, and wait for somebody outside: for more of their bodies, or for a provider.
        self.idle = 0
        self._held: Counter[str] = Counter()  # bytes, by address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # the lifespan, which is under way all the time
            return
        under_way = self._entered - self.idle
        if under_way >= self.pace.allowed and scope["path"] not in NEVER_SHED:
            given_id = dict(scope["headers"]).get(b"x-request-id")
            headers, body = self.refusal.answer(given_id, in_flight=under_way)
            await send({"type": "http.response.start", "status": Overloaded.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        holder, held = "", 0
        visit = scope[_VISIT] = _Visit(time.monotonic())

        async def patient() -> Message:
            nonlocal holder, held
            self.idle += 1
            try:
                message = await receive()
            finally:
                self.idle -= 1
            if message.get("more_body"):
                holder = household_of(scope["client"][0] if scope.get("client") else None)
                held += len(message["body"])
                self._held[holder] += len(message["body"])
                if self._held[holder] > _ROOM_OF_ONE or self._held.total() > _ROOM:
                    raise Overloaded("More is being sent than there is room for right now. Try again shortly.")
            elif held:
                visit.began = time.monotonic()  # what a client takes its time over says nothing about us
            return message

        self._entered += 1
        try:
            await self._app(scope, patient, send)
        finally:
            self._entered -= 1
            now = time.monotonic()
            self.pace.took(now - visit.began, under_way + 1, now=now)
            if held:
                self._held -= Counter({holder: held})

    @contextmanager
    def waiting_outside(self, scope: Scope) -> Iterator[None]:
        """While a request waits for a provider it is not under way, and takes no time."""
        self.idle += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.idle -= 1
            scope[_VISIT].began += time.monotonic() - began


def _busy(settings: Settings) -> tuple[Headers, bytes]:
    """Headers and body of the answer, without the request's id and the length, which has `_ID` where the id goes."""
    answer = problem(
        Overloaded.status,
        Overloaded.title,
        "More requests are under way than the service can take on right now. Try again shortly.",
        headers={"Retry-After": str(Overloaded.retry_after)},
    )
    body = json.loads(bytes(answer.body)) | {"request_id": _ID.decode()}
    content = json.dumps(body, separators=(",", ":")).encode()
    headers = [(name, value) for name, value in answer.raw_headers if name != b"content-length"]
    return [*headers, *data_headers(settings)], content
