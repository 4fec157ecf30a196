"""The table of odd inputs: each is answered below 500, and an accepted one is read back as it was meant.

`TABLE` has a row for each input that is known to break a plain service, in the order in which they are known.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.http.hot_route import HotRoute
from app.http.json_body import JsonRoute
from app.main import create_app
from tests.cases import each_case
from tests.conftest import make_settings
from tests.factories import POSTS, SENDS, WEBHOOKS
from tests.walk import api_routes
from tests.wire import problem_of

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
SENDING, RECEIVING = "send", "webhook"


@dataclass(frozen=True)
class Row:
    """An input: what stands in the JSON for which field, and what a send and a webhook make of it."""

    input: str
    field: str
    spelling: bytes  #: in the place of the field's value, as JSON or not
    send: Any  #: the status if it is refused, else what is read back in the field
    webhook: Any
    channels: tuple[str, ...] = ("sms", "email")
    read: str | None = None  #: the field of the answer, where it has another name


def same(input_: str, field: str, spelling: bytes, outcome: Any, **options: Any) -> Row:
    return Row(input_, field, spelling, outcome, outcome, **options)


def text(value: str) -> bytes:
    return json.dumps(value).encode()


SMS: dict[str, Any] = {"channels": ("sms",)}
EMAIL: dict[str, Any] = {"channels": ("email",)}
TIME: dict[str, Any] = {"read": "sent_at"}
LATE = "2024-11-01T14:00:00Z"

TABLE = [
    Row("NUL in the words", "body", rb'"a\u0000b"', 422, "a\ufffdb"),
    Row("NUL in a list", "attachments", rb'["https://example.com/\u0000"]', 422, ["https://example.com/"]),
    Row("lone surrogate", "body", rb'"a\ud800b"', 422, "a\ufffdb"),
    Row("lone surrogate, raw", "body", b'"a\xed\xa0\x80b"', 422, "a\ufffdb"),
    same("lone surrogate in a field of the wrong type", "attachments", rb'"\ud800"', 422),
    same("lone surrogate in an object where a text belongs", "from", rb'{"\ud800": 1}', 422),
    Row("line break that is not escaped", "body", b'"a\nb"', 422, "a\nb"),
    Row("half of an escape", "body", rb'"a\u00"', 422, "a\ufffd"),
    Row("NaN in a field of the wrong type", "body", b"NaN", 422, ""),
    same("Infinity in a field that is required", "to", b"Infinity", 422),
    same("NaN in a field that nobody reads", "unknown", b"NaN", "-"),
    same("-Infinity in a field that nobody reads", "unknown", b"-Infinity", "-"),
    same("1e400 in a field that nobody reads", "unknown", b"1e400", "-"),
    same("1e200000 in a field that nobody reads", "unknown", b"1e200000", "-"),
    same("duplicate keys", "unknown", b'1, "unknown": 2', 422),
    Row("invalid UTF-8", "body", b'"a\xffb"', 422, "a\ufffdb"),
    same("nesting 500", "unknown", b"[" * 500 + b"]" * 500, 422),
    same("nesting 3,000", "unknown", b"[" * 3_000 + b"]" * 3_000, 422),
    same("nesting 6,000", "unknown", b'{"a":' * 6_000 + b"1" + b"}" * 6_000, 422),
    same("nesting 100,000", "unknown", b"[" * 100_000 + b"]" * 100_000, 422),
    Row("5,000-digit integer", "unknown", b"9" * 5_000, 422, "-"),
    same("1 MB wrong-typed field", "attachments", b'"' + b"x" * 990_000 + b'"', 422),
    Row("2016-12-31T23:59:60Z", "timestamp", b'"2016-12-31T23:59:60Z"', 422, "2017-01-01T00:00:00Z", **TIME),
    Row("T24:00:00Z", "timestamp", b'"2024-11-01T24:00:00Z"', 422, "2024-11-02T00:00:00Z", **TIME),
    same("year 0000", "timestamp", b'"0000-01-01T00:00:00Z"', 422),
    same("year 10000", "timestamp", b'"10000-01-01T00:00:00Z"', 422),
    same("Feb 30", "timestamp", b'"2024-02-30T00:00:00Z"', 422),
    same("+25:00", "timestamp", b'"2024-11-01T14:00:00+25:00"', 422),
    same("0001-01-01T00:00:00Z", "timestamp", b'"0001-01-01T00:00:00Z"', 422),
    same("0001-…+14:00", "timestamp", b'"0001-01-01T00:00:00+14:00"', 422),
    same("9999-12-31T23:59:59-12:00", "timestamp", b'"9999-12-31T23:59:59-12:00"', 422),
    same("naive 2024-11-01T14:00:00", "timestamp", b'"2024-11-01T14:00:00"', LATE, **TIME),
    same("1730469600", "timestamp", b"1730469600", 422),
    same('"1730469600"', "timestamp", b'"1730469600"', 422),
    same("1730469600000", "timestamp", b"1730469600000", 422),
    same("-1", "timestamp", b"-1", 422),
    same("9-digit fraction", "timestamp", b'"2024-11-01T14:00:00.123456789Z"', "2024-11-01T14:00:00.123456Z", **TIME),
    same("Name <a@example.com>", "from", b'"Jane <a@example.com>"', "a@example.com", **EMAIL),
    same("trailing space", "from", b'"a@example.com "', "a@example.com", **EMAIL),
    same("upper-case domain", "from", b'"a@EXAMPLE.com"', "a@example.com", **EMAIL),
    same("punycode", "from", b'"a@xn--exmple-cua.com"', "a@exämple.com", **EMAIL),
    same("decomposed é", "from", text("e\u0301@example.com"), "\u00e9@example.com", **EMAIL),
    same("65-char local part", "from", text("a" * 65 + "@example.com"), 422, **EMAIL),
    same("full-width ｕser@…", "from", text("ｕser@example.com"), "ｕser@example.com", **EMAIL),  # noqa: RUF001
    *(
        same(address, "from", text(address), 422, **EMAIL)
        for address in ("a@localhost", "a@b", "a@[127.0.0.1]", "a@x.invalid")
    ),
    same("CR/LF in a mail address", "from", rb'"a@example.com\r\nBcc: b@example.com"', 422, **EMAIL),
    same("CR/LF in a number", "from", rb'"+12016661234\r\n+1"', 422, **SMS),
    same("phone in Arabic digits", "from", text("+1201٦٦٦1234"), "+12016661234", **SMS),
    same("phone with a space before it", "from", b'" +12016661234"', "+12016661234", **SMS),
    same("phone with a line break after it", "from", rb'"+12016661234\n"', 422, **SMS),
    same("tel:+1…", "from", b'"tel:+12016661234"', "+12016661234", **SMS),
    same(";ext=5", "from", b'"+12016661234;ext=5"', 422, **SMS),
    same("12016661234", "from", b'"12016661234"', "+12016661234", **SMS),
    same("12345 as from", "from", b'"12345"', "12345", **SMS),
    same("ALERTS as from", "from", b'"ALERTS"', "ALERTS", **SMS),
    same("ALERTS as to", "to", b'"ALERTS"', 422, **SMS),
    *(
        Row(
            f"{name} in a subject",
            "subject",
            text(f"Greetings{sign}Bcc: b@example.com"),
            422,
            "Greetings Bcc: b@example.com",
            **EMAIL,
        )
        for name, sign in {"CR": "\r", "LF": "\n", "U+2028": "\u2028", "VT": "\x0b", "NUL": "\x00"}.items()
    ),
]

ENCODINGS: list[Callable[[bytes], bytes]] = [
    lambda body: body.decode().encode("utf-16"),
    lambda body: b"\xfe\xff" + body.decode().encode("utf-16-be"),
    lambda body: b"\xef\xbb\xbf" + body,
]

each_row = each_case("row", TABLE, ids=[row.input for row in TABLE])


async def listed(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """All messages, the newest first."""
    messages: list[dict[str, Any]] = (await client.get("/api/messages?limit=1000")).json()
    return messages


@each_row
@each_case("kind", [SENDING, RECEIVING])
async def test_an_odd_input_is_refused_or_read_back(client: httpx.AsyncClient, row: Row, kind: str) -> None:
    expected = row.send if kind == SENDING else row.webhook
    for path, make in POSTS.items():
        if (path in SENDS) != (kind == SENDING) or path.rpartition("/")[2] not in row.channels:
            continue
        ids = {name: f"{row.input} {path}" for name in ("messaging_provider_id", "xillio_id") if name in make()}
        request = make() | ids | {row.field: "@here@"}
        content = json.dumps(request).encode().replace(b'"@here@"', row.spelling)
        before = len(await listed(client))
        response = await client.post(path, content=content, headers=JSON)
        if isinstance(expected, int):
            problem_of(response, expected)
            assert len(response.content) < 1_000
            assert len(await listed(client)) == before
        else:
            assert response.status_code == 200, response.text
            message, *others = await listed(client)
            assert len(others) == before
            wanted = make() | ({} if row.field == "unknown" else {row.read or row.field: expected})
            assert message["body"] == wanted["body"]
            if row.field != "unknown":
                assert message[row.read or row.field] == expected


@each_case("path", SENDS)
@each_case("spell", ENCODINGS)
async def test_a_send_in_another_encoding_is_refused(
    untouched: httpx.AsyncClient, path: str, spell: Callable[[bytes], bytes]
) -> None:
    problem_of(await untouched.post(path, content=spell(json.dumps(SENDS[path]()).encode()), headers=JSON), 415)


@each_case("path", WEBHOOKS)
@each_case("spell", ENCODINGS)
async def test_what_comes_in_in_another_encoding_is_stored(
    client: httpx.AsyncClient, path: str, spell: Callable[[bytes], bytes]
) -> None:
    id_ = f"{path} {len(spell(b'{}'))}"
    request = WEBHOOKS[path]() | {"body": "Grüße", "messaging_provider_id": id_, "xillio_id": id_}
    response = await client.post(path, content=spell(json.dumps(request, ensure_ascii=False).encode()), headers=JSON)
    assert response.status_code == 200, response.text
    assert (await listed(client))[0]["body"] == "Grüße"


@each_case("path", POSTS)
@each_case(
    ("input_", "spell", "headers", "status"),
    [
        ("64 MiB", lambda body: body.ljust(64 * 1024 * 1024), JSON, 413),
        ("text/plain", lambda body: body, {"content-type": "text/plain"}, 415),
        ("form", lambda body: b"body=x", {"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
async def test_an_odd_body_is_refused(
    untouched: httpx.AsyncClient,
    path: str,
    input_: str,
    spell: Callable[[bytes], bytes],
    headers: dict[str, str],
    status: int,
) -> None:
    content = spell(json.dumps(POSTS[path]()).encode())
    problem_of(await untouched.post(path, content=content, headers=headers), status)


# What isn't hot is read by FastAPI, and refused alike.

ADMINISTRATION = {
    ("POST", "/api/admin/tenants"): {"name": "Acme"},
    ("PATCH", "/api/admin/tenants/1"): {"daily_caps": {"US": 1}},
    ("POST", "/api/admin/keys"): {"tenant_id": 1, "name": "x", "scopes": ["read"]},
    ("POST", "/api/admin/tenants/1/addresses"): {"address": "+12025550100"},
}
KEYS = json.dumps({str(number): 1 for number in range(1_001)}).encode()


def beside(unknown: bytes) -> Callable[[bytes], bytes]:
    """Puts an unknown field into a body."""
    return lambda body: body[:-1] + b', "unknown": ' + unknown + b"}"


def test_every_route_that_takes_json_refuses_what_the_hot_ones_do() -> None:
    taking = [route for route, _ in api_routes(create_app(make_settings())) if route.body_field is not None]
    assert taking
    assert {type(route) for route in taking if not isinstance(route, HotRoute)} == {JsonRoute}


@each_case(("method", "path"), ADMINISTRATION)
@each_case(
    ("input_", "spell", "content_type", "status"),
    [
        ("UTF-16", lambda body: body.decode().encode("utf-16"), "application/json", 415),
        ("BOM", lambda body: b"\xef\xbb\xbf" + body, "application/json", 415),
        ("text/plain", lambda body: body, "text/plain", 415),
        ("form", lambda body: body, "application/x-www-form-urlencoded", 415),
        ("no type", lambda body: body, "", 415),
        ("64 MiB", lambda body: body.ljust(64 * 1024 * 1024), "application/json", 413),
        ("nothing", lambda body: b"", "application/json", 422),
        ("no JSON", lambda body: body[:-1], "application/json", 422),
        ("duplicate keys", lambda body: body[:-1] + b", " + body[1:], "application/json", 422),
        *(
            (name, beside(unknown), "application/json", 422)
            for name, unknown in {
                "duplicate keys further in": b'{"US": 1, "US": 100}',
                "nesting 33": b"[" * 33 + b"]" * 33,
                "nesting 400": b"[" * 400 + b"]" * 400,
                "nesting 100,000": b"[" * 100_000 + b"]" * 100_000,
                "1,001 keys": KEYS,
                "5,000-digit integer": b"9" * 5_000,
                "lone surrogate": rb'{"\ud800": "\ud800"}',
                "invalid UTF-8": b'"a\xffb"',
            }.items()
        ),
    ],
)
async def test_an_odd_body_is_refused_by_those_who_manage_too(
    untouched: httpx.AsyncClient,
    method: str,
    path: str,
    input_: str,
    spell: Callable[[bytes], bytes],
    content_type: str,
    status: int,
) -> None:
    content = spell(json.dumps(ADMINISTRATION[method, path]).encode())
    headers = {"content-type": content_type} if content_type else {}
    problem_of(await untouched.request(method, path, content=content, headers=headers), status)
    assert (await untouched.get("/api/admin/audit")).json() == []


async def test_a_large_body_in_chunks_is_refused_by_its_size(untouched: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    problem_of(await untouched.post("/api/admin/tenants", content=chunks(), headers=JSON), 413)


@each_case("path", ["/api/conversations/{}/messages", "/api/messages/{}"])
@each_case(
    ("id_", "status"),
    [
        ("9223372036854775807", 404),
        *((odd, 422) for odd in ("9223372036854775808", "9" * 30, "9" * 4_300)),
        *((odd, 422) for odd in ("+1", " 1", "1_000", "1.0", "1%20", "-1")),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_an_odd_id_is_refused(untouched: httpx.AsyncClient, path: str, id_: str, status: int) -> None:
    problem_of(await untouched.get(path.format(id_)), status)


# No answer to anything odd says what it is made of.

INSIDES = [
    "traceback", "sqlalchemy", "asyncpg", "psycopg", "postgres", "pydantic", "starlette", "fastapi", "uvicorn",
    "python", "/work", "site-packages", "app/", ".py", "select ", "insert ", "update ", "constraint", "relation",
    "sqlstate", "exception", "0x", "none", "value_error", "input_value", "errors.pydantic.dev",
]  # fmt: skip


@pytest.mark.slow
async def test_no_refusal_shows_the_insides_or_the_input(client: httpx.AsyncClient) -> None:
    mark = "zebra-4711"
    odd: list[bytes] = [row.spelling for row in TABLE]
    odd += [text(value) for value in (mark, f"'; DROP TABLE messages; --{mark}", f"%s{mark}\x00", mark * 500)]
    odd += [f'{{"{mark}": ["{mark}"]}}'.encode(), f"[{mark}".encode(), b"null", b"-0", b"1e9999"]
    responses = []
    for path, make in POSTS.items():
        for field in make():
            for spelling in odd:
                placed = json.dumps(make() | {field: "@here@", "x": mark}).encode().replace(b'"@here@"', spelling)
                responses.append(await client.post(path, content=placed, headers=JSON))
    for path in ("/api/conversations", "/api/messages", f"/{mark}", "/api/conversations/1/messages", "/docs/assets/"):
        for query in ("limit", "cursor", "status", "provider", "conversation_id", "since"):
            for value in (mark, "'; --", "%00", "%ff", "9" * 400, "[]", "a" * 250):
                responses.append(await client.get(f"{path}?{query}={value}{mark}"))
        for method in ("PUT", "TRACE", "OPTIONS", mark.upper()):
            responses.append(await client.request(method, path, headers={"x-odd": mark}))
    refused = [response for response in responses if response.status_code >= 400]
    assert len(refused) > 800
    for response in refused:
        problem_of(response, response.status_code)
        said = response.text.lower()
        assert mark not in said
        assert not [inside for inside in INSIDES if inside in said], response.text
        assert "server" not in response.headers
