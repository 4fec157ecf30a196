"""Reading stored messages: which ones to list, one with its attempts, and its timeline."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, DateTime, Text, bindparam, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import selectinload

from app.config import Settings
from app.db.models import (
    ConsentEntry,
    DeliveryAttempt,
    File,
    Message,
    MessageEvent,
    MetadataEntry,
    StoredReceipt,
    Tenant,
)
from app.db.statements.batches import TENANT
from app.db.statements.json_text import constant
from app.db.statements.paging import JsonPages, Page, Source
from app.db.statements.reads import Read, Reads
from app.domain import WAITING, AttemptOutcome, MessageStatus
from app.errors import MessageNotFound
from app.files import file_ids_in
from app.routing import route_of
from app.services.delivery.claiming.order import first_before
from app.services.delivery.pacing.provider_states import WELL, health_of_providers
from app.services.messages.json_views import MESSAGE, MESSAGE_DETAIL
from app.services.messages.metadata import Pairs, has_pair, pair_is, pair_parameters
from app.services.messages.pauses import pause_of
from app.services.messages.timeline import Step, timeline_of


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """The messages to list; None stands for all. Times are those of storing, from inclusive to exclusive.

    `provider_type` is the provider that a message came from or that took it, or else the last that was asked.
    Messages have all pairs of `metadata`.
    """

    status: MessageStatus | None = None
    provider_type: str | None = None
    conversation_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    metadata: Pairs = ()

    async def page(self, reads: Reads, tenant_id: int, *, limit: int, cursor: str | None) -> Page[str]:
        """A page of a tenant's messages as JSON, the newest first."""
        given: dict[str, Any] = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        pairs = given.pop("metadata")
        given.pop("status", None)
        first_id, end_id = await ids_within(reads, tenant_id, self.since, self.until)
        given |= {} if first_id is None else {"first_id": first_id}
        given |= {} if end_id is None else {"end_id": end_id}
        pages = _pages_of(frozenset(given), self.status, len(pairs))
        given |= pair_parameters(pairs)
        return await pages.fetch(reads, {"tenant": tenant_id, **given}, limit=limit, cursor=cursor)


async def ids_within(
    reads: Reads, tenant_id: int, since: datetime | None, until: datetime | None
) -> tuple[int | None, int | None]:
    """The first id and the end of ids that messages stored between two times can have; None for no limit."""
    first = None if since is None else await _first_since(reads, tenant_id, _shifted(since, -_DEVIATION))
    end = None if until is None else await _first_since(reads, tenant_id, _shifted(until, _DEVIATION))
    return first, end


#: Ids are in the order of time of storing, but for what transactions overtake each other, and clocks are set.
_DEVIATION = timedelta(minutes=1)

_PROVIDER = bindparam("provider_type", type_=Text())
#: The messages that a provider has, and those that it was asked for last.
_OF_PROVIDER = (
    Source(-Message.id, [Message.provider_type == _PROVIDER]),
    Source(
        -DeliveryAttempt.message_id,
        [
            Message.provider_type.is_(None),
            DeliveryAttempt.tenant_id == TENANT,
            DeliveryAttempt.message_id == Message.id,
            DeliveryAttempt.number == Message.attempt_count,
            DeliveryAttempt.provider_type == _PROVIDER,
            # As its index has it. Every other outcome is recorded with the provider's name in the message.
            or_(DeliveryAttempt.outcome.is_(None), DeliveryAttempt.outcome == constant(AttemptOutcome.UNKNOWN.value)),
        ],
    ),
)
_CONDITIONS: Mapping[str, ColumnElement[bool]] = {
    "conversation_id": Message.conversation_id == bindparam("conversation_id", type_=BigInteger()),
    "since": Message.created_at >= bindparam("since", type_=DateTime(timezone=True)),
    "until": Message.created_at < bindparam("until", type_=DateTime(timezone=True)),
}
_FIRST_ID, _END_ID = bindparam("first_id", type_=BigInteger()), bindparam("end_id", type_=BigInteger())


@functools.cache
def _pages_of(names: frozenset[str], status: MessageStatus | None, pairs: int) -> JsonPages:
    wanted = [condition for name, condition in _CONDITIONS.items() if name in names]
    sources: Sequence[Source] = ()
    if status is not None:
        wanted.append(Message.status == constant(status.value))  # as the partial indexes have it
        if status in WAITING:
            wanted.append(Message.due_at.is_not(None))
        else:
            sources = [Source(-Message.id)]
    if "provider_type" in names:
        sources = _OF_PROVIDER
    if pairs:
        wanted += [has_pair("message", Message.id, number) for number in range(1, pairs)]
        # The number 0 keeps PostgreSQL from taking the order of the messages for that of their pairs.
        found = [
            *pair_is(MetadataEntry, "message", 0),
            Message.id == MetadataEntry.subject_id + literal_column("0", BigInteger()),
        ]
        conditions = [each.conditions for each in sources] or [()]
        sources = [Source(MetadataEntry.subject_id, [*found, *each], is_plain=True) for each in conditions]
    sources = [replace(each, conditions=[*each.conditions, *_limits(names, each)]) for each in sources]
    if not sources:
        wanted += _limits(names, Source(Message.id, is_plain=True))
    return JsonPages(
        MESSAGE, Message.tenant_id == TENANT, *wanted, order=(Message.id,), newest_first=True, sources=sources
    )


def _limits(names: frozenset[str], source: Source) -> list[ColumnElement[bool]]:
    """The conditions on ids that follow from times, in terms of the column of a source."""
    if source.is_plain:
        limits = {"first_id": source.id >= _FIRST_ID, "end_id": source.id < _END_ID}
    else:
        limits = {"first_id": source.id <= -_FIRST_ID, "end_id": source.id > -_END_ID}
    return [limit for name, limit in limits.items() if name in names]


_FROM_ID = bindparam("from_id", type_=BigInteger())
_id_and_time: list[Any] = [Message.id, Message.created_at]
_following = select(*_id_and_time).where(Message.tenant_id == TENANT, Message.id >= _FROM_ID)
_FOLLOWING = Read(_following.order_by(Message.id).limit(1))
_LAST = Read(_following.order_by(Message.id.desc()).limit(1))


async def _first_since(reads: Reads, tenant_id: int, moment: datetime) -> int:
    """An id with all messages before a time below it, and those since then not: found by bisection of the ids."""

    async def at(read: Read, from_id: int) -> tuple[int, bool]:
        """The id that is found, and whether its message is of that time or later."""
        rows = await reads.fetch(read, {"tenant": tenant_id, "from_id": from_id})
        return (rows[0][0], rows[0][1] >= moment) if rows else (0, True)

    low, is_later = await at(_FOLLOWING, 0)
    high, last_is_later = await at(_LAST, 0)
    if is_later or not last_is_later:
        return low if is_later else high + 1
    while low < high:
        middle = (low + high) // 2
        found, is_later = await at(_FOLLOWING, middle)
        low, high = (low, middle) if is_later else (found + 1, high)
    return low


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment


_DETAIL = Read(
    select(MESSAGE_DETAIL).where(Message.tenant_id == TENANT, Message.id == bindparam("message", type_=BigInteger()))
)


async def read_message(reads: Reads, tenant_id: int, message_id: int) -> str:
    """A message with its attempts, as JSON. Raises `MessageNotFound`."""
    found = await reads.fetch(_DETAIL, {"tenant": tenant_id, "message": message_id})
    if not found:
        raise _not_found()
    json: str = found[0][0]
    return json


async def load_message(session: AsyncSession, tenant_id: int, message_id: int) -> Message:
    """A message with its attempts. Raises `MessageNotFound`."""
    message = await session.get(Message, (tenant_id, message_id), options=[selectinload(Message.attempts)])
    if message is None:
        raise _not_found()
    return message


def _not_found() -> MessageNotFound:
    return MessageNotFound("There is no message with this id.")


async def load_timeline(session: AsyncSession, settings: Settings, tenant_id: int, message_id: int) -> list[Step]:
    """Every step of a message in order. Raises `MessageNotFound`."""
    message = await load_message(session, tenant_id, message_id)
    receipts = select(StoredReceipt).where(
        StoredReceipt.tenant_id == tenant_id, StoredReceipt.message_id == message_id
    )
    deeds = select(MessageEvent).where(MessageEvent.tenant_id == tenant_id, MessageEvent.message_id == message_id)
    said = (await session.scalars(receipts.order_by(StoredReceipt.id))).all()
    done = (await session.scalars(deeds.order_by(MessageEvent.id))).all()
    refusals = select(ConsentEntry).where(
        ConsentEntry.tenant_id == tenant_id,
        ConsentEntry.id.in_([each.consent_entry_id for each in done if each.consent_entry_id is not None]),
    )
    refused = {entry.id: entry for entry in await session.scalars(refusals)}
    blockers = await _blockers(await session.connection(), message, settings)
    fetched = select(File).where(File.tenant_id == tenant_id, File.id.in_(file_ids_in(message.attachments)))
    files = (await session.scalars(fetched)).all() if message.attachments else []
    return timeline_of(message, said, done, refused, blockers, files)


async def _blockers(connection: AsyncConnection, message: Message, settings: Settings) -> list[str]:
    """The reasons why a message is not tried: a pause, an earlier one, or trouble with each of its providers."""
    if message.due_at is None:
        return []
    if pause := await pause_of(connection, message):
        return [pause]
    if message.status == MessageStatus.SCHEDULED:
        return []
    before = await first_before(connection, message.tenant_id, message.id)
    blockers = [f"message {before} of its conversation has to leave first"] if before else []
    in_doubt = [each.provider_type for each in message.attempts if each.outcome == AttemptOutcome.UNKNOWN]
    is_test = select(Tenant.test_of.is_not(None)).where(Tenant.id == message.tenant_id)
    route = route_of(settings, message.channel, is_test=bool((await connection.execute(is_test)).scalar()))
    asked = in_doubt[-1:] or route
    health = await health_of_providers(connection)
    troubles = [(name, health.get(name, WELL).trouble_for(message.tenant_id)) for name in asked]
    if all(trouble for _, trouble in troubles):
        blockers += [f"{name} {trouble}" for name, trouble in troubles]
    return blockers
