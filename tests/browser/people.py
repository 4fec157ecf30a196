"""The people who write to the inbox, and the service's own view of their messages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, TypeVar

import httpx

from tests.live import LOCAL

Found = TypeVar("Found")

OURS, OUR_MAIL = "+12016660000", "help@shop.example"
BUSY = 503
_numbers = count(1)


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=LOCAL, base_url=url, timeout=60)


@dataclass(frozen=True)
class Person:
    """A person outside, who reaches the service through its webhooks."""

    url: str
    address: str
    name: str | None = None

    async def write(self, body: str, *, subject: str = "A question") -> None:
        """Send a message to our address. A busy service is asked again, as providers do."""
        path, message = self._mail(subject) if "@" in self.address else self._text()
        content = {"attachments": None, "timestamp": datetime.now(UTC).isoformat(), "body": body}
        async with _client(self.url) as client:

            async def post() -> httpx.Response | None:
                answer = await client.post(path, json=message | content)
                return None if answer.status_code == BUSY else answer

            answer = await eventually(post)
            assert answer is not None
            answer.raise_for_status()

    def _text(self) -> tuple[str, dict[str, Any]]:
        message = {"from": self.address, "to": OURS, "type": "sms", "messaging_provider_id": _reference()}
        return "/api/webhooks/sms", message

    def _mail(self, subject: str) -> tuple[str, dict[str, Any]]:
        sender = f"{self.name} <{self.address}>" if self.name else self.address
        return "/api/webhooks/email", {"from": sender, "to": OUR_MAIL, "xillio_id": _reference(), "subject": subject}


def new_phone(url: str, *, behaviour: str = "00") -> Person:
    """A person with a number of the simulated carrier. Two digits select what happens to the messages to it."""
    return Person(url, f"+1500555{behaviour}{next(_numbers):02}")


def new_mailbox(url: str, name: str | None = None) -> Person:
    """A person with an address of the simulated carrier."""
    return Person(url, f"ok+{next(_numbers)}@simulator.test", name)


def _reference() -> str:
    return f"browser-{time.time_ns()}-{next(_numbers)}"


async def messages_with(url: str, body: str) -> list[dict[str, Any]]:
    """The messages whose text is `body`, as the service has stored them."""
    async with _client(url) as client:

        async def ask() -> httpx.Response | None:
            answer = await client.get("/api/messages", params={"limit": 100})
            return None if answer.status_code == BUSY else answer.raise_for_status()

        answer = await eventually(ask)
    assert answer is not None
    return [message for message in answer.json() if message["body"] == body]


async def eventually(ask: Callable[[], Awaitable[Found]], *, within_seconds: float = 60) -> Found:
    """The first answer that counts as true."""
    deadline = time.monotonic() + within_seconds
    while not (found := await ask()):
        assert time.monotonic() < deadline, f"not within {within_seconds} seconds"
        await asyncio.sleep(0.05)
    return found


async def status_of(url: str, body: str, status: str) -> dict[str, Any]:
    """The one message whose text is `body`, once it has a status."""

    async def find() -> dict[str, Any] | None:
        found = await messages_with(url, body)
        assert len(found) <= 1, found
        return next((message for message in found if message["status"] == status), None)

    found = await eventually(find)
    assert found is not None
    return found


async def until_found(url: str, words: str) -> None:
    """Wait until a search finds a message with these words: it is indexed in the background."""
    async with _client(url) as client:

        async def is_found() -> bool:
            answer = await client.get("/api/search", params={"q": words, "kind": "message"})
            return answer.status_code != BUSY and bool(answer.raise_for_status().json())

        await eventually(is_found)
