"""What providers say by themselves, whichever way it comes: receipts into the ledger, messages into conversations."""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.addresses import InvalidAddress, any_address, sender_address
from app.config import Settings
from app.db.sanitize import storable_document, storable_moment, storable_text
from app.domain import DEFAULT_TENANT_ID, Direction, NewMessage
from app.providers.base import CallbackItem, InboundFile, InboundMessage, Receipt, Unread
from app.services.accept.group_commit import GroupCommit
from app.services.accept.writer import MessageWriter
from app.services.delivery.receipts import store_receipts
from app.services.delivery.references import tenant_in
from app.services.messages.files import FileStore, NewFile, new_files
from app.services.tenancy.addresses import AddressBook

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LONGEST_ID = 512
#: The classes of SQLSTATE that say that a row is at fault: its values, what it breaks, what it exceeds.
_OF_THE_ROW = ("22", "23", "54")


@dataclass(slots=True)
class Reading:
    """The events of one call as they can be stored, and a sentence for each that can't be.

    `addresses` are the normalised ones of whom they are about, `tenants` whose they claim to be.
    """

    receipts: list[Receipt] = field(default_factory=list)
    messages: list[NewMessage] = field(default_factory=list)
    files: list[NewFile] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)
    tenants: set[int] = field(default_factory=set)

    @property
    def count(self) -> int:
        return len(self.receipts) + len(self.messages)

    @property
    def identity(self) -> str | None:
        """A hash of which events they are, the same when they come again; None where none could be read."""
        ids = [receipt.event_id for receipt in self.receipts] + [
            str(each.provider_message_id) for each in self.messages
        ]
        return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest() if ids else None

    @property
    def tenant_id(self) -> int:
        """The tenant that all of them name; otherwise tenant 1. Whose a fault is, nobody knows."""
        return next(iter(self.tenants)) if len(self.tenants) == 1 and not self.faults else DEFAULT_TENANT_ID


class CallbackItems:
    """Takes events of any provider; an async context manager, because receipts are committed in groups."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        writer: MessageWriter,
        addresses: AddressBook,
        files: FileStore,
    ) -> None:
        self._writer = writer
        self._addresses = addresses
        self._files = files
        self._region = settings.default_region
        self._ledger: GroupCommit[tuple[str, Receipt], None] = GroupCommit(
            engine,
            _store,
            batch_size=settings.accept_batch_size,
            queue_limit=settings.accept_queue_limit,
            deadline_seconds=settings.database_statement_timeout_seconds,
            tenant_of=lambda _: DEFAULT_TENANT_ID,  # whose they are shows when they are stored
            name="receipts",
        )

    async def __aenter__(self) -> Self:
        await self._ledger.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._ledger.__aexit__(*exception)

    async def accept(self, provider_type: str, *events: CallbackItem) -> None:
        """Keep events; returns after the commit. One that is known already changes nothing.

        Raises `ValueError` once the others are stored, if one can't be, and what `GroupCommit.submit` raises.
        """
        reading = await self.read(provider_type, events)
        faults = reading.faults + await self.store(provider_type, reading)
        if faults:
            raise ValueError(" ".join(faults))

    async def read(self, provider_type: str, events: Sequence[CallbackItem | Unread]) -> Reading:
        """Make of events what will be stored, each by itself, so that a bad one costs no other."""
        reading = Reading()
        for number, event in enumerate(events, start=1):
            try:
                if isinstance(event, Unread):
                    reading.faults.append(f"Event {number}: {event.reason}.")
                elif isinstance(event, Receipt):
                    self._add_receipt(reading, event)
                else:
                    message = await self._new_message(provider_type, event)
                    if event.files:
                        message = await self._with_files(reading, message, event.files)
                    reading.messages.append(message)
                    reading.addresses |= {message.sender.value, message.recipient.value}
                    reading.tenants.add(message.tenant_id)
            except (ValueError, RecursionError) as error:
                reading.faults.append(f"Event {number}: {error}.")
        return reading

    async def store(self, provider_type: str, reading: Reading) -> list[str]:
        """Store what was read; returns after the commit, with a sentence for each event that could not be.

        Raises what `GroupCommit.submit` raises where that is no event's fault; some may be stored then.
        """
        if reading.files:
            await self._files.keep(reading.files)
        outcomes = await asyncio.gather(
            *(self._ledger.submit((provider_type, receipt)) for receipt in reading.receipts),
            *(self._writer.write(message) for message in reading.messages),
            return_exceptions=True,
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in errors:
            if not _is_of_the_row(error):
                raise error
        return [f"One of its events can't be stored: {type(error).__name__}." for error in errors]

    async def _with_files(self, reading: Reading, message: NewMessage, files: Sequence[InboundFile]) -> NewMessage:
        assert message.provider_type is not None
        assert message.provider_message_id is not None
        identity = message.tenant_id, message.provider_type, message.provider_message_id
        new = await asyncio.to_thread(new_files, *identity, files)  # hashes all of their bytes
        reading.files += new
        return replace(message, attachments=[*message.attachments, *(file.address for file in new)])

    def _add_receipt(self, reading: Reading, receipt: Receipt) -> None:
        for id_ in (receipt.event_id, receipt.provider_message_id):
            _must_be_short(id_)
        reading.receipts.append(
            replace(
                receipt,
                event_id=storable_text(receipt.event_id),
                provider_message_id=storable_text(receipt.provider_message_id),
                idempotency_key=storable_text(receipt.idempotency_key),
                detail=storable_text(receipt.detail),
                occurred_at=storable_moment(receipt.occurred_at),
                raw=storable_document(receipt.raw),
            )
        )
        reading.tenants.add(tenant_in(receipt.idempotency_key) or DEFAULT_TENANT_ID)
        if receipt.recipient:
            reading.addresses.add(self._normalised(receipt.recipient))

    def _normalised(self, written: str) -> str:
        try:
            return any_address(written, region=self._region).value
        except InvalidAddress:
            return storable_text(written)

    async def _new_message(self, provider_type: str, event: InboundMessage) -> NewMessage:
        if not _NAME.fullmatch(event.channel) or not _NAME.fullmatch(event.type):
            raise ValueError("channel and type are names in lower case")
        _must_be_short(event.provider_message_id)
        recipient = any_address(event.to_address, region=self._region)
        return NewMessage(
            tenant_id=await self._addresses.tenant_of(recipient),
            direction=Direction.INBOUND,
            channel=event.channel,
            type=event.type,
            sender=sender_address(event.from_address, region=self._region),
            recipient=recipient,
            subject=storable_text(event.subject),
            body=storable_text(event.body),
            attachments=[storable_text(attachment) for attachment in event.attachments],
            quoted=storable_text(event.quoted),
            sent_at=storable_moment(event.sent_at),
            provider_type=provider_type,
            provider_message_id=storable_text(event.provider_message_id),
        )


async def _store(connection: AsyncConnection, receipts: list[tuple[str, Receipt]]) -> list[None]:
    await store_receipts(connection, receipts)
    return [None] * len(receipts)


def _is_of_the_row(error: BaseException) -> bool:
    sqlstate = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return isinstance(error, ValueError) or (sqlstate or "").startswith(_OF_THE_ROW)


def _must_be_short(id_: str | None) -> None:
    if id_ is not None and not 0 < len(id_) <= _LONGEST_ID:
        raise ValueError(f"an id has 1 to {_LONGEST_ID} characters")
