"""Inbound mail as messages, whichever vendor it came through: one message for each recipient of the envelope."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.details import Automatic, MessageDetails
from app.domain import Channel, MessageType
from app.providers.base import FileFacts, InboundFile, InboundMessage, MailClaims
from app.providers.mail.answers import answered
from app.providers.mail.automatic import automatic_kind
from app.providers.mail.html_source import text_of_html
from app.providers.mail.mime.charsets import clean_text
from app.providers.mail.mime.headers import MESSAGE_ID, header, one_line, raw_header, time_of
from app.providers.mail.mime.mailboxes import Mailbox, mailboxes
from app.providers.mail.mime.parts import MailParts, without_containers
from app.providers.mail.people import people_of
from app.providers.mail.quotes import split_quoted
from app.providers.mail.reports import report_of

#: Characters of a message. The whole text of a longer mail is in a file.
LONGEST_TEXT = 250_000
#: Characters of the HTML form that is kept beside the text.
LONGEST_HTML = 1_000_000
_LONGEST_SUBJECT = 998
#: Leaves room for the digest in an id of 512 characters.
_LONGEST_MESSAGE_ID = 440
#: A Date older than this when the mail arrives is a wrong clock's.
_LONGEST_WAY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Reception:
    """The way in which a vendor received a mail.

    `sender` is the envelope's: empty for a bounce, None where the vendor does not tell. `vendors_id` is the vendor's
    own id of the mail, which its retries repeat, or empty. `kept` are files that the vendor keeps, by their URLs.
    """

    recipients: Sequence[str]
    arrived_at: datetime
    sender: str | None = None
    vendors_id: str = ""
    kept: Mapping[str, FileFacts] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)


def messages_of(mail: MailParts, reception: Reception) -> list[InboundMessage]:
    """One message for each recipient of the envelope, which alone also names blind copies. Raises `ValueError`."""
    recipients = list(dict.fromkeys(each for written in reception.recipients if (each := written.strip(" <>\t"))))
    people = people_of(mail.headers, recipients, reception.sender or "")
    automatic = automatic_kind(mail.headers, reception.sender, is_passed_on=people.is_passed_on)
    senders = people.senders or _servers(automatic, recipients)
    if not recipients or not senders:
        raise ValueError("The mail has no recipient, or no sender.")
    mail = without_containers(mail)
    subject = one_line(clean_text(header(mail.headers, "subject")))[:_LONGEST_SUBJECT].strip()
    text, files = _bounded(mail)
    report = report_of(mail.headers, text, mail.files, automatic)
    body, quoted = split_quoted(text, subject)
    date = time_of(header(mail.headers, "date"))
    is_possible = date is not None and timedelta() <= reception.arrived_at - date <= _LONGEST_WAY
    details = MessageDetails(
        from_name=senders[0].name or None,
        reply_to=list(people.reply_to),
        cc=list(people.cc),
        automatic=report.kind if report else automatic,
        date=None if is_possible else date,
        verdicts=dict(reception.verdicts),
    )
    html = clean_text(mail.html)
    answers, content = answered(mail.headers), _content(mail, reception, senders[0].address)
    return [
        InboundMessage(
            provider_message_id=_identity(
                mail, [content, recipient.lower(), not reception.vendors_id and people.sent_to[recipient]]
            ),
            channel=Channel.EMAIL,
            type=MessageType.EMAIL,
            from_address=senders[0].address,
            to_address=recipient,
            subject=subject or None,
            body=body,
            quoted=quoted,
            attachments=list(reception.kept),
            kept=reception.kept,
            files=files,
            sent_at=date if is_possible else reception.arrived_at,
            details=details,
            claims=MailClaims(senders, people.sent_to[recipient], answers),
            report=report,
            html=html if mail.html.strip() and len(html) <= LONGEST_HTML else None,
        )
        for recipient in recipients
    ]


def _servers(automatic: Automatic | None, recipients: Sequence[str]) -> Sequence[Mailbox]:
    """The sender of a bounce that names none, or only MAILER-DAEMON: the server of the recipient's domain."""
    domains = [domain for recipient in recipients[:1] if (domain := recipient.rpartition("@")[2])]
    return [Mailbox("", f"mailer-daemon@{domain}") for domain in domains if automatic is Automatic.BOUNCE]


def _bounded(mail: MailParts) -> tuple[str, list[InboundFile]]:
    """The text, plain or read from HTML, at a length fit for a list of messages; and the files."""
    whole, name = (mail.text, "message.txt") if mail.text.strip() else (mail.html, "message.html")
    files = list(mail.files)
    if len(whole) > LONGEST_TEXT:
        kind = "text/plain" if whole is mail.text else "text/html"
        files.append(InboundFile(name, kind, whole.encode()))
    text = whole[:LONGEST_TEXT]
    return (text if whole is mail.text else clean_text(text_of_html(text, mark_quotes=True))), files


def _content(mail: MailParts, reception: Reception, contact: str) -> object:
    """The values by which two mails to one recipient are the same.

    A vendor's own id decides alone. Elsewhere it is what the sender wrote, however servers on the way have encoded
    and folded it. Their own headers do not count, since a mail may come twice. Only a mail without a Message-ID is
    told apart by all of its headers.
    """
    if reception.vendors_id:
        return reception.vendors_id
    written: list[object] = [[name.lower(), value] for name, value in mail.headers]
    if _message_id(mail):
        date = header(mail.headers, "date")
        authors = [each.address.lower() for each in mailboxes(raw_header(mail.headers, "from"))]
        written = [authors, str(time_of(date) or date), _words(header(mail.headers, "subject"))]
    files = [[file.name, hashlib.sha256(file.content).hexdigest()] for file in mail.files]
    return [written, contact.lower(), _words(mail.text), _words(mail.html), files, len(reception.kept)]


def _words(text: str) -> str:
    """A text of usual length with one blank between words."""
    return " ".join(text.split()) if len(text) <= LONGEST_TEXT else text


def _identity(mail: MailParts, content: object) -> str:
    """An id that is the same for a mail that comes again.

    It begins with the Message-ID if that can be kept, because replies refer to it.
    """
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return f"{_message_id(mail)} {digest}".lstrip()


def _message_id(mail: MailParts) -> str:
    """The Message-ID; empty if there is none that can be kept."""
    found = MESSAGE_ID.search(header(mail.headers, "message-id"))
    return found[0] if found and len(found[0]) <= _LONGEST_MESSAGE_ID else ""
