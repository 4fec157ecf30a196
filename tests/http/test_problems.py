"""Every error looks the same, says what to do, and leaves nothing behind."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.main import create_app
from tests.cases import each_case
from tests.conftest import client_of, execute
from tests.factories import POSTS, email, sms
from tests.logs import captured
from tests.tenancy import bearer, make_key, production
from tests.wire import DOCUMENT, locations_of, problem_of, row_counts

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/nope", "/api", "/api/conversations/1/x", "/api//conversations", "/docs/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_an_address_that_there_is_not_is_404(untouched: httpx.AsyncClient, method: str, path: str) -> None:
    response = await untouched.request(method, path, headers=JSON)
    if method == "HEAD":
        assert response.status_code == 404
    else:
        assert problem_of(response, 404)["type"] == "urn:problem-type:messaging:not-found"


#: Of an address: paths that differ in nothing but the name of a parameter are one.
METHODS: dict[str, set[str]] = {}
for _path, _item in DOCUMENT["paths"].items():
    METHODS.setdefault(re.sub(r"\{\w+\}", "1", _path), set()).update(_item)


@pytest.mark.parametrize(
    ("path", "methods"), [*METHODS.items(), ("/", {"get"}), ("/docs", {"get"}), ("/docs/assets/open.js", {"get"})]
)
async def test_another_method_is_405_and_the_right_ones_are_named(
    untouched: httpx.AsyncClient, path: str, methods: set[str]
) -> None:
    known = {method.upper() for method in methods}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - known:
        response = await untouched.request(method, path, headers=JSON)
        assert problem_of(response, 405)["type"] == "urn:problem-type:messaging:method-not-allowed"
        assert set(response.headers["allow"].split(", ")) - {"HEAD"} == known


@each_case(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/octet-stream",
    ],
)
async def test_what_does_not_say_that_it_is_json_is_415(
    untouched: httpx.AsyncClient, content_type: str | None
) -> None:
    for path in POSTS:
        said = {} if content_type is None else {"content-type": content_type}
        content = untouched.build_request("POST", path, json=POSTS[path]()).content
        problem = problem_of(await untouched.post(path, content=content, headers=said), 415)
        assert problem["type"] == "urn:problem-type:messaging:unsupported-media-type"
        assert "application/json" in problem["detail"]


@each_case(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON ;charset=UTF-8",
        "application/vnd.example+json",
    ],
)
async def test_json_by_any_of_its_names_is_taken(client: httpx.AsyncClient, content_type: str) -> None:
    content = client.build_request("POST", "/", json=sms()).content
    response = await client.post("/api/messages/sms", content=content, headers={"content-type": content_type})
    assert response.status_code == 200


async def filled(size: int) -> AsyncIterator[bytes]:
    """So many spaces, a chunk at a time, so that no length is announced."""
    while size > 0:
        yield b" " * min(size, 50_000)
        size -= 50_000


async def test_a_body_whose_announced_length_is_over_the_limit_is_413(untouched: httpx.AsyncClient) -> None:
    for path in POSTS:
        response = await untouched.post(path, content=b" " * 1_000_001, headers=JSON)
        assert problem_of(response, 413)["type"] == "urn:problem-type:messaging:body-too-large"


async def test_a_body_that_turns_out_to_be_over_the_limit_is_413(untouched: httpx.AsyncClient) -> None:
    for path in POSTS:
        response = await untouched.post(path, content=filled(1_000_001), headers=JSON)
        assert problem_of(response, 413)["type"] == "urn:problem-type:messaging:body-too-large"


@each_case("path", ["/api/conversations", "/healthz", "/nope"])
async def test_a_large_body_where_none_belongs_is_a_problem_too_if_it_is_refused(
    untouched: httpx.AsyncClient, path: str
) -> None:
    response = await untouched.request("GET", path, content=b" " * 1_000_001)
    assert response.status_code in {200, 404, 413}
    if response.status_code != 200:
        problem_of(response, response.status_code)


@each_case("announced", ["1000001", "9" * 30, "9" * 5000])
async def test_an_announced_length_is_enough_to_be_refused(untouched: httpx.AsyncClient, announced: str) -> None:
    read = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * 50_000

    headers = JSON | {"content-length": announced}
    response = await untouched.post("/api/messages/sms", content=content(), headers=headers)
    assert response.status_code == 413
    assert read <= 1


async def test_a_body_without_an_end_is_given_up_soon_after_the_limit(untouched: httpx.AsyncClient) -> None:
    read = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 50_000
            yield b" " * 50_000

    response = await untouched.post("/api/messages/sms", content=content(), headers=JSON)
    assert response.status_code == 413
    assert read <= 1_100_000


@each_case("path", POSTS)
async def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(
    settings: Settings, serve: Serve, path: str
) -> None:
    client = await serve(settings.model_copy(update={"max_body_bytes": 2_000}))
    content = client.build_request("POST", path, json=POSTS[path]()).content
    for length, status in ((2_000, 200), (2_001, 413)):
        response = await client.post(path, content=content.ljust(length), headers=JSON)
        assert response.status_code == status


async def test_a_malformed_request_changes_no_row(client: httpx.AsyncClient, database_url: str) -> None:
    malformed: list[dict[str, Any]] = [
        {"to": "nobody"},
        {"body": 7},
        {"attachments": ["javascript:alert(1)"]},
        {"timestamp": "0001-01-01T00:00:00Z"},
    ]
    for path, make in POSTS.items():
        await client.post(path, json=make())
        before = row_counts(database_url)
        # From a new sender, so that a contact and a conversation would have to be made for it.
        sender = "+18045559999" if path.endswith("sms") else "other@example.com"
        for changes in malformed:
            problem_of(await client.post(path, json=make(from_=sender, **changes)), 422)
        assert row_counts(database_url) == before


async def test_a_malformed_request_says_how_many_fields_and_which(untouched: httpx.AsyncClient) -> None:
    problem = problem_of(await untouched.post("/api/messages/sms", json={"body": "Hello!", "to": ""}), 422)
    assert problem == {
        "type": "urn:problem-type:messaging:invalid-request",
        "title": "Invalid request",
        "status": 422,
        "detail": "3 fields are not as they should be.",
        "errors": [
            {"location": "body.from", "message": "this field is required"},
            {"location": "body.to", "message": "an address can't be empty"},
            {"location": "body.type", "message": "this field is required"},
        ],
    }


@each_case(
    ("method", "path", "body", "detail"),
    [
        ("POST", "/api/messages/sms", sms(to=""), "body.to: an address can't be empty."),
        ("POST", "/api/messages/sms", sms(type="fax"), "body.type: Input should be 'sms' or 'mms'."),
        ("POST", "/api/messages/email", email(body=7), "body.body: this is a string."),
        ("POST", "/api/webhooks/sms", {**sms(), "messaging_provider_id": ""}, "body.messaging_provider_id: "),
        ("GET", "/api/messages?limit=0", None, "query.limit: a limit is a whole number from 1 to 1000"),
        ("GET", "/api/messages/x", None, "path.message_id: an id is a whole number"),
        ("GET", "/api/messages?since=soon", None, "query.since: write it as ISO 8601"),
    ],
)
async def test_one_wrong_field_is_named_in_the_sentence(
    untouched: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None, detail: str
) -> None:
    problem = problem_of(await untouched.request(method, path, json=body), 422)
    assert problem["detail"].startswith(f"One field is not as it should be. {detail}")
    assert problem["detail"].endswith(".")
    assert len(problem["errors"]) == 1


ALLOWED = {
    "/api/messages/sms": "POST",
    "/api/messages/sms/": "POST",
    "/api/conversations/": "GET, HEAD",
    "/api/contacts/1/": "GET, PATCH, DELETE, HEAD",
    "/healthz/": "GET, HEAD",
    "/": "GET, HEAD",
}


async def test_production_names_the_methods_of_an_address_with_a_slash_and_without(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings))
    client.headers.update(bearer(make_key(database_url)))
    for path, allowed in ALLOWED.items():
        response = await client.put(path)
        problem_of(response, 405)
        assert (path, response.headers["allow"]) == (path, allowed)


@each_case(
    ("path", "location"),
    [
        ("/api/conversations?limit=0", "query.limit"),
        ("/api/conversations?cursor=x", "query.cursor"),
        ("/api/conversations/x/messages", "path.conversation_id"),
        ("/api/messages/x", "path.message_id"),
    ],
)
async def test_a_malformed_address_says_which_part(untouched: httpx.AsyncClient, path: str, location: str) -> None:
    assert locations_of(await untouched.get(path)) == [location]


async def test_a_full_queue_is_503_and_says_when_to_come_back(
    settings: Settings, database_url: str, serve: Serve
) -> None:
    client = await serve(settings.model_copy(update={"accept_queue_limit": 1, "worker_enabled": False}))
    responses = await asyncio.gather(*(client.post("/api/messages/sms", json=sms()) for _ in range(40)))
    refused = [response for response in responses if response.status_code != 200]
    assert refused
    for response in refused:
        assert problem_of(response, 503)["type"] == "urn:problem-type:messaging:overloaded"
        assert int(response.headers["retry-after"]) > 0
    assert row_counts(database_url)["messages"] == 40 - len(refused)
    assert (await client.post("/api/messages/sms", json=sms())).status_code == 200


async def test_a_bug_of_ours_is_500_and_shows_nothing_of_itself(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("marker-4711")

    async with client_of(app) as client:
        response = await client.get("/bug")
    problem_of(response, 500)
    assert "4711" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("lose", "bring_back"),
    [
        ("ALTER TABLE messages RENAME TO gone", "ALTER TABLE gone RENAME TO messages"),
        ("ALTER TABLE messages RENAME body TO gone", "ALTER TABLE messages RENAME gone TO body"),
    ],
)
async def test_a_table_or_column_that_is_gone_is_503_and_says_what_to_do(
    settings: Settings, database_url: str, serve: Serve, lose: str, bring_back: str
) -> None:
    client = await serve(settings.model_copy(update={"worker_enabled": False}))
    execute(database_url, lose)
    try:
        log = captured()
        answers = [await client.get("/api/messages"), await client.post("/api/messages/sms", json=sms())]
    finally:
        execute(database_url, bring_back)
    for answer in answers:
        assert "run `migrate`" in problem_of(answer, 503)["detail"]
    assert len(re.findall(r"error.*database_schema_incomplete", log.getvalue())) == 2
    assert (await client.get("/api/messages")).status_code == 200
