"""Sends, previews, and their answers."""

import hashlib
import operator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError, ValidationError

from app.consent import ConsentScope, ConsentSource
from app.domain import Address, Channel, Direction, MessageStatus, MessageType, NewMessage, Purpose
from app.schemas.fields import (
    SHOWN_TEXT,
    ChannelRecipient,
    ChannelSender,
    EmailAddress,
    EmailRecipient,
    SmsRecipient,
    SmsSender,
    Subject,
    Text,
    Timestamp,
    Topic,
    Urls,
    Words,
    without_nul,
)
from app.schemas.views import FieldProblem
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
        to: Address
    attachments: Urls = []
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
        self, channel: str, type_: str, tenant_id: int, idempotency_key: str | None, subject: str | None = None
    ) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.OUTBOUND,
            channel=channel,
            type=type_,
            sender=self.from_,
            recipient=self.to,
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
        return self._new(Channel.SMS, self.type, tenant_id, idempotency_key)


class EmailSend(_Send):
    """A mail to send: `body`, or `text` and `html`, or one of these two.

    A body is HTML if it is a document or begins with a block element such as `<p>`. A `text` never is, and neither is
    a body beside `html`, which stands for the text.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EMAIL_EXAMPLE, _ALTERNATIVES_EXAMPLE]})
    from_: EmailAddress = Field(alias="from")
    to: EmailRecipient
    subject: Subject | None = Field(
        None, description="`Re:` and the conversation's last one, if left out; empty for none."
    )
    body: Words = Field("", description="A plain text, or HTML.")
    text: Words | None = Field(None, description="A plain text. Left out, it is read from `html`.")
    html: Words | None = Field(None, description="The same in HTML.")

    def new_message(self, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        new = self._new(Channel.EMAIL, MessageType.EMAIL, tenant_id, idempotency_key, subject=self.subject)
        if self.text is None and self.html is None:
            return new
        text = self.text if self.text and self.text.strip() else self.body
        return replace(new, body="" if text == self.html else text, html=self.html or "")

    def _must_have_words(self) -> None:
        if not self.model_fields_set & {"body", "text", "html"}:
            raise ValidationError.from_exception_data("", [{"type": _NO_WORDS, "loc": ("body",), "input": None}])
        if self.text and self.text.strip() and self.body.strip() and self.body not in {self.text, self.html}:
            raise ValueError("body and text say different things; leave one of them out")
        super()._must_have_words()

    def _is_blank(self) -> bool:
        return not any(words and words.strip() for words in (self.body, self.text, self.html))


class ChannelSend(_Send):
    """A message to send on a channel that a provider brings."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"from": "slack:A024BE7LH", "to": "slack:C024BE91L", "body": "Hello!"}]}
    )
    from_: ChannelSender = Field(alias="from")
    to: ChannelRecipient
    subject: Subject | None = None

    def new_message(self, channel: str, tenant_id: int, idempotency_key: str | None = None) -> NewMessage:
        return self._new(channel, channel, tenant_id, idempotency_key, subject=self.subject)


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
