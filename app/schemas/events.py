"""Events as they are shown: on a page, in the stream, and in outgoing webhooks. Each type has a model of its own.

The docstring of a model is its description in the OpenAPI document.
"""

from datetime import datetime
from typing import Literal, get_args

from pydantic import BaseModel, Field, RootModel

from app.domain import EventType
from app.schemas.consent import ConsentEntryView
from app.schemas.personal_data import ContactView
from app.schemas.views import ConversationView, MessageView

_NOW = "As it is now. None if it has been removed."


class MessageData(BaseModel):
    """A message that an event is about."""

    message_id: int
    conversation_id: int
    message: MessageView | None = Field(description=_NOW)


class ConversationData(BaseModel):
    """A conversation that an event is about."""

    conversation_id: int
    conversation: ConversationView | None = Field(description=_NOW)


class UpdateData(ConversationData):
    """A conversation whose state has changed."""

    by: str | None = Field(description="The name of the key. None if a message or the time has opened it.")
    changed: dict[str, str | int | list[str] | None] = Field(
        description="The fields that have changed, with their new values.", examples=[{"status": "closed"}]
    )


class PauseData(ConversationData):
    """A conversation whose sends are paused."""

    reason: str


class ContactData(BaseModel):
    """A contact that an event is about."""

    contact_id: int
    contact: ContactView | None = Field(description=_NOW)


class ConsentData(BaseModel):
    """Consent that an event is about."""

    contact_id: int | None = Field(description="None if there is no contact with the address yet.")
    entry_id: int
    entry: ConsentEntryView | None = Field(description="As it was recorded. An erased person's has no address.")


class EndpointData(BaseModel):
    """A webhook endpoint that an event is about."""

    endpoint_id: int


class DisabledData(EndpointData):
    """A webhook endpoint that was disabled."""

    reason: str


class Event(BaseModel):
    """The fields that all events have, beside their `data`."""

    id: str = Field(
        description="The same in every delivery; also a cursor, and the header `webhook-id` of a webhook.",
        examples=["evt_AQEEaSsOvAIC7gECd8R8VA"],
    )
    type: EventType
    timestamp: datetime = Field(description="The time at which it was recorded.")


class _MessageEvent(Event):
    data: MessageData


class MessageAcceptedEvent(_MessageEvent):
    """A message is stored, and will be sent at once or when it is due."""

    type: Literal[EventType.MESSAGE_ACCEPTED]


class MessageReceivedEvent(_MessageEvent):
    """A message came in and is stored."""

    type: Literal[EventType.MESSAGE_RECEIVED]


class MessageSentEvent(_MessageEvent):
    """The provider accepted a message, or a message that was sent elsewhere is stored."""

    type: Literal[EventType.MESSAGE_SENT]


class MessageDeliveredEvent(_MessageEvent):
    """A message arrived, according to a receipt."""

    type: Literal[EventType.MESSAGE_DELIVERED]


class MessageReadEvent(_MessageEvent):
    """The recipient opened a message, according to a receipt."""

    type: Literal[EventType.MESSAGE_READ]


class MessageUndeliveredEvent(_MessageEvent):
    """The provider accepted a message and could not deliver it, or a mail bounced."""

    type: Literal[EventType.MESSAGE_UNDELIVERED]


class MessageFailedEvent(_MessageEvent):
    """A message was refused for good, or its attempts are used up."""

    type: Literal[EventType.MESSAGE_FAILED]


class MessageUnknownEvent(_MessageEvent):
    """A send got no answer: the message may or may not have been sent."""

    type: Literal[EventType.MESSAGE_UNKNOWN]


class MessageExpiredEvent(_MessageEvent):
    """A message was not sent, or not delivered, before it expired."""

    type: Literal[EventType.MESSAGE_EXPIRED]


class MessageCanceledEvent(_MessageEvent):
    """A message was canceled before it was sent."""

    type: Literal[EventType.MESSAGE_CANCELED]


class MessageSuppressedEvent(_MessageEvent):
    """A message was not sent, because its recipient refuses it or can't be reached."""

    type: Literal[EventType.MESSAGE_SUPPRESSED]


class MessageFileChangedEvent(_MessageEvent):
    """A file of an inbound message was fetched from the vendor, or can't be had: see the `files` of the message."""

    type: Literal[EventType.MESSAGE_FILE_CHANGED]


class ConversationCreatedEvent(Event):
    """The first message between one of your addresses and a contact is stored."""

    type: Literal[EventType.CONVERSATION_CREATED]
    data: ConversationData


class ConversationUpdatedEvent(Event):
    """A conversation has another status, assignee, other tags, or fewer unread messages."""

    type: Literal[EventType.CONVERSATION_UPDATED]
    data: UpdateData


class ConversationPausedEvent(Event):
    """The sends of a conversation are paused, because two programs seem to answer each other."""

    type: Literal[EventType.CONVERSATION_PAUSED]
    data: PauseData


class ConversationResumedEvent(Event):
    """A paused conversation sends again."""

    type: Literal[EventType.CONVERSATION_RESUMED]
    data: ConversationData


class _ContactEvent(Event):
    data: ContactData


class ContactCreatedEvent(_ContactEvent):
    """An address is stored for the first time, yours or another person's."""

    type: Literal[EventType.CONTACT_CREATED]


class ContactErasedEvent(_ContactEvent):
    """A person and all that was stored about them are erased."""

    type: Literal[EventType.CONTACT_ERASED]


class _ConsentEvent(Event):
    data: ConsentData


class ConsentRevokedEvent(_ConsentEvent):
    """An address must not be written to, for everything or a part."""

    type: Literal[EventType.CONSENT_REVOKED]


class ConsentGrantedEvent(_ConsentEvent):
    """An address may be written to again."""

    type: Literal[EventType.CONSENT_GRANTED]


class WebhookEndpointDisabledEvent(Event):
    """The service has stopped sending to a webhook endpoint, because it fails."""

    type: Literal[EventType.WEBHOOK_ENDPOINT_DISABLED]
    data: DisabledData


class WebhookEndpointTestEvent(Event):
    """You have asked for a test of a webhook endpoint. It goes to that one, and is not in the log."""

    type: Literal[EventType.WEBHOOK_ENDPOINT_TEST]
    data: EndpointData


_AnyEvent = (
    MessageAcceptedEvent
    | MessageReceivedEvent
    | MessageSentEvent
    | MessageDeliveredEvent
    | MessageReadEvent
    | MessageUndeliveredEvent
    | MessageFailedEvent
    | MessageUnknownEvent
    | MessageExpiredEvent
    | MessageCanceledEvent
    | MessageSuppressedEvent
    | MessageFileChangedEvent
    | ConversationCreatedEvent
    | ConversationUpdatedEvent
    | ConversationPausedEvent
    | ConversationResumedEvent
    | ContactCreatedEvent
    | ContactErasedEvent
    | ConsentRevokedEvent
    | ConsentGrantedEvent
    | WebhookEndpointDisabledEvent
    | WebhookEndpointTestEvent
)
#: The model of each type.
EVENT_VIEWS: dict[EventType, type[Event]] = {
    get_args(view.model_fields["type"].annotation)[0]: view for view in get_args(_AnyEvent)
}


class EventView(RootModel[_AnyEvent]):
    """An event. Its `type` tells what `data` holds."""

    root: _AnyEvent = Field(discriminator="type")


class EventPageView(BaseModel):
    events: list[EventView]
    cursor: str = Field(description="Give it as `after` to go on.", examples=["evt_AQEEaSsOvAIC7gECd8R8VA"])
    more: bool = Field(description="True where there may be more to read at once.")
