"""Contacts, and the rights of a person: a copy of all that is stored about them, and its erasure."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from app.db.models import Contact, File
from app.dependencies import ContactsDep, Id, PagesDep, SuppressionsDep, address_in, client_network, metadata_in
from app.files import FileStatus, path_of
from app.http.json_body import JsonRoute
from app.http.problems import responses
from app.http.query import address_with_plus
from app.schemas.consent import ConsentEntryView
from app.schemas.personal_data import (
    ContactDetail,
    ContactExport,
    ContactUpdate,
    ContactView,
    DeedView,
    Erased,
    ExportedConversation,
    ExportedMessage,
    FileView,
    ReceiptView,
)
from app.services.people.contacts import ContactChange, ContactService, MessageExport

router = APIRouter(prefix="/api/contacts", tags=["contacts"], route_class=JsonRoute, responses=responses(422, 503))
_END = "]}"


@router.get("", response_model=list[ContactView])
async def list_contacts(
    service: ContactsDep,
    pages: PagesDep,
    request: Request,
    address: Annotated[
        str | None,
        Query(
            description="Only the one with this address, in any spelling.", json_schema_extra={"format": "address"}
        ),
    ] = None,
) -> Sequence[Contact]:
    """Contacts, the oldest first: people, and your own addresses that they write to.

    `metadata.order=17` finds those with this pair of metadata; several pairs combine.
    """
    wanted = None
    if address is not None:
        wanted = address_in(request, address_with_plus(address), location="query.address", may_be_odd=True)
    pairs = metadata_in(request)
    return pages.linked(await service.contacts(wanted, pairs, limit=pages.limit, cursor=pages.cursor))


@router.get("/{contact_id}", responses=responses(404))
async def get_contact(contact_id: Id, service: ContactsDep, suppressions: SuppressionsDep) -> ContactDetail:
    """A contact, its address, and its refusals that hold."""
    contact, refusals = await service.contact(contact_id), await suppressions.refusals_of(contact_id)
    return ContactDetail.model_validate(vars(contact) | {"refusals": refusals})


@router.patch("/{contact_id}", response_model=ContactView, responses=responses(404, 413, 415))
async def change_contact(contact_id: Id, change: ContactUpdate, service: ContactsDep) -> Contact:
    """Change the name or the metadata of a contact."""
    sets_name = "name" in change.model_fields_set
    return await service.change(contact_id, ContactChange(change.name, sets_name, change.metadata))


@router.get("/{contact_id}/export", response_model=ContactExport, responses=responses(404))
async def export_contact(contact_id: Id, service: ContactsDep) -> Any:
    """Everything that is stored about a contact, as one document that is streamed."""
    contact = await service.contact(contact_id)
    headers = {"Content-Disposition": f'attachment; filename="contact-{contact_id}.json"'}
    return StreamingResponse(_export(service, contact), media_type="application/json", headers=headers)


async def _export(service: ContactService, contact: Contact) -> AsyncIterator[str]:
    """A `ContactExport`, piece by piece."""
    aliases = list(await service.aliases(contact))
    document = ContactExport(
        contact=ContactView.model_validate(contact),
        aliases=aliases,
        exported_at=datetime.now(UTC),
        consent=[ConsentEntryView.model_validate(entry) for entry in await service.consent(contact)],
        webhook_calls=await service.webhook_calls(contact),
        named_in=await service.named_in(contact, aliases),
    )
    yield _open(document)
    between_conversations = ""
    async for conversation in service.conversations(contact.id):
        yield between_conversations + _open(ExportedConversation.model_validate(conversation))
        between_conversations, between_messages = ",", ""
        async for export in service.exported_messages(conversation.id):
            yield between_messages + _exported(export).model_dump_json(by_alias=True)
            between_messages = ","
        yield _END
    yield _END


def _open(document: ContactExport | ExportedConversation) -> str:
    """Its JSON up to the beginning of the list at its end."""
    return document.model_dump_json(by_alias=True).removesuffix(_END)


def _exported(export: MessageExport) -> ExportedMessage:
    message = ExportedMessage.model_validate(export.message)
    message.files = [_file(file) for file in export.files]
    message.receipts = [ReceiptView.model_validate(receipt) for receipt in export.receipts]
    message.history = [DeedView.model_validate(event) for event in export.history]
    return message


def _file(file: File) -> FileView:
    is_stored = file.status == FileStatus.STORED
    return FileView(
        path=path_of(file.id, file.name),
        name=file.name,
        content_type=file.content_type,
        size=file.size if is_stored else None,
        status=FileStatus(file.status),
        reason=file.reason,
        id=file.id,
        created_at=file.created_at,
    )


@router.delete("/{contact_id}", response_model=Erased, responses=responses(404, 409))
async def erase_contact(contact_id: Id, service: ContactsDep, request: Request) -> Erased:
    """Erase a contact for good, with its messages, attempts, receipts, idempotency keys and conversations.

    Messages that wait to be sent to it are not sent. If the request is cut off, the rest is erased in the background,
    or by another request. An address of your own can't be erased.
    """
    erased = await service.erase(contact_id, actor=request.state.access.prefix, client=client_network(request))
    return Erased(**erased)
