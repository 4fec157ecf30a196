"""Every limit on a request: what is exactly as large is taken, and one more is refused by the status that fits."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx
import pytest

from app.config import Settings
from app.main import create_app
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.conftest import client_of, make_settings, started
from tests.factories import email, email_webhook, sms, sms_webhook
from tests.wire import problem_of, row_counts

pytestmark = pytest.mark.anyio

Ask = Callable[[int], httpx.Request]

#: What `MAX_BODY_BYTES` is here: larger than any field may be.
BODY = 50_000
ATTACHMENT = "https://example.com/"


def post(path: str, body: object, **headers: str) -> httpx.Request:
    return httpx.Request("POST", f"http://messaging.test/api/{path}", json=body, headers=headers)


def get(path: str, **headers: str) -> httpx.Request:
    return httpx.Request("GET", f"http://messaging.test{path}", headers=headers)


def padded(size: int) -> bytes:
    """A send of so many bytes."""
    content = json.dumps(email()).encode()
    return content + b" " * (size - len(content))


def announced(size: int) -> httpx.Request:
    headers = {"Content-Type": "application/json"}
    return httpx.Request("POST", "http://messaging.test/api/messages/email", content=padded(size), headers=headers)


def chunked(size: int) -> httpx.Request:
    def chunks() -> Iterator[bytes]:
        content = padded(size)
        for start in range(0, size, 4096):
            yield content[start : start + 4096]

    async def content() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    headers = {"Content-Type": "application/json"}
    return httpx.Request("POST", "http://messaging.test/api/messages/email", content=content(), headers=headers)


def with_headers(count: int) -> httpx.Request:
    request = get("/api/conversations")
    own = len(request.headers)
    return get("/api/conversations", **{f"X-{number}": "x" for number in range(count - own)})


def with_header_bytes(size: int) -> httpx.Request:
    """Names and values of so many bytes together."""
    request = get("/api/conversations", **{"X-0": ""})
    own = sum(len(name) + len(value) for name, value in request.headers.raw)
    return get("/api/conversations", **{"X-0": "x" * (size - own)})


def nested(depth: int) -> object:
    inner: object = 1
    for _ in range(depth - 1):
        inner = [inner]
    return sms() | {"extra": inner}


def later(days: int) -> str:
    # A minute less, for the time that the request takes.
    return (datetime.now(UTC) + timedelta(days=days, minutes=-1)).isoformat()


LIMITS: dict[str, tuple[int, int, Ask]] = {
    "body, announced, in bytes": (BODY, 413, announced),
    "body, in chunks, in bytes": (BODY, 413, chunked),
    "headers": (100, 431, with_headers),
    "headers, in bytes": (65_536, 431, with_header_bytes),
    "address, in characters": (8192, 414, lambda n: get("/api/conversations?" + "x" * (n - 18))),
    "text, in characters": (1600, 422, lambda n: post("messages/sms", sms(body="x" * n))),
    "text of four bytes each": (1600, 422, lambda n: post("messages/sms", sms(body="\U0001f600" * n))),
    "text with combining marks": (1600, 422, lambda n: post("messages/sms", sms(body=("e\u0301" * n)[:n]))),
    "subject": (998, 422, lambda n: post("messages/email", email(subject="\u00e4" * n))),
    "subject of what comes in": (998, 422, lambda n: post("webhooks/email", email_webhook(subject="x" * n))),
    "attachments": (10, 422, lambda n: post("messages/sms", sms(attachments=[ATTACHMENT] * n))),
    "attachments of what comes in": (10, 422, lambda n: post("webhooks/sms", sms_webhook(attachments=["m"] * n))),
    "address of an attachment": (
        2048,
        422,
        lambda n: post("messages/sms", sms(attachments=[ATTACHMENT + "x" * (n - len(ATTACHMENT))])),
    ),
    "number as written": (64, 422, lambda n: post("messages/sms", sms(to="+1804555123" + "4".rjust(n - 11)))),
    "address of a mail": (
        254,
        422,
        lambda n: post("messages/email", email(to="a@" + ".".join(["b" * 60] * 4 + ["c" * (n - 250), "com"]))),
    ),
    "name of a sender": (11, 422, lambda n: post("messages/sms", sms(from_="A" * n))),
    "provider's id": (512, 422, lambda n: post("webhooks/sms", sms_webhook(messaging_provider_id="x" * n))),
    "idempotency key": (255, 422, lambda n: post("messages/sms", sms(), **{"Idempotency-Key": "k" * n})),
    "days ahead": (366, 422, lambda n: post("messages/sms", sms(send_at=later(n)))),
    "keys of an object": (1000, 422, lambda n: post("messages/sms", sms() | dict.fromkeys(map(str, range(n - 6))))),
    "depth": (32, 422, lambda n: post("messages/sms", nested(n))),
    "page": (1000, 422, lambda n: get(f"/api/conversations?limit={n}")),
    "page of messages": (1000, 422, lambda n: get(f"/api/messages?limit={n}")),
}


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncExitStack() as stack:
        values: dict[str, Any] = settings.model_dump(exclude_unset=True)
        app = await started(stack, make_settings(**values, max_body_bytes=BODY, worker_enabled=False))
        yield await stack.enter_async_context(client_of(app))


@each_case("limit", LIMITS)
async def test_what_is_as_large_as_allowed_is_taken_and_one_more_is_refused(
    client: httpx.AsyncClient, database_url: str, limit: str
) -> None:
    most, refusal, ask = LIMITS[limit]
    before = row_counts(database_url)
    problem_of(await client.send(ask(most + 1)), refusal)
    assert row_counts(database_url) == before
    taken = await client.send(ask(most))
    assert taken.status_code == 200, taken.text


#: What each setting bounds, and another value for it.
SETTINGS = {
    "max_url_length": ("address, in characters", 300),
    "max_headers": ("headers", 20),
    "max_header_bytes": ("headers, in bytes", 1_000),
    "max_body_bytes": ("body, announced, in bytes", 1_000),
    "max_text_length": ("text, in characters", 2_000),
    "max_subject_length": ("subject", 10),
    "max_attachments": ("attachments", 12),
}


@each_case("setting", SETTINGS)
async def test_a_limit_is_where_its_setting_puts_it(
    settings: Settings, serve: Callable[[Settings], Awaitable[httpx.AsyncClient]], setting: str
) -> None:
    limit, most = SETTINGS[setting]
    _, refusal, ask = LIMITS[limit]
    client = await serve(settings.model_copy(update={setting: most, "worker_enabled": False}))
    problem_of(await client.send(ask(most + 1)), refusal)
    taken = await client.send(ask(most))
    assert taken.status_code == 200, taken.text


class Chat(BaseProvider):
    channels: ClassVar = {"chat": "chat"}

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult("chat-1")


def test_the_document_tells_what_the_settings_bound(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provider_registry, "chat", Chat())
    bounds = {"max_text_length": 20, "max_subject_length": 30, "max_attachments": 4}
    schemas = create_app(settings.model_copy(update=bounds)).openapi()["components"]["schemas"]
    assert schemas["SmsSend"]["properties"]["body"]["maxLength"] == 20
    for name in ("EmailSend", "ChannelSend"):
        assert schemas[name]["properties"]["subject"]["anyOf"][0]["maxLength"] == 30
        assert schemas[name]["properties"]["attachments"]["anyOf"][0]["maxItems"] == 4


async def test_a_preview_knows_the_same_limits(
    settings: Settings, serve: Callable[[Settings], Awaitable[httpx.AsyncClient]]
) -> None:
    client = await serve(settings.model_copy(update={"max_text_length": 5, "worker_enabled": False}))
    preview = (await client.send(post("messages/preview", sms(channel="sms")))).json()
    assert [refusal["location"] for refusal in preview["refused"]] == ["body.body"]
