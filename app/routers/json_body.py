"""What is refused of a JSON body before anybody looks at its fields, on the hot routes and on all others alike."""

import codecs
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.types import Scope

from app.errors import UnsupportedMediaType
from app.routers.json_shape import check_shape
from app.routers.problems import invalid_request

_OTHER_ENCODINGS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ANY_JSON: TypeAdapter[object] = TypeAdapter(object)


def must_be_called_json(scope: Scope) -> None:
    """Raises `UnsupportedMediaType` where the headers of a request call its body anything else, or nothing."""
    content_type = scope["headers_by_name"].get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != b"application/json" and not content_type.endswith(b"+json"):
        raise UnsupportedMediaType("Send JSON, with the header Content-Type: application/json.")


def must_be_utf8(content: bytes) -> None:
    """Raises `UnsupportedMediaType` where a byte order mark says otherwise, or that it needs saying."""
    if content.startswith(_OTHER_ENCODINGS):
        raise UnsupportedMediaType("Send JSON in UTF-8, without a byte order mark.")


class JsonRoute(APIRoute):
    """FastAPI's own way, for routes whose bodies are refused for the same reasons as those of hot routes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            must_be_called_json(request.scope)
            content = await request.body()  # the request keeps it for whoever asks next
            must_be_utf8(content)
            try:
                _ANY_JSON.validate_json(content)
            except ValidationError as error:
                raise invalid_request(error.errors(include_url=False, include_input=False), within="body") from None
            check_shape(content)
            return await handle(request)

        return handle_json
