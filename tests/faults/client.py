"""The client's side: messages sent over HTTP, each until it is acknowledged, and a ledger of the answers.

It speaks HTTP by itself, because a client that takes longer over a thousand open requests than the service does would
measure itself.
"""

import asyncio
import json
import secrets
import time
from dataclasses import dataclass, field

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

#: A connection that idled longer may be closed by the server under the next request.
_KEPT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a client: its status, when it came and the seconds that it took."""

    began: float
    seconds: float
    status: int
    retry_after: str | None

    @property
    def came_at(self) -> float:
        return self.began + self.seconds


@dataclass
class Load:
    """Clients that send messages, each again until it is answered with 200, under one key: the client's ledger.

    With `inbound` it is a provider that hands messages over, each with an id of its own.
    """

    port: int
    per_second: float = 100
    inbound: bool = False
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    acknowledged: dict[str, int] = field(default_factory=dict)  #: message ids by body; 0 of what came in
    answers: list[Answer] = field(default_factory=list)
    broken: int = 0  #: requests that ended without an answer
    _idle: list[tuple[float, Connection]] = field(default_factory=list)  #: since when, the latest last
    _sent: int = 0
    _stopping: bool = False
    _may_begin: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._may_begin.set()

    async def send(self, count: int, *, at_once: int = 32) -> None:
        """Send so many, or until `stop`, as fast as they are answered."""
        self._stopping = False
        numbers = iter(range(self._sent, self._sent + count))
        self._sent += count

        async def sender() -> None:
            for number in numbers:
                await self._may_begin.wait()
                if self._stopping:
                    return
                await self._send(number)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(at_once, count)):
                tasks.create_task(sender())
        self._hang_up()

    async def run(self) -> None:
        """Send at a steady pace until `stop`, whether or not what was sent before has been answered."""
        self._stopping = False
        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping:
                tasks.create_task(self._send(self._sent))
                self._sent += 1
                number += 1
                await asyncio.sleep(max(0, began + number / self.per_second - time.monotonic()))  # the pace
        self._hang_up()

    def pause(self) -> None:
        """Let `send` begin nothing new until `go_on`."""
        self._may_begin.clear()

    def go_on(self) -> None:
        self._may_begin.set()

    def stop(self) -> None:
        """Send nothing new; what has not been acknowledged by its next answer is given up."""
        self._stopping = True

    async def _send(self, number: int) -> None:
        body = f"{self.name}-{number}"
        path, message = self._request(number, body)
        while True:
            began, pause = time.monotonic(), 0.5
            try:
                async with asyncio.timeout(60):
                    status, headers, said = await self._post(path, json.dumps(message), key=body)
            except (OSError, EOFError, TimeoutError):
                self.broken += 1
            else:
                seconds = time.monotonic() - began
                self.answers.append(Answer(began, seconds, status, headers.get("retry-after")))
                pause = float(headers.get("retry-after", pause))
                if status == 200:
                    self.acknowledged[body] = int(json.loads(said).get("message_id", 0))
                    return
            if self._stopping:
                return
            await asyncio.sleep(pause)  # between two tries, as a client does

    def _request(self, number: int, body: str) -> tuple[str, dict[str, str]]:
        ours, theirs = "+12016661234", f"+1804555{number % 10_000:04}"
        if self.inbound:
            message = {"from": theirs, "to": ours, "type": "sms", "body": body, "messaging_provider_id": body}
            return "/api/webhooks/sms", message
        return "/api/messages/sms", {"from": ours, "to": theirs, "type": "sms", "body": body}

    async def _post(self, path: str, content: str, *, key: str) -> tuple[int, dict[str, str], bytes]:
        reader, writer = self._kept() or await asyncio.open_connection("127.0.0.1", self.port)
        kept = False
        try:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Idempotency-Key: {key}\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            said = await reader.readexactly(int(headers["content-length"]))
            kept = headers.get("connection") != "close"
        finally:
            if kept:
                self._idle.append((time.monotonic(), (reader, writer)))
            else:
                writer.close()
        return int(first.split()[1]), headers, said

    def _kept(self) -> Connection | None:
        if self._idle and time.monotonic() - self._idle[-1][0] < _KEPT_SECONDS:
            return self._idle.pop()[1]
        self._hang_up()
        return None

    def _hang_up(self) -> None:
        while self._idle:
            self._idle.pop()[1][1].close()
