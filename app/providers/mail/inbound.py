"""Mail that comes in, in the forms in which vendors hand it over, as messages: one for each address that it came to.

SendGrid: https://www.twilio.com/docs/sendgrid/for-developers/parsing-email/setting-up-the-inbound-parse-webhook
Mailgun: https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/
Postmark: https://postmarkapp.com/developer/webhooks/inbound-webhook
SES: https://docs.aws.amazon.com/ses/latest/dg/receiving-email-notifications-contents.html
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import getaddresses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.domain import Channel, MessageType
from app.providers.base import Callback, InboundFile, InboundMessage
from app.providers.mail.html_source import well_formed
from app.providers.mail.outbound import text_of_html
from app.providers.mail.parts import Headers, decoded, header, read_headers, read_mail, storable, text_of, time_of
from app.providers.mail.quotes import split_quoted
from app.providers.toolbox.multipart import FormPart, parts_of

#: Characters of a message; a mail that says more has the whole of it in a file.
LONGEST_TEXT = 250_000
_LONGEST_SUBJECT = 998
_LONGEST_ID = 512

#: What Mailgun gives by itself, too.
_HEADER_FIELDS = ("from", "subject", "Date", "Message-Id")

_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]+>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_BLOCKQUOTE = re.compile(r"<(/?)blockquote\b[^<>]*>", re.IGNORECASE)
#: Stand in for the beginning and the end of a quotation in HTML; no mail has use for them.
_OPENS, _CLOSES = "\ue000", "\ue001"


@dataclass(frozen=True, slots=True)
class _Mail:
    """What any vendor's form comes to. `text` and `html` may both be empty."""

    headers: Headers = field(repr=False)
    recipients: Sequence[str]
    envelope_sender: str = ""
    text: str = field(default="", repr=False)
    html: str = field(default="", repr=False)
    files: Sequence[InboundFile] = ()
    attachments: Sequence[str] = ()


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Envelope(_Lenient):
    to: list[str]
    sender: str = Field("", alias="from")


def sendgrid_inbound(callback: Callback) -> list[InboundMessage]:
    """SendGrid's Inbound Parse, its fields parsed or raw. Raises `ValueError`."""
    parts = parts_of(callback)
    fields = _fields(parts)
    envelope = _Envelope.model_validate_json(fields.get("envelope", b""))
    if "email" in fields:
        return _messages(_raw_mail(fields["email"], envelope.to, envelope.sender))
    charsets = _json(fields, "charsets", dict[str, str | None])
    named = _json(fields, "attachment-info", dict[str, dict[str, Any]])
    files = []
    for part in parts:
        if part.file_name is not None:
            said = named.get(part.name, {})
            name = said.get("filename") or said.get("name") or decoded(part.file_name)
            files.append(InboundFile(str(name), part.content_type, part.content))
    return _messages(
        _Mail(
            headers=read_headers(fields.get("headers", b"")),
            recipients=envelope.to,
            envelope_sender=envelope.sender,
            text=text_of(fields.get("text", b""), charsets.get("text")),
            html=text_of(fields.get("html", b""), charsets.get("html")),
            files=files,
        )
    )


def mailgun_inbound(callback: Callback) -> list[InboundMessage]:
    """What a route of Mailgun's forwards, or stores and notifies of; parsed, or raw where its URL ends in `mime`.

    Raises `ValueError`.
    """
    parts = parts_of(callback)
    fields = _fields(parts)
    recipients = text_of(fields.get("recipient", b""), None).split(",")
    sender = text_of(fields.get("sender", b""), None)
    if "body-mime" in fields:
        return _messages(_raw_mail(fields["body-mime"], recipients, sender))
    headers = _json(fields, "message-headers", list[tuple[str, str]])
    kept = _json(fields, "attachments", list[dict[str, Any]])
    files = [
        InboundFile(decoded(part.file_name), part.content_type, part.content)
        for part in parts
        if part.file_name is not None
    ]
    return _messages(
        _Mail(
            headers=headers or [(name, text_of(fields[name], None)) for name in _HEADER_FIELDS if name in fields],
            recipients=recipients,
            envelope_sender=sender,
            text=text_of(fields.get("body-plain", b""), None),
            html=text_of(fields.get("body-html", b""), None),
            files=files,
            attachments=[url for file in kept if isinstance(url := file.get("url"), str)],
        )
    )


class _PostmarkHeader(_Lenient):
    name: str = Field(alias="Name")
    value: str = Field(alias="Value")


class _PostmarkFile(_Lenient):
    name: str = Field("", alias="Name")
    content: str = Field(alias="Content", repr=False)
    content_type: str = Field("", alias="ContentType")


class _PostmarkMail(_Lenient):
    sender: str = Field(alias="From")
    to: str = Field("", alias="To")
    original_recipient: str = Field("", alias="OriginalRecipient")
    subject: str | None = Field(None, alias="Subject")
    date: str | None = Field(None, alias="Date")
    text: str | None = Field(None, alias="TextBody")
    html: str | None = Field(None, alias="HtmlBody")
    headers: list[_PostmarkHeader] = Field([], alias="Headers")
    files: list[_PostmarkFile] = Field([], alias="Attachments")


def postmark_inbound(payload: Mapping[str, Any]) -> list[InboundMessage]:
    """Postmark's inbound webhook. Raises `ValueError`."""
    mail = _PostmarkMail.model_validate(payload)
    headers = [(each.name, each.value) for each in mail.headers]
    # What it takes out of the headers and gives by itself, where it isn't among them.
    for name, value in (("From", mail.sender), ("Subject", mail.subject), ("Date", mail.date)):
        if value and not header(headers, name.lower()):
            headers.append((name, value))
    recipients = mail.original_recipient or mail.to
    return _messages(
        _Mail(
            headers=headers,
            recipients=[address for _, address in getaddresses([recipients[:10_000]])],
            text=mail.text or "",
            html=mail.html or "",
            files=[InboundFile(file.name, file.content_type, _from_base64(file.content)) for file in mail.files],
        )
    )


class _SesAction(_Lenient):
    encoding: str = "UTF8"


class _SesReceipt(_Lenient):
    recipients: list[str]
    action: _SesAction = _SesAction()


class _SesMail(_Lenient):
    source: str = ""


class _SesNotification(_Lenient):
    mail: _SesMail
    receipt: _SesReceipt
    content: str = Field(repr=False)


def ses_inbound(notification: Mapping[str, Any]) -> list[InboundMessage]:
    """The notification of an SNS action in a receipt rule of SES, which has the mail in it.

    Raises `ValueError`, also for that of another action: the mail lies elsewhere then.
    """
    said = _SesNotification.model_validate(notification)
    is_base64 = said.receipt.action.encoding.upper() == "BASE64"
    raw = _from_base64(said.content) if is_base64 else said.content.encode("utf-8", "surrogateescape")
    return _messages(_raw_mail(raw, said.receipt.recipients, said.mail.source))


def _raw_mail(raw: bytes, recipients: Sequence[str], envelope_sender: str) -> _Mail:
    mail = read_mail(raw)
    return _Mail(mail.headers, recipients, envelope_sender, mail.text, mail.html, mail.files)


def _messages(mail: _Mail) -> list[InboundMessage]:
    """One message for each recipient of the envelope: only that says where a mail was sent, blind copies too."""
    recipients = list(dict.fromkeys(address for written in mail.recipients if (address := written.strip(" <>\t"))))
    sender = _sender(mail)
    if not recipients or not sender:
        raise ValueError("The mail has no recipient, or no sender.")
    subject = _CONTROL.sub(" ", storable(header(mail.headers, "subject")))[:_LONGEST_SUBJECT].strip()
    text, files = _bounded(mail)
    body, quoted = split_quoted(text, subject)
    return [
        InboundMessage(
            provider_message_id=_identity(mail.headers, mail.envelope_sender, recipient),
            channel=Channel.EMAIL,
            type=MessageType.EMAIL,
            from_address=sender,
            to_address=recipient,
            subject=subject or None,
            body=body,
            quoted=quoted,
            attachments=list(mail.attachments),
            files=files,
            sent_at=time_of(header(mail.headers, "date")),
        )
        for recipient in recipients
    ]


def _sender(mail: _Mail) -> str:
    """The address of whoever wrote the mail; who sent it, where that can't be read."""
    written = [header(mail.headers, name) for name in ("from", "sender")]
    found = [address for _, address in getaddresses([line for line in written if line]) if "@" in address]
    return next(iter(found), mail.envelope_sender.strip(" <>\t"))


def _bounded(mail: _Mail) -> tuple[str, list[InboundFile]]:
    """The text, plain or what HTML says, at a length that a list of messages can bear; and the files."""
    whole, name = (mail.text, "message.txt") if mail.text.strip() else (mail.html, "message.html")
    files = list(mail.files)
    if len(whole) > LONGEST_TEXT:
        kind = "text/plain" if whole is mail.text else "text/html"
        files.append(InboundFile(name, kind, whole.encode()))
    text = whole[:LONGEST_TEXT]
    return (text if whole is mail.text else _read(text)), files


def _read(html: str) -> str:
    """What HTML says, the lines that it quotes marked as those of a plain text are."""
    html = well_formed(html.replace(_OPENS, "").replace(_CLOSES, ""))
    marked = _BLOCKQUOTE.sub(lambda tag: _CLOSES if tag[1] else _OPENS, html)
    if _OPENS not in marked:
        return storable(text_of_html(html))
    marked = marked.replace(_OPENS, f"<p>{_OPENS}</p>").replace(_CLOSES, f"<p>{_CLOSES}</p>")
    lines, depth = [], 0
    for line in storable(text_of_html(marked)).split("\n"):
        if line == _OPENS:
            depth += 1
        elif line == _CLOSES:
            depth = max(0, depth - 1)
        else:
            lines.append(f"{'>' * min(depth, 9)} {line}".rstrip() if depth else line)
    return "\n".join(lines)


def _identity(headers: Headers, envelope_sender: str, recipient: str) -> str:
    """The same when a mail comes again, and another for each of its recipients.

    It begins with the Message-ID, by which answers name what they answer, where there is one that can be kept.
    """
    message_id = _MESSAGE_ID.search(header(headers, "message-id"))
    identity = f"{message_id[0]} {storable(recipient)}" if message_id else ""
    if 0 < len(identity) <= _LONGEST_ID:
        return identity
    said = json.dumps([*headers, envelope_sender, recipient])
    return hashlib.sha256(said.encode()).hexdigest()


def _fields(parts: Iterable[FormPart]) -> dict[str, bytes]:
    """What is no file, by name; the first of a name counts."""
    fields: dict[str, bytes] = {}
    for part in parts:
        if part.file_name is None:
            fields.setdefault(part.name, part.content)
    return fields


def _json(fields: Mapping[str, bytes], name: str, kind: type) -> Any:
    """A field that holds JSON; empty where there is none. Raises `ValueError`."""
    written = fields.get(name, b"").strip()
    return TypeAdapter(kind).validate_json(written) if written else kind()


def _from_base64(written: str) -> bytes:
    try:
        return base64.b64decode(written)
    except binascii.Error as error:
        raise ValueError("This is not base64.") from error
