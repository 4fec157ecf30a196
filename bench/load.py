"""The load generator: an HTTP/1.1 client small enough not to limit the measurement.

It runs as a separate process, `python -m bench.load '{"port": 8080, ...}'`, and prints its results as JSON. Each
connection sends a request, waits for the whole answer, and sends the next. The first requests, one for each pair of
addresses, are the warm-up. They create the conversations, and count as answered but not as measured.
"""

import asyncio
import itertools
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import cast

from uvicorn.loops.auto import auto_loop_factory

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_TEXTS_PER_PAIR = 4
_SEED = 20241101
#: Timeout in seconds for the warm-up and for the outstanding answers at the end.
PATIENCE = 120.0


@dataclass(frozen=True)
class Plan:
    """A run of the load generator: its seconds, its connections, and its pairs of addresses.

    With `messages` it also ends after that many messages. They have to be more than pairs and connections together,
    so that some are left after the warm-up. With `key` every request carries it. With `path` the requests are GETs of
    it instead of messages. With `fresh` every message is the first of its pair. With `inbound` they are webhooks, of
    which every tenth is a repeat. With `receipts` they are receipts for messages 0, 1, 2, … of the provider
    `simulator` (`provider_id`).
    """

    port: int
    seconds: float
    connections: int
    pairs: int
    messages: int | None = None
    key: str | None = None
    path: str | None = None
    fresh: bool = False
    inbound: bool = False
    receipts: bool = False
    host: str = "127.0.0.1"


@dataclass
class Seen:
    """The results of a run. The first four count the whole run with its warm-up, the others the measured seconds."""

    answered: int = 0  #: complete answers with 2xx.
    repeats: int = 0  #: of these, webhooks that came before.
    others: dict[str, int] = field(default_factory=dict)  #: complete answers with another status, by status.
    broken: int = 0  #: connections that ended, sent a malformed answer, or timed out.
    per_second: float = 0.0  #: answers with 2xx a second.
    p50_ms: float = 0.0  #: median of the milliseconds from a request to its answer.
    p99_ms: float = 0.0  #: the 99th percentile of the same.
    busy: float | None = None  #: the generator's share of one processor core; near 1 it is the limit.

    def after(self, earlier: "Seen") -> "Seen":
        """The results of this run, with an earlier run as a part of its warm-up."""
        others = Counter(self.others) + Counter(earlier.others)
        return replace(
            self,
            answered=self.answered + earlier.answered,
            repeats=self.repeats + earlier.repeats,
            others=dict(others),
            broken=self.broken + earlier.broken,
        )


def messages(pairs: int) -> list[dict[str, str | None]]:
    """The messages to send, the same in every run: all pairs in random order, repeatedly with other texts."""
    chance = random.Random(_SEED)  # noqa: S311 - repeatable, not secret
    drawn: list[dict[str, str | None]] = []
    for _ in range(_TEXTS_PER_PAIR):
        for pair in chance.sample(range(pairs), pairs):
            words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(chance.randint(3, 30))]
            message: dict[str, str | None] = {
                "from": f"+1201666{pair % 50:04}",
                "to": f"+1804{5550000 + pair:07}",
                "type": "sms",
                "body": " ".join(words),
                "attachments": None,
                "timestamp": f"2024-11-01T{chance.randrange(24):02}:{chance.randrange(60):02}:00Z",
            }
            drawn.append(message)
    return drawn


def answer_in(received: bytes) -> tuple[int, int] | None:
    """Status and length in bytes of the first answer in `received`; None while it is incomplete.

    Raises `ValueError` if it is not HTTP or has no Content-Length.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(received, 0, end + 2)
    if length is None or not received.startswith(b"HTTP/1."):
        raise ValueError("not an answer with a content-length")
    total = end + 4 + int(length[1])
    return (int(received[9:12]), total) if len(received) >= total else None


class Load:
    """One run: it gives the connections their requests, and counts the answers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._asked = 0
        self._requests = _requests(plan)
        self._latencies: list[float] = []
        self._warming = plan.pairs
        self._unsent = float("inf") if plan.messages is None else plan.messages - plan.connections
        self._begin = self._end = float("inf")
        self._statuses: Counter[int] = Counter()
        self._open = plan.connections
        self._broken = 0
        self._worked = 0.0
        self._busy: float | None = None
        self._done = asyncio.Event()

    def next_request(self) -> bytes:
        self._asked += 1
        return next(self._requests)

    async def run(self) -> Seen:
        """Open the connections, and return the results after the planned time and the last answer."""
        loop, plan = asyncio.get_running_loop(), self._plan
        lines = [_Connection(self) for _ in range(plan.connections)]
        for line in lines:
            await loop.create_connection(lambda line=line: line, plan.host, plan.port)  # type: ignore[misc]
        started = time.perf_counter()
        for line in lines:
            line.send(started)
        try:
            await asyncio.wait_for(self._done.wait(), plan.seconds + PATIENCE)
        except TimeoutError:
            self._broken += self._open
        for line in lines:
            line.close()
        return self._seen()

    def took(self, status: int, sent: float, now: float) -> bool:
        """Count the answer to a request that left at `sent`. Returns False if the run is over."""
        self._statuses[status] += 1
        if now < self._end:
            if self._begin <= now:
                if 200 <= status < 300:
                    self._latencies.append(now - sent)
            else:
                self._warming -= 1
                if not self._warming:
                    self._begin, self._end = now, now + self._plan.seconds
                    self._worked = time.process_time()
            if self._unsent:
                self._unsent -= 1
                return True
            self._end = now
        self._busy = self._busy or (time.process_time() - self._worked) / (now - self._begin)
        return False

    def closed(self, *, broken: bool) -> None:
        """Count a connection that has sent its last request."""
        self._open -= 1
        self._broken += broken
        if not self._open:
            self._done.set()

    def _seen(self) -> Seen:
        latencies = sorted(self._latencies)
        good = {status: count for status, count in self._statuses.items() if 200 <= status < 300}
        return Seen(
            answered=sum(good.values()),
            repeats=sum(_original_of(number) != number for number in range(self._asked)) if self._plan.inbound else 0,
            others={str(status): count for status, count in self._statuses.items() if status not in good},
            broken=self._broken,
            per_second=len(latencies) / (self._end - self._begin) if latencies else 0.0,
            p50_ms=percentile(latencies, 50) * 1000,
            p99_ms=percentile(latencies, 99) * 1000,
            busy=self._busy,
        )


def percentile(ordered: list[float], percent: int) -> float:
    """The value at this percentile; 0 for an empty list."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0.0


def _requests(plan: Plan) -> Iterator[bytes]:
    """The requests of a plan, without end, as bytes."""
    if plan.receipts:
        return _receipts(plan)
    if plan.fresh or plan.inbound:
        return _numbered(plan)
    host = f"Host: {plan.host}:{plan.port}\r\n"
    shown = f"Authorization: Bearer {plan.key}\r\n" if plan.key else ""
    if plan.path is not None:
        return itertools.repeat(f"GET {plan.path} HTTP/1.1\r\n{host}{shown}\r\n".encode())
    bodies = [json.dumps(message).encode() for message in messages(plan.pairs)]
    head = f"POST /api/messages/sms HTTP/1.1\r\n{host}{shown}Content-Type: application/json\r\nContent-Length: "
    return itertools.cycle([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])


_REPEAT_EVERY, _REPEATED_AFTER = 10, 1_000


def _original_of(number: int) -> int:
    """The request that a webhook repeats: every tenth is one of a while ago."""
    is_repeat = number % _REPEAT_EVERY == _REPEAT_EVERY - 1 and number > _REPEATED_AFTER
    return number - _REPEATED_AFTER - 1 if is_repeat else number


def _numbered(plan: Plan) -> Iterator[bytes]:
    """Messages or webhooks, of which no two are the same but for repeats; those of another run are others."""
    run = time.time_ns() // 10**6
    path = "/api/webhooks/sms" if plan.inbound else "/api/messages/sms"
    for number in itertools.count():
        number = _original_of(number) if plan.inbound else number
        pair = number % plan.pairs
        content = (
            b'{"from":"+1201%07d","to":"+1804%07d","type":"sms","messaging_provider_id":"%d-%d",'
            b'"body":"Your code is %06d.","attachments":null,"timestamp":"2024-11-01T14:00:00Z"}'
        )
        people = (6660000 + pair % 50, 5550000 + pair) if plan.inbound else (6660000 + run % 1000, 5000000 + number)
        yield _posted(plan, path, content % (*people, run, number, number % 10**6))


def provider_id(number: int) -> str:
    """The id of a message at the benchmark's own carrier, as long as those of real ones."""
    return f"bench-{number:028}"


def _receipts(plan: Plan) -> Iterator[bytes]:
    for id in map(provider_id, itertools.count()):
        receipt = {"event": "receipt", "event_id": f"{id}:delivered", "status": "delivered", "id": id}
        yield _posted(plan, "/api/webhooks/simulator", json.dumps(receipt).encode())


def _posted(plan: Plan, path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._sent = 0.0
        self._received = b""
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def send(self, now: float) -> None:
        self._sent = now
        self._transport.write(self._load.next_request())

    def close(self) -> None:
        self._is_over = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        received = self._received + data if self._received else data
        try:
            answer = answer_in(received)
        except ValueError:
            self._give_up(broken=True)
            return
        self._received = b"" if answer else received
        if answer is None:
            return
        if self._load.took(answer[0], self._sent, now):
            self.send(now)
        else:
            self._give_up(broken=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._give_up(broken=True)

    def _give_up(self, *, broken: bool) -> None:
        if not self._is_over:
            self.close()
            self._load.closed(broken=broken)


def main(words: str) -> None:
    """Run the plan in `words`, as JSON, and print the results."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        print(json.dumps(asdict(runner.run(_run(Plan(**json.loads(words)))))))


async def _run(plan: Plan) -> Seen:
    return await Load(plan).run()


if __name__ == "__main__":
    main(sys.argv[1])
