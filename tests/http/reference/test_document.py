"""The OpenAPI document as generators of clients read it: names, summaries, headers, keys, channels."""

import re
from typing import Any, ClassVar

import httpx
import pytest

from app.domain import EventType
from app.http.access import needs_of
from app.http.reference.answer_headers import COMPONENTS
from app.http.reference.openapi import servers
from app.main import create_app
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.conftest import make_settings
from tests.factories import sms
from tests.tenancy import bearer, make_key, production
from tests.wire import DOCUMENT, OPERATIONS

pytestmark = pytest.mark.anyio

NAMES = [f"{method} {path}" for method, path, _ in OPERATIONS]
each_operation = each_case(("method", "path", "operation"), OPERATIONS, ids=NAMES)


class Chat(BaseProvider):
    channels: ClassVar = {"whatsapp": "phone", "push-app": "device", "letters": "email"}

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult("chat-1")


@each_operation
def test_an_operation_has_a_short_name_a_summary_and_a_tag(method: str, path: str, operation: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+){1,3}", operation["operationId"])
    assert 5 < len(operation["summary"]) < 120
    assert not operation["summary"].endswith(".")
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}


def test_no_two_operations_share_a_name() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert {"send_sms", "send_email", "list_conversations", "list_conversation_messages", "get_message"} <= set(names)


@each_case("type_", EventType)
def test_each_event_is_a_webhook_whose_content_has_a_model_of_its_own(type_: EventType) -> None:
    webhook = DOCUMENT["webhooks"][type_]["post"]
    assert 20 < len(webhook["description"]) < 120
    headers = [parameter["name"] for parameter in webhook["parameters"] if parameter["in"] == "header"]
    assert headers == ["webhook-id", "webhook-timestamp", "webhook-signature"]
    content = webhook["requestBody"]["content"]["application/json"]["schema"]
    model = DOCUMENT["components"]["schemas"][content["$ref"].rpartition("/")[2]]
    assert model["properties"]["type"]["const"] == type_
    assert list(model["properties"]) == model["required"] == ["id", "type", "timestamp", "data"]
    assert DOCUMENT["components"]["schemas"]["EventView"]["discriminator"]["mapping"][type_] == content["$ref"]


def test_the_document_says_whose_it_is_and_where() -> None:
    info = DOCUMENT["info"]
    assert info["license"] == {"name": "MIT License", "identifier": "MIT"}
    assert info["contact"]["name"]
    assert info["summary"]
    assert all(tag["description"] for tag in DOCUMENT["tags"])
    assert [server["url"] for server in DOCUMENT["servers"]] == ["/"]
    assert servers(make_settings(), "http://127.0.0.1:8080")[0] == {"url": "http://127.0.0.1:8080"}
    public = create_app(make_settings(public_url="https://messages.example/")).openapi()
    assert [server["url"] for server in public["servers"]] == ["https://messages.example", "/"]


@each_operation
def test_what_needs_no_key_says_so(method: str, path: str, operation: dict[str, Any]) -> None:
    need = needs_of(re.sub("[{}]", "", path))[method]
    assert operation["security"] == ([] if need is None else [{"key": []}])


@each_operation
def test_each_answer_names_its_headers(method: str, path: str, operation: dict[str, Any]) -> None:
    for status, answer in operation["responses"].items():
        assert "X-Request-Id" in answer["headers"]
        assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"})
        assert ("Link" in answer["headers"]) == (
            status == "200" and any(each["name"] == "cursor" for each in operation.get("parameters", []))
        )
        for name, header in answer["headers"].items():
            assert header == {"$ref": f"#/components/headers/{name}"}
            assert DOCUMENT["components"]["headers"][name]["description"]


#: Of every answer, for browsers: they say nothing about the request.
FOR_BROWSERS = {
    "cache-control",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-opener-policy",
    "permissions-policy",
    "referrer-policy",
    "x-content-type-options",
}


async def test_no_answer_has_a_header_that_the_document_does_not_name(
    serve: Any, settings: Any, database_url: str
) -> None:
    client = await serve(production(settings, rate_limit_per_second=0.001, rate_limit_burst=12))
    key, idempotent = bearer(make_key(database_url)), {"Idempotency-Key": "one"}
    body = sms()
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/messages/sms", {"json": body, "headers": key | idempotent | {"Prefer": "wait=1"}}),
        ("POST", "/api/messages/sms", {"json": body, "headers": key | idempotent}),
        ("POST", "/api/messages/sms", {"json": sms(to=""), "headers": key}),
        ("POST", "/api/messages/sms", {"json": body}),
        ("GET", "/api/messages?limit=1", {"headers": key}),
        ("GET", "/api/contacts?limit=1", {"headers": key}),
        ("GET", "/api/messages/{message_id}", {"headers": key}),
        ("GET", "/api/contacts/{contact_id}/export", {"headers": key}),
        ("GET", "/api/conversations/{conversation_id}/messages", {"headers": key}),
        ("GET", "/healthz", {}),
        ("GET", "/readyz", {}),
        ("POST", "/api/webhooks/sms", {"json": {}}),
        *[("GET", "/api/providers", {"headers": key})] * 6,
    ]
    seen: set[str] = set()
    for method, path, options in asked:
        response: httpx.Response = await client.request(method, re.sub(r"\{\w+\}", "1", path), **options)
        operation = DOCUMENT["paths"][path.partition("?")[0]][method.lower()]
        told = {name.lower() for name in operation["responses"][str(response.status_code)]["headers"]}
        assert set(response.headers) - FOR_BROWSERS <= told, (path, response.status_code)
        seen |= set(response.headers)
    assert {name.lower() for name in COMPONENTS} <= seen


def test_a_message_is_named_by_the_text_that_a_send_answers_or_by_a_number() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "message_id":
                    assert {kind["type"] for kind in parameter["schema"]["anyOf"]} == {"string", "integer"}, path


@each_operation
def test_a_time_in_a_query_is_told_to_be_one(method: str, path: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] in {"since", "until"}:
            assert parameter["schema"]["format"] == "date-time"


def test_each_channel_that_is_served_has_an_address_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provider_registry, "chat", Chat())
    paths = create_app(make_settings(routes="push-app:chat")).openapi()["paths"]
    assert not any(
        "{channel}" in path or "post" in paths[path]
        for path in paths
        if path.startswith("/api/messages/{m") and path.endswith("}")
    )
    sends = {
        path: item["post"]
        for path, item in paths.items()
        if item.get("post", {}).get("operationId", "").startswith("send_")
    }
    assert {path: send["operationId"] for path, send in sends.items()} == {
        "/api/messages/sms": "send_sms",
        "/api/messages/email": "send_email",
        "/api/messages/letters": "send_letters",
        "/api/messages/push-app": "send_push-app",
        "/api/messages/whatsapp": "send_whatsapp",
    }
    for send in sends.values():
        assert not any(parameter["in"] == "path" for parameter in send["parameters"])
        assert send["security"] == [{"key": []}]


async def test_a_client_is_told_a_whole_address(untouched: httpx.AsyncClient) -> None:
    document = (await untouched.get("/openapi.json")).json()
    assert [server["url"] for server in document["servers"]] == ["http://messaging.test", "/"]


async def test_the_example_of_each_channel_is_taken(
    serve: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "chat", Chat())
    client: httpx.AsyncClient = await serve(settings)
    paths = (await client.get("/openapi.json")).json()["paths"]
    for channel in Chat.channels:
        example = paths[f"/api/messages/{channel}"]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert (await client.post(f"/api/messages/{channel}", json=example)).status_code == 200, channel


def test_what_can_be_left_out_of_a_request_is_not_taken_for_required() -> None:
    """Some generators require a field that has a default."""
    for name in ("SmsSend", "EmailSend", "SmsInbound", "EmailInbound"):
        schema = DOCUMENT["components"]["schemas"][name]
        assert "attachments" not in schema["required"]
        assert {"type": "null"} in schema["properties"]["attachments"]["anyOf"]
        assert not [field for field, said in schema["properties"].items() if "default" in said]


def test_what_every_answer_has_is_required() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert "status" in schemas["SmsAccepted"]["required"]
    assert "forcing" in schemas["Segments"]["required"]
    assert schemas["Health"]["required"] == ["status"]
    for field in ("message_status", "status_reason"):
        assert field not in schemas["SmsAccepted"]["required"]
    assert "html" not in schemas["MessageView"]["required"]


@each_operation
def test_no_idempotency_key_is_filled_in(method: str, path: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] == "Idempotency-Key":
            assert not {"example", "examples"} & {*parameter, *parameter["schema"]}
            assert "default" not in parameter["schema"]
