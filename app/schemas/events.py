"""Entries of the event log as they are shown: on a page, in the stream, and in outgoing webhooks."""

from datetime import datetime

from pydantic import BaseModel, Field

from app.domain import EventType
from app.schemas.personal_data import ContactView
from app.schemas.views import ConversationView, MessageView


class MessageEvent(BaseModel):
    """The data of an event about a message."""

    message_id: int
    conversation_id: int
    message: MessageView | None = Field(description="As it is now. None if it has been removed.")


class ConversationEvent(BaseModel):
    """The data of an event about a conversation."""

    conversation_id: int
    conversation: ConversationView | None = Field(description="As it is now. None if it has been removed.")
    reason: str | None = Field(None, exclude_if=lambda reason: reason is None)


class ContactEvent(BaseModel):
    """The data of an event about a contact."""

    contact_id: int
    contact: ContactView | None = Field(description="As it is now. None if it has been removed.")


class EndpointEvent(BaseModel):
    """The data of an event about a webhook endpoint."""

    endpoint_id: int
    reason: str


class EventView(BaseModel):
    id: str = Field(description="The same in every delivery; also a cursor.", examples=["evt_AQEEaSsOvAIC7gECd8R8VA"])
    type: EventType
    timestamp: datetime = Field(description="The time at which it was recorded.")
    data: MessageEvent | ConversationEvent | ContactEvent | EndpointEvent


class EventPageView(BaseModel):
    events: list[EventView]
    cursor: str = Field(description="Give it as `after` to go on.", examples=["evt_AQEEaSsOvAIC7gECd8R8VA"])
    more: bool = Field(description="True where there may be more to read at once.")
