"""Stores the items of callbacks: receipts in the ledger, inbound messages in conversations."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Self

from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.addresses import InvalidAddress, any_address, sender_address
from app.config import Settings
from app.db.connectivity.outage import sqlstate_of
from app.db.models import Conversation
from app.db.statements.sanitize import storable_document, storable_moment, storable_text
from app.details import NO_DETAILS, MessageDetails
from app.domain import DEFAULT_TENANT_ID, Address, Channel, Direction, NewMessage, StoredMessage
from app.metrics.catalogue import RECEIPTS
from app.providers.base import CallbackItem, FileFacts, InboundMessage, MailReport, Receipt, Unread
from app.providers.registry import provider_registry
from app.providers.toolbox.texts import members_of
from app.references import parse_reference
from app.routing import TEST_CARRIER
from app.services.accept.aliases import Aliases
from app.services.accept.group_commit import GroupCommit
from app.services.accept.writer import MessageWriter
from app.services.callbacks.mail_claims import MailClaimsCheck
from app.services.callbacks.mail_reports import reported_receipt
from app.services.delivery.results.receipts import attach_parked, store_receipts
from app.services.files.store import FileStore, NewFile, kept_file, new_files
from app.services.tenancy.addresses import AddressOwners
from app.services.tenancy.test_tenants import TestTenants

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LONGEST_ID = 512
#: The sender of a text that came without a number, as RFC 3323 calls it.
_WITHHELD = "anonymous"
#: The classes of SQLSTATE for errors of a row: its data, a violated constraint, an exceeded limit.
_ROW_ERRORS = ("22", "23", "54")


@dataclass(slots=True)
class StorableItems:
    """The items of one callback, ready to be stored, and a sentence for each one that can't be.

    `reported` are receipts that came as mails, with the providers that sent the messages. `addresses` are the
    normalised addresses of the people in the items, `tenants` the tenants that they name.
    """

    receipts: list[Receipt] = field(default_factory=list)
    reported: list[tuple[str, Receipt]] = field(default_factory=list)
    messages: list[NewMessage] = field(default_factory=list)
    files: list[NewFile] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)
    tenants: set[int] = field(default_factory=set)

    @property
    def count(self) -> int:
        return len(self.receipts) + len(self.messages)

    @property
    def hash_of_ids(self) -> str | None:
        """A hash of the items' ids, the same when they come again; None where no item could be read."""
        ids = [receipt.event_id for receipt in self.receipts]
        ids += [str(message.provider_message_id) for message in self.messages]
        return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest() if ids else None

    @property
    def tenant_id(self) -> int:
        """The tenant that all of the items name, or else tenant 1. The tenant of a fault is unknown."""
        return next(iter(self.tenants)) if len(self.tenants) == 1 and not self.faults else DEFAULT_TENANT_ID


class CallbackItems:
    """Stores items of any provider. An async context manager, because receipts are committed in groups.

    `on_logged` is called with a tenant whose log has grown. `on_kept` is called when messages are stored whose files
    the vendor keeps.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        writer: MessageWriter,
        addresses: AddressOwners,
        tests: TestTenants,
        aliases: Aliases,
        files: FileStore,
        *,
        on_logged: Callable[[int], None],
        on_kept: Callable[[], None] | None = None,
    ) -> None:
        self._engine = engine
        self._deadline_seconds = settings.database_statement_timeout_seconds
        self._writer = writer
        self._addresses = addresses
        self._tests = tests
        self._aliases = aliases
        self._files = files
        self._on_logged = on_logged
        self._on_kept = on_kept
        self._region = settings.default_region
        self._claims = MailClaimsCheck(engine, settings, addresses)
        self._ledger: GroupCommit[tuple[str, Receipt], set[int]] = GroupCommit(
            engine,
            settings,
            _store,
            name="receipts",
            tenant_of=lambda _: DEFAULT_TENANT_ID,  # the statement looks the tenant up
        )

    async def __aenter__(self) -> Self:
        await self._ledger.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._ledger.__aexit__(*exception)

    async def accept(self, provider_type: str, *items: CallbackItem) -> None:
        """Store items; returns after the commit. A duplicate changes nothing.

        Raises `ValueError` if an item can't be stored, once the others are, and what `GroupCommit.submit` raises.
        """
        storable = await self.read(provider_type, items)
        if faults := storable.faults + await self.store(provider_type, storable):
            raise ValueError(" ".join(faults))

    async def read(self, provider_type: str, items: Sequence[CallbackItem | Unread]) -> StorableItems:
        """Make items ready to be stored, one by one, so that a faulty one does not affect the others."""
        storable = StorableItems()
        for number, item in enumerate(items, start=1):
            try:
                if isinstance(item, Unread):
                    storable.faults.append(f"Event {number}: {item.reason}.")
                elif isinstance(item, Receipt):
                    await self._add_receipt(storable, item)
                else:
                    await self._add_message(storable, provider_type, item)
            except (ValueError, RecursionError) as error:
                storable.faults.append(f"Event {number}: {error}.")
        return storable

    async def store(self, provider_type: str, storable: StorableItems) -> list[str]:
        """Store items; returns after the commit, with a sentence for each one that could not be stored.

        Raises what `GroupCommit.submit` raises, except for an item's own fault. Some may be stored then.
        """
        if storable.files:
            await self._files.keep(storable.files)
        outcomes = await asyncio.gather(
            *(self._record(provider_type, receipt) for receipt in storable.receipts),
            *(self._record(*reported) for reported in storable.reported),
            *(self._write(message) for message in storable.messages),
            return_exceptions=True,
        )
        if self._on_kept is not None and any(file.source for file in storable.files):
            self._on_kept()
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in errors:
            if not _is_row_error(error):
                raise error
        return [f"One of its events can't be stored: {type(error).__name__}." for error in errors]

    async def _record(self, provider_type: str, receipt: Receipt) -> None:
        for tenant_id in await self._ledger.submit((provider_type, receipt)):
            self._on_logged(tenant_id)
        RECEIPTS.values[provider_type, receipt.status.value if receipt.status else "none"] += 1

    async def _write(self, message: NewMessage) -> StoredMessage:
        """Store a message. Receipts of one that was sent elsewhere may have come before it."""
        stored = await self._writer.write(message)
        if message.direction is Direction.INBOUND:
            await self._open_window(message, stored)
        if message.direction is Direction.OUTBOUND and not stored.duplicate:
            identity = stored.id, str(message.provider_type), str(message.provider_message_id)
            async with asyncio.timeout(self._deadline_seconds), self._engine.begin() as connection:
                await attach_parked(connection, message.tenant_id, [identity])
            self._on_logged(message.tenant_id)
        return stored

    async def _open_window(self, message: NewMessage, stored: StoredMessage) -> None:
        """Note until when the vendor takes free text to the person; a repeat changes nothing."""
        provider = provider_registry.get(message.provider_type or "")
        if provider is None or provider.reply_window is None:
            return
        until = func.least(message.sent_at or func.now(), func.now()) + provider.reply_window
        window = select(until.label("until")).cte("window")
        opened = (
            update(Conversation)
            .where(Conversation.tenant_id == message.tenant_id, Conversation.id == stored.conversation_id)
            .where(func.coalesce(Conversation.window_until < window.c.until, True))
            .values(window_until=window.c.until)
        )
        async with asyncio.timeout(self._deadline_seconds), self._engine.begin() as connection:
            await connection.execute(opened)

    async def _add_receipt(self, storable: StorableItems, receipt: Receipt) -> None:
        for id_ in (receipt.event_id, receipt.provider_message_id):
            _must_be_short(id_)
        storable.receipts.append(_storable_receipt(receipt))
        claimed = parse_reference(receipt.idempotency_key)
        storable.tenants.add(claimed[0] if claimed else DEFAULT_TENANT_ID)
        storable.addresses |= self._readable(receipt.named)
        if receipt.recipient and receipt.recipient.strip():
            recipient = sender_address(storable_text(receipt.recipient), region=self._region)
            storable.addresses.add(recipient.value)
            if receipt.alias and claimed:
                await self._learn(storable, claimed[0], receipt.alias, recipient)

    def _readable(self, written: Iterable[str]) -> set[str]:
        """The normalised addresses of those that can be read."""
        found = set()
        for each in written:
            with suppress(InvalidAddress):
                found.add(sender_address(storable_text(each), region=self._region).value)
        return found

    async def _learn(self, storable: StorableItems, tenant_id: int, written: str, address: Address) -> None:
        """Store an alias at once, because the next message of the same callback may need it."""
        alias = any_address(written, region=self._region)
        storable.addresses.add(alias.value)
        await self._aliases.learn(tenant_id, alias, address)

    async def _add_message(self, storable: StorableItems, provider_type: str, item: InboundMessage) -> None:
        if not _NAME.fullmatch(item.channel) or not _NAME.fullmatch(item.type):
            raise ValueError("channel and type are names in lower case")
        _must_be_short(item.provider_message_id)
        if item.claims is not None:
            item = await self._claims.settled(item, item.claims)
        is_ours = item.direction is Direction.OUTBOUND
        ours, theirs = (item.from_address, item.to_address) if is_ours else (item.to_address, item.from_address)
        customer = self._address(ours, item.channel)
        tenant_id = await self._tenant_of(customer, provider_type)
        if item.report is not None:  # it counts, even if its own message can't be stored
            await self._add_report(storable, tenant_id, item.report)
        withheld = "" if item.channel == Channel.EMAIL else _WITHHELD
        person = self._address(theirs.strip() or withheld, item.channel)
        if item.alias:
            await self._learn(storable, tenant_id, item.alias, person)
        contact = await self._aliases.resolved(tenant_id, person)
        sender, recipient = (customer, contact) if is_ours else (contact, customer)
        message = NewMessage(
            tenant_id=tenant_id,
            direction=item.direction,
            channel=item.channel,
            type=item.type,
            sender=sender,
            recipient=recipient,
            subject=storable_text(item.subject),
            body=storable_text(item.body),
            attachments=[storable_text(each) for each in item.attachments if each not in item.kept],
            quoted=storable_text(item.quoted),
            html=storable_text(item.html),
            details=_storable_details(item.details),
            sent_at=storable_moment(item.sent_at),
            provider_type=provider_type,
            provider_message_id=storable_text(item.provider_message_id),
            handled_keyword=item.handled_keyword,
        )
        identity = message.tenant_id, provider_type, storable_text(item.provider_message_id)
        if item.kept:
            kept = [kept_file(*identity, storable_text(each), _storable_facts(item.kept[each])) for each in item.kept]
            message.attachments.extend(file.address for file in kept)
            storable.files += kept
        if item.files:
            new = await asyncio.to_thread(new_files, *identity, item.files)  # hashes all of their bytes
            message.attachments.extend(file.address for file in new)
            storable.files += new
        storable.messages.append(message)
        storable.addresses |= {sender.value, recipient.value, person.value, *members_of(sender.value)}
        if item.details.author:
            storable.addresses.add(storable_text(item.details.author))
        storable.tenants.add(message.tenant_id)

    async def _tenant_of(self, customer: Address, provider_type: str) -> int:
        """The tenant that gets a message; its test tenant where the message comes from the test carrier."""
        tenant_id = await self._addresses.tenant_of(customer)
        if provider_type != TEST_CARRIER:
            return tenant_id
        test_id = await self._tests.test_of(tenant_id)
        if test_id is None:
            raise ValueError("the tenant of this address has no test tenant")
        return test_id

    def _address(self, written: str, channel: str) -> Address:
        return sender_address(storable_text(written), region=self._region, is_mail=channel == Channel.EMAIL)

    async def _add_report(self, storable: StorableItems, tenant_id: int, report: MailReport) -> None:
        """Add the receipt of the message that a report is about, which may have been sent by any provider."""
        async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
            found = await reported_receipt(connection, tenant_id, report, region=self._region)
        if found is not None:
            storable.reported.append((found[0], _storable_receipt(found[1])))


async def _store(connection: AsyncConnection, receipts: list[tuple[str, Receipt]]) -> list[set[int]]:
    """Store a batch; each answer has the tenants whose logs may have grown."""
    return [await store_receipts(connection, receipts)] * len(receipts)


def _storable_receipt(receipt: Receipt) -> Receipt:
    """The same, without what PostgreSQL can't store."""
    return replace(
        receipt,
        event_id=storable_text(receipt.event_id),
        provider_message_id=storable_text(receipt.provider_message_id),
        idempotency_key=storable_text(receipt.idempotency_key),
        detail=storable_text(receipt.detail),
        occurred_at=storable_moment(receipt.occurred_at),
        raw=storable_document(receipt.raw),
    )


def _storable_details(details: MessageDetails) -> MessageDetails:
    """The same, without what PostgreSQL can't store."""
    if details is NO_DETAILS:
        return details
    return replace(
        details,
        from_name=storable_text(details.from_name),
        author=storable_text(details.author),
        reply_to=[_listed(address) for address in details.reply_to],
        cc=[_listed(address) for address in details.cc],
        date=storable_moment(details.date),
    )


def _listed(written: str) -> str:
    """An address in a list of a mail. What is not ASCII is normalised, so that in lower case all are."""
    text = storable_text(written)
    if text.isascii() and "xn--" not in text.lower():
        return text
    try:
        return sender_address(text, region="US", is_mail=True).value
    except InvalidAddress:
        return text


def _storable_facts(facts: FileFacts) -> FileFacts:
    return FileFacts(storable_text(facts.name), storable_text(facts.content_type))


def _is_row_error(error: BaseException) -> bool:
    sqlstate = sqlstate_of(error) if isinstance(error, DBAPIError) else None
    return isinstance(error, ValueError) or (sqlstate or "").startswith(_ROW_ERRORS)


def _must_be_short(id_: str | None) -> None:
    if id_ is not None and not 0 < len(id_) <= _LONGEST_ID:
        raise ValueError(f"an id has 1 to {_LONGEST_ID} characters")
