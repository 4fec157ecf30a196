"""What a JSON body may look like, beyond being JSON: no key twice in an object, not too deep, not too many keys."""

import json
import re
from typing import Any

from app.errors import FieldError, InvalidRequest

_DEEPEST = 32
_MOST_KEYS = 1_000
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_A_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_BRACES_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")


class _Refused(Exception):
    """Raised out of the middle of a document; holds where and why."""

    def __init__(self, location: str, message: str) -> None:
        self.error = FieldError(location, message)


def check_shape(content: bytes) -> None:
    """Refuse a document, known to be JSON, that means different things to different readers, or costs too much.

    Of a key that stands twice, one reader takes the first value and another the last. Raises `InvalidRequest`.
    """
    try:
        # A document with so few brackets can't be deep.
        if content.count(b"[") + content.count(b"{") > _DEEPEST and _is_deep(content):
            raise _Refused("body", f"this is nested deeper than {_DEEPEST} levels")
        _DECODER.raw_decode(content.decode().lstrip())
    except _Refused as refused:
        raise InvalidRequest("The JSON is not as it should be.", errors=[refused.error]) from None


def _is_deep(content: bytes) -> bool:
    """Whether anything is left when the innermost brackets have been taken away, level by level."""
    brackets = _STRING.sub(b"", content).translate(_BRACES_AS_BRACKETS, _NOT_A_BRACKET)
    for _ in range(_DEEPEST):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _keys_once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > _MOST_KEYS:
        raise _Refused("body", f"an object has at most {_MOST_KEYS} keys")
    if len(dict(pairs)) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"body.{_shown(key)}", "this key stands twice in one object")
            seen.add(key)


def _shown(key: str) -> str:
    """A key as it may be repeated in an answer: whatever the caller calls it, but neither long nor odd."""
    return re.sub(r"[^A-Za-z0-9_-]", "?", key[:64])


# Numbers stay text: nobody reads them here, and Python refuses to convert very long ones.
_DECODER = json.JSONDecoder(object_pairs_hook=_keys_once, parse_int=str, parse_float=str, parse_constant=str)
