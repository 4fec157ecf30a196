"""The reference at /docs: it says what the service does, and asks no other host for anything."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from app.http.access import needs_of
from tests.cases import each_case
from tests.factories import POSTS, sms
from tests.wire import DOCUMENT, OPERATIONS, stored

pytestmark = pytest.mark.anyio

FILES = Path(__file__).parents[3] / "app" / "web" / "docs"
NAMES = [f"{method} {path}" for method, path, _ in OPERATIONS]
each_operation = each_case(("method", "path", "operation"), OPERATIONS, ids=NAMES)


class References(HTMLParser):
    """Everything that a browser loads because of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = ""
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in {"src", "href", "srcset", "action"}]
        self._in_script = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        self.inline += data if self._in_script else ""


@pytest.mark.parametrize("page", ["/docs", "/docs/"])
async def test_the_page_loads_everything_from_this_service(untouched: httpx.AsyncClient, page: str) -> None:
    response = await untouched.get(page)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    references = References(response.text)
    assert references.inline.strip() == ""
    assert len(references.found) >= 4
    at = f"http://messaging.test{page}"
    for reference in references.found:
        assert urlsplit(urljoin(at, reference)).netloc == "messaging.test"
        assert (await untouched.get(urljoin(at, reference))).status_code == 200, urljoin(at, reference)


async def test_the_address_of_the_service_leads_to_the_page(untouched: httpx.AsyncClient) -> None:
    response = await untouched.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/docs")
    assert "/" not in DOCUMENT["paths"]


@pytest.mark.parametrize("page", ["/docs", "/docs/"])
async def test_the_page_shows_the_document_of_this_service(untouched: httpx.AsyncClient, page: str) -> None:
    script = (await untouched.get("/docs/assets/open.js")).text
    [shown] = re.findall(r'\burl: "([^"]+)"', script)
    response = await untouched.get(urljoin(f"http://messaging.test{page}", shown))
    assert response.status_code == 200
    assert response.json()["paths"] == DOCUMENT["paths"]


async def test_neither_page_nor_script_nor_style_names_another_host(untouched: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/assets/open.js"):
        assert "//" not in (await untouched.get(path)).text
    [style] = FILES.rglob("*.css")
    loaded = re.findall(r"url\(\s*['\"]?([^)'\"]{5})|@import\s+(.{5})", style.read_text(encoding="utf-8"))
    assert {one[0] for one in loaded} == {"data:"}


async def test_the_page_hands_the_document_to_no_validator(untouched: httpx.AsyncClient) -> None:
    # Left to itself, Swagger UI shows a badge from a host of its makers.
    assert "validatorUrl: null" in (await untouched.get("/docs/assets/open.js")).text


async def test_every_file_of_the_reference_is_served_as_it_is(untouched: httpx.AsyncClient) -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}
    files = [path for path in FILES.rglob("*") if path.suffix in types]
    assert {file.suffix for file in files} == set(types)
    for file in files:
        response = await untouched.get(f"/docs/assets/{file.relative_to(FILES).as_posix()}")
        assert response.status_code == 200
        assert response.content == file.read_bytes()
        assert response.headers["content-type"].startswith(types[file.suffix])


@each_case(
    "path", ["../../main.py", "%2e%2e/%2e%2e/main.py", "..%2f..%2fmain.py", "%00", "a" * 5000, "/etc/passwd", ""]
)
async def test_no_other_file_is_served(untouched: httpx.AsyncClient, path: str) -> None:
    assert (await untouched.get(f"/docs/assets/{path}")).status_code == 404


async def test_the_document_names_every_route_of_the_contract(untouched: httpx.AsyncClient) -> None:
    served = (await untouched.get("/openapi.json")).json()
    assert served["openapi"].startswith("3.1")
    assert {
        "POST /api/messages/sms",
        "POST /api/messages/email",
        "POST /api/webhooks/sms",
        "POST /api/webhooks/email",
        "GET /api/conversations",
        "GET /api/conversations/{conversation_id}/messages",
        "GET /healthz",
    } <= {f"{method.upper()} {path}" for path, item in served["paths"].items() for method in item}


def test_every_reference_within_the_document_leads_somewhere() -> None:
    names = re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(DOCUMENT))
    assert names
    assert set(names) <= set(DOCUMENT["components"]["schemas"])


@each_operation
def test_every_route_says_what_it_does_and_what_it_answers(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["description"]
    [(media_type, answer)] = operation["responses"]["200"]["content"].items()
    assert answer["schema"]
    others = {
        ("GET", "/api/files/{file_id}/{name}"): "application/octet-stream",
        ("GET", "/api/events/stream"): "text/event-stream",
        ("POST", "/api/batches"): "application/x-ndjson",
    }
    assert media_type == others.get((method, path), "application/json")


def test_no_two_addresses_of_the_document_differ_in_the_name_of_a_parameter_alone() -> None:
    """OpenAPI forbids that: a request would fit both."""
    paths = [re.sub(r"\{\w+\}", "{}", path) for path in DOCUMENT["paths"]]
    assert len(paths) == len(set(paths))


#: What can be there already.
MAY_CONFLICT = {
    ("POST", "/api/admin/keys"),
    ("POST", "/api/admin/tenants"),
    ("POST", "/api/admin/tenants/{tenant_id}/addresses"),
    ("DELETE", "/api/contacts/{contact_id}"),
    ("POST", "/api/batches/{batch_id}/pause"),
    ("POST", "/api/batches/{batch_id}/resume"),
    ("POST", "/api/webhook-endpoints"),
}


@each_operation
def test_every_route_documents_its_problems(method: str, path: str, operation: dict[str, Any]) -> None:
    expected = {"400", "408", "413", "414", "415", "431"}
    if path != "/healthz":
        expected |= {"503"}
    if "requestBody" in operation or path.startswith("/api/webhooks/"):
        expected |= {"422"}
    if path.endswith(("{message_id}/cancel", "{message_id}/retry")) or (method, path) in MAY_CONFLICT:
        expected |= {"409"}
    if path.startswith("/api/webhooks/"):
        expected |= {"401"}
    if (need := needs_of(re.sub("[{}]", "", path))[method]) is not None:
        expected |= {"401", "403", "429"}
        assert operation["security"] == [{"key": []}]
        assert f"with the scope `{need}`." in operation["description"]
    else:
        assert operation["security"] == []
    if any(parameter["in"] in {"path", "query"} for parameter in operation.get("parameters", [])):
        expected |= {"422"}
    if "{" in path or (method, path) == ("POST", "/api/admin/keys"):
        expected |= {"404"}
    if (
        path in {"/api/events", "/api/events/stream"}
        or path.startswith("/api/files/{")
        or (path.startswith("/api/webhook-endpoints/") and path.endswith(("/redeliver", "/replay")))
    ):
        expected |= {"410"}
    documented = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert set(documented) == expected
    for answer in documented.values():
        schema = answer["content"]["application/problem+json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Problem"}


@each_operation
def test_an_error_is_documented_in_the_one_form_that_it_has(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    for status, answer in operation["responses"].items():
        if status >= "400":
            assert list(answer["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("path", POSTS)
async def test_every_body_has_an_example_that_the_service_takes(client: httpx.AsyncClient, path: str) -> None:
    body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    schema = DOCUMENT["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    assert schema["examples"]
    for example in schema["examples"]:
        assert set(example) <= set(schema["properties"])
        response = await client.post(path, json=example)
        assert response.status_code == 200, response.text
    assert len(await stored(client)) == len(schema["examples"])


def test_the_fields_of_the_document_are_those_of_the_contract() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for path, make in POSTS.items():
        reference = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert set(make()) <= set(schemas[reference.rpartition("/")[2]]["properties"])


async def test_every_route_answers_directly_with_a_slash_and_without(client: httpx.AsyncClient) -> None:
    await client.post("/api/messages/sms", json=sms())
    for method, path, _ in OPERATIONS:
        address = re.sub(r"\{\w+\}", "1", path)
        body = POSTS[path]() if path in POSTS else None
        plain, slashed = [await client.request(method, address + slash, json=body) for slash in ("", "/")]
        assert slashed.status_code == plain.status_code, address
        assert not plain.is_redirect, address
        assert plain.status_code == 200 or path not in {*POSTS, "/healthz"}, address


@each_case("path", ["/docs", "/docs/", "/openapi.json", "/openapi.json/"])
async def test_the_reference_answers_directly_with_a_slash_and_without(
    untouched: httpx.AsyncClient, path: str
) -> None:
    assert (await untouched.get(path)).status_code == 200
