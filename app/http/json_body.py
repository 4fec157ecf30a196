"""Checks of a JSON body before its fields are validated, the same on hot routes and on all others."""

import codecs
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import SchemaValidator
from pydantic_core.core_schema import any_schema
from starlette.types import Scope

from app.errors import FieldError, InvalidRequest, UnsupportedMediaType
from app.http.problems import invalid_request

_OTHER_ENCODINGS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ANY_JSON = SchemaValidator(any_schema())


def must_be_called_json(scope: Scope) -> None:
    """Raises `UnsupportedMediaType` where the Content-Type of a request is missing or not JSON."""
    content_type = scope["headers_by_name"].get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != b"application/json" and not content_type.endswith(b"+json"):
        raise UnsupportedMediaType("Send JSON, with the header Content-Type: application/json.")


def read_json(content: bytes, validator: SchemaValidator, context: dict[str, Any] | None = None) -> Any:
    """The value in a body, validated.

    Raises:
        UnsupportedMediaType: The body begins with a byte order mark.
        InvalidRequest: It is not valid, or valid JSON that is ambiguous or too expensive.
    """
    if content.startswith(_OTHER_ENCODINGS):
        raise UnsupportedMediaType("Send JSON in UTF-8, without a byte order mark.")
    try:
        value = validator.validate_json(content, context=context)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False), within="body") from None
    _check_shape(content)
    return value


class JsonRoute(APIRoute):
    """A route of FastAPI's own kind with the checks that hot routes make."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            must_be_called_json(request.scope)
            read_json(await request.body(), _ANY_JSON)  # the request caches its body
            return await handle(request)

        return handle_json


_DEEPEST = 32
_MOST_KEYS = 1_000
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_A_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_BRACES_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")


def _check_shape(content: bytes) -> None:
    # A document with so few brackets can't be deep.
    if content.count(b"[") + content.count(b"{") > _DEEPEST and _is_deep(content):
        raise _refused("body", f"this is nested deeper than {_DEEPEST} levels")
    _DECODER.raw_decode(content.decode().lstrip())


def _refused(location: str, message: str) -> InvalidRequest:
    return InvalidRequest(
        f"The JSON is not as it should be. {location}: {message}.", errors=[FieldError(location, message)]
    )


def _is_deep(content: bytes) -> bool:
    """True where brackets remain after the innermost ones have been removed, level by level."""
    brackets = _STRING.sub(b"", content).translate(_BRACES_AS_BRACKETS, _NOT_A_BRACKET)
    for _ in range(_DEEPEST):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _keys_once(pairs: list[tuple[str, Any]]) -> None:
    """Raises `InvalidRequest` for a duplicate key, of which one reader takes the first value and another the last."""
    if len(pairs) > _MOST_KEYS:
        raise _refused("body", f"an object has at most {_MOST_KEYS} keys")
    if len(dict(pairs)) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _refused(f"body.{_shown(key)}", "this key stands twice in one object")
            seen.add(key)


def _shown(key: str) -> str:
    """A key as an answer may repeat it: shortened, and without unusual characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "?", key[:64])


# Numbers stay text: they are not used here, and Python refuses to convert very long ones.
_DECODER = json.JSONDecoder(object_pairs_hook=_keys_once, parse_int=str, parse_float=str, parse_constant=str)
