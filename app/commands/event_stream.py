"""A reader of a service's event stream over HTTP, as any client would be one."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple

import httpx

#: Heartbeats come more often. A connection that is silent for longer is dead.
_SILENCE_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 15.0
_LOCAL = {"127.0.0.1", "::1", "localhost"}
#: Answers after which the same request can succeed later.
_TEMPORARY = {429, 500, 502, 503, 504}
#: The place of the next event that will be.
NOW = "now"


class StreamRefused(Exception):
    """The stream can't be read. The text says why, and what to do."""


class StreamedEvent(NamedTuple):
    id: str
    type: str
    content: str  #: JSON, on one line


@dataclass
class EventStream:
    """The events of a service after a cursor, or from now on, in order and each once.

    A lost connection is made again from the last event on; `on_pause` is told why and when.
    """

    url: httpx.URL
    key: str | None
    on_pause: Callable[[str], None]
    after: str = NOW
    filters: dict[str, Any] = field(default_factory=dict)
    transport: httpx.AsyncBaseTransport | None = None
    first_pause_seconds: float = 1

    def __post_init__(self) -> None:
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("a key has only letters of ASCII, digits and underscores; copy it again")
        self._pause_seconds = self.first_pause_seconds
        self._has_answered = False

    async def events(self) -> AsyncGenerator[StreamedEvent]:
        """Endless. Raises `StreamRefused` if no service answers the first time, or it refuses."""
        timeout = httpx.Timeout(10, read=_SILENCE_SECONDS)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        async with httpx.AsyncClient(
            headers=headers, timeout=timeout, trust_env=not is_local(self.url), transport=self.transport
        ) as client:
            while True:
                try:
                    async with aclosing(self._until_it_ends(client)) as events:
                        async for event in events:
                            yield event
                    reason = "The service has ended the stream."
                except httpx.TransportError as error:
                    if not self._has_answered:
                        raise StreamRefused(_no_answer(self.url, error)) from None
                    reason = f"The connection is lost ({in_words(error)})."
                except _Later as later:
                    reason = str(later)
                place = "with new events" if self.after == NOW else f"after {self.after}"
                self.on_pause(f"{reason} It goes on {place} in {self._pause_seconds:.0f} s.")
                await asyncio.sleep(self._pause_seconds)
                self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)

    async def _until_it_ends(self, client: httpx.AsyncClient) -> AsyncGenerator[StreamedEvent]:
        asked = self.filters | {"after": self.after}
        address = f"{str(self.url).rstrip('/')}/api/events/stream"
        async with client.stream("GET", address, params=asked) as response:
            self._has_answered = True
            if response.status_code != HTTPStatus.OK:
                await response.aread()
                raise _refusal(self.url, response.status_code, _problem(response.text))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise _refusal(self.url, response.status_code, {})
            fields = ServerSentFields()
            async for line in response.aiter_lines():
                if (event := fields.add(line)) is None:
                    continue
                self._pause_seconds = self.first_pause_seconds
                if event.content and not event.id:  # no entry of the log, but the reason why the stream ends
                    told = _problem(event.content)
                    status = HTTPStatus.GONE if event.type == "gone" else HTTPStatus.SERVICE_UNAVAILABLE
                    raise _refusal(self.url, status, told)
                self.after = event.id
                if event.content:
                    yield event


class _Later(Exception):
    """The service answers that it can't now."""


class ServerSentFields:
    """The fields of an event in a stream (WHATWG, server-sent events), line by line."""

    def __init__(self) -> None:
        self._type, self._id, self._data = "", "", list[str]()

    def add(self, line: str) -> StreamedEvent | None:
        """The event that an empty line completes. Its content is empty where an id tells only a position."""
        if not line:
            event = StreamedEvent(self._id, self._type, "\n".join(self._data))
            self._type, self._id, self._data = "", "", []
            return event if event.id or event.content else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "id":
            self._id = value
        elif name == "data":
            self._data.append(value)
        return None


def whole_url(written: str) -> httpx.URL:
    """The address, with `http://` where it has no scheme. Raises `ValueError` with a sentence if it is none."""
    try:
        url = httpx.URL(written if "://" in written else f"http://{written}")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"{written} is no address; write it as http://localhost:3000/hook")
    return url


def is_local(url: httpx.URL) -> bool:
    """True for an address of this machine, which no proxy leads to."""
    return url.host in _LOCAL


def _refusal(url: httpx.URL, status: int, problem: dict[str, Any]) -> Exception:
    """The reason in words for an answer that is no stream."""
    detail = problem.get("detail") or f"The service answers {status}."
    if status in _TEMPORARY:
        return _Later(detail)
    if status == HTTPStatus.UNAUTHORIZED:
        return StreamRefused(f"The key is refused. {detail} Give one with --key, or in MESSAGING_KEY.")
    if status == HTTPStatus.GONE and "oldest" in problem:
        return StreamRefused(f"Events after this cursor have been removed. Go on with --after {problem['oldest']}")
    if not problem or status == HTTPStatus.NOT_FOUND:
        return StreamRefused(f"{url} answers {status}, and is no messaging service of this version. Correct --url.")
    errors = [f"{error.get('location')}: {error.get('message')}" for error in problem.get("errors") or []]
    return StreamRefused(" ".join([detail, *(error for error in errors if error not in detail)]))


def _problem(content: str) -> dict[str, Any]:
    """The problem that an answer tells (RFC 9457); empty where it tells none."""
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _no_answer(url: httpx.URL, error: httpx.TransportError) -> str:
    return f"No service answers at {url} ({in_words(error)}). Start it with ./bin/start.sh, or correct --url."


def in_words(error: httpx.TransportError) -> str:
    """The reason of a failed request; timeouts have no text of their own."""
    return str(error) or type(error).__name__
