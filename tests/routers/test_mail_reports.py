"""Reports by mail, through the application: each is a receipt of the mail that it names, by any vendor."""

import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.domain import MessageStatus
from app.providers.base import ProviderResult, Receipt
from app.providers.mail.events import Notice
from app.providers.mail.outbound import message_id_of
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import email, until
from tests.providers import test_sendgrid
from tests.providers.mail import test_reports as written
from tests.test_worker import Scripted
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
IDS = itertools.count(1)
#: The reports before suppress the address.
FORGET = "DELETE FROM suppressions"
SHOP, JANE = "shop@shop.example", "jane@client.example"


class Sender(Scripted):
    channels = {"email": "email"}  # noqa: RUF012 - as every provider writes it


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Sender:
    sender = Sender(*(ProviderResult(f"0102-{number}") for number in range(99)))
    monkeypatch.setitem(provider_registry, "scripted", sender)
    monkeypatch.setitem(provider_registry, "sendgrid", test_sendgrid.provider())
    return sender


@pytest.fixture
async def client(serve: Serve, settings: Settings, sender: Sender) -> httpx.AsyncClient:
    quick = {"routes": {"email": ["scripted"]}, "worker_poll_seconds": 0.05}
    return await serve(settings.model_copy(update=quick))


class Sent:
    """A mail that has left, and its Message-ID."""

    def __init__(self, client: httpx.AsyncClient, id: int, message_id: str) -> None:
        self.client, self.id, self.message_id = client, id, message_id

    async def status(self) -> str:
        return str((await self.detail())["status"])

    async def detail(self) -> dict[str, Any]:
        return dict((await self.client.get(f"/api/messages/{self.id}")).json())

    async def last(self) -> str:
        return str((await self.client.get(f"/api/messages/{self.id}/timeline")).json()[-1]["sentence"])

    async def says(self, raw: str, report_id: str = "") -> dict[str, Any]:
        """Take a mail in through SendGrid, with our Message-ID where the table has its own; the message it became."""
        content = f"Message-ID: <{report_id or next(IDS)}@mx>\n{raw}".replace(written.OURS, self.message_id).replace(
            "\n", "\r\n"
        )
        files = [("envelope", (None, json.dumps({"to": [SHOP], "from": ""}))), ("email", (None, content))]
        answer = await self.client.post(f"/api/webhooks/sendgrid?token={test_sendgrid.TOKEN}", files=files)
        assert answer.status_code == 200
        newest = (await self.client.get("/api/messages")).json()
        return dict(next(message for message in newest if message["direction"] == "inbound"))


async def send(client: httpx.AsyncClient, sender: Sender) -> Sent:
    answer = await client.post("/api/messages/email", json=email(from_=SHOP, to=JANE))
    sent = Sent(client, answer.json()["message_id"], "")
    await until(sent.status, lambda status: status == "sent")
    sent.message_id = message_id_of(sender.handed[-1].idempotency_key, SHOP).strip("<>")
    return sent


async def test_a_bounce_by_mail_is_a_receipt_of_the_mail_that_it_names(
    client: httpx.AsyncClient, sender: Sender, database_url: str
) -> None:
    for raw in (written.POSTFIX, written.EXPIRED, written.EXCHANGE, written.EXIM, written.QMAIL, written.SES_BOUNCE):
        sent = await send(client, sender)
        other = await send(client, sender)
        message = await sent.says(raw)
        assert message["automatic"] == "bounce"
        assert (await sent.status(), await other.status()) == ("undelivered", "sent")
        assert (await sent.last()).startswith("A report by mail says it could not be delivered: ")
        assert (await sent.detail())["provider_type"] == "scripted"
        execute(database_url, FORGET)


@each_case("named", ["MAILER-DAEMON", "Mail Delivery System <MAILER-DAEMON>", "<>", "<MAILER-DAEMON@mx>", ""])
async def test_a_server_needs_no_whole_address_to_report(
    client: httpx.AsyncClient, sender: Sender, database_url: str, named: str
) -> None:
    execute(database_url, FORGET)
    sent = await send(client, sender)
    await sent.says(f"From: {named}\n" + written.POSTFIX.partition("\n")[2])
    assert await sent.status() == "undelivered"


async def test_a_bounce_by_mail_takes_a_delivery_back_and_comes_once(
    client: httpx.AsyncClient, sender: Sender
) -> None:
    sent = await send(client, sender)
    items = client._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    await items.accept("scripted", Receipt("1", MessageStatus.DELIVERED, "0102-0"))
    assert await sent.status() == "delivered"
    await sent.says(written.GMAIL_LATE)
    assert (await sent.status(), Notice.DELAY in await sent.last()) == ("delivered", True)
    await sent.says(written.POSTFIX, "the same")
    assert await sent.status() == "undelivered"
    assert (await sent.detail())["status_reason"].startswith("It bounced after it was delivered: 550 5.1.1")
    steps = len((await client.get(f"/api/messages/{sent.id}/timeline")).json())
    await sent.says(written.POSTFIX, "the same")
    assert len((await client.get(f"/api/messages/{sent.id}/timeline")).json()) == steps


async def test_what_people_and_programs_report_is_named(client: httpx.AsyncClient, sender: Sender) -> None:
    sent = await send(client, sender)
    assert (await sent.says(written.feedback("abuse")))["automatic"] == "complaint"
    assert await sent.last() == f"A report by mail says: {Notice.COMPLAINT}: abuse. That changed nothing."
    displayed = written.disposition("automatic-action/MDN-sent-automatically; displayed")
    assert (await sent.says(displayed))["automatic"] == "disposition"
    assert await sent.status() == "sent"
    await sent.says(written.disposition("manual-action/MDN-sent-manually; displayed"))
    assert (await sent.status(), (await sent.last())[:35]) == ("read", "A report by mail says it was read: ")


async def test_a_bounce_may_name_the_id_that_a_vendor_has_given_the_mail(
    client: httpx.AsyncClient, sender: Sender
) -> None:
    sent = await send(client, sender)
    sent.message_id = "0102-0@eu-west-1.amazonses.com"
    await sent.says(written.POSTFIX)
    assert await sent.status() == "undelivered"


async def test_a_report_changes_no_mail_but_the_one_that_it_names_and_no_other_recipient(
    client: httpx.AsyncClient, sender: Sender
) -> None:
    sent = await send(client, sender)
    ours = sent.message_id
    tenant, id, created = ours.partition("@")[0].split("-")
    for forged in (f"{tenant}-{id}-{int(created) + 1}", f"2-{id}-{created}", f"{tenant}-999-{created}", "0102", "1"):
        sent.message_id = f"{forged}@shop.example"
        await sent.says(written.POSTFIX)
        assert await sent.status() == "sent"
    sent.message_id = ours
    stranger = written.POSTFIX.replace("jane@", "joe@").replace("Jane@", "joe@")
    await sent.says(stranger)
    assert await sent.status() == "sent"
    assert (await sent.last()).startswith("A report by mail says: It is about another address: 550 5.1.1")


async def test_a_bounce_of_an_earlier_try_does_not_end_the_next(client: httpx.AsyncClient, sender: Sender) -> None:
    sent = await send(client, sender)
    items = client._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    await items.accept("scripted", Receipt("1", MessageStatus.FAILED, "0102-0"))
    assert (await client.post(f"/api/messages/{sent.id}/retry")).status_code == 200
    await until(sent.status, lambda status: status == "sent")
    await sent.says(written.POSTFIX)
    assert (await sent.status(), "It is about an earlier try" in await sent.last()) == ("sent", True)
    sent.message_id = message_id_of(sender.handed[-1].idempotency_key, SHOP).strip("<>")
    await sent.says(written.POSTFIX)
    assert await sent.status() == "undelivered"


@each_case(
    "raw, sources",
    [
        (written.POSTFIX, ["hard_bounce"]),
        (written.feedback("abuse"), ["complaint"]),
        (written.feedback("opt-out"), ["mail"]),
        (written.feedback("not-spam"), []),
        (written.POSTFIX.replace("5.1.1", "5.7.1").replace("User unknown", "Rejected as spam"), []),
        (written.POSTFIX.replace("jane@", "max@").replace("Jane@", "max@"), []),
    ],
)
async def test_a_report_by_mail_suppresses_the_recipient_of_the_mail(
    client: httpx.AsyncClient, sender: Sender, database_url: str, raw: str, sources: list[str]
) -> None:
    execute(database_url, FORGET)
    await (await send(client, sender)).says(raw)
    found = rows_of(database_url, "SELECT address, source FROM suppressions")
    assert found == [(JANE, source) for source in sources]
