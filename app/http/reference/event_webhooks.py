"""Outgoing webhooks in the OpenAPI document: one for each type of event, as the receiver has to serve it."""

from inspect import cleandoc
from typing import Any

from app.schemas.events import EVENT_VIEWS

_HEADERS = {
    "webhook-id": {
        "description": "The id of the event. It is the same in every attempt, so a receiver tells a repeat by it.",
        "schema": {"type": "string", "examples": ["evt_AQEEaSsOvAIC7gECd8R8VA"]},
    },
    "webhook-timestamp": {
        "description": "The time of this attempt, in seconds since 1970. Refuse one that is five minutes off.",
        "schema": {"type": "string", "pattern": "^[0-9]+$", "examples": ["1764382803"]},
    },
    "webhook-signature": {
        "description": (
            "Signatures as Standard Webhooks describes them, separated by spaces. One of them has to fit, over the "
            "id, the timestamp and the body as it came, joined by dots."
        ),
        "schema": {"type": "string", "examples": ["v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="]},
    },
}
_RESPONSES = {
    "2XX": {"description": "Taken. The content of the answer does not matter."},
    "410": {"description": "Not wanted any more: the endpoint is disabled at once."},
    "default": {"description": "Not taken, as with a redirect or no answer. It is tried again later."},
}


def event_webhooks() -> dict[str, Any]:
    """The webhooks of the document, by type. They refer to schemas that the page of events has."""
    return {
        type_.value: {"post": _operation(type_.value, cleandoc(view.__doc__ or ""), view.__name__)}
        for type_, view in EVENT_VIEWS.items()
    }


def _operation(type_: str, description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {
        "operationId": f"on_{type_.replace('.', '_')}",
        "summary": type_,
        "description": description,
        "tags": ["events"],
        "security": [],
        "parameters": [{"name": name, "in": "header", "required": True, **said} for name, said in _HEADERS.items()],
        "requestBody": {"required": True, "content": content},
        "responses": _RESPONSES,
    }
