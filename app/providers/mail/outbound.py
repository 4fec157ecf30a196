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

from app.providers.base import OutboundMessage, PermanentFailure, ProviderFailure, TemporaryFailure
from app.providers.mail.envelope import ascii_domain, mailbox_of
from app.providers.mail.html_source import looks_like_html, readable
from app.providers.mail.mime.headers import MESSAGE_ID, one_line
from app.providers.mail.mime.mailboxes import Mailbox
from app.providers.toolbox.http_client import HttpProvider, ProviderSettings
from app.providers.toolbox.models import VendorSettings
from app.providers.toolbox.remote_files import RemoteFile, RemoteFiles, media_type
from app.providers.toolbox.taken_files import TakenFiles

#: Earlier mails that References names. Mail programs need no more.
MOST_REFERENCES = 10

_LONGEST_LINE = 998  # RFC 5322, 2.1.1
_LINE_END, _FOLD = "\r\n", "\r\n "
#: A space at which a value may be folded, so that no line is blank.
_BEFORE_A_WORD = re.compile(r" (?=[^ ])")
#: A name that needs no quotes: words of atext (RFC 5322, 3.2.3).
_WORDS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
#: A longer name could exceed the line together with its address.
_LONGEST_PLAIN_NAME = 60
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

    Addresses are as `mailbox_of` returns them, and no recipient stands there twice. `text` is never blank. `html` is
    None if the message is a plain text. `references` has the latest last, as the message's thread has. `headers` are
    those of the message. Set `is_renamed` for a vendor that replaces `message_id` by an id of its own.
    """

    message_id: str
    sender: str
    recipient: str
    subject: str
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    sender_name: str = field(default="", repr=False)
    recipient_name: str = field(default="", repr=False)
    cc: Sequence[Mailbox] = field(default=(), repr=False)
    bcc: Sequence[Mailbox] = field(default=(), repr=False)
    reply_to: Sequence[Mailbox] = field(default=(), repr=False)
    references: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[RemoteFile] = field(default=(), repr=False)
    is_renamed: bool = False

    @property
    def from_(self) -> Mailbox:
        return Mailbox(self.sender_name, self.sender)

    @property
    def to(self) -> Mailbox:
        return Mailbox(self.recipient_name, self.recipient)

    @property
    def needs_smtputf8(self) -> bool:
        """True if an address is not in ASCII, so that only servers with SMTPUTF8 (RFC 6531) can carry the mail."""
        people = (self.from_, self.to, *self.cc, *self.bcc, *self.reply_to)
        return not all(each.address.isascii() for each in people)

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
        """The mail in its raw form (RFC 5322), without `bcc`: lines end in CRLF, and all but addresses is ASCII."""
        # Not by the library (3.11), which makes ids and addresses of more than 78 characters unusable.
        people = {"From": [self.from_], "To": [self.to], "Cc": self.cc, "Reply-To": self.reply_to}
        lines = [f"{name}: {f',{_FOLD}'.join(map(_encoded_mailbox, each))}" for name, each in people.items() if each]
        lines += [f"Date: {format_datetime(sent_at or datetime.now(UTC))}", f"Message-ID: {self.message_id}"]
        if self.subject:
            lines.append(f"Subject: {_encoded(self.subject)}")
        lines += [f"{name}: {_BEFORE_A_WORD.sub(_FOLD, value)}" for name, value in self.further_headers.items()]
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
        most = settings.attachment_max_bytes
        self._taken = TakenFiles("A mail", others=most, together=most)
        self._files = files or RemoteFiles(
            timeout_seconds=settings.attachment_timeout_seconds, most_bytes=settings.attachment_max_bytes
        )

    def refusals(self, message: OutboundMessage) -> dict[str, str]:
        """The refusal of files that are too large together for a mail."""
        return self._taken.refusals(message)

    async def mail(self, message: OutboundMessage) -> Mail:
        """The mail for a message, with its own files, and with its other attachments or with links to them.

        Raises `PermanentFailure` if an address is not one of a mail, `TemporaryFailure` if a file can't be read, and
        what `RemoteFiles.fetch` raises.
        """
        mail = await _mail_of(message)
        within = None
        if message.give_up_at is not None:
            # Half of the time, for the vendor needs the rest; a timeout before the request leaves no doubt.
            within = (message.give_up_at - asyncio.get_running_loop().time()) / 2
        files = await _own_files(message, within)
        links = [url for url in message.attachments if url not in message.files]
        if self._fetches:
            files += await self._files.fetch(links, within_seconds=within)
        elif links:
            mail = _with_links(mail, links)
        mail = replace(mail, files=files)
        return mail if mail.text.strip() else replace(mail, text=_NO_TEXT)


class HttpMailProvider(HttpProvider[ProviderSettings]):
    """A vendor that takes mail over an HTTP API."""

    channels: ClassVar = {"email": "email"}
    receipts_carry_key: ClassVar = True
    takes_mail_fields: ClassVar = True
    sends_files: ClassVar = True

    def __init__(
        self, settings: ProviderSettings, client: httpx.AsyncClient | None = None, composer: Composer | None = None
    ) -> None:
        super().__init__(settings, client)
        self._composer = composer or Composer()

    def refusals(self, payload: OutboundMessage) -> Mapping[str, str]:
        return self._composer.refusals(payload)


async def _own_files(message: OutboundMessage, within_seconds: float | None) -> list[RemoteFile]:
    """The uploaded files of a message. Raises `TemporaryFailure` where one can't be read in time."""
    files: list[RemoteFile] = []
    try:
        async with asyncio.timeout(within_seconds):
            for url, file in message.files.items():
                if url in message.attachments:
                    files.append(RemoteFile(file.name, media_type(file.content_type), await file.read()))
    except ProviderFailure:
        raise
    except Exception as error:  # the database or the disk is away, and nothing has left
        raise TemporaryFailure(f"A file can't be read just now: {type(error).__name__}.") from error
    return files


async def _mail_of(message: OutboundMessage) -> Mail:
    html = message.html
    if html is None and looks_like_html(message.body):
        html = message.body
    references = [id for id in message.thread if len(id) <= _LONGEST_MESSAGE_ID and MESSAGE_ID.fullmatch(id)]
    fields, recipient = message.mail, _mailbox(message.to_address, "recipient")
    known = {recipient.lower()}
    return Mail(
        message_id=message_id_of(message.idempotency_key, message.from_address),
        sender=_mailbox(message.from_address, "sender"),
        sender_name=_one_line(fields.from_name),
        recipient=recipient,
        recipient_name=_one_line(fields.to_name),
        cc=_mailboxes(fields.cc, fields.names, known),
        bcc=_mailboxes(fields.bcc, fields.names, known),
        reply_to=_mailboxes(fields.reply_to, fields.names, set()),
        subject=one_line(message.subject or "").strip(),
        text=await readable(html) if html is message.body else message.body,
        html=html or None,
        references=references[-MOST_REFERENCES:],
        headers={name: one_line(value) for name, value in {**fields.headers, **message.headers}.items()},
    )


def _mailboxes(addresses: Sequence[str], names: Mapping[str, str], known: set[str]) -> list[Mailbox]:
    """Those of the addresses that are not known yet, with their names; they are known from then on."""
    found = []
    for address in addresses:
        mailbox = _mailbox(address, "recipient of a copy")
        if mailbox.lower() not in known:
            known.add(mailbox.lower())
            found.append(Mailbox(_one_line(names.get(address, "")), mailbox))
    return found


def _one_line(name: str) -> str:
    return one_line(name).strip()


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


def written(mailbox: Mailbox) -> str:
    """An address with its name in quotes, for vendors that encode what is not ASCII themselves."""
    return f"{quoted(mailbox.name)} <{mailbox.address}>" if mailbox.name else mailbox.address


def all_written(mailboxes: Sequence[Mailbox]) -> str:
    """Addresses with their names, and commas between them."""
    return ", ".join(map(written, mailboxes))


def quoted(name: str) -> str:
    """A name as a quoted string (RFC 5322, 3.2.4)."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _encoded_mailbox(mailbox: Mailbox) -> str:
    """An address with its name in ASCII: as words, in quotes, or as encoded words (RFC 2047)."""
    name, address = mailbox
    if not name:
        return address
    if not name.isascii() or "=?" in name or len(name) > _LONGEST_PLAIN_NAME:
        return f"{Header(name, 'utf-8', header_name='Reply-To').encode(linesep=_LINE_END)}{_FOLD}<{address}>"
    return f"{name if _WORDS.fullmatch(name) else quoted(name)} <{address}>"
