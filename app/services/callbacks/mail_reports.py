"""The message that a report by mail is about.

Every sender can forge a report. The Message-ID is known only to those who got the earlier mail, and
has the time of its creation to the microsecond. A status is changed only for the recipient that a report names.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, Row, Text, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.addresses import InvalidAddress, sender_address
from app.db.models import DeliveryAttempt, Message
from app.db.statements.batches import TENANT
from app.db.statements.sanitize import storable_text
from app.domain import Channel, Direction
from app.providers.base import REPORT, MailReport, Receipt
from app.providers.mail.fields import MailFields
from app.providers.registry import provider_registry
from app.references import parse_reference, reference_of

_SENT_MAIL = (
    select(
        Message.id,
        Message.to_address,
        Message.created_at,
        Message.retry_count,
        DeliveryAttempt.provider_type,
        Message.details,
    )
    .join(DeliveryAttempt, DeliveryAttempt.message_id == Message.id)
    .where(
        Message.tenant_id == TENANT,
        DeliveryAttempt.tenant_id == TENANT,
        Message.channel == Channel.EMAIL.value,
        Message.direction == Direction.OUTBOUND.value,
    )
    .order_by(DeliveryAttempt.number.desc())
    .limit(1)
)
_BY_REFERENCE = _SENT_MAIL.where(
    Message.id == bindparam("id", type_=BigInteger()),
    Message.created_at == bindparam("created_at", type_=DateTime(timezone=True)),
)
#: By the id that a vendor has given a mail in place of ours.
_BY_THEIR_ID = _SENT_MAIL.where(
    DeliveryAttempt.provider_type == any_(bindparam("providers", type_=ARRAY(Text()))),
    DeliveryAttempt.provider_message_id == any_(bindparam("their_ids", type_=ARRAY(Text()))),
    DeliveryAttempt.provider_message_id.is_not(None),  # says that the partial index will do
)

_Sent = Row[int, str, datetime, int, str, dict[str, Any] | None]


async def reported_receipt(
    connection: AsyncConnection, tenant_id: int, report: MailReport, *, region: str
) -> tuple[str, Receipt] | None:
    """The receipt that a report stands for, with the provider that sent the message; None if it names no message.

    `tenant_id` is the owner of the address that the report came to. Only its messages are found by a vendor's id.
    """
    for message_id in report.message_ids:
        reference = storable_text(message_id).rpartition("@")[0]
        claimed = parse_reference(reference)
        if claimed is not None:
            tenant, id, created_at = claimed
            values = {"tenant": tenant, "id": id, "created_at": created_at}
            sent = (await connection.execute(_BY_REFERENCE, values)).first()
        else:
            tenant, sent = tenant_id, await _sent_as(connection, tenant_id, message_id)
        if sent is not None:
            is_latest = claimed is None or reference == _reference_of(tenant, sent, sent.retry_count)
            return sent.provider_type, _receipt(report, tenant, sent, is_latest=is_latest, region=region)
    return None


async def _sent_as(connection: AsyncConnection, tenant_id: int, message_id: str) -> _Sent | None:
    """The mail whose vendor's id is a Message-ID, or the part of one before the @."""
    providers = [name for name, provider in provider_registry.items() if Channel.EMAIL in provider.channels]
    ids = [message_id, f"<{message_id}>", message_id.rpartition("@")[0]]
    values = {"tenant": tenant_id, "providers": providers, "their_ids": [storable_text(id) for id in ids]}
    return (await connection.execute(_BY_THEIR_ID, values)).first()


def _receipt(report: MailReport, tenant_id: int, sent: _Sent, *, is_latest: bool, region: str) -> Receipt:
    status, detail, consent = report.status, report.detail, report.consent
    possible = sent.to_address, *MailFields.of(sent.details).copies
    named = next((each for each in possible if _names(report, each, region)), None)
    if status is not None and not is_latest:
        status, detail, consent = None, f"It is about an earlier try: {detail}", None
    elif status is not None and named is None:
        status, detail, consent = None, f"It is about another address: {detail}", None
    return Receipt(
        event_id=f"{REPORT}{report.report_id}",
        status=status,
        idempotency_key=_reference_of(tenant_id, sent),
        detail=detail,
        raw={"kind": report.kind.value, "message_ids": [*report.message_ids], "recipients": [*report.recipients]},
        recipient=named or sent.to_address,
        consent=consent,
    )


def _reference_of(tenant_id: int, sent: _Sent, retry_count: int = 0) -> str:
    return reference_of(tenant_id, sent.id, sent.created_at, retry_count)


def _names(report: MailReport, address: str, region: str) -> bool:
    compared = sender_address(address, region=region, is_mail=True).value
    for written in report.recipients:
        try:
            if sender_address(written, region=region, is_mail=True).value == compared:
                return True
        except InvalidAddress:
            continue
    return False
