"""What vendors of mail have in common: how a message becomes a mail, with its thread, its two parts and its files."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import lru_cache
from html import escape
from html.parser import HTMLParser
from urllib.parse import quote

from email_validator import EmailNotValidError, ValidatedEmail, validate_email
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from app.providers.base import OutboundMessage, PermanentFailure
from app.providers.mail.html_source import well_formed
from app.providers.toolbox.remote_files import RemoteFile, RemoteFiles
from app.providers.toolbox.settings import VendorSettings

#: As many of the mails before it as a mail names in References: more say nothing more to a mail program.
MOST_REFERENCES = 10

_LONGEST_LINE = 998  # RFC 5322, 2.1.1
_FOLD = "\r\n "
_BREAKS_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,900}>")
#: Tags that nobody writes by accident: a text with `a < b > c` stays a text.
_HTML = re.compile(
    r"<!doctype\s+html|</?(?:a|b|blockquote|body|br|center|code|div|em|font|h[1-6]|head|hr|html|i|img|li|ol|p|pre|s|small|"
    r"span|strong|style|sub|sup|table|tbody|td|th|thead|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_END_OF_HTML = re.compile(r"</body\s*>|</html\s*>", re.IGNORECASE)
#: For a mail of files or pictures alone: most vendors refuse one whose text is empty.
_NO_TEXT = "(no text)"
_LONG_BODY = 20_000  # characters


class MailSettings(VendorSettings):
    """What all vendors of mail do alike, each as MAIL_ and its name."""

    model_config = SettingsConfigDict(env_prefix="MAIL_")

    #: Fetch attachments and send them along; otherwise mails link to them.
    fetch_attachments: bool = False
    #: The files of one mail together. Vendors take 10 to 40 MB, in which base64 is a third.
    attachment_max_bytes: int = Field(10_000_000, ge=1)
    #: For all files of one mail, and never more than half of what PROVIDER_TIMEOUT_SECONDS leaves.
    attachment_timeout_seconds: float = Field(5, gt=0)


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail, ready for any vendor. Nothing in it can end a header line.

    Addresses have their domain in ASCII (IDNA 2008); the part before the @ may still be in Unicode. `text` is never
    blank, and `html` None where the message is a plain text. `references` has the latest last, as the thread of the
    message does. Where a vendor puts another Message-ID in the place of `message_id`, the mail is to be told so:
    `is_renamed`.
    """

    message_id: str
    sender: str
    recipient: str
    subject: str
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    references: Sequence[str] = ()
    files: Sequence[RemoteFile] = field(default=(), repr=False)
    is_renamed: bool = False

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only servers that speak SMTPUTF8 (RFC 6531) can carry it: an address is not in ASCII."""
        return not (self.sender.isascii() and self.recipient.isascii())

    @property
    def thread_headers(self) -> dict[str, str]:
        """In-Reply-To and References, where the mail follows others, each on one line.

        A mail that is renamed names its own `message_id` too: that is what later ones will name, and what both name
        makes them one thread.
        """
        answered = {"In-Reply-To": self.references[-1]} if self.references else {}
        named = [*self.references, *([self.message_id] if self.is_renamed else [])]
        return {**answered, "References": " ".join(named)} if named else {}

    def as_bytes(self, sent_at: datetime | None = None) -> bytes:
        """The mail as it travels (RFC 5322): lines end in CRLF, only addresses can be anything but ASCII."""
        # Written here, because the library (3.11) encodes ids and addresses of more than 78 characters beyond use.
        lines = [
            f"From: {self.sender}",
            f"To: {self.recipient}",
            f"Date: {format_datetime(sent_at or datetime.now(UTC))}",
            f"Message-ID: {self.message_id}",
        ]
        if self.subject:
            lines.append(f"Subject: {_encoded(self.subject)}")
        lines += [f"{name}: {value.replace(' ', _FOLD)}" for name, value in self.thread_headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n" + self._content().as_bytes()

    async def encoded(self) -> bytes:
        """The same of a mail that is sent now. Ten megabytes of files take half a second, so that is done aside."""
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
    """Makes mails of messages, as `MailSettings` say."""

    def __init__(self, settings: MailSettings | None = None, files: RemoteFiles | None = None) -> None:
        settings = settings or MailSettings()
        self._fetches = settings.fetch_attachments
        self._files = files or RemoteFiles(
            timeout_seconds=settings.attachment_timeout_seconds, most_bytes=settings.attachment_max_bytes
        )

    async def mail(self, message: OutboundMessage) -> Mail:
        """The mail that a message is, with its attachments or with links to them.

        Raises `PermanentFailure` where an address can't be one of a mail, and what `RemoteFiles.fetch` raises.
        """
        # Of a long body HTML is read in a thread, so that nobody else has to wait for it.
        is_long = len(message.body) > _LONG_BODY
        mail = await asyncio.to_thread(_mail_of, message) if is_long else _mail_of(message)
        if self._fetches:
            within = None if message.give_up_at is None else _time_to_fetch(message.give_up_at)
            mail = replace(mail, files=await self._files.fetch(message.attachments, within_seconds=within))
        elif message.attachments:
            mail = _with_links(mail, message.attachments)
        return mail if mail.text.strip() else replace(mail, text=_NO_TEXT)


def _time_to_fetch(give_up_at: float) -> float:
    """Half of the time that is left: the vendor needs the rest, and what runs out before it is asked is no doubt."""
    return (give_up_at - asyncio.get_running_loop().time()) / 2


def _mail_of(message: OutboundMessage) -> Mail:
    is_html = looks_like_html(message.body)
    return Mail(
        message_id=message_id_of(message.idempotency_key, message.from_address),
        sender=_mailbox(message.from_address, "sender"),
        recipient=_mailbox(message.to_address, "recipient"),
        subject=_BREAKS_A_LINE.sub(" ", message.subject or "").strip(),
        text=text_of_html(well_formed(message.body)) if is_html else message.body,
        html=message.body if is_html else None,
        references=[id for id in message.thread if _MESSAGE_ID.fullmatch(id)][-MOST_REFERENCES:],
    )


def message_id_of(idempotency_key: str, from_address: str) -> str:
    """The Message-ID of the mail that a message is sent as: the same for every attempt, and for no other message."""
    domain = from_address.rpartition("@")[2]
    try:
        domain = _validated(f"postmaster@{domain}").ascii_domain
    except EmailNotValidError:
        domain = quote(domain, safe="") or "localhost"
    return f"<{quote(idempotency_key, safe='')}@{domain}>"


def key_of(message_id: str) -> str:
    """The idempotency key in a Message-ID of ours; what stands before the @ in any other."""
    return message_id.strip().removeprefix("<").partition("@")[0]


def looks_like_html(body: str) -> bool:
    """Whether a body holds HTML rather than a text."""
    return _HTML.search(body) is not None


def text_of_html(html: str) -> str:
    """What a person would read of HTML, as plain text: paragraphs, lists and the addresses of links are kept."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


def _with_links(mail: Mail, urls: Sequence[str]) -> Mail:
    text = f"{mail.text.rstrip()}\n\n" + "\n".join(urls)
    if mail.html is None:
        return replace(mail, text=text)
    links = "".join(f'<p><a href="{escape(url)}">{escape(url)}</a></p>' for url in urls)
    end = _END_OF_HTML.search(mail.html)
    place = end.start() if end else len(mail.html)
    return replace(mail, text=text, html=f"{mail.html[:place]}{links}{mail.html[place:]}")


def _mailbox(address: str, role: str) -> str:
    try:
        parts = _validated(address)
    except EmailNotValidError:
        raise PermanentFailure(f"The {role} is not an email address.") from None
    return f"{parts.local_part}@{parts.ascii_domain}"


@lru_cache(maxsize=4096)
def _validated(address: str) -> ValidatedEmail:
    return validate_email(address, check_deliverability=False, test_environment=True)


def _encoded(subject: str) -> str:
    """A subject in lines of 78 characters, as encoded words (RFC 2047) where it has to be."""
    longest_word = max((len(word) for word in subject.split(" ")), default=0)
    charset = (
        "us-ascii" if subject.isascii() and "=?" not in subject and longest_word < _LONGEST_LINE / 2 else "utf-8"
    )
    return Header(subject, charset, header_name="Subject").encode(linesep="\r\n")


class _Reader(HTMLParser):
    """Collects the text of HTML, which may be as broken as mail is."""

    _PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote", "pre"})
    _LINES = frozenset({"div", "br", "tr", "li", "hr", "section", "article", "header", "footer", "center"})
    _UNSEEN = frozenset({"script", "style", "head", "title", "template"})
    _CELLS = frozenset({"td", "th"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._unseen: list[str] = []
        self._preformatted = 0
        self._link: tuple[str, int] | None = None  # its address, and where among the pieces its text begins

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._unseen.clear()  # a head that was never closed
        if tag in self._UNSEEN and tag not in self._unseen:
            self._unseen.append(tag)
        self._break(tag)
        if tag == "li":
            self._pieces.append("- ")
        elif tag == "pre":
            self._preformatted += 1
        elif tag == "img":
            self._pieces.append(dict(attrs).get("alt") or " ")
        elif tag == "a":
            self._link = (dict(attrs).get("href") or "").strip(), len(self._pieces)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"br", "hr", "img"}:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        self._break(tag)
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        elif tag in self._CELLS:
            self._pieces.append(" ")
        elif tag == "a" and self._link is not None:
            address, start = self._link
            self._link = None
            text = "".join(self._pieces[start:]).strip()
            if address.lower().startswith(("http://", "https://")) and address != text:
                self._pieces.append(f" ({address})")

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._preformatted:
            data = re.sub(r"[ \t\r\n\f]+", " ", data)
            data = data.lstrip(" ") if self._at_start_of_line else data
        if data:
            self._pieces.append(data)

    def text(self) -> str:
        """The lines, without the blanks that only the source had."""
        lines = [line.rstrip(" ") for line in "".join(self._pieces).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    def _break(self, tag: str) -> None:
        if tag in self._PARAGRAPHS:
            self._pieces.append("\n\n")
        elif tag == "br" or (tag in self._LINES and not self._at_start_of_line):
            self._pieces.append("\n")

    @property
    def _at_start_of_line(self) -> bool:
        return not self._pieces or self._pieces[-1].endswith("\n")
