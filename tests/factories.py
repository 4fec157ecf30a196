"""Requests as clients and providers write them, and stored messages; a test names only what it is about."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from app.batches import Priority
from app.domain import WAITING, Address, AddressType, Direction, MessageStatus, NewMessage

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

Answer = TypeVar("Answer")

#: The two ends of all messages here, unless a test names others.
CUSTOMER, CONTACT = "+12016661234", "+18045551234"
CUSTOMER_EMAIL, CONTACT_EMAIL = "user@example.com", "contact@example.com"
#: Words that no line of a log may hold.
PRIVATE = (CUSTOMER, CONTACT, CUSTOMER_EMAIL, CONTACT_EMAIL, "Hello!", "<p>text</p>")
WRITTEN_AT = "2024-11-01T14:00:00Z"


def sms(**changes: object) -> dict[str, Any]:
    """The request of a client that sends a text; `from_` stands for `from`, which Python reserves."""
    return _changed(
        {
            "from": CUSTOMER,
            "to": CONTACT,
            "type": "sms",
            "body": "Hello!",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def email(**changes: object) -> dict[str, Any]:
    """The request of a client that sends a mail."""
    return _changed(
        {
            "from": CUSTOMER_EMAIL,
            "to": CONTACT_EMAIL,
            "body": "<p>Hello!</p>",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def sms_webhook(**changes: object) -> dict[str, Any]:
    """The callback of a provider when a text has come in."""
    return _changed(
        {
            "from": CONTACT,
            "to": CUSTOMER,
            "type": "sms",
            "messaging_provider_id": "message-1",
            "body": "text",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def email_webhook(**changes: object) -> dict[str, Any]:
    """The callback of a provider when a mail has come in."""
    return _changed(
        {
            "from": CONTACT_EMAIL,
            "to": CUSTOMER_EMAIL,
            "xillio_id": "message-2",
            "body": "<p>text</p>",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def _changed(request: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    return request | {name.removesuffix("_"): value for name, value in changes.items()}


Factory = Callable[..., dict[str, Any]]
SENDS: dict[str, Factory] = {"/api/messages/sms": sms, "/api/messages/email": email}
WEBHOOKS: dict[str, Factory] = {"/api/webhooks/sms": sms_webhook, "/api/webhooks/email": email_webhook}
#: Every route that takes a body, and what it takes.
POSTS = SENDS | WEBHOOKS


async def make_messages(
    connection: "AsyncConnection",
    count: int = 1,
    *,
    status: MessageStatus = MessageStatus.QUEUED,
    tenant_id: int = 1,
    priority: Priority = Priority.NORMAL,
) -> list[int]:
    """Outbound texts, each to another contact, in the given status; their ids, in order."""
    from sqlalchemy import update

    from app.db.models import Message
    from app.services.accept.store_stepwise import store_messages

    def phone(number: str) -> Address:
        return Address(AddressType.PHONE, number, number)

    new = [
        NewMessage(
            Direction.OUTBOUND,
            "sms",
            "sms",
            phone(CUSTOMER),
            phone(f"+1804{5550000 + number}"),
            "Hello!",
            priority=priority,
        )
        for number in range(count)
    ]
    ids = [stored.id for stored in await store_messages(connection, tenant_id, new)]
    changed: dict[str, Any] = {"status": status.value} | ({} if status in WAITING else {"due_at": None})
    await connection.execute(
        update(Message).where(Message.tenant_id == tenant_id, Message.id.in_(ids)).values(changed)
    )
    return ids


async def until(
    ask: Callable[[], Awaitable[Answer]], holds: Callable[[Answer], bool], *, seconds: float = 60
) -> Answer:
    """Ask again until the answer is as it should be, and give it back; fails with the last answer after a time."""
    answer = await ask()
    try:
        async with asyncio.timeout(seconds):
            while not holds(answer):
                await asyncio.sleep(0.01)
                answer = await ask()
    except TimeoutError:
        raise AssertionError(f"after {seconds} seconds it is still {answer!r}") from None
    return answer
