"""Checks what the headers of an inbound mail claim: its contact, whom it was sent to first, and what it answers.

Any sender can write headers. So none of them moves a mail to another tenant: the address at which the vendor received
it decides. An answered mail has to be one of that tenant. Only MAIL_FORWARDED_ADDRESSES may name another tenant's
address.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Executable, Text, any_, bindparam, exists, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.addresses import InvalidAddress, sender_address
from app.config import Settings
from app.db.models import Conversation, DeliveryAttempt, Message
from app.db.statements.batches import TENANT, given, rows, same
from app.domain import DEFAULT_TENANT_ID, Address, Direction
from app.providers.base import InboundMessage, MailClaims, Proof
from app.references import parse_reference
from app.services.tenancy.addresses import AddressOwners

_wanted = rows(customer_address=Text())
#: Those of the wanted addresses that have conversations as the tenant's own.
_IN_USE = select(_wanted.c.customer_address).where(exists().where(same(Conversation, _wanted, "customer_address")))
_IDS = bindparam("ids", type_=ARRAY(BigInteger()))
_BY_ID = select(Message.id, Message.created_at).where(
    Message.tenant_id == TENANT, Message.id == any_(_IDS), Message.direction == Direction.OUTBOUND.value
)
_ids = rows(provider_type=Text(), provider_message_id=Text())
_BY_PROVIDER_ID = select(
    DeliveryAttempt.provider_type, DeliveryAttempt.provider_message_id, DeliveryAttempt.message_id
).where(
    same(DeliveryAttempt, _ids, "provider_type", "provider_message_id"),
    DeliveryAttempt.provider_message_id.is_not(None),  # lets PostgreSQL use the partial index
)


class MailClaimsCheck:
    """Checks the claims of mails. What the installation has no use for costs no query."""

    def __init__(self, engine: AsyncEngine, settings: Settings, addresses: AddressOwners) -> None:
        self._engine = engine
        self._addresses = addresses
        self._region = settings.default_region
        forwarded = settings.mail_forwarded_addresses.items()
        self._forwarded = {self._read(address).value: first for address, first in forwarded}
        self._deadline_seconds = settings.database_statement_timeout_seconds

    async def settled(self, item: InboundMessage, claims: MailClaims) -> InboundMessage:
        """The message with what its claims have proved. Raises `InvalidAddress` for an unreadable recipient."""
        to_address = self._forwarded.get(self._read(item.to_address).value) or await self._sent_to(
            item, claims.sent_to
        )
        recipient = self._read(to_address)
        tenant_id = await self._addresses.tenant_of(recipient)
        name, from_address = await self._contact(item, claims.senders, recipient, tenant_id)
        answers = await self._answered(tenant_id, claims.answers) if claims.answers else None
        details = replace(item.details, from_name=name, in_reply_to_message=answers)
        return replace(item, to_address=to_address, from_address=from_address, details=details, claims=None)

    async def _sent_to(self, item: InboundMessage, claimed: Sequence[tuple[str, Proof]]) -> str:
        """The first of the claimed addresses that is proved to be the tenant's own, or else the recipient.

        The owner of an address decides. One without an owner is proved by its conversations, or as `Proof` says; by
        headers alone only where the recipient has no conversations yet. A vendor's address never gets any.
        """
        if not claimed:
            return item.to_address
        recipient = self._read(item.to_address)
        tenant_id = await self._addresses.tenant_of(recipient)
        unowned: list[tuple[Address, Proof]] = []
        for written, proof in claimed:
            if (address := self._readable(written)) is None:
                continue
            owner = await self._addresses.owner_of(address)
            if owner == tenant_id:
                return written
            if owner is None and tenant_id == DEFAULT_TENANT_ID:
                unowned.append((address, proof))
        if not unowned:
            return item.to_address
        values = [(recipient.value,), *((address.value,) for address, _ in unowned)]
        found = await self._found(_IN_USE, given(tenant_id, ("customer_address",), values))
        in_use = {row.customer_address for row in found}
        proved = [address for address, _ in unowned if address.value in in_use]
        proved += [address for address, proof in unowned if proof is Proof.DOMAIN]
        if recipient.value not in in_use and await self._addresses.owner_of(recipient) is None:
            proved += [address for address, proof in unowned if proof is Proof.HEADERS]
        return proved[0].written if proved else item.to_address

    async def _contact(
        self, item: InboundMessage, claimed: Sequence[tuple[str, str]], recipient: Address, tenant_id: int
    ) -> tuple[str | None, str]:
        """The name and address of the first sender that is not the tenant's own, or else of the first."""
        if len(claimed) > 1:
            for name, written in claimed:
                address = self._readable(written)
                if address is None or address.value == recipient.value:
                    continue
                if await self._addresses.owner_of(address) != tenant_id:
                    return name or None, written
        return item.details.from_name, item.from_address

    async def _answered(self, tenant_id: int, claimed: Sequence[tuple[str, str]]) -> int | None:
        """The id of the first message of the tenant's that the claims name."""
        ours = {("", id): parsed for vendor, id in claimed if not vendor and (parsed := parse_reference(id))}
        vendors = [(vendor, id) for vendor, id in claimed if vendor]
        found: dict[tuple[str, str], int] = {}
        if ours:
            parameters = {"tenant": tenant_id, "ids": [id for _, id, _ in ours.values()]}
            sent = {(tenant_id, row.id, row.created_at) for row in await self._found(_BY_ID, parameters)}
            found |= {claim: parsed[1] for claim, parsed in ours.items() if parsed in sent}
        if vendors:
            parameters = given(tenant_id, ("provider_type", "provider_message_id"), vendors)
            for row in await self._found(_BY_PROVIDER_ID, parameters):
                found[row.provider_type, row.provider_message_id] = row.message_id
        return next((found[claim] for claim in claimed if claim in found), None)

    def _readable(self, written: str) -> Address | None:
        try:
            return self._read(written)
        except InvalidAddress:
            return None

    def _read(self, written: str) -> Address:
        return sender_address(written, region=self._region, is_mail=True)

    async def _found(self, statement: Executable, parameters: dict[str, Any]) -> Sequence[Any]:
        async with asyncio.timeout(self._deadline_seconds), self._engine.connect() as connection:
            return (await connection.execute(statement, parameters)).all()
