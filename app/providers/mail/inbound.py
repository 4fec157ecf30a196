"""Inbound mail in the formats of its vendors, as messages: one for each recipient.

SendGrid: https://www.twilio.com/docs/sendgrid/for-developers/parsing-email/setting-up-the-inbound-parse-webhook
Mailgun: https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/
Postmark: https://postmarkapp.com/developer/webhooks/inbound-webhook
SES: https://docs.aws.amazon.com/ses/latest/dg/receiving-email-notifications-contents.html
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import AliasPath, Field, TypeAdapter

from app.domain import Channel, MessageType
from app.providers.base import Callback, InboundFile, InboundMessage
from app.providers.mail.charsets import clean_text, text_of
from app.providers.mail.headers import MESSAGE_ID, Headers, decoded, header, one_line, raw_header, time_of
from app.providers.mail.html_source import text_of_html
from app.providers.mail.mailboxes import mailboxes
from app.providers.mail.parts import MailParts, read_headers, read_mail
from app.providers.mail.quotes import split_quoted
from app.providers.toolbox.models import LONGEST_ID, VendorModel
from app.providers.toolbox.multipart import FormPart, parts_of

#: Characters of a message. The whole text of a longer mail is in a file.
LONGEST_TEXT = 250_000
_LONGEST_SUBJECT = 998

#: Headers that Mailgun also gives as fields.
_HEADER_FIELDS = ("from", "subject", "Date", "Message-Id")


class _Envelope(VendorModel):
    to: list[str]
    sender: str = Field("", alias="from")


def sendgrid_inbound(callback: Callback) -> list[InboundMessage]:
    """Mail from SendGrid's Inbound Parse, with parsed or raw fields. Raises `ValueError`."""
    parts = parts_of(callback)
    fields = _fields(parts)
    envelope = _Envelope.model_validate_json(fields.get("envelope", b""))
    if "email" in fields:
        return _messages(read_mail(fields["email"]), envelope.to, envelope.sender)
    charsets = _json(fields, "charsets", dict[str, str | None])
    named = _json(fields, "attachment-info", dict[str, dict[str, Any]])
    files = []
    for part in parts:
        if part.file_name is not None:
            info = named.get(part.name, {})
            name = info.get("filename") or info.get("name") or decoded(part.file_name)
            files.append(InboundFile(str(name), part.content_type, part.content))
    mail = MailParts(
        headers=read_headers(fields.get("headers", b"")),
        text=_text(fields, "text", charsets.get("text")),
        html=_text(fields, "html", charsets.get("html")),
        files=files,
    )
    return _messages(mail, envelope.to, envelope.sender)


def mailgun_inbound(callback: Callback) -> list[InboundMessage]:
    """Mail that a Mailgun route forwards or stores, parsed, or raw if its URL ends in `mime`. Raises `ValueError`."""
    parts = parts_of(callback)
    fields = _fields(parts)
    recipients, sender = _text(fields, "recipient").split(","), _text(fields, "sender")
    if "body-mime" in fields:
        return _messages(read_mail(fields["body-mime"]), recipients, sender)
    headers = _json(fields, "message-headers", list[tuple[str, str]])
    kept = _json(fields, "attachments", list[dict[str, Any]])
    files = [
        InboundFile(decoded(part.file_name), part.content_type, part.content)
        for part in parts
        if part.file_name is not None
    ]
    mail = MailParts(
        headers=headers or [(name, _text(fields, name)) for name in _HEADER_FIELDS if name in fields],
        text=_text(fields, "body-plain"),
        html=_text(fields, "body-html"),
        files=files,
    )
    urls = [url for file in kept if isinstance(url := file.get("url"), str)]
    return _messages(mail, recipients, sender, attachments=urls)


class _PostmarkHeader(VendorModel):
    name: str = Field(alias="Name")
    value: str = Field(alias="Value")


class _PostmarkFile(VendorModel):
    name: str = Field("", alias="Name")
    content: str = Field(alias="Content", repr=False)
    content_type: str = Field("", alias="ContentType")


class _PostmarkMail(VendorModel):
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
    """Mail from Postmark's inbound webhook. Raises `ValueError`."""
    received = _PostmarkMail.model_validate(payload)
    headers = [(each.name, each.value) for each in received.headers]
    # Postmark removes these headers and gives them as fields.
    for name, value in (("From", received.sender), ("Subject", received.subject), ("Date", received.date)):
        if value and not header(headers, name.lower()):
            headers.append((name, value))
    recipients = received.original_recipient or received.to
    files = [InboundFile(file.name, file.content_type, _from_base64(file.content)) for file in received.files]
    mail = MailParts(headers, received.text or "", received.html or "", files)
    return _messages(mail, [mailbox.address for mailbox in mailboxes(recipients)])


class _SesNotification(VendorModel):
    source: str = Field("", validation_alias=AliasPath("mail", "source"))
    recipients: list[str] = Field(validation_alias=AliasPath("receipt", "recipients"))
    encoding: str = Field("UTF8", validation_alias=AliasPath("receipt", "action", "encoding"))
    content: str = Field(repr=False)


def ses_inbound(notification: Mapping[str, Any]) -> list[InboundMessage]:
    """Mail in the notification of an SNS action in a receipt rule of SES.

    Raises `ValueError`, also for the notification of another action, which does not contain the mail.
    """
    received = _SesNotification.model_validate(notification)
    is_base64 = received.encoding.upper() == "BASE64"
    raw = _from_base64(received.content) if is_base64 else received.content.encode("utf-8", "surrogateescape")
    return _messages(read_mail(raw), received.recipients, received.source)


def _messages(
    mail: MailParts, recipients: Sequence[str], envelope_sender: str = "", *, attachments: Sequence[str] = ()
) -> list[InboundMessage]:
    """One message for each recipient of the envelope, which alone also names blind copies."""
    addresses = list(dict.fromkeys(address for written in recipients if (address := written.strip(" <>\t"))))
    envelope_sender = envelope_sender.strip(" <>\t")
    sender = _author(mail.headers, envelope_sender) or envelope_sender
    if not addresses or not sender:
        raise ValueError("The mail has no recipient, or no sender.")
    subject = one_line(clean_text(header(mail.headers, "subject")))[:_LONGEST_SUBJECT].strip()
    text, files = _bounded(mail)
    body, quoted = split_quoted(text, subject)
    return [
        InboundMessage(
            provider_message_id=_identity(mail.headers, envelope_sender, recipient),
            channel=Channel.EMAIL,
            type=MessageType.EMAIL,
            from_address=sender,
            to_address=recipient,
            subject=subject or None,
            body=body,
            quoted=quoted,
            attachments=list(attachments),
            files=files,
            sent_at=time_of(header(mail.headers, "date")),
        )
        for recipient in addresses
    ]


def _author(headers: Headers, envelope_sender: str) -> str:
    """The author's address by From, or else by Sender; empty if neither has one.

    Of several authors it is the one that also sent the mail (RFC 5322, 3.6.2), or else the first.
    """
    sender = [mailbox.address for mailbox in mailboxes(raw_header(headers, "sender"))]
    authors = [mailbox.address for mailbox in mailboxes(raw_header(headers, "from"))] or sender
    senders = {address.lower() for address in (*sender, envelope_sender)}
    return next((address for address in authors if address.lower() in senders), authors[0] if authors else "")


def _bounded(mail: MailParts) -> tuple[str, list[InboundFile]]:
    """The text, plain or read from HTML, at a length fit for a list of messages; and the files."""
    whole, name = (mail.text, "message.txt") if mail.text.strip() else (mail.html, "message.html")
    files = list(mail.files)
    if len(whole) > LONGEST_TEXT:
        kind = "text/plain" if whole is mail.text else "text/html"
        files.append(InboundFile(name, kind, whole.encode()))
    text = whole[:LONGEST_TEXT]
    return (text if whole is mail.text else clean_text(text_of_html(text, mark_quotes=True))), files


def _identity(headers: Headers, envelope_sender: str, recipient: str) -> str:
    """An id that is the same for a repeated mail, and different for each of its recipients.

    It begins with the Message-ID if that can be kept, because replies refer to it.
    """
    message_id = MESSAGE_ID.search(header(headers, "message-id"))
    identity = f"{message_id[0]} {clean_text(recipient)}" if message_id else ""
    if 0 < len(identity) <= LONGEST_ID:
        return identity
    content = json.dumps([*headers, envelope_sender, recipient])
    return hashlib.sha256(content.encode()).hexdigest()


def _fields(parts: Iterable[FormPart]) -> dict[str, bytes]:
    """The parts that are no files, by name. Of several with one name, the first counts."""
    fields: dict[str, bytes] = {}
    for part in parts:
        if part.file_name is None:
            fields.setdefault(part.name, part.content)
    return fields


def _text(fields: Mapping[str, bytes], name: str, charset: str | None = None) -> str:
    return text_of(fields.get(name, b""), charset)


def _json(fields: Mapping[str, bytes], name: str, kind: type) -> Any:
    """A field that holds JSON, or an empty value without it. Raises `ValueError`."""
    written = fields.get(name, b"").strip()
    return TypeAdapter(kind).validate_json(written) if written else kind()


def _from_base64(written: str) -> bytes:
    try:
        return base64.b64decode(written)
    except ValueError as error:
        raise ValueError("This is not base64.") from error
