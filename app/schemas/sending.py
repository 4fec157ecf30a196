"""Sends, previews, and their answers."""

import hashlib
import operator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError, ValidationError

from app.batches import Priority
from app.consent import ConsentScope, ConsentSource
from app.details import NO_DETAILS, MessageDetails
from app.domain import Address, Channel, Direction, MessageStatus, MessageType, NewMessage, Purpose
from app.schemas.fields import (
    MOST_RECIPIENTS,
    SHOWN_TEXT,
    Attachments,
    ChannelRecipient,
    ChannelSender,
    EmailAddress,
    EmailAddresses,
    EmailRecipients,
    EmailTo,
    MailHeaders,
    Metadata,
    SmsRecipient,
    SmsSender,
    Subject,
    Text,
    Timestamp,
    Topic,
    Words,
    without_nul,
)
from app.schemas.views import FieldProblem, PriorityWord
from app.segments import Segments

_NO_WORDS = PydanticCustomError("no_words", "this field is required, or text and html in its place")
_LONGEST_AHEAD = timedelta(days=366)
_SMS_EXAMPLE: JsonDict = {
    "from": "+12016661234",
    "to": "+18045551234",
    "type": "sms",
    "body": "Hello!",
    "attachments": None,
    "timestamp": "2024-11-01T14:00:00Z",
}
_EMAIL_EXAMPLE: JsonDict = {
    "from": "user@example.com",
    "to": "contact@example.com",
    "subject": "Greetings",
    "body": "<p>Hello!</p>",
    "attachments": ["https://example.com/document.pdf"],
    "timestamp": "2024-11-01T14:00:00Z",
}
_ALTERNATIVES_EXAMPLE: JsonDict = {
    "from": "user@example.com",
    "to": "contact@example.com",
    "subject": "Greetings",
    "text": "Hello!",
    "html": "<h1>Hello!</h1>",
}
_TEMPLATE_EXAMPLE: JsonDict = {
    "name": "order_shipped",
    "language": "en_US",
    "parameters": {"1": "Jane", "2": "#17"},
}
_PREVIEW_EXAMPLE: JsonDict = {
    "channel": "sms",
    "from": "+12016661234",
    "to": "(804) 555-1234",
    "type": "sms",
    "body": "“Hello!”",
}


class _Send(BaseModel):
    if TYPE_CHECKING:  # declared by each channel: fields of a base come first in the document and in fingerprints
        from_: Address
        to: Any
    attachments: Attachments = Field([], description="URLs, and paths of files that were uploaded here.")
    timestamp: Timestamp | None = Field(None, description="When it was written; now, if left out.")
    send_at: Timestamp | None = Field(None, description="When it is to leave, at most a year ahead.")
    expires_at: Timestamp | None = Field(None, description="After which it is not to leave any more.")
    topic: Topic | None = Field(
        None,
        description="The mailing it belongs to, which people can unsubscribe from.",
        examples=["offers"],
    )
    purpose: Literal[Purpose.SERVICE] | None = Field(
        None,
        description="An answer to a person who wrote within 24 hours, or a code, for which a key needs the scope "
        "`service`. A refused topic does not stop it.",
    )
    metadata: Metadata = Field({}, description="Pairs of your own, which every answer about it shows.")
    priority: PriorityWord | None = Field(
        None,
        description="The lane in the queue: `high` leaves before `normal`, and that before `bulk`. Left out, a code "
        "(`purpose` with the scope `service`) is high, a line of a batch is bulk, and all else is normal.",
    )
    body: Words

    @field_validator("send_at")
    @classmethod
    def _within_a_year(cls, moment: datetime | None) -> datetime | None:
        if moment is not None and moment > datetime.now(UTC) + _LONGEST_AHEAD:
            raise ValueError("a message is scheduled for at most a year ahead")
        return moment

    @model_validator(mode="after")
    def _can_leave(self) -> "_Send":
        if self.send_at is not None and self.expires_at is not None and self.send_at >= self.expires_at:
            raise ValueError("a message can't expire before it leaves")
        self._must_have_words()
        return self

    def _must_have_words(self) -> None:
        if not self.attachments and self._is_blank():
            raise ValueError("a message needs a body or an attachment")

    def _is_blank(self) -> bool:
        return not self.body.strip()

    def _new(
        self,
        channel: str,
        type_: str,
        recipient: Address,
        tenant_id: int,
        idempotency_key: str | None,
        subject: str | None = None,
    ) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.OUTBOUND,
            channel=channel,
            type=type_,
            sender=self.from_,
            recipient=recipient,
            subject=subject,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            send_at=self.send_at,
            expires_at=self.expires_at,
            idempotency_key=idempotency_key,
            fingerprint=self._fingerprint() if idempotency_key else None,
            topic=self.topic,
            purpose=self.purpose,
            details=MessageDetails(metadata=self.metadata) if self.metadata else NO_DETAILS,
            priority=self.priority and Priority.of(self.priority),
        )

    def _fingerprint(self) -> str:
        """A hash that is equal for requests of equal meaning, however their JSON is written.

        Defaults are left out, so that a field added by a later version does not change it.
        """
        return hashlib.sha256(self.model_dump_json(warnings=False, exclude_defaults=True).encode()).hexdigest()


class SmsSend(_Send):
    """A text to send: `mms` where it carries media."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SMS_EXAMPLE]})
    from_: SmsSender = Field(alias="from")
    to: SmsRecipient
    type: Literal["sms", "mms"]
    body: Text

    def new_message(self, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        return self._new(Channel.SMS, self.type, self.to, tenant_id, idempotency_key)


class EmailSend(_Send):
    """A mail to send: `body`, or `text` and `html`, or one of these two.

    A body is HTML if it is a document or begins with a block element such as `<p>`. A `text` never is, and neither is
    a body beside `html`, which stands for the text.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EMAIL_EXAMPLE, _ALTERNATIVES_EXAMPLE]})
    from_: EmailAddress = Field(alias="from")
    to: EmailTo
    cc: EmailRecipients = Field([], description="Get a copy of the mail. With `bcc` at most 50 recipients in all.")
    bcc: EmailRecipients = Field([], description="Get a copy that the other recipients do not see.")
    reply_to: EmailAddresses = Field([], description="Where an answer is to go, if not to `from`.")
    headers: MailHeaders = Field({}, description="Further headers of the mail, with names such as `X-Campaign`.")
    subject: Subject | None = Field(
        None, description="`Re:` and the conversation's last one, if left out; empty for none."
    )
    body: Words = Field("", description="A plain text, or HTML.")
    text: Words | None = Field(None, description="A plain text. Left out, it is read from `html`.")
    html: Words | None = Field(None, description="The same in HTML.")

    @property
    def recipients(self) -> list[Address]:
        return self.to if isinstance(self.to, list) else [self.to]

    def new_message(self, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        """The mail to the first recipient."""
        return self.new_messages(tenant_id, idempotency_key)[0]

    def new_messages(self, tenant_id: int, idempotency_key: str | None = None) -> list[NewMessage]:
        """A mail to each recipient. No client can send the keys of those after the first, which hold a space."""
        first, *others = self.recipients
        copies = _without(first, self.cc), _without(first, self.bcc, *self.cc)
        new = self._new(Channel.EMAIL, MessageType.EMAIL, first, tenant_id, idempotency_key, subject=self.subject)
        if self.text is not None or self.html is not None:
            text = self.text if self.text and self.text.strip() else self.body
            new = replace(new, body="" if text == self.html else text, html=self.html or "")
        if self._is_plain():
            return [new]
        new = replace(new, details=self._details(new.details, *copies), copies=(*copies[0], *copies[1]))
        keys = (idempotency_key and f"{idempotency_key} {number}" for number in range(2, len(others) + 2))
        return [
            _named(new),
            *(
                _named(replace(new, recipient=each, idempotency_key=key))
                for each, key in zip(others, keys, strict=True)
            ),
        ]

    def _is_plain(self) -> bool:
        """True for a mail with one recipient and without a name, a copy or a header."""
        return not (
            isinstance(self.to, list)
            or self.to.name
            or self.from_.name
            or self.cc
            or self.bcc
            or self.reply_to
            or self.headers
        )

    def _details(self, details: MessageDetails, cc: list[Address], bcc: list[Address]) -> MessageDetails:
        named = {_listed(each): each.name for each in (*cc, *bcc, *self.reply_to) if each.name}
        return replace(
            details,
            from_name=self.from_.name,
            reply_to=[_listed(each) for each in self.reply_to],
            cc=[_listed(each) for each in cc],
            bcc=[_listed(each) for each in bcc],
            names=named,
            headers=self.headers,
        )

    @model_validator(mode="after")
    def _copies_go_with_one_mail(self) -> "EmailSend":
        if not self.cc and not self.bcc:
            return self
        if isinstance(self.to, list) and len(self.to) > 1:
            raise ValueError("copies go with one mail: name one recipient in `to`, or no `cc` and `bcc`")
        if self.topic is not None:
            raise ValueError("a mail of a topic has no copies: its link would unsubscribe another person")
        if len(self.recipients) + len(self.cc) + len(self.bcc) > MOST_RECIPIENTS:
            raise ValueError(f"a mail has at most {MOST_RECIPIENTS} recipients, with `cc` and `bcc`")
        return self

    def _must_have_words(self) -> None:
        if not self.model_fields_set & {"body", "text", "html"}:
            raise ValidationError.from_exception_data("", [{"type": _NO_WORDS, "loc": ("body",), "input": None}])
        if self.text and self.text.strip() and self.body.strip() and self.body not in {self.text, self.html}:
            raise ValueError("body and text say different things; leave one of them out")
        super()._must_have_words()

    def _is_blank(self) -> bool:
        return not any(words and words.strip() for words in (self.body, self.text, self.html))


def _without(first: Address, copies: list[Address], *earlier: Address) -> list[Address]:
    """Those of the copies that no earlier recipient gets."""
    known = {each.value for each in (first, *earlier)}
    return [each for each in copies if each.value not in known]


def _named(message: NewMessage) -> NewMessage:
    """The message with the name of its own recipient."""
    return replace(message, details=replace(message.details, to_name=message.recipient.name))


def _listed(address: Address) -> str:
    """An address in a list, which in lower case is its normalised form."""
    return address.spelling if address.spelling.isascii() else address.value


TemplateValue = Annotated[
    str, Field(min_length=1, max_length=1024, json_schema_extra=SHOWN_TEXT), AfterValidator(without_nul)
]
_ParameterName = Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,64}$")]
_ButtonPlace = Annotated[str, Field(pattern="^[0-9]$")]


class Template(BaseModel):
    """A template that the vendor has approved, and the values for its places."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TEMPLATE_EXAMPLE]})
    name: str = Field(pattern="^[a-z0-9_]{1,512}$")
    language: str = Field(pattern="^[a-z]{2,3}(_[A-Z]{2})?$", examples=["en_US"])
    parameters: dict[_ParameterName, TemplateValue] = Field(
        {}, max_length=100, description="The values of the body: a list, or an object by the names of their places."
    )
    header: TemplateValue | None = Field(
        None, description="The value of a header of text. A picture, video or document is the attachment."
    )
    buttons: dict[_ButtonPlace, TemplateValue] = Field(
        {}, max_length=10, description="The values of buttons by their place, from 0: the end of a link, or a code."
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _by_number(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return {str(number): each for number, each in enumerate(value, start=1)}


class ChannelSend(_Send):
    """A message to send on a channel that a provider brings."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"from": "slack:A024BE7LH", "to": "slack:C024BE91L", "body": "Hello!"}]}
    )
    from_: ChannelSender = Field(alias="from")
    to: ChannelRecipient
    body: Words = ""
    subject: Subject | None = None
    template: Template | None = Field(None, description="In place of a body, on channels that have templates.")

    def new_message(self, channel: str, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        new = self._new(channel, channel, self.to, tenant_id, idempotency_key, subject=self.subject)
        if self.template is None:
            return new
        return replace(new, details=replace(new.details, template=self.template.model_dump(exclude_defaults=True)))

    def _must_have_words(self) -> None:
        if self.template is None:
            super()._must_have_words()
        elif self.body.strip():
            raise ValueError("a template has its own body; leave `body` out")


def send_of(channel: str) -> type[SmsSend | EmailSend | ChannelSend]:
    """The body of a send on a channel."""
    own: dict[str, type[SmsSend | EmailSend]] = {Channel.SMS: SmsSend, Channel.EMAIL: EmailSend}
    return own.get(channel, ChannelSend)


class Preview(BaseModel):
    """A message that is not to be sent: what a send on its channel takes, and `channel`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_PREVIEW_EXAMPLE]})
    channel: Annotated[str, Field(max_length=63, json_schema_extra=SHOWN_TEXT), AfterValidator(without_nul)]


class SendAccepted(BaseModel):
    """The message is stored, and will be delivered in the background."""

    message_id: str = Field(examples=["1"])
    provider_message_id: str | None = Field(description="Known once the provider has it; see `Prefer`.")
    conversation_id: int = Field(examples=[1])
    status: Literal["accepted"] = "accepted"
    # What the wait that `Prefer` asks for has learned; without such a wait they are left out.
    message_status: MessageStatus | None = Field(
        None,
        exclude_if=operator.not_,
        description="The status of the message itself when the wait of `Prefer` ended; absent without a wait.",
    )
    status_reason: str | None = Field(
        None, exclude_if=operator.not_, description="Why the message has that status; absent where nothing is wrong."
    )


class SmsAccepted(SendAccepted):
    segments: Segments | None = Field(description="What a text is cut into; null for media messages, which are not.")


class SentTo(BaseModel):
    """One of the messages of a send to several recipients."""

    message_id: str = Field(examples=["2"])
    conversation_id: int = Field(examples=[2])
    to: str = Field(examples=["contact@example.com"])


class EmailAccepted(SendAccepted):
    messages: list[SentTo] | None = Field(
        None, exclude_if=operator.not_, description="Where `to` is a list: a message for each recipient, in order."
    )


class RefusalView(BaseModel):
    """A refusal of the recipient."""

    source: ConsentSource
    scope: ConsentScope
    since: datetime
    sentence: str = Field(examples=["The recipient has texted STOP."])


class PreviewView(BaseModel):
    """The outcome of a preview."""

    model_config = ConfigDict(serialize_by_alias=True)

    channel: str
    from_: str | None = Field(
        serialization_alias="from", description="As it would be sent; null if it can't be read."
    )
    to: str | None
    route: list[str] = Field(description="The providers that would be asked, in order.", examples=[["twilio"]])
    may_send_from: bool = Field(description="Whether the address is one of yours.")
    segments: Segments | None = Field(description="For texts.")
    hints: list[str] = Field(description="How a text could be sent in fewer parts.")
    refused: list[FieldProblem] = Field(
        description="Why it would be refused, here or by the first provider of its route; empty if it would not."
    )
    suppressed_by: RefusalView | None = Field(
        description="The refusal for which it would be taken and then not sent; none if it would be sent."
    )
    quiet_until: datetime | None = Field(description="The end of the quiet hours for which it would be held.")
