"""The callbacks of the generic webhooks, and the reply."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from app.details import MessageDetails
from app.domain import Address, Channel, Direction, MessageType, NewMessage
from app.schemas.fields import (
    EmailParty,
    ProviderMessageId,
    ReceivedSubject,
    ReceivedTimestamp,
    ReceivedWords,
    References,
    SmsParty,
    SmsRecipient,
)

_SMS_EXAMPLE: JsonDict = {
    "from": "+18045551234",
    "to": "+12016661234",
    "type": "sms",
    "messaging_provider_id": "message-1",
    "body": "text",
    "attachments": None,
    "timestamp": "2024-11-01T14:00:00Z",
}
_EMAIL_EXAMPLE: JsonDict = {
    "from": "contact@example.com",
    "to": "user@example.com",
    "xillio_id": "message-3",
    "subject": "Re: Greetings",
    "body": "<p>Hello back!</p>",
    "attachments": [],
    "timestamp": "2024-11-01T14:00:00Z",
}


class _Inbound(BaseModel):
    if TYPE_CHECKING:  # declared by each channel, so that they come first in the document
        from_: Address
        to: Address
    attachments: References = []
    body: ReceivedWords = ""
    timestamp: ReceivedTimestamp | None = Field(None, description="When it was sent; now, if left out.")

    def _new(
        self, tenant_id: int, channel: Channel, type_: str, provider_message_id: str, subject: str | None = None
    ) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.INBOUND,
            channel=channel,
            type=type_,
            sender=self.from_,
            recipient=self.to,
            subject=subject,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            provider_type=channel,
            provider_message_id=provider_message_id,
        )


class SmsInbound(_Inbound):
    """A text that a provider hands over."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SMS_EXAMPLE]})
    from_: SmsParty = Field(alias="from")
    to: SmsRecipient
    type: Literal["sms", "mms"]
    messaging_provider_id: ProviderMessageId

    def new_message(self, tenant_id: int) -> NewMessage:
        return self._new(tenant_id, Channel.SMS, self.type, self.messaging_provider_id)


class EmailInbound(_Inbound):
    """A mail that a provider hands over."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EMAIL_EXAMPLE]})
    from_: EmailParty = Field(alias="from")
    to: EmailParty
    xillio_id: ProviderMessageId
    subject: ReceivedSubject | None = None

    def new_message(self, tenant_id: int) -> NewMessage:
        message = self._new(tenant_id, Channel.EMAIL, MessageType.EMAIL, self.xillio_id, subject=self.subject)
        name = _display_name(self.from_.written)
        return replace(message, details=MessageDetails(from_name=name)) if name else message


def _display_name(written: str) -> str:
    """The name in `Jane Roe <jane@example.com>`, without quotation marks around it; empty if there is none."""
    name = written.rpartition("<")[0].strip() if written.endswith(">") else ""
    is_quoted = len(name) > 1 and name[0] == name[-1] == '"'
    return name[1:-1].replace('\\"', '"').strip() if is_quoted else name


class WebhookAccepted(BaseModel):
    """The event is stored, or was before."""

    status: Literal["ok"] = "ok"
