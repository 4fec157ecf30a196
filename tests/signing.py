"""A vendor that signs its callbacks, with a time, over the address and the body; tests register it."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx

from app.domain import MessageStatus
from app.providers.base import (
    BaseProvider,
    Callback,
    CallbackItem,
    CallbackRefused,
    CallbackUnverifiable,
    InboundMessage,
    OutboundMessage,
    ProviderResult,
    Receipt,
    Reply,
    Unread,
    hint,
)

PUBLIC_URL = "https://messages.example/of/ours"
PATH = "/api/webhooks/signing"


class SigningProvider(BaseProvider):
    """`key` may be changed, and taken away; `parse` reads one event or a list of them, but for an `unread` one. A
    call may show the key in its address, as `?token=`."""

    channels: ClassVar = {"sms": "phone"}
    reply: ClassVar = Reply(b"<ok/>", "application/xml", 200)
    largest_callback: ClassVar = 3_000_000

    def __init__(self, key: str | None = "first") -> None:
        self.key = key
        self.handed_over: list[OutboundMessage] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.handed_over.append(payload)
        return ProviderResult(f"signing-{payload.message_id}")

    async def verify(self, callback: Callback) -> None:
        await asyncio.sleep(0)
        if self.key is None:
            raise CallbackUnverifiable("SIGNING_SECRET is not set.")
        moment, shown = callback.header("x-time") or "", callback.header("x-signature") or ""
        expected = signature(self.key, moment, callback.url, callback.body)
        if not hmac.compare_digest(shown.encode(), expected.encode()):
            raise CallbackRefused("The signature is another one.", seen=hint(shown), expected=hint(expected))
        if abs(callback.received_at - datetime.fromisoformat(moment)) > timedelta(minutes=5):
            raise CallbackRefused("The signature is out of date.")

    def is_known_by_head(self, head: Callback) -> bool:
        token = dict(head.query()).get("token")
        if token not in {None, self.key}:
            raise CallbackRefused("The token is another one.")
        return token is not None

    def parse(self, callback: Callback) -> Reply | Sequence[CallbackItem | Unread]:
        if callback.method == "GET":
            asked = dict(callback.query())
            if asked.get("word") != "ours":
                raise CallbackRefused("The word is another one.")
            return Reply(asked["challenge"].encode(), "text/plain")
        return items_of(callback)


def items_of(callback: Callback) -> list[CallbackItem | Unread]:
    said = json.loads(callback.body)
    return [_event(each) for each in (said if isinstance(said, list) else [said])]


def _event(said: dict[str, Any]) -> CallbackItem | Unread:
    if "unread" in said:
        return Unread("it says nothing")
    if "status" in said:
        return Receipt(
            event_id=said["id"],
            status=MessageStatus(said["status"]),
            provider_message_id=said.get("of"),
            idempotency_key=said.get("reference"),
            raw=said,
            recipient=said.get("to"),
        )
    return InboundMessage(said["id"], said.get("channel", "sms"), "sms", said["from"], said["to"], said["body"])


def signature(key: str, moment: str, url: str, body: bytes) -> str:
    return hmac.new(key.encode(), f"{moment}{url}".encode() + body, hashlib.sha256).hexdigest()


def signed(
    said: object, *, key: str = "first", seconds_ago: float = 0, query: str = "", method: str = "POST"
) -> dict[str, Any]:
    """The arguments of a client's `request` for a callback; `said` is written as JSON, unless it is bytes."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    moment = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
    written = signature(key, moment, f"{PUBLIC_URL}{PATH}{query}", body)
    headers = {"X-Time": moment, "X-Signature": written, "Authorization": "Basic b3VyczpzZWNyZXQ="}
    return {"method": method, "url": f"{PATH}{query}", "content": body, "headers": headers}


def inbound(number: int = 1, **changes: object) -> dict[str, Any]:
    """A text that came in; `from_` stands for `from`."""
    said = {"id": f"in-{number}", "from": "+18045551234", "to": "+12016661234", "body": f"Hello {number}"}
    return said | {name.removesuffix("_"): value for name, value in changes.items()}


async def call(client: httpx.AsyncClient, said: object, **how: Any) -> httpx.Response:
    return await client.request(**signed(said, **how))
