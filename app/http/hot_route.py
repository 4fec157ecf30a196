"""Endpoints for the routes that carry the load.

FastAPI's request machinery costs more than storing a message does. A `HotRoute` keeps its documentation and goes
from body bytes through pydantic to the endpoint, and on to answer bytes, by itself. The endpoint takes the validated
body and the request, in that order, and returns a model, or a whole response.
"""

import inspect
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.http.json_body import check_shape, must_be_called_json, must_be_utf8
from app.http.problems import invalid_request


class HotRoute(APIRoute):
    """A POST endpoint at the ASGI level. Errors are raised to the application's handlers, like any others."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        body, _ = inspect.signature(endpoint, eval_str=True).parameters.values()
        assert issubclass(body.annotation, BaseModel)
        self._validator = body.annotation.__pydantic_validator__

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Claims its path for every method, so that no route with a parameter in its place answers for another."""
        match, child_scope = super().matches(scope)
        return Match.NONE if match is Match.NONE else Match.FULL, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await self.serve(scope, receive, send)
        else:
            await super().handle(scope, receive, send)  # answers 405

    def context(self, request: Request) -> dict[str, Any]:
        """What validating a body needs to know besides it."""
        context: dict[str, Any] = request.app.state.reading_context
        return context

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST. Called without any routing where the path is known (`routers.edge`)."""
        request = Request(scope, receive, send)
        must_be_called_json(scope)
        content = await whole_body(receive)
        must_be_utf8(content)
        try:
            body = self._validator.validate_json(content, context=self.context(request))
        except ValidationError as error:
            raise invalid_request(error.errors(include_url=False, include_input=False), within="body") from None
        check_shape(content)
        answer = await self.endpoint(body, request)
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        content = answer.__pydantic_serializer__.to_json(answer)
        about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": about})
        await send({"type": "http.response.body", "body": content})


async def whole_body(receive: Receive) -> bytes:
    """The body of a request; raises `ClientDisconnect` where its sender leaves before the end."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
