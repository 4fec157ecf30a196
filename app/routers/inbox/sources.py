"""The data of the pages, read and changed by the services: conversations, messages, people, search."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from fastapi import Request

from app.dependencies import services_of
from app.domain import DEFAULT_TENANT_ID
from app.installation import KeyScope
from app.routers.messages import message_in, sent
from app.services.messages.conversation_state import ConversationChange
from app.services.messages.conversations import ConversationFilter, ConversationService
from app.services.messages.reading import MessageFilter
from app.services.messages.timeline import Step
from app.services.people.profile import read_profile
from app.services.search.searching import Search

#: The messages of a page of a thread, and the conversations of a page of the list.
MESSAGES, CONVERSATIONS = 40, 40
#: The hits of a page of a search.
HITS = 30

Json = dict[str, Any]


def is_in(wanted: ConversationFilter, conversation: Mapping[str, Any]) -> bool:
    """True for a conversation that belongs to a list."""
    return (
        wanted.status in {None, conversation["status"]}
        and (wanted.assignee is None or conversation.get("assignee", "") == wanted.assignee)
        and (wanted.channel is None or wanted.channel in conversation.get("channels", ()))
        and (wanted.tag is None or wanted.tag in conversation.get("tags", ()))
        and (not wanted.unread or conversation["unread_count"] > 0)
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as its form has it. `from_address` is our side of the conversation."""

    channel: str
    from_address: str
    to: str
    body: str
    attachments: tuple[str, ...] = ()  #: paths of files that were uploaded
    subject: str | None = None
    key: str | None = None
    send_at: datetime | None = None

    def fields(self) -> Json:
        """The body of a send on its channel."""
        written: Json = {"from": self.from_address, "to": self.to, "body": self.body}
        if self.channel == "email":
            del written["body"]
            written["text"] = self.body
        if self.channel == "sms":
            written["type"] = "mms" if self.attachments else "sms"
        if self.attachments:
            written["attachments"] = list(self.attachments)
        if self.subject is not None:
            written["subject"] = self.subject
        if self.send_at is not None:
            written["send_at"] = self.send_at
        return written

    @property
    def fingerprint(self) -> str:
        """A hash of what a person wrote. The time is left out, which a retry has anew."""
        said = [self.channel, self.from_address, self.to, self.body, self.attachments, self.subject]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


class Messages(NamedTuple):
    """Messages in the order of their time, and the cursors of older and of newer ones."""

    found: list[Json]
    older: str | None
    newer: str | None


class Inbox:
    """A tenant's inbox as one caller sees it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._services = services_of(request)
        self._access = request.scope["state"]["access"]
        self._tenant = self._access.tenant_id
        self._conversations = ConversationService(self._services.reads, self._tenant)

    @property
    def me(self) -> str:
        """The name of the caller, to whom conversations are assigned."""
        name: str = self._access.name or self._access.prefix or "me"
        return name

    @property
    def may_send(self) -> bool:
        return KeyScope.SEND in self._access.scopes

    @property
    def may_operate(self) -> bool:
        """True for the operator of the installation."""
        return self._tenant == DEFAULT_TENANT_ID and KeyScope.ADMIN in self._access.scopes

    @property
    def is_open(self) -> bool:
        """True in development without a key, where the pages are open to all who reach them."""
        return self._access.prefix is None

    async def conversations(
        self, wanted: ConversationFilter, cursor: str | None = None
    ) -> tuple[list[Json], str | None]:
        """A page of the list with the last messages, and the cursor of the next one."""
        page = await self._conversations.recent(wanted, limit=CONVERSATIONS, cursor=cursor, with_last_message=True)
        return [json.loads(row) for row in page.rows], page.next

    async def conversation(self, conversation_id: int) -> Json:
        """A conversation with its last message. Raises `ConversationNotFound`."""
        found: Json = json.loads(await self._conversations.one(conversation_id, with_last_message=True))
        return found

    async def messages(self, conversation_id: int, cursor: str | None = None) -> Messages:
        """A page of the messages of a conversation: the newest ones, or those at a cursor."""
        wanted = MessageFilter(conversation_id=conversation_id)
        page = await wanted.page(self._services.reads, self._tenant, limit=MESSAGES, cursor=cursor)
        found = [json.loads(row) for row in page.rows]
        return Messages(sorted(found, key=_place), page.next, page.previous)

    async def message(self, message_id: int) -> Json:
        """Raises `MessageNotFound`."""
        found: Json = json.loads(await self._services.messages.detail(self._tenant, message_id))
        return found

    async def timeline(self, message_id: int) -> list[Step]:
        """Raises `MessageNotFound`."""
        return await self._services.messages.timeline(self._tenant, message_id)

    async def person(self, address: str) -> Json | None:
        """The contact with an address, its refusals and other conversations."""
        found = await read_profile(self._services.reads, self._tenant, address)
        return None if found is None else json.loads(found)

    async def search(self, q: str, cursor: str | None = None) -> tuple[list[Json], str | None]:
        """Hits of all kinds with the names of their people, and the cursor of further messages.

        Raises `InvalidRequest` for an invalid cursor.
        """
        page = await Search(self._services.reads, self._tenant).page(q, limit=HITS, cursor=cursor)
        hits = [json.loads(row) for row in page.rows]
        ids = {hit["conversation_id"] for hit in hits if hit["kind"] != "contact"}
        found = [json.loads(row) for row in await self._conversations.several(sorted(ids))] if ids else []
        names = {each["id"]: each.get("contact_name") or each["contact_address"] for each in found}
        return [hit | {"person": names.get(hit["conversation_id"])} for hit in hits], page.next

    async def change(self, conversation_id: int, change: ConversationChange) -> None:
        """Change a conversation. Raises `ConversationNotFound`."""
        await self._services.messages.change_conversation(self._tenant, conversation_id, change, by=self._access.name)

    async def read(self, conversation_id: int, up_to: int | None) -> None:
        """Mark messages as read, all or those up to one. Raises `ConversationNotFound`."""
        await self._services.messages.read_conversation(
            self._tenant, conversation_id, up_to=up_to, by=self._access.name
        )

    async def cancel(self, message_id: int) -> None:
        """Raises `MessageNotFound` and `NotCancelable`."""
        await self._services.messages.cancel(self._tenant, message_id)

    async def retry(self, message_id: int) -> None:
        """Raises `MessageNotFound`, `NotRetriable` and `DailyCapReached`."""
        await self._services.messages.retry(self._tenant, message_id)

    async def reply(self, reply: Reply) -> int:
        """Store a reply as a send is stored; the id of its message. Raises what `MessageService.send` raises.

        A repeat with the same key is the same message, whenever it comes.
        """
        new = message_in(self._request, reply.channel, reply.fields(), reply.key)
        new = replace(new, fingerprint=reply.fingerprint if reply.key else None)
        stored = await sent(new, self._request)
        return stored.id


def _place(message: Json) -> tuple[datetime, int]:
    return datetime.fromisoformat(message["sent_at"]), message["id"]
