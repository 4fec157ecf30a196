"""The `limit` and `cursor` of a list, and the `Link` header of its answer (RFC 8288)."""

from collections.abc import Sequence
from typing import TypeVar

from fastapi import Request, Response

from app.db.statements.paging import Page

Row = TypeVar("Row")


class PageParameters:
    """The parameters of a request for a list: how many rows, and from which cursor on."""

    def __init__(self, request: Request, response: Response, limit: int, cursor: str | None) -> None:
        self.limit = limit
        self.cursor = cursor
        self._request = request
        self._response = response

    def linked(self, page: Page[Row]) -> Sequence[Row]:
        """The rows of a page, whose neighbours the `Link` header names from here on."""
        if links := self._links(page):
            self._response.headers["Link"] = links
        return page.rows

    def answer(self, page: Page[str]) -> Response:
        """The answer with a page whose rows are JSON."""
        links = self._links(page)
        content = f"[{','.join(page.rows)}]".encode()
        return Response(content, headers={"Link": links} if links else None, media_type="application/json")

    def _links(self, page: Page[Row]) -> str:
        """The addresses of the neighbours: that of the request with another cursor."""
        places = [(rel, cursor) for rel, cursor in (("next", page.next), ("prev", page.previous)) if cursor]
        if not places:
            return ""
        prefix = (self._request.app.state.settings.public_url or "").rstrip("/")
        query = self._query()
        address = f"{prefix}{self._request.scope['path']}?{query}{'&' if query else ''}cursor="
        return ", ".join(f'<{address}{cursor}>; rel="{rel}"' for rel, cursor in places)

    def _query(self) -> str:
        """The query without its cursor."""
        query: str = self._request.url.remove_query_params("cursor").query
        return query


class PlainPage(PageParameters):
    """The parameters of a request whose query holds nothing else, in plain characters."""

    def __init__(self, request: Request, limit: bytes | None, cursor: bytes | None, *, usual: int) -> None:
        self._written = limit
        read = None if cursor is None else cursor.decode("ascii")
        super().__init__(request, Response(), usual if limit is None else int(limit), read)

    def _query(self) -> str:
        return "" if self._written is None else f"limit={self._written.decode('ascii')}"
