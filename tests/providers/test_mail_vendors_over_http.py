"""Mail vendors over HTTP: a mail is sent, its events find it, and a reply joins its thread."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from app.config import Settings
from app.providers.base import BaseProvider, Callback
from app.providers.mail.outbound import Composer, MailSettings
from app.providers.postmark import PostmarkProvider, PostmarkSettings
from app.providers.registry import provider_registry
from app.providers.toolbox.remote_files import RemoteFiles
from app.testing.vendor import Vendor
from tests.cases import each_case
from tests.factories import until
from tests.providers import outbound, test_mailgun, test_postmark, test_sendgrid, test_ses
from tests.providers.vendors import payload
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PUBLIC_URL = "https://messages.example"
KEY = generate_private_key(65537, 2048)


@dataclass(frozen=True)
class Calls:
    """One vendor's answers and callbacks: an inbound mail, and the delivery of a mail by its reference."""

    provider: Callable[[Vendor], BaseProvider]
    accepts: list[httpx.Response]
    inbound: Callable[[], Callback]
    delivered: Callable[[str], Callback]
    forged: Callable[[Callback], Callback]


def _longer(callback: Callback) -> Callback:
    return replace(callback, body=callback.body.replace(b'"', b'" ', 1))


def _without_query(callback: Callback) -> Callback:
    return replace(callback, url=callback.url.partition("?")[0] + "?token=wrong")


def _with_another_key(callback: Callback) -> Callback:
    return replace(callback, body=callback.body.replace(b"signature=", b"signature=0"))


def _unknown(callback: Callback) -> Callback:
    return replace(callback, headers=[])


def _now() -> datetime:
    return datetime.now(UTC)


def _referring(content: bytes, reference: str) -> bytes:
    return content.replace(b'"1-17-5"', json.dumps(reference).encode())


VENDORS = {
    "mailgun": Calls(
        test_mailgun.provider,
        [test_mailgun.ACCEPTED],
        lambda: test_mailgun.inbound(at=_now(), token="another"),  # noqa: S106 - a token is valid for one event
        lambda reference: test_mailgun.event(
            json.loads(_referring(payload("mailgun", "delivered.json"), reference))["event-data"], at=_now()
        ),
        _with_another_key,
    ),
    "postmark": Calls(
        test_postmark.provider,
        [test_postmark.ACCEPTED],
        lambda: test_postmark.of(payload("postmark", "inbound.json")),
        lambda reference: test_postmark.of(_referring(payload("postmark", "delivery.json"), reference)),
        _unknown,
    ),
    "sendgrid": Calls(
        test_sendgrid.provider,
        [test_sendgrid.ACCEPTED],
        lambda: test_sendgrid.inbound(f"?token={test_sendgrid.TOKEN}"),
        lambda reference: test_sendgrid.signed(_referring(test_sendgrid.EVENTS, reference), at=_now()),
        _without_query,
    ),
    "ses": Calls(
        test_ses.provider,
        [test_ses.ACCEPTED, test_ses.pem(KEY)],
        lambda: test_ses.signed(test_ses.notification(payload("ses", "received.json")), KEY),
        lambda reference: test_ses.signed(
            test_ses.notification(_referring(payload("ses", "delivery.json"), reference), MessageId="delivered"), KEY
        ),
        _longer,
    ),
}
every_vendor = pytest.mark.parametrize("name", VENDORS)


async def deliver(client: httpx.AsyncClient, callback: Callback) -> httpx.Response:
    headers = [(known.encode(), value.encode("latin-1")) for known, value in callback.headers]
    return await client.request("POST", callback.url.removeprefix(PUBLIC_URL), content=callback.body, headers=headers)


@every_vendor
async def test_what_comes_in_many_times_at_once_is_stored_once_and_a_forgery_never(
    serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    vendor = VENDORS[name]
    monkeypatch.setitem(provider_registry, name, vendor.provider(Vendor(vendor.accepts[-1])))
    client = await serve(settings.model_copy(update={"public_url": PUBLIC_URL}))
    assert (await deliver(client, vendor.forged(vendor.inbound()))).status_code == 401
    assert rows_of(database_url, "SELECT id FROM messages") == []
    answers = await asyncio.gather(*(deliver(client, vendor.inbound()) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    stored = "SELECT provider_type, direction, from_address, to_address, trim(body) FROM messages"
    assert rows_of(database_url, stored) == [(name, "inbound", "jane@example.com", "shop@example.com", "Thank you!")]


@every_vendor
async def test_an_event_finds_its_mail_and_an_answer_its_thread(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    vendor = VENDORS[name]
    server = Vendor(*vendor.accepts)
    monkeypatch.setitem(provider_registry, name, vendor.provider(server))
    client = await serve(
        settings.model_copy(
            update={"public_url": PUBLIC_URL, "worker_poll_seconds": 0.05, "routes": {"email": [name]}}
        )
    )
    mail = {"from": "shop@example.com", "to": "jane@example.com", "body": "Hello!", "attachments": None}
    message = (await client.post("/api/messages/email", json=mail)).json()

    async def status() -> str:
        return str((await client.get(f"/api/messages/{message['message_id']}")).json()["status"])

    await until(status, lambda found: found == "sent")
    assert (await deliver(client, vendor.delivered(_reference(name, server.requests[0])))).status_code == 200
    await until(status, lambda found: found in {"delivered", "read"})
    assert (await deliver(client, vendor.inbound())).status_code == 200
    thread = (await client.get(f"/api/conversations/{message['conversation_id']}/messages")).json()
    assert sorted(each["body"].strip() for each in thread) == ["Hello!", "Thank you!"]


@each_case("name", VENDORS)
async def test_every_vendor_is_given_local_parts_in_quotes(name: str) -> None:
    server = Vendor(*VENDORS[name].accepts)
    sending = VENDORS[name].provider(server).send(outbound("taro..yama@Bücher.example", from_address="a@b.example"))
    assert inspect.isawaitable(sending)
    await sending
    content = server.requests[0].content.decode()
    asked: dict[str, Any] = dict(httpx.QueryParams(content)) if name == "mailgun" else json.loads(content)
    recipient = {
        "mailgun": lambda: asked["to"],
        "postmark": lambda: asked["To"],
        "sendgrid": lambda: asked["personalizations"][0]["to"][0]["email"],
        "ses": lambda: asked["Destination"]["ToAddresses"][0],
    }[name]()
    assert recipient == '"taro..yama"@xn--bcher-kva.example'


async def test_a_mail_whose_files_take_too_long_has_not_left_and_is_tried_again(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    composer = Composer(
        MailSettings(_env_file=None, fetch_attachments=True),
        RemoteFiles(timeout_seconds=60, most_bytes=1000, resolve=silent),
    )
    server = Vendor(test_postmark.ACCEPTED)
    provider = PostmarkProvider(
        PostmarkSettings(_env_file=None, server_token=test_postmark.SERVER_TOKEN), server.client, composer
    )
    monkeypatch.setitem(provider_registry, "postmark", provider)
    quick = {"provider_timeout_seconds": 0.5, "retry_base_seconds": 60, "routes": {"email": ["postmark"]}}
    client = await serve(settings.model_copy(update=quick))
    mail = {"from": "a@example.com", "to": "b@example.com", "body": "Hi", "attachments": ["https://example.com/a"]}
    message_id = (await client.post("/api/messages/email", json=mail)).json()["message_id"]

    async def tries() -> list[dict[str, Any]]:
        return list((await client.get(f"/api/messages/{message_id}")).json()["attempts"])

    [attempt] = await until(tries, lambda found: bool(found) and found[0]["outcome"] is not None)
    assert (attempt["outcome"], attempt["detail"][:25]) == ("temporary", "Attachment 1 did not come")
    assert server.requests == []


def _reference(name: str, request: httpx.Request) -> str:
    """Our reference of a mail, read from the request to the vendor."""
    if name == "mailgun":
        return str(httpx.QueryParams(request.content.decode())["v:reference"])
    asked = json.loads(request.content)
    if name == "postmark":
        return str(asked["Metadata"]["reference"])
    if name == "ses":
        return str(asked["EmailTags"][0]["Value"])
    return str(asked["personalizations"][0]["custom_args"]["reference"])


async def test_a_subscription_to_a_topic_is_confirmed_once_it_is_known_to_be_ours(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Vendor(test_ses.pem(KEY), httpx.Response(200))
    monkeypatch.setitem(provider_registry, "ses", test_ses.provider(server))
    client = await serve(settings)
    asked = test_ses.confirmation()
    other = test_ses.signed({**asked, "TopicArn": test_ses.OTHER_TOPIC}, KEY)
    assert (await deliver(client, other)).status_code == 401
    assert not server.requests
    assert (await deliver(client, test_ses.signed(asked, KEY))).status_code == 200
    assert [str(request.url) for request in server.requests] == [test_ses.CERTIFICATE_URL, test_ses.SUBSCRIBE_URL]
