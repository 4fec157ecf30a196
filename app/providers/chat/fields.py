"""Fields of a vendor's JSON that may be missing or of another type, which must never cost a message."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.providers.toolbox.models import text_of_number

Fields = Mapping[str, Any]


def fields_in(document: object, *path: str) -> Fields:
    """The object at a path; empty if something else is there."""
    found = _at(document, path)
    return found if isinstance(found, dict) else {}


def text_in(document: object, *path: str) -> str:
    """The text at a path, as `text_of` has it."""
    return text_of(_at(document, path))


def text_of(value: object) -> str:
    """A text, also for a number or a truth value; empty for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return text_of_number(value)
    return value if isinstance(value, str) else ""


def objects_in(document: object, *path: str) -> list[Fields]:
    """The objects of the list at a path."""
    return [each for each in items_in(document, *path) if isinstance(each, dict)]


def items_in(document: object, *path: str) -> Sequence[Any]:
    """The list at a path; empty if something else is there."""
    found = _at(document, path)
    return found if isinstance(found, list) else ()


def _at(document: object, path: Sequence[str]) -> object:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def lines(*parts: str) -> str:
    """The parts that are not empty, with line breaks between them."""
    return "\n".join(part for part in parts if part)
