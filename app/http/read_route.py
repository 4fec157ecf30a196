"""Endpoints for the reads with the highest load.

FastAPI's request machinery costs more than such a read does. A `ReadRoute` is documented like any route, and a plain
request goes straight to its endpoint. Any other request goes through FastAPI, which says what is wrong with it.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from app.http.pages import PlainPage

#: Rows of a page for which no limit is given.
USUAL_LIMIT = 100
_PLAIN_QUERY = re.compile(rb"(?:limit=([1-9][0-9]{0,2}|1000))?(?:(?(1)&)cursor=([A-Za-z0-9_-]{1,200}))?")
_ID = re.compile(r"/([1-9][0-9]{0,17})(?=/|$)", re.ASCII)


class ReadRoute(APIRoute):
    """A GET endpoint that takes the request, ids in its path, and `pages` if it is a list, and returns a response."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        names = inspect.signature(endpoint).parameters
        self._ids = [name for name in names if f"{{{name}}}" in path]
        self._is_list = "pages" in names

    async def serve(self, scope: Scope, receive: Receive, send: Send, ids: Iterable[str]) -> bool:
        """Answer a plain request; False for any other, which is not answered."""
        query = _PLAIN_QUERY.fullmatch(scope["query_string"])
        if query is None or (scope["query_string"] and not self._is_list):
            return False
        request = Request(scope, receive, send)
        arguments: dict[str, Any] = {name: int(id) for name, id in zip(self._ids, ids, strict=True)}
        if self._is_list:
            arguments["pages"] = PlainPage(request, query[1], query[2], usual=USUAL_LIMIT)
        response: Response = await self.endpoint(request, **arguments)
        await response(scope, receive, send)
        return True


def reads_of(routes: Iterable[BaseRoute]) -> Mapping[str, ReadRoute]:
    """Read routes by their paths, with `{}` for each id."""
    return {re.sub(r"{\w+}", "{}", route.path): route for route in routes if isinstance(route, ReadRoute)}


def plain_path(path: str) -> tuple[str, list[str]]:
    """A path with `{}` for each id, and the ids."""
    return _ID.sub("/{}", path), _ID.findall(path)
