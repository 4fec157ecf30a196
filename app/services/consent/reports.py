"""Acts on what providers report about the consent of recipients, in the transaction that stores the report.

The address is the one that the reported message went to. A group has none: no vendor tells which member it means.
Reports come late and in any order, so one changes nothing that was said after it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Row,
    Text,
    and_,
    any_,
    bindparam,
    case,
    func,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.addresses import sender_address
from app.consent import ConsentAction, ConsentScope, ConsentSource, ReportedConsent
from app.db.models import (
    ConsentEntry,
    Contact,
    ConversationParticipant,
    DeliveryAttempt,
    Message,
    StoredReceipt,
)
from app.db.statements.batches import TENANT, given, rows
from app.domain import AddressType, ParticipantRole
from app.services.consent.copies import is_of_copy
from app.services.consent.ledger import LIFTED_BY_PERSON, Said, grant, revoke
from app.services.consent.soft_bounces import has_bounced_too_often


class Effect(NamedTuple):
    """The change that a report makes; with `is_partial` for the topic of its message, or else for its channel."""

    action: ConsentAction
    source: ConsentSource
    is_partial: bool = False


_REVOKED, _GRANTED = ConsentAction.REVOKED, ConsentAction.GRANTED
#: `SOFT_BOUNCE` counts only in a row.
EFFECTS = {
    ReportedConsent.COMPLAINT: Effect(_REVOKED, ConsentSource.COMPLAINT),
    ReportedConsent.HARD_BOUNCE: Effect(_REVOKED, ConsentSource.HARD_BOUNCE),
    ReportedConsent.SOFT_BOUNCE: Effect(_REVOKED, ConsentSource.SOFT_BOUNCES),
    ReportedConsent.UNSUBSCRIBED: Effect(_REVOKED, ConsentSource.MAIL),
    ReportedConsent.SUBSCRIBED: Effect(_GRANTED, ConsentSource.MAIL),
    ReportedConsent.LEFT_GROUP: Effect(_REVOKED, ConsentSource.MAIL, is_partial=True),
    ReportedConsent.JOINED_GROUP: Effect(_GRANTED, ConsentSource.MAIL, is_partial=True),
    ReportedConsent.OPTED_OUT: Effect(_REVOKED, ConsentSource.VENDOR),
    ReportedConsent.NO_MARKETING: Effect(_REVOKED, ConsentSource.VENDOR, is_partial=True),
    ReportedConsent.OPTED_IN: Effect(_GRANTED, ConsentSource.VENDOR),
}
#: The sources of the refusals that end with an entry of each source; those of other entries are `LIFTED_BY_PERSON`.
_LIFTS: dict[str, Sequence[ConsentSource]] = {
    ConsentSource.MAIL: (ConsentSource.MAIL, ConsentSource.VENDOR),
    ConsentSource.VENDOR: (ConsentSource.VENDOR,),
    ConsentSource.API: list(ConsentSource),
    ConsentSource.IMPORT: list(ConsentSource),
}


@dataclass(frozen=True, slots=True)
class Report:
    """A provider's report about the recipient of a message.

    `receipt_id` is the stored receipt, None for an answer to `send`. `at` is the time of the report by the provider's
    clock, at most the present. If it is unknown, a refusal is as old as the last attempt of the message. `detail` is
    redacted. `recipient` is the normalised mail address that it is about, if that is known.
    """

    message_id: int
    consent: ReportedConsent
    detail: str | None = None
    receipt_id: int | None = None
    at: datetime | None = None
    recipient: str | None = None


_reported = rows(
    message_id=BigInteger(),
    consent=Text(),
    detail=Text(),
    receipt_id=BigInteger(),
    at=DateTime(timezone=True),
    recipient=Text(),
)
_COLUMNS = [column.name for column in _reported.c][:-1]
_last_attempt = (
    select(func.max(DeliveryAttempt.started_at))
    .where(DeliveryAttempt.tenant_id == TENANT, DeliveryAttempt.message_id == _reported.c.message_id)
    .correlate(_reported)
    .scalar_subquery()
)
_is_refusal = _reported.c.consent.in_([each.value for each, effect in EFFECTS.items() if effect.action is _REVOKED])
#: Locks the contact, so that an erasure either finds the entries or has removed the address before.
_ABOUT = (
    select(
        *(_reported.c[name] for name in _COLUMNS[:-2]),
        case((is_of_copy(_reported.c.message_id, _reported.c.recipient), _reported.c.recipient)).label("copied_to"),
        func.least(func.coalesce(_reported.c.at, case((_is_refusal, _last_attempt))), func.now()).label("at"),
        Message.channel,
        Message.topic,
        Message.details["sent_to"].astext.label("sent_to"),
        Contact.id.label("contact_id"),
        Contact.address,
        Contact.address_type,
    )
    .select_from(_reported)
    .join(Message, and_(Message.tenant_id == TENANT, Message.id == _reported.c.message_id))
    .join(
        ConversationParticipant,
        and_(
            ConversationParticipant.tenant_id == TENANT,
            ConversationParticipant.conversation_id == Message.conversation_id,
            ConversationParticipant.role == ParticipantRole.CONTACT.value,
        ),
    )
    .join(Contact, and_(Contact.tenant_id == TENANT, Contact.id == ConversationParticipant.contact_id))
    .where(Contact.erasing_since.is_(None), Contact.address_type != AddressType.GROUP.value)
    .order_by(Contact.id)
    .with_for_update(of=Contact, read=True, key_share=True)
)

#: Everything that was said about addresses, with the time at which it was said.
_HISTORY = (
    select(
        ConsentEntry.address,
        ConsentEntry.action,
        ConsentEntry.source,
        ConsentEntry.scope,
        ConsentEntry.scope_value,
        func.least(StoredReceipt.occurred_at, ConsentEntry.created_at).label("at"),
    )
    .outerjoin(StoredReceipt, and_(StoredReceipt.tenant_id == TENANT, StoredReceipt.id == ConsentEntry.receipt_id))
    .where(
        ConsentEntry.tenant_id == TENANT,
        ConsentEntry.address == any_(bindparam("addresses", type_=ARRAY(Text()))),
    )
)


class _Entry(NamedTuple):
    """An entry of the ledger, with the time at which it was said."""

    address: str
    action: str
    source: str
    scope: str
    scope_value: str
    at: datetime


class _Change(NamedTuple):
    effect: Effect
    said: Said
    at: datetime
    contact_id: int
    sent_to: str | None


async def act_on_reports(connection: AsyncConnection, tenant_id: int, reports: Sequence[Report]) -> None:
    """Revoke or give consent as reports say. The caller has locked the messages, and locks none afterwards.

    A refusal that holds already from the same source stays as it is, so a repeated report changes nothing.
    """
    if not reports:
        return
    values = [tuple(getattr(report, name) for name in _COLUMNS) for report in reports]
    about = (await connection.execute(_ABOUT, given(tenant_id, _COLUMNS, values))).all()
    changes = [_change(row) for row in about if not _is_passing(row)]
    addresses = {change.said.address for change in changes}
    history = await _history(connection, tenant_id, addresses)
    revoked = []
    for change in _newest_first(changes, _REVOKED):
        said_before = history[change.said.address]
        if _is_outdated(change, said_before):
            continue
        is_single = change.effect.source is not ConsentSource.SOFT_BOUNCES
        if is_single or await _has_bounced_too_often(connection, tenant_id, change, said_before):
            revoked.append(change.said)
    if revoked:
        await revoke(connection, tenant_id, revoked)
        history = await _history(connection, tenant_id, addresses)
    # By address, so that two transactions can't deadlock.
    for change in sorted(_newest_first(changes, _GRANTED), key=lambda change: change.said.address):
        if not _is_outdated(change, history[change.said.address]):
            await grant(
                connection,
                tenant_id,
                change.said,
                lifts=_LIFTS[change.effect.source],
                every_scope=not change.effect.is_partial,
                only_if_refused=change.effect.source is ConsentSource.VENDOR,
            )


async def _history(connection: AsyncConnection, tenant_id: int, addresses: Iterable[str]) -> dict[str, list[_Entry]]:
    history: dict[str, list[_Entry]] = {address: [] for address in addresses}
    for row in await connection.execute(_HISTORY, {"tenant": tenant_id, "addresses": list(history)}):
        history[row.address].append(_Entry(*row))
    return history


def _newest_first(changes: Iterable[_Change], action: ConsentAction) -> list[_Change]:
    """Of several that say the same, the ledger keeps the first."""
    return sorted((each for each in changes if each.effect.action is action), key=lambda each: each.at, reverse=True)


def _is_passing(about: Row[*tuple[Any, ...]]) -> bool:
    """True for a soft bounce of a copy: only those of mails are counted."""
    return about.copied_to is not None and about.consent == ReportedConsent.SOFT_BOUNCE


def _change(about: Row[*tuple[Any, ...]]) -> _Change:
    effect = EFFECTS[ReportedConsent(about.consent)]
    scope, value = ConsentScope.EVERYTHING, ""
    if effect.is_partial:
        scope, value = (
            (ConsentScope.CHANNEL, about.channel) if about.topic is None else (ConsentScope.TOPIC, about.topic)
        )
    address, address_type = about.address, about.address_type
    if about.copied_to is not None:
        address, address_type = about.copied_to, AddressType.EMAIL.value
    elif about.sent_to is not None:
        other = sender_address(about.sent_to, region="US", is_mail=True)
        address, address_type = other.value, other.type
    said = Said(
        address,
        address_type,
        effect.source,
        scope,
        value,
        message_id=about.message_id,
        receipt_id=about.receipt_id,
        detail=about.detail,
    )
    return _Change(effect, said, about.at, about.contact_id, about.sent_to)


def _is_outdated(change: _Change, history: Sequence[_Entry]) -> bool:
    """True if the opposite was said after the report."""
    is_opposed = _is_lifted_by if change.effect.action is _REVOKED else _is_refused_by
    return any(entry.at > change.at and is_opposed(entry, change) for entry in history)


def _is_lifted_by(entry: _Entry, change: _Change) -> bool:
    """True if an entry of the ledger ends refusals such as this one."""
    lifts = _LIFTS.get(entry.source, LIFTED_BY_PERSON)
    covers = entry.scope == ConsentScope.EVERYTHING or _has_scope_of(entry, change)
    return entry.action == _GRANTED and change.effect.source in lifts and covers


def _is_refused_by(entry: _Entry, change: _Change) -> bool:
    """True if an entry of the ledger is a refusal that this consent would end."""
    covers = not change.effect.is_partial or _has_scope_of(entry, change)
    return entry.action == _REVOKED and entry.source in _LIFTS[change.effect.source] and covers


def _has_scope_of(entry: _Entry, change: _Change) -> bool:
    return (entry.scope, entry.scope_value) == (change.said.scope, change.said.scope_value)


async def _has_bounced_too_often(
    connection: AsyncConnection, tenant_id: int, change: _Change, history: Sequence[_Entry]
) -> bool:
    """True if the soft bounces of the address count, since the team may have lifted earlier ones."""
    lifted = [entry.at for entry in history if _is_lifted_by(entry, change)]
    since = max(lifted, default=None)
    return await has_bounced_too_often(connection, tenant_id, change.contact_id, change.sent_to, since)
