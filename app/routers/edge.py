"""The outermost layer, before anything is routed: either spelling of an address, and no body over the limit."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadRequest, BodyTooLarge
from app.routers.problems import service_problem


class Edge:
    """Every route answers with a slash at its end and without one; a body over the limit is never read to its end.

    A body whose length is announced is refused at once. One that comes in chunks is counted while it is read, and
    `BodyTooLarge` is raised into whoever reads it.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"][:-1]}
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if length is None:
            await self._app(scope, self._counted(receive), send)
        elif not length.isdigit():
            await service_problem(BadRequest("The Content-Length is not a number."))(scope, receive, send)
        elif int(length[:20]) > self._limit:
            await service_problem(self._too_large())(scope, receive, send)
        else:
            await self._app(scope, receive, send)

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
