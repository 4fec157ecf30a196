"""A contact, all that is stored about it, and what of that was erased."""

import operator
from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, Field

from app.domain import MessageStatus
from app.schemas.consent import ConsentEntryView, ContactRefusal
from app.schemas.fields import MetadataChange, PersonName
from app.schemas.views import ConversationView, MessageDetail, MessageFile, View


class ContactView(View):
    id: int
    type: str = Field(validation_alias="address_type", serialization_alias="type")
    address: str
    written: str = Field(description="As it was written the first time.")
    name: str | None = Field(
        None,
        exclude_if=operator.not_,
        description="As the first message that told one, or as you have set it. Absent where there is none.",
    )
    metadata: dict[str, str] | None = Field(
        None, validation_alias="metadata_pairs", exclude_if=operator.not_, description="The pairs that you have set."
    )
    created_at: datetime


class ContactDetail(ContactView):
    refusals: list[ContactRefusal] = Field(description="Its refusals of messages that hold.")


class ContactUpdate(BaseModel):
    """A change of a contact. What is left out stays."""

    name: PersonName | None = Field(None, description="Null removes it; then none is learned any more.")
    metadata: MetadataChange = Field({}, description="Is merged with the earlier pairs; null removes one.")


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


class FileView(MessageFile):
    """A file of a message; its bytes are at its path."""

    id: str
    created_at: datetime


class ExportedMessage(MessageDetail):
    idempotency_key: str | None
    files: Sequence[FileView] = Field([])
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
    named_in: list[int] = Field(description="The mails of others that name it in `cc`, `bcc` or `reply_to`.")
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
    named_in: int = Field(0, description="The mails of others that named the contact, and do so no longer.")
