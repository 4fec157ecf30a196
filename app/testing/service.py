"""The service of a test: an application in this process, and the rows that it has stored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from app.config import Settings
from app.providers.base import Callback
from app.testing.description import PUBLIC_URL


@dataclass(frozen=True, slots=True)
class Service:
    """A running application. `rows` gives committed rows, read past the application."""

    client: httpx.AsyncClient
    settings: Settings
    rows: Callable[[str], list[tuple[Any, ...]]]

    async def deliver(self, callback: Callback) -> httpx.Response:
        """Post a callback with the very bytes of its headers."""
        headers = [(name.encode(), value.encode("latin-1")) for name, value in callback.headers]
        path = callback.url.removeprefix(PUBLIC_URL)
        return await self.client.request(callback.method, path, content=callback.body, headers=headers)


class StartService(Protocol):
    """Starts a service on an empty database, with these settings besides those of a test."""

    async def __call__(self, **settings: object) -> Service: ...
