"""The rules of sending: a served channel, a sender of the tenant's own, times ahead, and a daily cap.

`check` holds the channel, the sender, and the recipient where it is in doubt. `MessageService.send` adds the times
and the cap, which bind no repeat. A preview tells what all of them refuse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.config import Settings
from app.db.models import Contact, Conversation, Message
from app.domain import Address, Direction, NewMessage
from app.errors import ChannelNotServed, FieldError, InvalidRequest
from app.providers.base import OutboundMessage
from app.providers.registry import provider_registry
from app.routing import route_of
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import Refusal, refusals_of
from app.services.consent.rule import Intended, stops
from app.services.limits.daily_caps import DailyCaps
from app.services.tenancy.addresses import AddressOwners
from app.services.tenancy.audit import RefusalLog

#: The same for an address of another tenant and for one that has no owner.
_NOT_YOURS = FieldError("body.from", "this address is not one of yours")
_NO_ANSWER = FieldError(
    "body.purpose", "this person has not written within 24 hours, and the key lacks the scope `service`"
)
#: Of a conversation, the latest messages among which that of the person is looked for.
_LATEST = 100
_NO_PROVIDER = FieldError("body.channel", "no provider here carries this channel")


@dataclass(frozen=True, slots=True)
class SendPreview:
    """The verdict of the rules on a message. `may_send_from` is false for a sender that is not the tenant's own.

    `refusal` is that of the recipient, for which it would be taken and not sent.
    """

    route: list[str]
    may_send_from: bool
    refused: list[FieldError]
    refusal: Refusal | None


class SendRules:
    """Applies the rules to a message, before it is sent (`check`) or without sending it (`preview`)."""

    def __init__(
        self,
        settings: Settings,
        sessions: async_sessionmaker[AsyncSession],
        addresses: AddressOwners,
        daily_caps: DailyCaps,
        refusals: RefusalLog,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._addresses = addresses
        self._refusals = refusals
        self._hashes = AddressHashes(settings.consent_secrets)
        self.daily_caps = daily_caps

    async def check(self, message: NewMessage, *, actor: str | None, client: str | None) -> None:
        """Raises `ChannelNotServed`, or `InvalidRequest` for a sender that is not the tenant's own, which is recorded
        with `actor` and `client` as in `AuditEvent`. Also for a recipient in doubt who has never written.
        """
        if not route_of(self._settings, message.channel):
            reason = f"No provider here carries {message.channel}. Configure one: docs/providers.md."
            raise ChannelNotServed(reason)
        if await self._addresses.tenant_of(message.sender) != message.tenant_id:
            self._refusals.refused(
                "sender_denied", tenant_id=message.tenant_id, actor=actor, client=client, channel=message.channel
            )
            raise InvalidRequest("A message is sent from an address of one's own.", errors=[_NOT_YOURS])
        if message.recipient.doubt is not None and (errors := await self._doubts(message)):
            raise InvalidRequest("No message can be sent to this address.", errors=errors)

    async def misused_purpose(self, message: NewMessage, *, may_serve: bool) -> list[FieldError]:
        """The error of a service message that is no answer; `may_serve` is true for a key with the scope for it."""
        if message.purpose is None or may_serve:
            return []
        pair = (message.sender.value, message.recipient.value)
        latest = (
            select(Message.direction, Message.created_at)
            .join(Conversation, Conversation.id == Message.conversation_id)
            .where(
                Message.tenant_id == message.tenant_id,
                Conversation.tenant_id == message.tenant_id,
                tuple_(Conversation.customer_address, Conversation.contact_address) == pair,
            )
            .order_by(Message.sent_at.desc(), Message.id.desc())
            .limit(_LATEST)
            .subquery("latest")
        )
        is_recent = latest.c.created_at > func.now() - timedelta(hours=24)
        answers = exists().where(latest.c.direction == Direction.INBOUND.value, is_recent)
        async with self._sessions() as session:
            return [] if (await session.execute(select(answers))).scalar_one() else [_NO_ANSWER]

    async def refusal_of(self, message: NewMessage) -> Refusal | None:
        """The refusal of its recipient that stops the message."""
        known_as = self._hashes.known_as(message.tenant_id, message.recipient.value)
        intended = Intended(message.channel, message.sender.value, message.topic, message.purpose)
        async with self._sessions() as session:
            found = await refusals_of(await session.connection(), message.tenant_id, known_as)
        return next((each for each in found if stops(each.scope, each.scope_value, intended)), None)

    async def preview(
        self, tenant_id: int, channel: str, sender: Address | None, message: NewMessage | None, *, may_serve: bool
    ) -> SendPreview:
        """Everything that the rules refuse, and the first provider of the route; nothing is counted or recorded.

        A message that can't be read is None, and so is its sender.
        """
        route = route_of(self._settings, channel)
        refused = [] if route else [_NO_PROVIDER]
        refusal = None
        is_own = sender is not None and await self._addresses.tenant_of(sender) == tenant_id
        if sender is not None and not is_own:
            refused.append(_NOT_YOURS)
        if message is not None:
            refused += await self._doubts(message)
            refused += passed_times(message)
            refused += await self.misused_purpose(message, may_serve=may_serve)
            refusal = await self.refusal_of(message)
            if cap_reached := await self.daily_caps.refusal_of(
                message.tenant_id, message.channel, message.recipient, message.body
            ):
                refused.append(FieldError("body.to", cap_reached.detail))
            refused += _refused_by_provider(route, message)
        return SendPreview(route, is_own, refused, refusal)

    async def _doubts(self, message: NewMessage) -> list[FieldError]:
        """The reason to refuse a recipient in doubt; none for a contact, because a person who wrote is answered."""
        recipient = message.recipient
        if recipient.doubt is None:
            return []
        is_contact = exists().where(
            Contact.tenant_id == message.tenant_id,
            Contact.address == recipient.value,
            Contact.address_type == recipient.type,
        )
        async with self._sessions() as session:
            found = (await session.execute(select(is_contact))).scalar_one()
        return [] if found else [FieldError("body.to", recipient.doubt)]


def passed_times(message: NewMessage) -> list[FieldError]:
    """The times of a message that have passed. Only a repeat of an earlier request may name such a time."""
    if message.send_at is None and message.expires_at is None:
        return []
    now = datetime.now(UTC)
    times = [
        (message.send_at, FieldError("body.send_at", "a message is scheduled for the future")),
        (message.expires_at, FieldError("body.expires_at", "this time is over")),
    ]
    return [error for moment, error in times if moment is not None and moment <= now]


def _refused_by_provider(route: Sequence[str], message: NewMessage) -> list[FieldError]:
    """The refusals of the first provider of a route; a route may name one that is not there yet."""
    provider = provider_registry.get(route[0]) if route else None
    if provider is None:
        return []
    payload = OutboundMessage(
        message_id=0,  # it has none yet, and no refusal depends on it
        channel=message.channel,
        type=message.type,
        from_address=message.sender.spelling,
        to_address=message.recipient.spelling,
        body=message.body,
        idempotency_key="",
        subject=message.subject,
        html=message.html,
        attachments=message.attachments,
    )
    return [FieldError(f"body.{name}", sentence) for name, sentence in provider.refusals(payload).items()]
