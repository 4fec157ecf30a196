"""A contact, all that is stored about it, and what of that was erased."""

from datetime import datetime

from pydantic import BaseModel, Field

from app.domain import MessageStatus
from app.schemas.consent import ConsentEntryView, ContactRefusal
from app.schemas.views import ConversationView, MessageDetail, View


class ContactView(View):
    id: int
    type: str = Field(validation_alias="address_type", serialization_alias="type")
    address: str
    written: str = Field(description="As it was written the first time.")
    created_at: datetime


class ContactDetail(ContactView):
    refusals: list[ContactRefusal] = Field(description="Its refusals of messages that hold.")


class ReceiptView(View):
    """A receipt of a provider."""

    provider_type: str
    event_id: str
    provider_message_id: str | None
    status: MessageStatus | None
    detail: str | None
    raw: dict[str, object] = Field(description="As it came.")
    occurred_at: datetime | None
    received_at: datetime


class DeedView(View):
    """An action on a message other than delivery."""

    kind: str = Field(examples=["canceled"])
    created_at: datetime


class FileView(View):
    """A file that came with a message; its bytes are at the address that `attachments` has for it."""

    id: str
    name: str
    content_type: str = Field(description="As the sender called it.")
    size: int = Field(description="In bytes.")
    created_at: datetime


class ExportedMessage(MessageDetail):
    idempotency_key: str | None
    files: list[FileView] = Field([])
    receipts: list[ReceiptView] = Field([])
    history: list[DeedView] = Field([])


class ExportedConversation(ConversationView):
    messages: list[ExportedMessage] = Field([])


class ContactExport(BaseModel):
    """Everything that is stored about a contact. It is written piece by piece, so each list comes last."""

    contact: ContactView
    aliases: list[str] = Field(description="Its other addresses, by which a vendor names it at times.")
    exported_at: datetime
    consent: list[ConsentEntryView] = Field(description="What was said about messages to it.")
    webhook_calls: int = Field(description="Calls of providers that name it, kept for a time as they came.")
    conversations: list[ExportedConversation] = []


class Erased(BaseModel):
    """The number of rows erased from each table."""

    contacts: int = 0
    conversations: int = 0
    messages: int = 0
    attempts: int = 0
    receipts: int = 0
    events: int = 0
    files: int = 0
    webhook_calls: int = 0
