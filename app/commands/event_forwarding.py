"""Posts events to a receiver as signed webhooks, in order, and tells what it answers."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from app.commands.event_stream import StreamedEvent, in_words, is_local
from app.services.webhooks.signatures import signatures

#: The pauses before an event is tried again while the receiver does not answer.
_PAUSES_SECONDS = (0.5, 1, 2, 4)
_TIMEOUT_SECONDS = 15


class Forwarder:
    """Posts each event to `url` before the next one.

    An answer of any status settles an event: a program that is being written would answer it the same again. A
    receiver that is down is tried again for some seconds. After that each event is tried once, until it answers.
    """

    def __init__(self, url: httpx.URL, secret: str, say: Callable[[str], None]) -> None:
        self.url = url
        self._secret = secret
        self._say = say
        self._is_down = False
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=not is_local(url))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def post(self, event: StreamedEvent) -> None:
        """Post one event, and tell what becomes of it."""
        pauses = () if self._is_down else _PAUSES_SECONDS
        for pause in (*pauses, None):
            started = time.monotonic()
            try:
                body = event.content.encode()
                response = await self._client.post(
                    self.url, content=body, headers=_headers(event.id, self._secret, body)
                )
            except httpx.TransportError as error:
                self._is_down = pause is None
                then = "given up" if pause is None else f"again in {pause} s"
                self._tell(event, f"no answer ({in_words(error)}), {then}")
                if pause is not None:
                    await asyncio.sleep(pause)
            else:
                self._is_down = False
                self._tell(event, f"{response.status_code} in {(time.monotonic() - started) * 1000:.0f} ms")
                return

    def _tell(self, event: StreamedEvent, outcome: str) -> None:
        self._say(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}  {event.type}  {event.id}  {outcome}")


def _headers(id: str, secret: str, body: bytes) -> dict[str, str]:
    timestamp = int(time.time())
    return {
        "content-type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures([secret], id, timestamp, body),
    }
