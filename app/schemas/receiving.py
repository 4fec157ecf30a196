"""What providers hand over by the generic webhooks, and what they are answered."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain import Channel, Direction, MessageType, NewMessage
from app.schemas.fields import (
    EmailParty,
    ProviderMessageId,
    ReceivedSubject,
    ReceivedTimestamp,
    ReceivedWords,
    References,
    SmsRecipient,
    SmsSender,
)


class _Inbound(BaseModel):
    attachments: References = []
    body: ReceivedWords = ""
    timestamp: ReceivedTimestamp | None = Field(None, description="When it was sent; now, if left out.")


class SmsInbound(_Inbound):
    """A text that a provider hands over."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "from": "+18045551234",
                    "to": "+12016661234",
                    "type": "sms",
                    "messaging_provider_id": "message-1",
                    "body": "text",
                    "attachments": None,
                    "timestamp": "2024-11-01T14:00:00Z",
                }
            ]
        }
    )
    from_: SmsSender = Field(alias="from")
    to: SmsRecipient
    type: Literal["sms", "mms"]
    messaging_provider_id: ProviderMessageId

    def new_message(self, tenant_id: int) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.INBOUND,
            channel=Channel.SMS,
            type=self.type,
            sender=self.from_,
            recipient=self.to,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            provider_type=Channel.SMS,
            provider_message_id=self.messaging_provider_id,
        )


class EmailInbound(_Inbound):
    """A mail that a provider hands over."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "from": "contact@example.com",
                    "to": "user@example.com",
                    "xillio_id": "message-3",
                    "subject": "Re: Greetings",
                    "body": "<p>Hello back!</p>",
                    "attachments": [],
                    "timestamp": "2024-11-01T14:00:00Z",
                }
            ]
        }
    )
    from_: EmailParty = Field(alias="from")
    to: EmailParty
    xillio_id: ProviderMessageId
    subject: ReceivedSubject | None = None

    def new_message(self, tenant_id: int) -> NewMessage:
        return NewMessage(
            tenant_id=tenant_id,
            direction=Direction.INBOUND,
            channel=Channel.EMAIL,
            type=MessageType.EMAIL,
            sender=self.from_,
            recipient=self.to,
            subject=self.subject,
            body=self.body,
            attachments=self.attachments,
            sent_at=self.timestamp,
            provider_type=Channel.EMAIL,
            provider_message_id=self.xillio_id,
        )


class WebhookAccepted(BaseModel):
    """The event is stored, or was before."""

    status: Literal["ok"] = "ok"
