"""The check of a message against its recipient's refusals: part of the claim, and once more before it is handed over.

The claim checks in its own statement (`refused_by`). A message that then waits for its turn is checked again
(`LastCheck`), so that nothing leaves later than a moment after a refusal is committed.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    exists,
    false,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, array
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from app.consent import ConsentScope
from app.db.models import ConsentEntry, Conversation, Message, MessageEvent, Suppression
from app.db.statements.batches import TENANT, given, rows
from app.domain import MessageStatus
from app.services.consent.copies import Copies
from app.services.consent.hashes import GROUP, AddressHashes
from app.services.consent.ledger import SENTENCES
from app.services.consent.rule import stops_in_sql
from app.services.event_log.entries import entries_of_suppressed

#: Seconds for which a check holds: so long after a refusal a message may still be handed over.
CHECK_HOLDS_SECONDS = 0.4

#: A message to a group goes to each of its members.
_recipients = case(
    (
        Conversation.contact_address.startswith(GROUP),
        func.string_to_array(func.substr(Conversation.contact_address, len(GROUP) + 1), ","),
    ),
    else_=array([Conversation.contact_address]),
)
_stops = stops_in_sql(Message.channel, Conversation.customer_address, Message.topic, Message.purpose)
_refusal = (
    select(Suppression.entry_id)
    .join(Conversation, and_(Conversation.tenant_id == TENANT, Conversation.id == Message.conversation_id))
    .where(Suppression.tenant_id == TENANT, Suppression.address == any_(_recipients), _stops)
    .limit(1)
    .correlate(Message)
    .scalar_subquery()
)


def _has(*conditions: ColumnElement[bool] | InstrumentedAttribute[bool]) -> ColumnElement[bool]:
    """True if the tenant has such suppressions; asked once in a statement, for any number of rows."""
    return select(exists().where(Suppression.tenant_id == TENANT, *conditions)).scalar_subquery()


#: In a statement about the row `Message`: the entry of a refusal that stops it, null if there is none.
REFUSED_BY: ColumnElement[int | None] = case((_has(), _refusal), else_=null())
#: True if the tenant has refusals of erased people, which only `LastCheck` finds.
HAS_HASHED = _has(Suppression.is_hashed)  # as its partial index has it


_SENTENCES = cast(bindparam("sentences", json.dumps(SENTENCES), type_=Text()), JSONB)


def suppress(picked: CTE) -> tuple[CTE, CTE, CTE]:
    """End the messages that refusals stop: of `id` and `refused_by`. Then note it in their history and the log."""
    suppressed = (
        update(Message)
        .where(
            Message.tenant_id == TENANT,
            Message.id == picked.c.id,
            ConsentEntry.tenant_id == TENANT,
            ConsentEntry.id == picked.c.refused_by,
        )
        .values(
            status=MessageStatus.SUPPRESSED.value, status_reason=_SENTENCES[ConsentEntry.source].astext, due_at=null()
        )
        .returning(Message.id, Message.conversation_id, picked.c.refused_by)
        .cte("suppressed")
    )
    kind = literal(MessageStatus.SUPPRESSED.value, Text())
    noted = (
        insert(MessageEvent)
        .from_select(
            ["tenant_id", "message_id", "kind", "consent_entry_id"],
            select(TENANT, suppressed.c.id, kind, suppressed.c.refused_by),
        )
        .returning(MessageEvent.id)
        .cte("noted")
    )
    return suppressed, noted, entries_of_suppressed(suppressed)


#: In a statement about the row `Conversation`: its contact refuses everything.
IS_REFUSED = case(
    (
        _has(),
        exists().where(
            Suppression.tenant_id == TENANT,
            Suppression.address == any_(_recipients),
            Suppression.scope == ConsentScope.EVERYTHING.value,
        ),
    ),
    else_=false(),
)


class RefusedBy(NamedTuple):
    """The entry of the refusal that stops a message, and the reason in a sentence."""

    entry_id: int
    reason: str


class _Asked(NamedTuple):
    message_id: int
    sent_to: str | None
    answer: asyncio.Future[RefusedBy | None]


_RECIPIENTS = (
    select(Message.id, _recipients.label("addresses"), _has().label("has_any"), HAS_HASHED.label("has_hashed"))
    .join(Conversation, and_(Conversation.tenant_id == TENANT, Conversation.id == Message.conversation_id))
    .where(Message.tenant_id == TENANT, Message.id == any_(bindparam("ids", type_=ARRAY(BigInteger()))))
)
_asked = rows(message_id=BigInteger(), address=Text())
_FIND = (
    select(_asked.c.message_id, Suppression.entry_id, Suppression.source)
    .join(Message, and_(Message.tenant_id == TENANT, Message.id == _asked.c.message_id))
    .join(Conversation, and_(Conversation.tenant_id == TENANT, Conversation.id == Message.conversation_id))
    .join(Suppression, and_(Suppression.tenant_id == TENANT, Suppression.address == _asked.c.address, _stops))
)


class LastCheck:
    """Looks for refusals of messages that are about to be handed over, of many messages in one statement."""

    def __init__(self, engine: AsyncEngine, hashes: AddressHashes) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._hashes = hashes
        self.copies = Copies(engine, hashes)
        self._waiting: dict[int, list[_Asked]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def refusal_of(self, tenant_id: int, message_id: int, sent_to: str | None = None) -> RefusedBy | None:
        """The refusal that stops a message now; `sent_to` is another normalised address that it goes to.

        Raises the database's error if it can't be told.
        """
        asked = _Asked(message_id, sent_to, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant_id, []).append(asked)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="consent-check")
        return await asked.answer

    async def _look(self) -> None:
        while self._waiting:
            tenant_id = next(iter(self._waiting))
            asked = self._waiting.pop(tenant_id)
            found: dict[int, RefusedBy] | Exception
            try:
                found = await self._find(tenant_id, asked)
            except Exception as error:
                found = error
            for each in asked:
                if each.answer.done():
                    continue
                if isinstance(found, Exception):
                    each.answer.set_exception(found)
                else:
                    each.answer.set_result(found.get(each.message_id))
        self._looking = None

    async def _find(self, tenant_id: int, asked: Sequence[_Asked]) -> dict[int, RefusedBy]:
        also = {each.message_id: [each.sent_to] for each in asked if each.sent_to is not None}
        async with self._engine.connect() as connection:
            ids = {"tenant": tenant_id, "ids": [each.message_id for each in asked]}
            values: list[tuple[int, str]] = []
            for row in await connection.execute(_RECIPIENTS, ids):
                addresses = [*row.addresses, *also.get(row.id, [])] if row.has_any else []
                if row.has_hashed:
                    addresses += [hash for each in addresses for hash in self._hashes.of(tenant_id, each)]
                values += [(row.id, address) for address in addresses]
            if not values:
                return {}
            found = await connection.execute(_FIND, given(tenant_id, ("message_id", "address"), values))
            return {row.message_id: RefusedBy(row.entry_id, SENTENCES[row.source]) for row in found}
