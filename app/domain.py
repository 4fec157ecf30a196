"""The words of the service: every other file speaks this language, and this one imports nothing of ours."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

#: Where everything lives until an installation has tenants of its own.
DEFAULT_TENANT_ID = 1

#: The span of dates that can be stored: from the first of these, and before the second. It ends long before the years
#: that Python or PostgreSQL alone can hold.
EARLIEST_DATE, DATES_END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)


def is_possible_date(moment: datetime) -> bool:
    """True for an aware time within the span of dates that can be stored."""
    return EARLIEST_DATE <= moment < DATES_END


class KeyScope(StrEnum):
    """What an API key may do. None includes another."""

    SEND = "send"  #: hand messages over, call them back, have them tried again
    READ = "read"  #: see messages, conversations and how the providers fare
    ADMIN = "admin"  #: erase people; of tenant 1, also manage the installation: tenants, keys, addresses, providers


class Direction(StrEnum):
    INBOUND = "inbound"  #: from a contact to a customer, handed over by a provider
    OUTBOUND = "outbound"  #: from a customer to a contact, handed to a provider


class ParticipantRole(StrEnum):
    CUSTOMER = "customer"  #: the address that belongs to whoever uses this service
    CONTACT = "contact"  #: the person at the other end


class Channel(StrEnum):
    """How a message travels. The database takes any name, so that a provider can bring a channel of its own."""

    SMS = "sms"  #: texts, with or without media
    EMAIL = "email"


class MessageType(StrEnum):
    SMS = "sms"
    MMS = "mms"
    EMAIL = "email"


class AddressType(StrEnum):
    """What kind of address a contact has. The database takes any name: `slack:C024BE91L` is of the kind `slack`."""

    PHONE = "phone"  #: E.164, a short code, or an alphanumeric sender
    EMAIL = "email"


class MessageStatus(StrEnum):
    """Where a message is. What a provider says later can only raise the rank (`STATUS_RANK`)."""

    SCHEDULED = "scheduled"  #: stored; its time has not come
    QUEUED = "queued"  #: stored; no provider has it, or one asked to try again later
    SENDING = "sending"  #: claimed by a worker, outcome not yet known
    UNKNOWN = "unknown"  #: the request left and no answer came: it may or may not have gone out
    SENT = "sent"  #: accepted by the provider
    UNDELIVERED = "undelivered"  #: the provider could not deliver it after all
    FAILED = "failed"  #: refused for good, or every attempt is used up
    CANCELED = "canceled"  #: called back before it left
    EXPIRED = "expired"  #: its time ran out before it left
    SUPPRESSED = "suppressed"  #: not sent, because the contact does not want it
    DELIVERED = "delivered"  #: it arrived, says the provider
    READ = "read"  #: it was opened, says the provider
    RECEIVED = "received"  #: inbound: it came in, and that is its end


#: A receipt only ever raises the rank. `delivered` outranks the failures, because carriers correct themselves.
STATUS_RANK = {
    MessageStatus.SCHEDULED: 1,
    MessageStatus.QUEUED: 2,
    MessageStatus.SENDING: 3,
    MessageStatus.UNKNOWN: 4,
    MessageStatus.SENT: 5,
    MessageStatus.UNDELIVERED: 6,
    MessageStatus.FAILED: 6,
    MessageStatus.CANCELED: 6,
    MessageStatus.EXPIRED: 6,
    MessageStatus.SUPPRESSED: 6,
    MessageStatus.DELIVERED: 7,
    MessageStatus.READ: 8,
    MessageStatus.RECEIVED: 9,
}


class AttemptOutcome(StrEnum):
    """What one hand-over to a provider came to. An attempt without an outcome is still under way, or in doubt."""

    ACCEPTED = "accepted"  #: the provider took the message
    TEMPORARY = "temporary"  #: not now; trying again can help
    PERMANENT = "permanent"  #: not ever; trying again can't help
    UNKNOWN = "unknown"  #: the request left, and whether it arrived can't be told


class CallbackVerdict(StrEnum):
    """What became of a call of a provider."""

    TAKEN = "taken"  #: genuine, and all that it says is stored
    NOT_UNDERSTOOD = "not_understood"  #: genuine, and not all of it could be read or stored
    REFUSED = "refused"  #: not the provider's, as far as could be told


@dataclass(frozen=True, slots=True)
class Address:
    """One end of a message: `value` is what is compared and sent to, `written` is what the caller wrote."""

    type: str
    value: str
    written: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that is about to be stored. Times are aware UTC; a `sent_at` of None is the moment it is stored.

    An outbound one leaves at `send_at`, or at once, and not after `expires_at`. With an `idempotency_key` a second
    one with the same key and `fingerprint` is the same message. `quoted` is what a mail that came in repeats of those
    before it.
    """

    direction: Direction
    channel: str
    type: str
    sender: Address
    recipient: Address
    body: str
    subject: str | None = None
    attachments: list[str] = field(default_factory=list)
    sent_at: datetime | None = None
    provider_type: str | None = None
    provider_message_id: str | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    tenant_id: int = DEFAULT_TENANT_ID
    quoted: str | None = None

    @property
    def customer(self) -> Address:
        return self.sender if self.direction is Direction.OUTBOUND else self.recipient

    @property
    def contact(self) -> Address:
        return self.recipient if self.direction is Direction.OUTBOUND else self.sender


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """Where a message ended up, told after the commit.

    `duplicate` when its provider id or its idempotency key was stored before, `conflict` when the key was, with
    another request; nothing was stored then, and the place is the earlier one's.
    """

    id: int
    conversation_id: int
    duplicate: bool = False
    conflict: bool = False
