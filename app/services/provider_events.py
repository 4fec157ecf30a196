"""What providers say by themselves, whichever way it comes: receipts into the ledger, messages into conversations."""

import asyncio
from typing import Self

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.addresses import any_address
from app.config import Settings
from app.domain import DEFAULT_TENANT_ID, Direction, NewMessage
from app.providers.base import InboundMessage, ProviderEvent, Receipt
from app.services.batching import GroupCommit
from app.services.receipts import store_receipts
from app.services.tenant_addresses import AddressBook
from app.services.writer import MessageWriter


class ProviderEventService:
    """Takes events of any provider; an async context manager, because receipts are committed in groups."""

    def __init__(
        self, engine: AsyncEngine, settings: Settings, writer: MessageWriter, addresses: AddressBook
    ) -> None:
        self._writer = writer
        self._addresses = addresses
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

    async def accept(self, provider_type: str, *events: ProviderEvent) -> None:
        """Keep events; returns after the commit. One that is known already changes nothing.

        Raises `InvalidAddress` for an inbound message between addresses that can't be read, and what
        `GroupCommit.submit` raises.
        """
        await asyncio.gather(*(self._accept(provider_type, event) for event in events))

    async def _accept(self, provider_type: str, event: ProviderEvent) -> None:
        if isinstance(event, Receipt):
            await self._ledger.submit((provider_type, event))
        else:
            await self._writer.write(await self._new_message(provider_type, event))

    async def _new_message(self, provider_type: str, event: InboundMessage) -> NewMessage:
        recipient = any_address(event.to_address, region=self._region)
        return NewMessage(
            tenant_id=await self._addresses.tenant_of(recipient),
            direction=Direction.INBOUND,
            channel=event.channel,
            type=event.type,
            sender=any_address(event.from_address, region=self._region),
            recipient=recipient,
            subject=event.subject,
            body=event.body,
            attachments=event.attachments,
            sent_at=event.sent_at,
            provider_type=provider_type,
            provider_message_id=event.provider_message_id,
        )


async def _store(connection: AsyncConnection, receipts: list[tuple[str, Receipt]]) -> list[None]:
    await store_receipts(connection, receipts)
    return [None] * len(receipts)
