"""Outbound mail: a message as a mail, with its thread, its text and HTML parts, and its files."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from typing import ClassVar
from urllib.parse import quote

import httpx
from pydantic import Field

from app.providers.base import OutboundMessage, PermanentFailure
from app.providers.mail.envelope import ascii_domain, mailbox_of
from app.providers.mail.html_source import looks_like_html, readable
from app.providers.mail.mime.headers import MESSAGE_ID, one_line
from app.providers.toolbox.http_client import HttpProvider, ProviderSettings
from app.providers.toolbox.models import VendorSettings
from app.providers.toolbox.remote_files import RemoteFile, RemoteFiles

#: Earlier mails that References names. Mail programs need no more.
MOST_REFERENCES = 10

_LONGEST_LINE = 998  # RFC 5322, 2.1.1
_FOLD = "\r\n "
_LONGEST_MESSAGE_ID = 902
_END_OF_HTML = re.compile(r"</body\s*>|</html\s*>", re.IGNORECASE)
#: For a mail of files or pictures alone, because most vendors refuse an empty text.
_NO_TEXT = "(no text)"


class MailSettings(VendorSettings, env_prefix="MAIL_"):
    """Settings for all mail vendors, each read from MAIL_ and its name."""

    #: Fetch attachments and send them along; otherwise mails link to them.
    fetch_attachments: bool = False
    #: For all files of one mail. Vendors take 10 to 40 MB, of which base64 is a third.
    attachment_max_bytes: int = Field(10_000_000, ge=1)
    #: For all files of one mail, and never more than half of what PROVIDER_TIMEOUT_SECONDS leaves.
    attachment_timeout_seconds: float = Field(5, gt=0)


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail, ready for any vendor. Nothing in it can end a header line.

    Addresses are as `mailbox_of` returns them. `text` is never blank. `html`
    is None if the message is a plain text. `references` has the latest last, as the message's thread has. `headers`
    are those of the message. Set `is_renamed` for a vendor that replaces `message_id` by an id of its own.
    """

    message_id: str
    sender: str
    recipient: str
    subject: str
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    references: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[RemoteFile] = field(default=(), repr=False)
    is_renamed: bool = False

    @property
    def needs_smtputf8(self) -> bool:
        """True if an address is not in ASCII, so that only servers with SMTPUTF8 (RFC 6531) can carry the mail."""
        return not (self.sender.isascii() and self.recipient.isascii())

    @property
    def further_headers(self) -> dict[str, str]:
        """In-Reply-To and References, if the mail follows others, then `headers`, each on one line.

        A renamed mail also refers to its own `message_id`. Later mails refer to that too, which makes one thread.
        """
        answered = {"In-Reply-To": self.references[-1]} if self.references else {}
        named = [*self.references, *([self.message_id] if self.is_renamed else [])]
        thread = {**answered, "References": " ".join(named)} if named else {}
        return {**thread, **self.headers}

    def as_bytes(self, sent_at: datetime | None = None) -> bytes:
        """The mail in its raw form (RFC 5322): lines end in CRLF, and all but addresses is ASCII."""
        # Not by the library (3.11), which makes ids and addresses of more than 78 characters unusable.
        lines = [
            f"From: {self.sender}",
            f"To: {self.recipient}",
            f"Date: {format_datetime(sent_at or datetime.now(UTC))}",
            f"Message-ID: {self.message_id}",
        ]
        if self.subject:
            lines.append(f"Subject: {_encoded(self.subject)}")
        lines += [f"{name}: {value.replace(' ', _FOLD)}" for name, value in self.further_headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n" + self._content().as_bytes()

    async def encoded(self) -> bytes:
        """The same, with the current time. Files are encoded in a thread: ten megabytes take half a second."""
        return await asyncio.to_thread(self.as_bytes) if self.files else self.as_bytes()

    def _content(self) -> EmailMessage:
        content = EmailMessage(SMTP.clone(cte_type="7bit"))
        content.set_content(self.text)
        if self.html is not None:
            content.add_alternative(self.html, subtype="html")
        for file in self.files:
            kind, _, subkind = file.content_type.partition("/")
            content.add_attachment(file.content, maintype=kind, subtype=subkind, filename=file.name)
        return content


class Composer:
    """Turns messages into mails, by `MailSettings`."""

    def __init__(self, settings: MailSettings | None = None, files: RemoteFiles | None = None) -> None:
        settings = settings or MailSettings()
        self._fetches = settings.fetch_attachments
        self._files = files or RemoteFiles(
            timeout_seconds=settings.attachment_timeout_seconds, most_bytes=settings.attachment_max_bytes
        )

    async def mail(self, message: OutboundMessage) -> Mail:
        """The mail for a message, with its attachments or with links to them.

        Raises `PermanentFailure` if an address is not one of a mail, and what `RemoteFiles.fetch` raises.
        """
        mail = await _mail_of(message)
        if self._fetches:
            within = None
            if message.give_up_at is not None:
                # Half of the time, for the vendor needs the rest; a timeout before the request leaves no doubt.
                within = (message.give_up_at - asyncio.get_running_loop().time()) / 2
            mail = replace(mail, files=await self._files.fetch(message.attachments, within_seconds=within))
        elif message.attachments:
            mail = _with_links(mail, message.attachments)
        return mail if mail.text.strip() else replace(mail, text=_NO_TEXT)


class HttpMailProvider(HttpProvider[ProviderSettings]):
    """A vendor that takes mail over an HTTP API."""

    channels: ClassVar = {"email": "email"}
    receipts_carry_key: ClassVar = True

    def __init__(
        self, settings: ProviderSettings, client: httpx.AsyncClient | None = None, composer: Composer | None = None
    ) -> None:
        super().__init__(settings, client)
        self._composer = composer or Composer()


async def _mail_of(message: OutboundMessage) -> Mail:
    html = message.html
    if html is None and looks_like_html(message.body):
        html = message.body
    references = [id for id in message.thread if len(id) <= _LONGEST_MESSAGE_ID and MESSAGE_ID.fullmatch(id)]
    return Mail(
        message_id=message_id_of(message.idempotency_key, message.from_address),
        sender=_mailbox(message.from_address, "sender"),
        recipient=_mailbox(message.to_address, "recipient"),
        subject=one_line(message.subject or "").strip(),
        text=await readable(html) if html is message.body else message.body,
        html=html or None,
        references=references[-MOST_REFERENCES:],
        headers=message.headers,
    )


def message_id_of(idempotency_key: str, from_address: str) -> str:
    """The Message-ID of a message's mail: the same for every attempt, and different for every message."""
    written = from_address.rpartition("@")[2]
    domain = ascii_domain(written) or quote(written, safe="") or "localhost"
    return f"<{quote(idempotency_key, safe='')}@{domain}>"


def _with_links(mail: Mail, urls: Sequence[str]) -> Mail:
    text = f"{mail.text.rstrip()}\n\n" + "\n".join(urls)
    if mail.html is None:
        return replace(mail, text=text)
    links = "".join(f'<p><a href="{escape(url)}">{escape(url)}</a></p>' for url in urls)
    end = _END_OF_HTML.search(mail.html)
    place = end.start() if end else len(mail.html)
    return replace(mail, text=text, html=f"{mail.html[:place]}{links}{mail.html[place:]}")


def _mailbox(address: str, role: str) -> str:
    mailbox = mailbox_of(address)
    if mailbox is None:
        raise PermanentFailure(f"The {role} is not an email address.")
    return mailbox


def _encoded(subject: str) -> str:
    """A subject in lines of 78 characters, as encoded words (RFC 2047) if necessary."""
    longest_word = max((len(word) for word in subject.split(" ")), default=0)
    charset = (
        "us-ascii" if subject.isascii() and "=?" not in subject and longest_word < _LONGEST_LINE / 2 else "utf-8"
    )
    return Header(subject, charset, header_name="Subject").encode(linesep="\r\n")
