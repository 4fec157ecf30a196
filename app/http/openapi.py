"""The parts of the OpenAPI document that concern all routes, and the reference at /docs that shows it.

The reference is made of files of our own: it works offline and loads nothing from other hosts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from app.config import Settings
from app.http.access import NEEDS
from app.http.problems import responses
from app.schemas.views import Problem

_REFERENCE = Path(__file__).parent.parent / "web" / "docs"
#: Errors before routing: a request that is too slow, too large or malformed.
_ANYWHERE = responses(400, 408, 413, 414, 415, 431)
#: Errors of routes that need a key.
_REFUSALS = responses(401, 403, 429)
_KEY = {"type": "http", "scheme": "bearer", "description": "An API key: `msk_...`. Development asks for none."}

_ACCEPTED = {"message_id": "body#/message_id", "conversation_id": "body#/conversation_id"}
#: Parameters of other operations that an answer holds: route -> parameter -> place in the answer.
_LEADS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("post", "/api/messages/sms"): _ACCEPTED,
    ("post", "/api/messages/email"): _ACCEPTED,
    ("post", "/api/messages/{channel}"): _ACCEPTED,
    ("get", "/api/messages"): {"message_id": "body#/0/id", "conversation_id": "body#/0/conversation_id"},
    ("get", "/api/conversations"): {"conversation_id": "body#/0/id"},
    ("get", "/api/contacts"): {"contact_id": "body#/0/id"},
    ("get", "/api/providers"): {"name": "body#/0/name"},
    ("post", "/api/admin/tenants"): {"tenant_id": "body#/id"},
    ("post", "/api/admin/keys"): {"tenant_id": "body#/tenant_id", "key_id": "body#/id"},
    ("get", "/api/admin/tenants/{tenant_id}/addresses"): {"address_id": "body#/0/id"},
    ("get", "/api/admin/webhook-calls"): {"tenant_id": "body#/0/tenant_id", "call_id": "body#/0/id"},
}


def install(app: FastAPI) -> None:
    """Complete the document with what no single route declares: keys, common errors, links between operations."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = describe()
        document["components"]["securitySchemes"] = {"key": _KEY}
        schemas = document["components"]["schemas"]
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs") | {"Problem": problem}
        _tell_limits(schemas, app.state.settings)
        for path, item in document["paths"].items():
            for method, operation in item.items():
                operation["responses"] |= _ANYWHERE
                for parameter in operation.get("parameters", []):
                    parameter["schema"] = _without_null(parameter["schema"])
                if scope := NEEDS.get(path, {}).get(method.upper()):
                    operation["security"] = [{"key": [scope.value]}]
                    operation["responses"] |= _REFUSALS
        for (method, path), leads in _LEADS.items():
            operation = document["paths"][path][method]
            operation["responses"]["200"]["links"] = _links(document, path, leads)
        _share_a_place(document["paths"], "/api/messages/{message_id}", "/api/messages/{channel}")
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def install_reference(app: FastAPI) -> None:
    app.mount("/docs/assets", StaticFiles(directory=_REFERENCE), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def reference() -> FileResponse:
        return FileResponse(_REFERENCE / "index.html")

    # The log prints this address when the service has started.
    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")


def _share_a_place(paths: dict[str, Any], one: str, other: str) -> None:
    """Merge two addresses that differ only in the name of their last parameter: to OpenAPI they are the same."""
    [*_, name], [*_, its_name] = _names_in(one), _names_in(other)
    for method, operation in paths.pop(other).items():
        operation["parameters"] = [
            parameter | {"name": name, "description": f"Here the {its_name}."}
            if parameter["name"] == its_name
            else parameter
            for parameter in operation["parameters"]
        ]
        paths[one][method] = operation


def _tell_limits(schemas: dict[str, Any], settings: Settings) -> None:
    """Add the limits that come from settings, which the models do not know."""
    for name in ("SmsSend", "EmailSend", "ChannelSend"):
        fields = schemas[name]["properties"]
        fields["attachments"]["anyOf"][0]["maxItems"] = settings.max_attachments
        if "subject" in fields:
            fields["subject"]["anyOf"][0]["maxLength"] = settings.max_subject_length
    schemas["SmsSend"]["properties"]["body"]["maxLength"] = settings.max_text_length


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without null: a parameter is null by being left out."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | kinds[0]


def _links(document: dict[str, Any], path: str, leads: Mapping[str, str]) -> dict[str, Any]:
    """A link to each operation whose parameters are known from the answer and from the request's own address."""
    given = {name: f"$request.path.{name}" for name in _names_in(path)}
    given |= {name: f"$response.{place}" for name, place in leads.items()}
    return {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {name: given[name] for name in _names_in(target)},
        }
        for target, item in document["paths"].items()
        for operation in item.values()
        if set(leads).intersection(_names_in(target)) and set(given).issuperset(_names_in(target))
    }


def _names_in(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]
