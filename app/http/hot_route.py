"""Endpoints for the routes with the highest load.

FastAPI's request machinery costs more than storing a message does. A `HotRoute` is documented like any route, but
goes from body bytes through pydantic to the endpoint, and on to answer bytes, by itself. The endpoint takes the
validated body and the request, in that order, and returns a model or a whole response.
"""

import inspect
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.http.json_body import must_be_called_json, read_json


class HotRoute(APIRoute):
    """A POST endpoint at the ASGI level. Its errors are handled like those of other routes."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        body, _ = inspect.signature(endpoint, eval_str=True).parameters.values()
        assert issubclass(body.annotation, BaseModel)
        self._validator = body.annotation.__pydantic_validator__

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path for every method, so that no route with a parameter in its place answers instead."""
        match, child_scope = super().matches(scope)
        return Match.NONE if match is Match.NONE else Match.FULL, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await self.serve(scope, receive, send)
        else:
            await super().handle(scope, receive, send)  # answers 405

    def context(self, request: Request) -> dict[str, Any]:
        """The context that pydantic validates a body in."""
        context: dict[str, Any] = request.app.state.reading_context
        return context

    def read(self, content: bytes, context: dict[str, Any]) -> Any:
        """The validated body. Raises what `read_json` raises."""
        return read_json(content, self._validator, context)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST. `Admission` calls this without routing where the path is known."""
        request = Request(scope, receive, send)
        must_be_called_json(scope)
        content = await whole_body(receive)
        body = self.read(content, self.context(request))
        answer = await self.endpoint(body, request)
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        content = answer.__pydantic_serializer__.to_json(answer)
        about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": about})
        await send({"type": "http.response.body", "body": content})


async def whole_body(receive: Receive) -> bytes:
    """The body of a request. Raises `ClientDisconnect` where the client leaves before its end."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
