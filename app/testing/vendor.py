"""A vendor that answers as it is told, and its callbacks with other headers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from app.providers.base import BaseProvider, Callback, CallbackItem, Unread

#: What may stand in a header that should hold a signature.
ODD_VALUES = [
    "",
    " ",
    "=",
    "a" * 65_536,
    "é" * 20,
    "\x7f\x80",
    "bm90IGEgc2lnbmF0dXJl",
    "%00",
    "1" * 400,
    "..",
    "a.b.c",
]


def payload_in(file: Path) -> bytes:
    """The body of a callback in a file; a form (`.form`) has a line for each field."""
    content = file.read_bytes().strip()
    return b"&".join(content.splitlines()) if file.suffix == ".form" else content


def items_in(provider: BaseProvider, callback: Callback) -> list[CallbackItem | Unread]:
    """The items of a callback that asks for no other answer."""
    parsed = provider.parse(callback)
    assert isinstance(parsed, Sequence)
    return list(parsed)


def with_header(callback: Callback, name: str, value: str) -> Callback:
    """The same call, with another value for one of its headers."""
    return replace(callback, headers=[(n, value if n == name else v) for n, v in callback.headers])


def without_header(callback: Callback, name: str) -> Callback:
    return replace(callback, headers=[each for each in callback.headers if each[0] != name])


def with_header_twice(callback: Callback, name: str) -> Callback:
    return replace(callback, headers=[*callback.headers, *(each for each in callback.headers if each[0] == name)])


class Vendor:
    """Gives its answers one after the other, the last one again and again, and keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def request(self) -> httpx.Request:
        [request] = self.requests
        return request
