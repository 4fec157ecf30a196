"""Clients that ask at a steady pace, answered or not: an open loop, in a process of its own.

    python -m tests.faults.flood PORT PER_SECOND SECONDS NAME

Each client asks once, and takes the first answer for the last. The loop is cheap, because it shares two processors
with the service. The result is one JSON object on standard output.
"""

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast

from uvicorn.loops.auto import auto_loop_factory

#: Seconds after which the clients give up.
_PATIENCE = 30.0
_TICK = 0.005


@dataclass
class Flood:
    """The result of a flood. Seconds are from the request to the whole answer."""

    statuses: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)  #: message ids by body
    accepted_seconds: list[float] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)
    without_retry_after: int = 0  #: refusals that do not say when to come again
    broken: int = 0  #: requests that ended without an answer
    seconds: float = 0.0  #: how long it was asked


class _Stranger(asyncio.Protocol):
    """One connection: asks for one message, and, if that was accepted, may ask for another."""

    def __init__(self, crowd: "_Crowd", body: str) -> None:
        self._crowd = crowd
        self._body: str | None = body
        self._asked_at = time.monotonic()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport.write(self._crowd.request(self._body or ""))

    def ask_again(self, body: str) -> None:
        self._body, self._asked_at = body, time.monotonic()
        self._transport.write(self._crowd.request(body))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, content = self._received.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if not end or len(content) < length or self._body is None:
            return
        status = head[9:12].decode()
        body, self._body, self._received = self._body, None, b""
        self._crowd.answered(body, status, content, lines, time.monotonic() - self._asked_at)
        if status == "200":
            self._crowd.idle.append(self)
        else:  # a refused connection is closed for a while; the next client opens another
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._body is not None:
            self._crowd.lost()
        elif self in self._crowd.idle:
            self._crowd.idle.remove(self)


class _Crowd:
    def __init__(self, port: int, per_second: float, name: str) -> None:
        self._port, self._per_second, self._name = port, per_second, name
        self.flood = Flood()
        self.idle: list[_Stranger] = []
        self._outstanding: set[asyncio.Task[object]] = set()
        self._open = 0
        self._all_answered = asyncio.Event()

    async def run(self, seconds: float) -> Flood:
        began, asked = time.monotonic(), 0
        while (now := time.monotonic() - began) < seconds:
            while asked < now * self._per_second:
                self._ask(f"{self._name}-{asked}")
                asked += 1
            await asyncio.sleep(_TICK)  # the pace
        self.flood.seconds = time.monotonic() - began
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._all_answered.wait()
        self.flood.broken += self._open
        return self.flood

    def _ask(self, body: str) -> None:
        self._open += 1
        self._all_answered.clear()
        if self.idle:
            self.idle.pop().ask_again(body)
            return
        stranger = _Stranger(self, body)
        connecting = asyncio.get_running_loop().create_connection(lambda: stranger, "127.0.0.1", self._port)
        task: asyncio.Task[object] = asyncio.ensure_future(connecting)
        self._outstanding.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[object]) -> None:
        self._outstanding.discard(task)
        if task.exception() is not None:
            self.lost()

    def request(self, body: str) -> bytes:
        number = int(body.rpartition("-")[2])
        message = {"from": "+12016661234", "to": f"+1804555{number % 10_000:04}", "type": "sms", "body": body}
        content = json.dumps(message).encode()
        return (
            b"POST /api/messages/sms HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        )

    def answered(self, body: str, status: str, content: bytes, head: list[bytes], seconds: float) -> None:
        self._ended()
        self.flood.statuses[status] = self.flood.statuses.get(status, 0) + 1
        if status == "200":
            self.flood.accepted_seconds.append(seconds)
            self.flood.acknowledged[body] = int(json.loads(content)["message_id"])
        else:
            self.flood.refused_seconds.append(seconds)
            self.flood.without_retry_after += not any(line.startswith(b"retry-after:") for line in head)

    def lost(self) -> None:
        self._ended()
        self.flood.broken += 1

    def _ended(self) -> None:
        self._open -= 1
        if not self._open:
            self._all_answered.set()


async def main(port: int, per_second: float, seconds: float, name: str) -> None:
    print(json.dumps(asdict(await _Crowd(port, per_second, name).run(seconds))))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
