"""Vendors' signed callbacks over HTTP: inbound messages, forgeries, and receipts that find their message."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.config import Settings
from app.providers.base import BaseProvider, Callback, Reply
from app.providers.registry import provider_registry
from app.testing.vendor import Vendor, with_header
from tests.factories import CONTACT, CUSTOMER, sms, until
from tests.providers import test_plivo, test_telnyx, test_twilio, test_vonage
from tests.providers.vendors import payload
from tests.tenancy import give_address, make_tenant
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PUBLIC_URL = "https://messages.example"


@dataclass(frozen=True)
class Calls:
    """One vendor's callbacks: an inbound message, a receipt, and the header with the signature."""

    provider: Callable[..., BaseProvider]
    sign: Callable[..., Callback]
    inbound: bytes
    body: str
    receipt: bytes
    signature: str

    def signed(self, body: bytes, url: str) -> Callback:
        """A callback signed now. Some vendors sign the address, others the time."""
        if self.sign in {test_twilio.signed, test_plivo.signed}:
            return self.sign(body, url=url)
        return self.sign(body, at=datetime.now(UTC))


VENDORS = {
    "plivo": Calls(
        test_plivo.provider,
        test_plivo.signed,
        payload("plivo", "inbound_sms.form"),
        "Grüße & 1+1",
        payload("plivo", "delivered.form"),
        test_plivo.SIGNATURE,
    ),
    "telnyx": Calls(
        test_telnyx.provider,
        test_telnyx.signed,
        payload("telnyx", "inbound_mms.json"),
        "Hello from Telnyx 🎉",
        payload("telnyx", "finalized.json"),
        test_telnyx.SIGNATURE,
    ),
    "twilio": Calls(
        test_twilio.provider,
        test_twilio.signed,
        payload("twilio", "inbound_sms.form"),
        "Grüße & bis bald +1",
        payload("twilio", "delivered.form"),
        test_twilio.SIGNATURE,
    ),
    "vonage": Calls(
        test_vonage.provider,
        test_vonage.signed,
        payload("vonage", "inbound_sms.json"),
        "Hello From Vonage!",
        payload("vonage", "delivered.json"),
        "authorization",
    ),
}
every_vendor = pytest.mark.parametrize("name", VENDORS)


@pytest.fixture(scope="module")
def pem() -> str:
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def reachable(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC_URL, "worker_poll_seconds": 0.05})


async def deliver(client: httpx.AsyncClient, callback: Callback) -> httpx.Response:
    """Make the call to the server in the test, without the public address."""
    path = callback.url.removeprefix(PUBLIC_URL)
    headers = [(known.encode(), value.encode("latin-1")) for known, value in callback.headers]
    return await client.request(callback.method, path, content=callback.body, headers=headers)


def url_of(name: str, reference: str | None = None) -> str:
    return f"{PUBLIC_URL}/api/webhooks/{name}" + (f"?ref={reference}" if reference else "")


@every_vendor
async def test_what_comes_in_many_times_at_once_is_stored_once_and_answered_as_the_vendor_wants(
    serve: Serve, reachable: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    vendor = VENDORS[name]
    provider = vendor.provider()
    monkeypatch.setitem(provider_registry, name, provider)
    client = await serve(reachable)
    callback = vendor.signed(vendor.inbound, url_of(name))
    answers = await asyncio.gather(*(deliver(client, callback) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    reply: Reply = provider.reply
    assert {answer.content for answer in answers} == {reply.content}
    assert (answers[0].headers["content-type"]).startswith(reply.media_type or "")
    stored = "SELECT provider_type, direction, from_address, to_address, body FROM messages"
    assert rows_of(database_url, stored) == [(name, "inbound", CONTACT, CUSTOMER, vendor.body)]


@every_vendor
async def test_a_forged_call_is_refused_and_nothing_is_stored(
    serve: Serve, reachable: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    vendor = VENDORS[name]
    monkeypatch.setitem(provider_registry, name, vendor.provider())
    client = await serve(reachable)
    callback = vendor.signed(vendor.inbound, url_of(name))
    for forged in ("bm90IGEgc2lnbmF0dXJl", "é" * 20, "a" * 5000):
        answer = await deliver(client, with_header(callback, vendor.signature, forged))
        assert answer.status_code == 401
    assert rows_of(database_url, "SELECT id FROM messages") == []


@every_vendor
async def test_what_comes_in_belongs_to_whoever_owns_the_number(
    serve: Serve, reachable: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    acme = make_tenant(database_url)
    give_address(database_url, acme, CUSTOMER)
    vendor = VENDORS[name]
    monkeypatch.setitem(provider_registry, name, vendor.provider())
    client = await serve(reachable)
    answer = await deliver(client, vendor.signed(vendor.inbound, url_of(name)))
    assert answer.status_code == 200
    assert rows_of(database_url, "SELECT tenant_id FROM messages") == [(acme,)]


def reference_in(name: str, request: httpx.Request) -> str:
    """Our reference of a message, read from the request to the vendor."""
    if name == "twilio":
        return httpx.URL(httpx.QueryParams(request.content.decode())["StatusCallback"]).params["ref"]
    asked = json.loads(request.content)
    if name == "vonage":
        return str(asked["client_ref"])
    return httpx.URL(asked["url" if name == "plivo" else "webhook_url"]).params["ref"]


@every_vendor
async def test_a_receipt_finds_its_message_also_when_the_answer_was_lost(
    serve: Serve, reachable: Settings, monkeypatch: pytest.MonkeyPatch, name: str, pem: str
) -> None:
    vendor, silent = VENDORS[name], Vendor(httpx.ReadTimeout("silent"))
    values = {"private_key": pem} if name == "vonage" else {}
    provider = vendor.provider(silent, **values)
    provider.honours_idempotency_key = False  # so that it is asked once, and only the receipt can tell
    monkeypatch.setitem(provider_registry, name, provider)
    client = await serve(reachable.model_copy(update={"routes": {"sms": [name]}}))
    message_id = (await client.post("/api/messages/sms", json=sms())).json()["message_id"]

    async def status() -> str:
        return str((await client.get(f"/api/messages/{message_id}")).json()["status"])

    await until(status, lambda found: found == "unknown")
    reference = reference_in(name, silent.request)
    receipt = vendor.receipt.replace(b"1-17-1772366400000000", reference.encode())  # if it is in the body
    callback = vendor.signed(receipt, url_of(name, reference))
    assert (await deliver(client, callback)).status_code == 200
    await until(status, lambda found: found == "delivered")
