"""Mails as they leave: their two forms, and where answers go."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import httpx
import pytest

from app.config import Settings
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.factories import CONTACT_EMAIL, CUSTOMER_EMAIL, email_webhook
from tests.wire import locations_of, stored

pytestmark = pytest.mark.anyio

PATH = "/api/messages/email"


class Recorder(BaseProvider):
    """Accepts every mail, and keeps it."""

    channels: ClassVar = {"email": "email"}

    def __init__(self) -> None:
        self.sent: asyncio.Queue[OutboundMessage] = asyncio.Queue()

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.sent.put_nowait(payload)
        return ProviderResult(f"recorded-{payload.message_id}")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setitem(provider_registry, "recorder", recorder)
    return recorder


@pytest.fixture
async def mailing(
    serve: Callable[[Settings], Awaitable[httpx.AsyncClient]], settings: Settings, recorder: Recorder
) -> httpx.AsyncClient:
    return await serve(settings.model_copy(update={"routes": {"email": ["recorder"]}}))


def mail(**fields: Any) -> dict[str, Any]:
    return {"from": CUSTOMER_EMAIL, "to": CONTACT_EMAIL, **fields}


async def test_a_mail_leaves_in_the_forms_that_it_was_given_in(
    mailing: httpx.AsyncClient, recorder: Recorder
) -> None:
    cases = [
        (mail(body="<p>Hello</p>"), ("<p>Hello</p>", None)),
        (mail(text="<p>is how a paragraph begins"), ("<p>is how a paragraph begins", "")),
        (mail(html="<p>One</p><p>Two</p>"), ("One\n\nTwo", "<p>One</p><p>Two</p>")),
        (mail(text=" ", html="Hello <b>you</b>"), ("Hello you", "Hello <b>you</b>")),
        (mail(text="short", html="<h1>long</h1>"), ("short", "<h1>long</h1>")),
        (mail(body="", text="short", html=None), ("short", "")),
        (mail(body="Hello, 1 <b> 2", html="<p>Hello</p>"), ("Hello, 1 <b> 2", "<p>Hello</p>")),
        (mail(body="<p>Hi</p>", html="<p>Hi</p>"), ("Hi", "<p>Hi</p>")),
        (mail(body="Hello", text="Hello", html="<p>Hello</p>"), ("Hello", "<p>Hello</p>")),
        (mail(body="<p>Hello</p>", text="Hello", html="<p>Hello</p>"), ("Hello", "<p>Hello</p>")),
        (mail(body="Hello", text=" ", html=None), ("Hello", "")),
    ]
    for fields, sent in cases:
        assert (await mailing.post(PATH, json=fields)).status_code == 200
        payload = await recorder.sent.get()
        assert (payload.body, payload.html) == sent
    shown = [(message["body"], message.get("html", "")) for message in await stored(mailing)]
    assert shown == [(body, html or "") for _, (body, html) in cases]


@each_case(
    ("fields", "location"),
    [
        ({}, "body.body"),
        ({"attachments": ["https://example.com/a.pdf"]}, "body.body"),
        ({"body": "Hello", "text": "Good-bye"}, "body"),
        ({"body": "Hello", "text": "Good-bye", "html": "<p>Good-bye</p>"}, "body"),
        ({"body": " ", "text": "", "html": ""}, "body"),
        ({"text": " ", "html": "\n"}, "body"),
        ({"text": None, "html": None}, "body"),
        ({"text": "a\x00b"}, "body.text"),
        ({"html": "<p>\x00</p>"}, "body.html"),
        ({"html": ["<p>"]}, "body.html"),
    ],
)
async def test_a_mail_says_what_it_says_in_one_way(
    client: httpx.AsyncClient, fields: dict[str, Any], location: str
) -> None:
    assert locations_of(await client.post(PATH, json=mail(**fields))) == [location]
    preview = (await client.post("/api/messages/preview", json=mail(channel="email", **fields))).json()
    assert [each["location"] for each in preview["refused"]] == [location]


async def test_the_forms_of_a_mail_are_part_of_a_request_s_identity(client: httpx.AsyncClient) -> None:
    async def status(key: str, **fields: Any) -> int:
        return (await client.post(PATH, json=mail(**fields), headers={"Idempotency-Key": key})).status_code

    assert [await status("a", text="1", html="<p>1</p>") for _ in range(2)] == [200, 200]
    assert await status("a", text="1", html="<p>2</p>") == 422
    assert await status("a", text="2", html="<p>1</p>") == 422
    assert await status("a", body="1") == 422
    assert [await status("b", text="1"), await status("b", text="1", html=None)] == [200, 200]
    assert await status("b", body="1") == 422


async def test_an_answer_shows_the_subject_that_it_was_sent_with(
    mailing: httpx.AsyncClient, recorder: Recorder
) -> None:
    came = email_webhook(subject="Where is my parcel?")
    assert (await mailing.post("/api/webhooks/email", json=came)).status_code == 200
    for fields in ({"body": "On its way."}, {"body": "It came back.", "subject": "Your parcel"}, {"body": "Sorry."}):
        assert (await mailing.post(PATH, json=mail(**fields))).status_code == 200
    subjects = ["Re: Where is my parcel?", "Your parcel", "Re: Your parcel"]
    assert [(await recorder.sent.get()).subject for _ in subjects] == subjects
    shown = [message["subject"] for message in await stored(mailing) if message["direction"] == "outbound"]
    assert shown == subjects
