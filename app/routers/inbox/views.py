"""Conversations and messages as templates show them. Their texts are plain: the templates escape them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import phonenumbers

from app.domain import MessageStatus
from app.files import PICTURES, FileStatus, file_id_in
from app.providers.mail.html_source import looks_like_html, text_of_html
from app.services.messages.retries import RETRIABLE

_WRONG = {MessageStatus.FAILED, MessageStatus.UNDELIVERED, MessageStatus.SUPPRESSED, MessageStatus.EXPIRED}
_ARRIVED = {MessageStatus.DELIVERED, MessageStatus.READ}
_CANCELABLE = {MessageStatus.SCHEDULED, MessageStatus.QUEUED}
#: Statuses whose reason a person has to know.
_EXPLAINED = _WRONG | {MessageStatus.UNKNOWN, MessageStatus.QUEUED, MessageStatus.CANCELED}
_PREVIEW = 160  # characters
_LONGEST_TEXT = 20_000  # characters that are shown


@lru_cache(maxsize=4096)
def spoken(address: str) -> str:
    """An address as people write it: phone numbers in groups."""
    try:
        number = phonenumbers.parse(address)
    except phonenumbers.NumberParseException:
        return address
    if not address.startswith("+") or not phonenumbers.is_possible_number(number):
        return address
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def time_of(written: str | datetime | None) -> datetime | None:
    return datetime.fromisoformat(written) if isinstance(written, str) else written


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation in the list."""

    id: int
    name: str
    at: datetime
    preview: str
    channel: str
    is_ours: bool
    unread: int
    status: str
    snoozed_until: datetime | None
    assignee: str | None
    tags: list[str]
    refused: bool
    trouble: bool

    @property
    def hue(self) -> int:
        """The number of the colour of its picture, from 0 to 7."""
        return sum(self.name.encode()) % 8

    @property
    def initials(self) -> str:
        """One or two letters for its picture; empty for a name without letters."""
        words = [word for word in self.name.replace("@", " ").split() if word[0].isalpha()]
        return "".join(word[0] for word in (words[:1] if "@" in self.name else words[:2])).upper()


def row_of(conversation: Mapping[str, Any]) -> Row:
    """The row of a conversation with its last message."""
    last = conversation.get("last_message") or {}
    moment = time_of(conversation["last_updated"])
    assert moment is not None
    text = last.get("text") or ""
    return Row(
        id=conversation["id"],
        name=conversation.get("contact_name") or spoken(conversation["contact_address"]),
        at=moment,
        preview=_preview(last.get("subject"), text),
        channel=last.get("channel") or "sms",
        is_ours=last.get("direction") == "outbound",
        unread=conversation.get("unread_count", 0),
        status=conversation.get("status", "open"),
        snoozed_until=time_of(conversation.get("snoozed_until")),
        assignee=conversation.get("assignee"),
        tags=conversation.get("tags") or [],
        refused=bool(conversation.get("refused")),
        trouble=last.get("status") in _WRONG,
    )


def _preview(subject: str | None, text: str) -> str:
    plain = text_of_html(text) if looks_like_html(text) else text
    words = " ".join(plain.split())
    shown = f"{subject} · {words}" if subject and words else subject or words
    return shown[:_PREVIEW]


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file of a message. Without an address it is named only."""

    name: str
    address: str | None
    size: int | None
    is_picture: bool = False
    is_pending: bool = False
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """A message in a thread."""

    id: int
    conversation_id: int
    direction: str
    channel: str
    status: str
    reason: str | None
    at: datetime
    text: str
    is_cut: bool
    subject: str | None
    author: str | None
    quoted: str | None
    html_address: str | None
    files: list[AttachedFile] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)

    @property
    def tone(self) -> str:
        """The class of its status: `bad`, `doubt`, `good` or `plain`."""
        if self.status in _WRONG:
            return "bad"
        if self.status == MessageStatus.UNKNOWN:
            return "doubt"
        return "good" if self.status in _ARRIVED else "plain"

    @property
    def may_cancel(self) -> bool:
        return self.direction == "outbound" and self.status in _CANCELABLE

    @property
    def may_retry(self) -> bool:
        return self.direction == "outbound" and self.status in RETRIABLE


def item_of(message: Mapping[str, Any]) -> Item:
    """A message as the thread shows it."""
    body = message["body"]
    has_form = bool(message.get("html") or message.get("has_html"))
    is_html = has_form or (message["channel"] == "email" and looks_like_html(body))
    text = text_of_html(body[: _LONGEST_TEXT * 5]) if looks_like_html(body) else body
    moment = time_of(message["sent_at"])
    assert moment is not None
    status = message["status"]
    return Item(
        id=message["id"],
        conversation_id=message["conversation_id"],
        direction=message["direction"],
        channel=message["channel"],
        status=status,
        reason=message["status_reason"] if status in _EXPLAINED else None,
        at=moment,
        text=text[:_LONGEST_TEXT].strip(),
        is_cut=len(text) > _LONGEST_TEXT,
        subject=message["subject"],
        author=message.get("author"),
        quoted=message["quoted"],
        html_address=f"/inbox/messages/{message['id']}/html" if is_html else None,
        files=files_of(message),
        copies=[*message.get("cc", ()), *message.get("bcc", ())],
    )


def files_of(message: Mapping[str, Any]) -> list[AttachedFile]:
    """The attachments of a message: ours by their address in the inbox, others by their own."""
    known = {each["path"]: each for each in message.get("files") or ()}
    return [_file(address, known.get(address)) for address in message["attachments"]]


def _file(address: str, ours: Mapping[str, Any] | None) -> AttachedFile:
    file_id = file_id_in(address)
    name = unquote(address.rpartition("/")[2]) or address
    if file_id is None:
        parts = urlsplit(address)
        is_link = parts.scheme in {"http", "https"}
        return AttachedFile(name if is_link else address, address if is_link else None, None, is_foreign=True)
    if ours is None:
        return AttachedFile(name, f"/inbox/files/{file_id}/{quote(name, safe='')}", None)
    stored = ours["status"] == FileStatus.STORED
    return AttachedFile(
        ours["name"],
        f"/inbox/files/{file_id}/{quote(ours['name'], safe='')}" if stored else None,
        ours["size"],
        is_picture=stored and ours["content_type"] in PICTURES,
        is_pending=not stored and ours["status"] == FileStatus.PENDING,
    )


@dataclass(frozen=True, slots=True)
class Way:
    """A way to answer: a channel, our address, and theirs."""

    channel: str
    from_address: str
    to: str
    subject: str | None = None


def ways_of(messages: Iterable[Mapping[str, Any]]) -> list[Way]:
    """The ways to answer messages, given in order: the channel of the last inbound one first."""
    newest = sorted(messages, key=lambda each: (each["direction"] == "inbound", each["id"]), reverse=True)
    ways: dict[str, Way] = {}
    for each in newest:
        inbound = each["direction"] == "inbound"
        ours, theirs = (each["to"], each["from"]) if inbound else (each["from"], each["to"])
        subject = _reply_subject(each["subject"]) if each["channel"] == "email" else None
        ways.setdefault(each["channel"], Way(each["channel"], ours, theirs, subject))
    return list(ways.values())


def _reply_subject(subject: str | None) -> str:
    if not subject:
        return ""
    return subject if subject.lower().startswith("re:") else f"Re: {subject}"
