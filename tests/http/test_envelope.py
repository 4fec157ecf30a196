"""The headers and the id that every answer carries, errors included."""

import json
import re
from collections.abc import Awaitable, Callable

import httpx
import pytest

from app.config import Settings
from app.main import create_app
from tests.cases import each_case
from tests.conftest import client_of, make_settings
from tests.factories import POSTS, sms
from tests.logs import captured
from tests.wire import OPERATIONS, problem_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]

#: One request for each way in which an answer comes about: method, address, JSON, status.
ANSWERS: list[tuple[str, str, object, int]] = [
    ("GET", "/healthz", None, 200),
    ("GET", "/readyz", None, 200),
    ("GET", "/api/conversations", None, 200),
    ("GET", "/api/conversations/1/messages", None, 404),
    ("GET", "/api/conversations?limit=0", None, 422),
    ("POST", "/api/messages/sms", {}, 422),
    ("POST", "/api/messages/sms", None, 415),
    ("GET", "/api/messages/sms", None, 405),
    ("DELETE", "/api/conversations", None, 405),
    ("POST", "/api/webhooks/nobody", {}, 404),
    ("GET", "/nope", None, 404),
    ("OPTIONS", "/api/messages", None, 405),
    ("GET", "/openapi.json", None, 200),
    ("GET", "/docs", None, 200),
    ("GET", "/docs/assets/open.js", None, 200),
    ("GET", "/docs/assets/nope.js", None, 404),
    ("GET", "/" + "a" * 9_000, None, 414),
]
each_answer = each_case(
    ("method", "address", "body", "status"), ANSWERS, ids=[f"{method} {path[:30]}" for method, path, *_ in ANSWERS]
)


async def asked(client: httpx.AsyncClient, method: str, address: str, body: object, **headers: str) -> httpx.Response:
    if body is None:
        return await client.request(method, address, headers=headers)
    return await client.request(method, address, json=body, headers=headers)


@each_answer
async def test_every_answer_has_an_id_and_the_headers_of_a_careful_service(
    untouched: httpx.AsyncClient, method: str, address: str, body: object, status: int
) -> None:
    response = await asked(untouched, method, address, body)
    assert response.status_code == status
    assert re.fullmatch(r"[0-9a-f]{24}", response.headers["x-request-id"])
    expected = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }
    assert {name: response.headers.get_list(name) for name in expected} == {
        name: [value] for name, value in expected.items()
    }
    is_reference = address.startswith("/docs")
    [policy] = response.headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'none'; ")
    for directive in ("base-uri", "form-action", "frame-ancestors"):  # no default stands in for them
        assert f"{directive} 'none'" in policy
    assert ("script-src 'self';" in policy) == is_reference
    assert not re.search(r"http|\*|unsafe-eval|script-src[^;]*unsafe", policy)
    assert response.headers.get_list("cache-control") == ["no-cache" if is_reference else "no-store"]
    for absent in ("server", "strict-transport-security", "access-control-allow-origin", "vary", "x-powered-by"):
        assert absent not in response.headers


async def test_no_two_answers_have_the_same_id(untouched: httpx.AsyncClient) -> None:
    ids = [(await untouched.get("/healthz")).headers["x-request-id"] for _ in range(600)]
    assert len(set(ids)) == 600


@each_case("id_", ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", "A.b_c-9", "x" * 64])
async def test_a_sane_id_of_the_caller_is_kept(untouched: httpx.AsyncClient, id_: str) -> None:
    for _, address, *_ in ANSWERS[:4]:
        assert (await untouched.get(address, headers={"X-Request-Id": id_})).headers.get_list("x-request-id") == [id_]


@each_case(
    "id_",
    [b"", b"x" * 65, b"a b", b"a\tb", b"a;b", b"\xff", "é".encode(), b"a\x1bb", b"<script>", b"a,b"],
    ids=ascii,
)
async def test_an_odd_id_of_the_caller_is_replaced(untouched: httpx.AsyncClient, id_: bytes) -> None:
    response = await untouched.get("/healthz", headers=[(b"x-request-id", id_)])
    assert re.fullmatch(r"[0-9a-f]{24}", response.headers["x-request-id"])


async def test_a_bug_and_a_full_queue_are_found_in_the_log_by_the_id_in_the_problem(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/healthz/bug")
    async def bug() -> None:
        raise RuntimeError("marker-4711")

    written = captured()
    async with client_of(app) as client:
        response = await client.get("/healthz/bug?marker-4711")
    problem = problem_of(response, 500)
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["request_id"] in written.getvalue()
    assert "in bug" in written.getvalue()
    assert written.getvalue().count("request_failed") == 1
    assert "4711" not in written.getvalue().replace('RuntimeError("marker-4711")', "")
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_head_is_answered_wherever_get_is(settings: Settings, serve: Serve) -> None:
    client = await serve(settings.model_copy(update={"worker_enabled": False}))
    await client.post("/api/messages/sms", json=sms())
    gets = [path for method, path, _ in OPERATIONS if method == "GET" and "admin" not in path]
    for path in [*gets, "/docs", "/docs/assets/open.js", "/openapi.json", "/nope", "/healthz/"]:
        address = re.sub(r"\{\w+\}", "1", path)
        got, headed = await client.get(address), await client.head(address)
        assert headed.status_code == got.status_code, address
        assert headed.content == b""
        unlike = {"x-request-id", "date"}
        assert {name: value for name, value in headed.headers.items() if name not in unlike} == {
            name: value for name, value in got.headers.items() if name not in unlike
        }


async def test_a_route_that_takes_get_names_head_too(untouched: httpx.AsyncClient) -> None:
    response = await untouched.delete("/api/conversations")
    assert response.headers["allow"] == "GET, HEAD"
    assert (await untouched.get("/api/messages/sms")).headers["allow"] == "POST"
    assert (await untouched.head("/api/messages/sms")).status_code == 405


@each_case("coding", ["gzip", "br", "deflate", "x", "identity, gzip", "gzip, gzip"])
async def test_a_compressed_body_is_not_unpacked(untouched: httpx.AsyncClient, coding: str) -> None:
    for path in POSTS:
        headers = {"content-type": "application/json", "content-encoding": coding}
        problem_of(await untouched.post(path, content=b"\x1f\x8b" + b"x" * 50, headers=headers), 415)


async def test_many_headers_are_refused(untouched: httpx.AsyncClient) -> None:
    headers = [(b"x-header", b"value")] * 120
    problem_of(await untouched.get("/healthz", headers=headers), 431)


@each_case(
    ("public_url", "expected"),
    [(None, None), ("http://sms.example", None), ("https://sms.example", "max-age=31536000")],
)
async def test_only_behind_tls_are_browsers_told_to_keep_to_it(public_url: str | None, expected: str | None) -> None:
    async with client_of(create_app(make_settings(public_url=public_url))) as client:
        for path in ("/healthz", "/docs", "/nope"):
            assert (await client.get(path)).headers.get("strict-transport-security") == expected


# Other origins.

ORIGINS = "https://app.example http://localhost:3000"


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:3000"])
async def test_a_page_of_a_named_origin_may_read_answers(origin: str) -> None:
    async with client_of(create_app(make_settings(cors_origins=ORIGINS))) as client:
        for path, status in (("/healthz", 200), ("/nope", 404)):
            response = await client.get(path, headers={"Origin": origin})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == origin
            assert response.headers["vary"] == "Origin"
            assert "X-Request-Id" in response.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in response.headers
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = await client.options("/api/messages/sms", headers=asks)
        assert (preflight.status_code, preflight.content) == (204, b"")
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        assert preflight.headers["x-request-id"]
        assert preflight.headers["x-content-type-options"] == "nosniff"


@each_case(
    "origin",
    [
        "https://evil.example",
        "null",
        "*",
        "https://app.example.evil.example",
        "https://app.example:8443",
        "http://app.example",
        "https://APP.example",
        "https://app.example/",
        "",
    ],
)
@each_case("origins", [ORIGINS, ""])
async def test_a_page_of_another_origin_is_told_nothing(origins: str, origin: str) -> None:
    async with client_of(create_app(make_settings(cors_origins=origins))) as client:
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for response in (
            await client.get("/healthz", headers={"Origin": origin}),
            await client.options("/api/messages/sms", headers=asks),
        ):
            assert not [name for name in response.headers if name.startswith("access-control-")]
            assert response.headers.get("vary") == ("Origin" if origins else None)
        problem_of(response, 405)


# The line of a request.


async def test_a_request_is_a_line_with_its_path_but_not_its_query(settings: Settings, serve: Serve) -> None:
    client = await serve(settings.model_copy(update={"access_log": True, "log_format": "json"}))
    written = captured()
    response = await client.head("/api/conversations?limit=7")
    [event] = [json.loads(line) for line in written.getvalue().splitlines() if '"request"' in line]
    assert event.pop("duration_ms") >= 0
    expected = {"method": "HEAD", "path": "/api/conversations", "status": 200}
    assert {name: event[name] for name in expected} == expected
    assert event["request_id"] == response.headers["x-request-id"]
    assert "limit" not in written.getvalue()


async def test_without_the_setting_a_request_is_no_line(client: httpx.AsyncClient) -> None:
    written = captured()
    await client.get("/api/conversations")
    assert "request" not in written.getvalue()
