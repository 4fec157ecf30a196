"""The outermost layer: either spelling of an address, no body over the limit, a short way for hot routes."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadRequest, BodyTooLarge
from app.routers.hot import HotRoute
from app.routers.problems import answer_to, service_problem


class Edge:
    """Every route answers with a slash at its end and without one; a body over the limit is never read to its end.

    A body whose length is announced is refused at once. One that comes in chunks is counted while it is read, and
    `BodyTooLarge` is raised into whoever reads it. A POST to one of the `hot` paths is served from here.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, hot: Mapping[str, HotRoute]) -> None:
        self._app = app
        self._limit = max_body_bytes
        self._hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"][:-1]}
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if length is None:
            receive = self._counted(receive)
        elif not length.isdigit():
            await service_problem(BadRequest("The Content-Length is not a number."))(scope, receive, send)
            return
        elif int(length[:20]) > self._limit:
            await service_problem(self._too_large())(scope, receive, send)
            return
        route = self._hot.get(scope["path"]) if scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        try:
            await route.serve(scope, receive, send)
        except Exception as error:
            response = await answer_to(Request(scope, receive), error)
            await response(scope, receive, send)

    def _counted(self, receive: Receive) -> Receive:
        size = 0

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise self._too_large()
            return message

        return counting

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self._limit} bytes.")
