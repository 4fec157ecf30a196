"""Inbound mail in the formats of its vendors.

SendGrid: https://www.twilio.com/docs/sendgrid/for-developers/parsing-email/setting-up-the-inbound-parse-webhook
Mailgun: https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/receive-http
Postmark: https://postmarkapp.com/developer/webhooks/inbound-webhook
SES: https://docs.aws.amazon.com/ses/latest/dg/receiving-email-notifications-contents.html
"""

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import (
    AliasPath,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from app.providers.base import Callback, FileFacts, InboundFile, InboundMessage
from app.providers.mail import verdicts
from app.providers.mail.inbound import Reception, messages_of
from app.providers.mail.mime.charsets import html_of, text_of
from app.providers.mail.mime.headers import Headers, decoded
from app.providers.mail.mime.mailboxes import mailboxes
from app.providers.mail.mime.parts import MailParts, read_headers, read_mail
from app.providers.toolbox.json_documents import read_json
from app.providers.toolbox.models import EventTime, VendorModel, moment_of
from app.providers.toolbox.multipart import FormPart, parts_of

#: A text that the mail does not depend on: empty where the vendor writes something else.
_Written = Annotated[str, BeforeValidator(lambda value: value if isinstance(value, str) else "")]


def _time_or_none(value: object, read: ValidatorFunctionWrapHandler) -> datetime | None:
    try:
        return cast(datetime | None, read(value))
    except ValidationError:
        return None


#: The same for a time: None where it can't be read.
_Time = Annotated[EventTime, WrapValidator(_time_or_none)]


class _Envelope(VendorModel):
    to: list[str]
    sender: str | None = Field(None, alias="from")


def sendgrid_inbound(callback: Callback) -> list[InboundMessage]:
    """Mail from SendGrid's Inbound Parse, with parsed or raw fields. Raises `ValueError`.

    It has no id of its own, and no time of its arrival.
    """
    parts = parts_of(callback)
    fields = _fields(parts)
    envelope = _Envelope.from_json(fields.get("envelope", b""))
    reception = Reception(
        recipients=envelope.to,
        arrived_at=callback.received_at,
        sender=envelope.sender,
        verdicts=verdicts.by_score(_text(fields, "spam_score")),
    )
    if "email" in fields:
        return messages_of(read_mail(fields["email"]), reception)
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
        html=html_of(fields.get("html", b""), charsets.get("html")),
        files=files,
    )
    return messages_of(mail, reception)


def mailgun_inbound(callback: Callback) -> list[InboundMessage]:
    """Mail that a Mailgun route forwards or stores, parsed, or raw if its URL ends in `mime`. Raises `ValueError`.

    Its token is no id of the mail: each route that matches has one of its own.
    """
    parts = parts_of(callback)
    fields = _fields(parts)
    of_fields = [(name, _text(fields, name)) for name in fields if _is_mailguns_header(name)]
    if "body-mime" in fields:
        mail = read_mail(fields["body-mime"])
    else:
        mail = MailParts(
            headers=_json(fields, "message-headers", list[tuple[str, str]]) or of_fields,
            text=_text(fields, "body-plain"),
            html=html_of(fields.get("body-html", b""), None),
            files=[
                InboundFile(decoded(part.file_name), part.content_type, part.content)
                for part in parts
                if part.file_name is not None
            ],
        )
    kept = _json(fields, "attachments", list[dict[str, Any]])
    reception = Reception(
        recipients=_text(fields, "recipient").split(","),
        # The signature covers this time, and a retry has that of the first try.
        arrived_at=min(_moment(fields, "timestamp") or callback.received_at, callback.received_at),
        sender=_text(fields, "sender") if "sender" in fields else None,
        kept={
            url: FileFacts(str(file.get("name") or ""), str(file.get("content-type") or ""))
            for file in kept
            if isinstance(url := file.get("url"), str)
        },
        verdicts=verdicts.of_headers([*of_fields, *mail.headers], "x-mailgun-sflag", "x-mailgun-sscore"),
    )
    return messages_of(mail, reception)


class _PostmarkHeader(VendorModel):
    name: str = Field(alias="Name")
    value: str = Field(alias="Value")


class _PostmarkFile(VendorModel):
    name: str = Field("", alias="Name")
    content: str = Field(alias="Content", repr=False)
    content_type: str = Field("", alias="ContentType")


class _PostmarkMail(VendorModel):
    id: _Written = Field("", alias="MessageID")
    sender: str = Field(alias="From")
    name: _Written = Field("", alias="FromName")
    to: _Written = Field("", alias="To")
    cc: _Written = Field("", alias="Cc")
    reply_to: _Written = Field("", alias="ReplyTo")
    original_recipient: _Written = Field("", alias="OriginalRecipient")
    subject: _Written = Field("", alias="Subject")
    date: _Written = Field("", alias="Date")
    text: _Written = Field("", alias="TextBody")
    html: _Written = Field("", alias="HtmlBody")
    headers: list[_PostmarkHeader] = Field([], alias="Headers")
    files: list[_PostmarkFile] = Field([], alias="Attachments")

    def all_headers(self) -> Headers:
        """The headers, with those that Postmark removes and gives as fields."""
        headers = [(each.name, each.value) for each in self.headers]
        name = self.name.replace("\\", "\\\\").replace('"', '\\"')
        fields = {
            "From": f'"{name}" <{self.sender}>' if name and "<" not in self.sender else self.sender,
            "To": self.to,
            "Cc": self.cc,
            "Reply-To": self.reply_to,
            "Subject": self.subject,
            "Date": self.date,
        }
        known = {name.lower() for name, value in headers if value.strip()}
        return headers + [(name, value) for name, value in fields.items() if value and name.lower() not in known]


def postmark_inbound(callback: Callback) -> list[InboundMessage]:
    """Mail from Postmark's inbound webhook. Raises `ValueError`.

    It tells neither the time of its arrival nor the sender of its envelope.
    """
    received = _PostmarkMail.model_validate(callback.json())
    headers = received.all_headers()
    files = [InboundFile(file.name, file.content_type, _from_base64(file.content)) for file in received.files]
    recipients = mailboxes(received.original_recipient or received.to)
    reception = Reception(
        recipients=[each.address for each in recipients],
        arrived_at=callback.received_at,
        vendors_id=received.id,
        verdicts=verdicts.of_headers(headers, "x-spam-status", "x-spam-score"),
    )
    return messages_of(MailParts(headers, received.text, received.html, files), reception)


class _SesNotification(VendorModel):
    id: _Written = Field("", validation_alias=AliasPath("mail", "messageId"))
    received_at: _Time = Field(None, validation_alias=AliasPath("mail", "timestamp"))
    source: str | None = Field(None, validation_alias=AliasPath("mail", "source"))
    recipients: list[str] = Field(validation_alias=AliasPath("receipt", "recipients"))
    encoding: _Written = Field("", validation_alias=AliasPath("receipt", "action", "encoding"))
    spam: _Written = Field("", validation_alias=AliasPath("receipt", "spamVerdict", "status"))
    virus: _Written = Field("", validation_alias=AliasPath("receipt", "virusVerdict", "status"))
    content: str = Field(repr=False)


def ses_inbound(notification: Mapping[str, Any], came_at: datetime) -> list[InboundMessage]:
    """Mail in the notification of an SNS action in a receipt rule of SES.

    Raises `ValueError`, also for the notification of another action, which does not contain the mail.
    """
    received = _SesNotification.model_validate(notification)
    is_base64 = received.encoding.upper() == "BASE64"
    raw = _from_base64(received.content) if is_base64 else received.content.encode("utf-8", "surrogateescape")
    reception = Reception(
        recipients=received.recipients,
        arrived_at=received.received_at or came_at,
        sender=received.source,
        vendors_id=received.id,
        verdicts=verdicts.of_ses(spam=received.spam, virus=received.virus),
    )
    return messages_of(read_mail(raw), reception)


def _fields(parts: Iterable[FormPart]) -> dict[str, bytes]:
    """The parts that are no files, by name. Of several with one name, the first counts."""
    fields: dict[str, bytes] = {}
    for part in parts:
        if part.file_name is None:
            fields.setdefault(part.name, part.content)
    return fields


def _text(fields: Mapping[str, bytes], name: str, charset: str | None = None) -> str:
    return text_of(fields.get(name, b""), charset)


def _moment(fields: Mapping[str, bytes], name: str) -> datetime | None:
    """A field that holds Unix time; None if it can't be read."""
    try:
        return moment_of(float(fields.get(name, b"")))
    except ValueError:
        return None


def _is_mailguns_header(name: str) -> bool:
    """True for a field that stands for a header: under the header's name, or as one of the two that have none."""
    return name[:1].isupper() or name in {"from", "subject"}


def _json(fields: Mapping[str, bytes], name: str, kind: type) -> Any:
    """A field that holds JSON; an empty value without it, or where it can't be read."""
    try:
        return TypeAdapter(kind).validate_python(read_json(fields.get(name, b"")))
    except ValueError:
        return kind()


def _from_base64(written: str) -> bytes:
    try:
        return base64.b64decode(written)
    except ValueError as error:
        raise ValueError("This is not base64.") from error
