"""The rules of sending: a served channel, a sender of the tenant's own, times ahead, and a daily cap.

A test tenant sends from the addresses of its live tenant.

`check` holds the channel, the sender, and the recipient where it is in doubt. `MessageService.send` adds the times
and the cap, which bind no repeat. A preview tells what all of them refuse.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.config import Settings
from app.db.models import Contact, Conversation, Message
from app.domain import Address, Direction, NewMessage
from app.errors import ChannelNotServed, FieldError, InvalidRequest
from app.providers.base import (
    WINDOW_CLOSED,
    OutboundMessage,
    ProviderFailure,
    TemplatesUnavailable,
    all_refusals,
)
from app.providers.chat.templates import FilledTemplate
from app.providers.mail.fields import MailFields
from app.providers.registry import provider_registry
from app.routing import route_of
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import Refusal, refusals_of
from app.services.consent.quiet_hours import QuietHoursRule
from app.services.consent.rule import Intended, stops
from app.services.files.attached import SentFiles
from app.services.limits.daily_caps import DailyCaps
from app.services.tenancy.addresses import AddressOwners
from app.services.tenancy.audit import RefusalLog
from app.services.tenancy.test_tenants import TestTenants

#: The same for an address of another tenant and for one that has no owner.
_NOT_YOURS = FieldError("body.from", "this address is not one of yours")
_NO_ANSWER = FieldError(
    "body.purpose", "this person has not written within 24 hours, and the key lacks the scope `service`"
)
_OUT_OF_WINDOW = FieldError("body.template", WINDOW_CLOSED)
#: Of a conversation, the latest messages among which that of the person is looked for.
_LATEST = 100
_NO_PROVIDER = FieldError("body.channel", "no provider here carries this channel")


@dataclass(frozen=True, slots=True)
class SendPreview:
    """The verdict of the rules on a message. `may_send_from` is false for a sender that is not the tenant's own.

    `refusal` is that of the recipient, for which it would be taken and not sent. `quiet_until` is the end of the
    quiet hours for which it would be held.
    """

    route: list[str]
    may_send_from: bool
    refused: list[FieldError]
    refusal: Refusal | None
    quiet_until: datetime | None


class SendRules:
    """Applies the rules to a message, before it is sent (`check`) or without sending it (`preview`)."""

    def __init__(
        self,
        settings: Settings,
        sessions: async_sessionmaker[AsyncSession],
        addresses: AddressOwners,
        tests: TestTenants,
        quiet_hours: QuietHoursRule,
        daily_caps: DailyCaps,
        refusals: RefusalLog,
        files: SentFiles,
    ) -> None:
        self._settings = settings
        self._files = files
        self._sessions = sessions
        self._addresses = addresses
        self._tests = tests
        self._quiet_hours = quiet_hours
        self._refusals = refusals
        self._hashes = AddressHashes(settings.consent_secrets)
        self.daily_caps = daily_caps

    async def check(self, message: NewMessage, *, actor: str | None, client: str | None) -> list[str]:
        """The route of the message.

        Raises `ChannelNotServed`, or `InvalidRequest` for a sender that is not the tenant's own, which is recorded
        with `actor` and `client` as in `AuditEvent`. Also for a recipient in doubt who has never written.
        """
        live_id = await self._tests.live_of(message.tenant_id)
        route = route_of(self._settings, message.channel, is_test=live_id != message.tenant_id)
        if not route:
            reason = f"No provider here carries {message.channel}. Configure one: docs/providers.md."
            raise ChannelNotServed(reason)
        if await self._addresses.tenant_of(message.sender) != live_id:
            self._refusals.refused(
                "sender_denied", tenant_id=message.tenant_id, actor=actor, client=client, channel=message.channel
            )
            raise InvalidRequest("A message is sent from an address of one's own.", errors=[_NOT_YOURS])
        if _is_doubtful(message) and (errors := await self._doubts(message)):
            raise InvalidRequest("No message can be sent to this address.", errors=errors)
        return route

    async def passed_times(self, message: NewMessage) -> list[FieldError]:
        """The times of a message that have passed, by the database's clock.

        Only a repeat of an earlier request may name such a time.
        """
        if message.send_at is None and message.expires_at is None:
            return []
        async with self._sessions() as session:
            now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        times = [
            (message.send_at, FieldError("body.send_at", "a message is scheduled for the future")),
            (message.expires_at, FieldError("body.expires_at", "this time is over")),
        ]
        return [error for moment, error in times if moment is not None and moment <= now]

    async def out_of_reach(self, message: NewMessage, route: Sequence[str]) -> list[FieldError]:
        """The reason why free text does not reach the recipient now, or a template never, by the first provider."""
        provider = provider_registry.get(route[0]) if route else None
        if message.details.template is not None:
            can_be_sent = provider is None or provider.takes_templates or provider.simulated
            return [] if can_be_sent else [FieldError("body.template", "this channel has no templates")]
        if provider is None or provider.reply_window is None:
            return []
        is_open = exists().where(
            Conversation.tenant_id == message.tenant_id,
            Conversation.customer_address == message.sender.value,
            Conversation.contact_address == message.recipient.value,
            Conversation.window_until > func.now(),
        )
        async with self._sessions() as session:
            return [] if (await session.execute(select(is_open))).scalar_one() else [_OUT_OF_WINDOW]

    async def held(self, message: NewMessage) -> NewMessage:
        """The message, with a later time to leave if it would leave in the quiet hours of its recipient."""
        if not self._quiet_hours.may_hold(message.tenant_id, message.purpose):
            return message
        until = await self.quiet_until(message)
        if until is None:
            return message
        return replace(message, send_at=until, details=replace(message.details, quiet_until=until))

    async def quiet_until(self, message: NewMessage) -> datetime | None:
        """The end of the quiet hours in which a message would leave; None if it may leave."""
        return await self._quiet_hours.holds_until(
            message.tenant_id,
            message.recipient.value,
            topic=message.topic,
            purpose=message.purpose,
            moment=message.send_at or datetime.now(UTC),
        )

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
        live_id = await self._tests.live_of(tenant_id)
        route = route_of(self._settings, channel, is_test=live_id != tenant_id)
        refused = [] if route else [_NO_PROVIDER]
        refusal = quiet_until = None
        is_own = sender is not None and await self._addresses.tenant_of(sender) == live_id
        if sender is not None and not is_own:
            refused.append(_NOT_YOURS)
        if message is not None:
            refused += await self._doubts(message)
            refused += await self.passed_times(message)
            refused += await self.misused_purpose(message, may_serve=may_serve)
            refusal = await self.refusal_of(message)
            quiet_until = await self.quiet_until(message)
            if cap_reached := await self.daily_caps.refusal_of(
                message.tenant_id, message.channel, message.recipient, message.body, copies=len(message.copies)
            ):
                refused.append(FieldError("body.to", cap_reached.detail))
            refused += await self.out_of_reach(message, route)
            missing = await self.missing_files(message)
            refused += missing or await self._refused_by_provider(route, message)
        return SendPreview(route, is_own, refused, refusal, quiet_until)

    async def missing_files(self, message: NewMessage) -> list[FieldError]:
        """An error for each attachment that names a file which is not there."""
        return await self._files.errors_of(message.tenant_id, message.attachments) if message.attachments else []

    async def _refused_by_provider(self, route: Sequence[str], message: NewMessage) -> list[FieldError]:
        """The refusals of the first provider of a route; a route may name one that is not there yet."""
        provider = provider_registry.get(route[0]) if route else None
        if provider is None:
            return []
        if message.details.template is not None:  # its refusals know the templates that it has listed lately
            with suppress(ProviderFailure, TemplatesUnavailable, NotImplementedError):
                await provider.templates()
        payload = await self._files.prepared(message.tenant_id, _payload(message))
        return [FieldError(f"body.{name}", said) for name, said in all_refusals(provider, payload).items()]

    async def _doubts(self, message: NewMessage) -> list[FieldError]:
        """The reasons to refuse recipients in doubt; none for a contact, because a person who wrote is answered."""
        doubtful = [each for each in (message.recipient, *message.copies) if each.doubt is not None]
        if not doubtful:
            return []
        contacts = select(Contact.address, Contact.address_type).where(
            Contact.tenant_id == message.tenant_id,
            tuple_(Contact.address, Contact.address_type).in_([(each.value, each.type) for each in doubtful]),
        )
        async with self._sessions() as session:
            known = {(row.address, row.address_type) for row in await session.execute(contacts)}
        return [
            FieldError("body.to" if each is message.recipient else "body.cc", each.doubt or "")
            for each in doubtful
            if (each.value, each.type) not in known
        ]


def _is_doubtful(message: NewMessage) -> bool:
    return message.recipient.doubt is not None or any(each.doubt is not None for each in message.copies)


def _payload(message: NewMessage) -> OutboundMessage:
    """The message as a provider would get it."""
    return OutboundMessage(
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
        mail=MailFields.of(message.details.document()),
        template=FilledTemplate.of(message.details.document()),
    )
