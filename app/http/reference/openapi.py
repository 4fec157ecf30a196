"""The OpenAPI document, completed with what no single route declares. Clients are generated from it.

Operations are named by their functions, so that a generated client has `send_sms` and `list_conversations`.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.config import Settings
from app.domain import DEFAULT_TENANT_ID, Channel
from app.http.access import NEEDS, OF_THE_INSTALLATION
from app.http.problems import responses
from app.http.reference.answer_headers import COMPONENTS, tell_headers
from app.http.reference.event_webhooks import event_webhooks
from app.installation import KeyScope
from app.routing import channels_served, kind_of_addresses, route_of
from app.schemas.views import Problem

#: Errors before routing: a request that is too slow, too large or malformed.
_ANYWHERE = responses(400, 408, 413, 414, 415, 431)
#: Errors of routes that need a key.
_REFUSALS = responses(401, 403, 429)
_KEY = {"type": "http", "scheme": "bearer", "description": "An API key: `msk_...`. Development asks for none."}
_TAGS = {
    "messages": "Send messages, read them with their attempts, cancel or retry one.",
    "batches": "Many messages in one request, with their progress. They can be paused, resumed and canceled.",
    "conversations": "All messages between one of your addresses and one contact, on every channel.",
    "events": "Everything that happens, in order, for programs.",
    "webhook endpoints": "Where your own programs receive events, signed. Each tenant has its own.",
    "contacts": "People you write with: a copy of all that is stored about one, and its erasure.",
    "search": "Messages by their words, contacts by parts of a name or an address, conversations by a tag.",
    "consent": "People who refuse your messages: look them up, add and lift refusals.",
    "providers": "The vendors that deliver, and their health.",
    "webhooks": "Receipts and inbound messages. Providers call these, and sign what they send.",
    "administration": "Tenants, keys, addresses, kept callbacks and the audit: for the operator of the installation.",
    "health": "The probes of an orchestrator.",
}

#: Examples of a sender and a recipient, by the kind of their addresses.
_ENDS = {
    "phone": ("+12016661234", "+18045551234"),
    "email": ("user@example.com", "contact@example.com"),
    "slack": ("slack:A024BE7LH", "slack:C024BE91L"),
}
_ANY_CHANNEL = "/api/messages/{channel}"
_MESSAGES = "/api/messages/"
_ACCEPTED = {"message_id": "body#/message_id", "conversation_id": "body#/conversation_id"}
#: Parameters of other operations that an answer holds: operation -> parameter -> place in the answer.
_LEADS: Mapping[str, Mapping[str, str]] = {
    "list_messages": {"message_id": "body#/0/id", "conversation_id": "body#/0/conversation_id"},
    "list_batches": {"batch_id": "body#/0/id"},
    "list_conversations": {"conversation_id": "body#/0/id"},
    "list_contacts": {"contact_id": "body#/0/id"},
    "list_suppressions": {"suppression_id": "body#/0/id"},
    "add_suppression": {"suppression_id": "body#/id"},
    "list_providers": {"name": "body#/0/name"},
    "create_tenant": {"tenant_id": "body#/id"},
    "create_key": {"tenant_id": "body#/tenant_id", "key_id": "body#/id"},
    "create_webhook_endpoint": {"endpoint_id": "body#/id"},
    "list_webhook_endpoints": {"endpoint_id": "body#/0/id"},
    "list_addresses": {"address_id": "body#/0/id"},
    "list_webhook_calls": {"tenant_id": "body#/0/tenant_id", "call_id": "body#/0/id"},
}


def install(app: FastAPI) -> None:
    """Have the application describe itself by the completed document."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for route in app.routes:
                if isinstance(route, APIRoute):
                    route.operation_id = route.name
            _complete(describe(), app.state.settings)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def servers(settings: Settings, origin: str = "") -> list[dict[str, str]]:
    """The addresses of the service, a whole one first: PUBLIC_URL, or else the origin of the request."""
    known = (settings.public_url or origin).rstrip("/")
    return [*([{"url": known}] if known else []), {"url": "/", "description": "Where this document comes from."}]


def _complete(document: dict[str, Any], settings: Settings) -> None:
    components, paths = document["components"], document["paths"]
    document["servers"] = servers(settings)
    document["tags"] = [{"name": name, "description": description} for name, description in _TAGS.items()]
    components["securitySchemes"] = {"key": _KEY}
    components["headers"] = deepcopy(COMPONENTS)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= problem.pop("$defs") | {"Problem": problem}
    for path, method, operation in _operations(paths):
        _describe(path, method, operation)
    document["paths"] = _with_channels(paths, settings)
    document["webhooks"] = event_webhooks()
    for path, _, operation in _operations(document["paths"]):
        if leads := _leads_of(operation["operationId"]):
            operation["responses"]["200"]["links"] = _links(document, path, leads)
    _tell_limits(components["schemas"], settings)
    _settle_defaults(document)
    _drop_unused(document)


def _operations(paths: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    return ((path, method, operation) for path, item in paths.items() for method, operation in item.items())


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add a summary, the common errors, the key that it needs, and the headers of its answers."""
    operation["summary"] = re.split(r"(?<=[.:])\s", operation["description"], maxsplit=1)[0].rstrip(".:")
    operation["responses"] |= deepcopy(_ANYWHERE)
    for parameter in operation.get("parameters", []):
        parameter["schema"] = _without_null(parameter["schema"])
    scope = NEEDS.get(path, {}).get(method.upper())
    operation["security"] = [] if scope is None else [{"key": []}]
    if scope is not None:
        of_whom = ""
        if scope is KeyScope.ADMIN and path.startswith(OF_THE_INSTALLATION):
            of_whom = f" of tenant {DEFAULT_TENANT_ID}"
        operation["description"] += f"\n\nNeeds a key{of_whom} with the scope `{scope}`."
        operation["responses"] |= deepcopy(_REFUSALS)
    tell_headers(path, operation)


def _with_channels(paths: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The addresses, with one for each channel that is served here in place of the one for any channel."""
    others = sorted(channels_served(settings) - set(Channel))
    found: dict[str, Any] = {}
    for path, item in paths.items():
        if path != _ANY_CHANNEL:
            found[path] = item
            continue
        for channel in others:
            if route_of(settings, channel):
                found[_MESSAGES + channel] = {"post": _of_channel(item["post"], channel, settings)}
    return found


def _of_channel(operation: dict[str, Any], channel: str, settings: Settings) -> dict[str, Any]:
    operation = deepcopy(operation)
    operation["operationId"] = f"send_{channel}"
    operation["summary"] = f"Send a message on the channel {channel}"
    kind = kind_of_addresses(settings, channel) or channel
    sender, recipient = _ENDS.get(kind, (f"{kind}:1", f"{kind}:2"))
    body = {"from": sender, "to": recipient, "body": "Hello!"}
    operation["requestBody"]["content"]["application/json"]["example"] = body
    return operation


def _tell_limits(schemas: dict[str, Any], settings: Settings) -> None:
    """Add the limits that come from settings, which the models do not know."""
    for name in ("SmsSend", "EmailSend", "ChannelSend"):
        fields = schemas[name]["properties"]
        fields["attachments"]["anyOf"][0]["maxItems"] = settings.max_attachments
        if "subject" in fields:
            fields["subject"]["anyOf"][0]["maxLength"] = settings.max_subject_length
    schemas["SmsSend"]["properties"]["body"]["maxLength"] = settings.max_text_length


def _settle_defaults(document: dict[str, Any]) -> None:
    """Remove defaults: a generator takes a field with one for a required field of a request.

    An answer always has such a field, so there it is required.
    """
    bodies = [operation.get("requestBody") for _, _, operation in _operations(document["paths"])]
    asked = _all_references(document, bodies)
    for name, schema in document["components"]["schemas"].items():
        for field, said in schema.get("properties", {}).items():
            if said.pop("default", None) is not None and name not in asked:
                schema["required"] = [*schema.get("required", []), field]


def _drop_unused(document: dict[str, Any]) -> None:
    """Remove schemas that no operation and no webhook leads to."""
    schemas = document["components"]["schemas"]
    for name in set(schemas) - _all_references(document, [document["paths"], document["webhooks"]]):
        del schemas[name]


def _all_references(document: Mapping[str, Any], part: object) -> set[str]:
    """The names of the schemas that a part of the document leads to, over others too."""
    schemas = document["components"]["schemas"]
    all_found: set[str] = set()
    found = _references(part)
    while found:
        all_found |= found
        found = {name for each in found for name in _references(schemas[each])} - all_found
    return all_found


def _references(part: object) -> set[str]:
    """The names of the schemas that a part of the document refers to."""
    if isinstance(part, dict):
        named = str(part.get("$ref", ""))
        here = {named.rpartition("/")[2]} if named.startswith("#/components/schemas/") else set()
        return here.union(*map(_references, part.values()))
    return set().union(*map(_references, part)) if isinstance(part, list) else set()


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without null: a parameter is null by being left out."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | kinds[0]


def _leads_of(operation_id: str) -> Mapping[str, str]:
    return _ACCEPTED if operation_id.startswith("send_") else _LEADS.get(operation_id, {})


def _links(document: dict[str, Any], path: str, leads: Mapping[str, str]) -> dict[str, Any]:
    """A link to each operation whose parameters are known from the answer and from the request's own address."""
    given = {name: f"$request.path.{name}" for name in _names_in(path)}
    given |= {name: f"$response.{place}" for name, place in leads.items()}
    return {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {name: given[name] for name in _names_in(target)},
        }
        for target, _, operation in _operations(document["paths"])
        if set(leads).intersection(_names_in(target)) and set(given).issuperset(_names_in(target))
    }


def _names_in(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]
