"""Claims of a mail's headers, checked against the database: its contact, whom it was sent to first, its question."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.providers.mail.inbound import Reception, messages_of
from app.providers.mail.mime.parts import read_mail
from app.references import reference_of
from app.services.callbacks.items import CallbackItems
from tests.factories import email, email_webhook
from tests.tenancy import give_address, insert, make_tenant
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
TECHNICAL, SUPPORT = "4f0c2c@inbound.postmarkapp.com", "support@shop.example"
_numbers = count(1)


def items_of(client: httpx.AsyncClient) -> CallbackItems:
    items: CallbackItems = client._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    return items


async def receive(client: httpx.AsyncClient, head: str, to: str = SUPPORT) -> None:
    raw = f"From: Jane <jane@client.example>\nMessage-ID: <{next(_numbers)}@x.example>\n{head}\n\nHello"
    raw = raw.partition("\n")[2] if "From:" in head else raw
    await items_of(client).accept(
        "postmark", *messages_of(read_mail(raw.encode()), Reception([to], datetime.now(UTC)))
    )


def stored(url: str) -> list[tuple[Any, ...]]:
    """Tenant, contact and recipient of each message, in order."""
    return rows_of(url, "SELECT tenant_id, from_address, to_address FROM messages ORDER BY id")


async def test_an_address_that_the_tenant_owns_is_no_contact(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    shop, other = make_tenant(database_url, "Shop"), make_tenant(database_url, "Other")
    for address in (SUPPORT, "web@forms.example", "sales@trade.example"):
        give_address(database_url, shop, address, "email")
    give_address(database_url, other, "desk@other.example", "email")
    client = await serve(settings)
    await receive(client, "From: Shop <web@forms.example>\nReply-To: sales@trade.example, Ann <ann@mail.example>")
    await receive(client, "From: Shop <web@forms.example>\nReply-To: sales@trade.example")
    await receive(client, "From: Desk <desk@other.example>\nReply-To: ann@mail.example")
    assert stored(database_url) == [
        (shop, "ann@mail.example", SUPPORT),
        (shop, "web@forms.example", SUPPORT),
        (shop, "desk@other.example", SUPPORT),
    ]
    names = rows_of(database_url, "SELECT details ->> 'from_name' FROM messages ORDER BY id")
    assert names == [("Ann",), ("Shop",), ("Desk",)]


async def test_a_forwarded_mail_joins_the_address_that_it_was_sent_to(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(settings)
    desk, forwarded = "desk@shop.example", f"To: {SUPPORT}\nDelivered-To: {SUPPORT}"
    mails = [
        (forwarded, "u17@parse.example", SUPPORT),
        (forwarded, TECHNICAL, SUPPORT),
        (f"To: bob@client.example, {SUPPORT}", TECHNICAL, SUPPORT),
        (f"To: list@x.example\nEnvelope-To: {SUPPORT}", "u18@parse.example", SUPPORT),
        ("To: bob@client.example, ann@client.example", TECHNICAL, TECHNICAL),
        ("To: bob@client.example\nX-Original-To: ann@client.example", "u19@parse.example", "u19@parse.example"),
        (f"To: {desk}", desk, desk),
        # A customer's own mailbox forwards to an address that has conversations.
        ("To: bob@client.example\nDelivered-To: bob@client.example", desk, desk),
        (f"To: {SUPPORT}", desk, desk),  # a blind copy
    ]
    for head, to, _ in mails:
        await receive(client, head, to)
    assert [to for _, _, to in stored(database_url)] == [expected for _, _, expected in mails]


async def test_no_header_moves_a_mail_to_another_tenant_but_the_setting_may(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    shop, other = make_tenant(database_url, "Shop"), make_tenant(database_url, "Other")
    give_address(database_url, shop, SUPPORT, "email")
    give_address(database_url, shop, "shop@parse.example", "email")
    give_address(database_url, other, "desk@other.example", "email")
    client = await serve(settings)
    await receive(client, f"To: {SUPPORT}\nDelivered-To: {SUPPORT}", "shop@parse.example")
    for to in ("shop@parse.example", TECHNICAL):
        await receive(client, "To: desk@other.example\nX-Forwarded-To: desk@other.example", to)
    await receive(client, "Delivered-To: unknown@shop.example", "shop@parse.example")
    assert [(tenant, to) for tenant, _, to in stored(database_url)] == [
        (shop, SUPPORT),
        (shop, "shop@parse.example"),
        (1, TECHNICAL),
        (shop, "shop@parse.example"),
    ]
    forwards = {TECHNICAL.upper(): "desk@other.example"}
    client = await serve(settings.model_copy(update={"mail_forwarded_addresses": forwards}))
    await receive(client, f"To: {SUPPORT}\nDelivered-To: {SUPPORT}", TECHNICAL)
    assert stored(database_url)[-1] == (other, "jane@client.example", "desk@other.example")


async def test_an_answer_from_any_address_shows_what_it_answers(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(settings)
    sent = (await client.post("/api/messages/email", json=email(from_=SUPPORT))).json()
    message_id = int(sent["message_id"])
    [(created_at,)] = rows_of(database_url, f"SELECT created_at FROM messages WHERE id = {message_id}")
    insert(
        database_url,
        "INSERT INTO delivery_attempts"
        " (tenant_id, message_id, number, provider_type, provider_message_id, started_at)"
        " VALUES (1, %s, 99, 'ses', '0102abc-000000', now()) RETURNING message_id",
        (message_id,),
    )
    ours = reference_of(1, message_id, created_at)
    expected = {
        f"In-Reply-To: <{ours}@shop.example>": message_id,
        f"References: <x@y.example> <{ours}-2@shop.example> <z@y.example>": message_id,
        "In-Reply-To: <0102abc-000000@eu-west-1.amazonses.com>": message_id,
        f"In-Reply-To: <0102other@email.amazonses.com>\nReferences: <{ours}@shop.example>": message_id,
        f"In-Reply-To: <{reference_of(1, message_id, created_at + timedelta(microseconds=1))}@shop.example>": None,
        f"In-Reply-To: <{reference_of(2, message_id, created_at)}@shop.example>": None,
        f"In-Reply-To: <{reference_of(1, message_id + 1, created_at)}@shop.example>": None,
        "In-Reply-To: <0102abc-000000@mtasv.net>": None,
        "In-Reply-To: <CAF8vQx@mail.gmail.com>": None,
    }
    for head in expected:
        await receive(client, f"From: assistant@other.example\n{head}")
    found = rows_of(
        database_url,
        "SELECT (details ->> 'in_reply_to_message')::bigint FROM messages WHERE direction = 'inbound' ORDER BY id",
    )
    assert [id for [id] in found] == list(expected.values())
    [conversation] = [
        each for each in (await client.get("/api/conversations")).json() if each["id"] != sent["conversation_id"]
    ]
    shown = (await client.get(f"/api/conversations/{conversation['id']}/messages")).json()
    assert shown[0]["in_reply_to_message"] == message_id


async def test_the_generic_webhook_keeps_the_name(client: httpx.AsyncClient) -> None:
    names = ('"Roe, Jane" <jane@client.example>', "Jane <jane@client.example>", "jane@client.example")
    for number, written in enumerate(names):
        said = email_webhook(from_=written, xillio_id=f"m{number}", timestamp="2018-01-01T00:00:00Z")
        assert (await client.post("/api/webhooks/email", json=said)).status_code == 200
    [conversation] = (await client.get("/api/conversations")).json()
    shown = (await client.get(f"/api/conversations/{conversation['id']}/messages")).json()
    assert [each.get("from_name") for each in shown] == ["Roe, Jane", "Jane", None]
    assert {each["sent_at"] for each in shown} == {"2018-01-01T00:00:00Z"}
