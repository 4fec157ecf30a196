"""The rules of sending: a channel that is served, a sender of the tenant's own, times ahead, and a daily cap.

`check` holds the channel and the sender. `MessageService.send` adds the times and the cap, which bind no repeat. A
preview tells what all four refuse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.config import Settings
from app.domain import Address, NewMessage
from app.errors import ChannelNotServed, FieldError, InvalidRequest
from app.providers.base import OutboundMessage
from app.providers.registry import provider_registry
from app.routing import route_of
from app.services.limits.daily_caps import DailyCaps
from app.services.tenancy.addresses import AddressOwners
from app.services.tenancy.audit import RefusalLog

#: The same for an address of another tenant and for one that has no owner.
_NOT_YOURS = FieldError("body.from", "this address is not one of yours")
_NO_PROVIDER = FieldError("body.channel", "no provider here carries this channel")


@dataclass(frozen=True, slots=True)
class SendPreview:
    """The verdict of the rules on a message. `may_send_from` is false for a sender that is not the tenant's own."""

    route: list[str]
    may_send_from: bool
    refused: list[FieldError]


class SendRules:
    """Applies the rules to a message, before it is sent (`check`) or without sending it (`preview`)."""

    def __init__(
        self, settings: Settings, addresses: AddressOwners, daily_caps: DailyCaps, refusals: RefusalLog
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._refusals = refusals
        self.daily_caps = daily_caps

    async def check(self, message: NewMessage, *, actor: str | None, client: str | None) -> None:
        """Raises `ChannelNotServed`, or `InvalidRequest` for a sender that is not the tenant's own.

        The latter is recorded with `actor` and `client`, as in `AuditEvent`.
        """
        if not route_of(self._settings, message.channel):
            reason = f"No provider here carries {message.channel}. Configure one: docs/providers.md."
            raise ChannelNotServed(reason)
        if await self._addresses.tenant_of(message.sender) != message.tenant_id:
            self._refusals.refused(
                "sender_denied", tenant_id=message.tenant_id, actor=actor, client=client, channel=message.channel
            )
            raise InvalidRequest("A message is sent from an address of one's own.", errors=[_NOT_YOURS])

    async def preview(
        self, tenant_id: int, channel: str, sender: Address | None, message: NewMessage | None
    ) -> SendPreview:
        """Everything that the rules refuse, and the first provider of the route; nothing is counted or recorded.

        A message that can't be read is None, and so is its sender.
        """
        route = route_of(self._settings, channel)
        refused = [] if route else [_NO_PROVIDER]
        is_own = sender is not None and await self._addresses.tenant_of(sender) == tenant_id
        if sender is not None and not is_own:
            refused.append(_NOT_YOURS)
        if message is not None:
            refused += passed_times(message)
            if cap_reached := await self.daily_caps.refusal_of(
                message.tenant_id, message.channel, message.recipient, message.body
            ):
                refused.append(FieldError("body.to", cap_reached.detail))
            refused += _refused_by_provider(route, message)
        return SendPreview(route, is_own, refused)


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
        from_address=message.sender.value,
        to_address=message.recipient.value,
        body=message.body,
        idempotency_key="",
        subject=message.subject,
        attachments=message.attachments,
    )
    return [FieldError(f"body.{name}", sentence) for name, sentence in provider.refusals(payload).items()]
