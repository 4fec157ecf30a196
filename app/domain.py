"""The vocabulary of the service: statuses, outcomes, messages. It imports nothing of ours but `app.details`."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from app.details import NO_DETAILS, MessageDetails

#: The owner of everything until an installation has tenants of its own, and of anything without a known owner.
DEFAULT_TENANT_ID = 1

#: The span of dates that can be stored, from EARLIEST_DATE, inclusive, to DATES_END, exclusive.
EARLIEST_DATE, DATES_END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)


def is_possible_date(moment: datetime) -> bool:
    """True for an aware time within the span of dates that can be stored."""
    return EARLIEST_DATE <= moment < DATES_END


class Direction(StrEnum):
    INBOUND = "inbound"  #: from a contact, through a provider
    OUTBOUND = "outbound"  #: to a contact, through a provider


class ParticipantRole(StrEnum):
    CUSTOMER = "customer"  #: the tenant's own address
    CONTACT = "contact"  #: the person at the other end


class ConversationStatus(StrEnum):
    """The state of a conversation, as the team has set it. An inbound message opens it."""

    OPEN = "open"
    SNOOZED = "snoozed"  #: until a time, or the next inbound message.
    CLOSED = "closed"


class Channel(StrEnum):
    """The way a message travels. The database accepts any name, so that a provider can bring a channel of its own."""

    SMS = "sms"  #: texts, with or without media
    EMAIL = "email"


class MessageType(StrEnum):
    SMS = "sms"
    MMS = "mms"
    EMAIL = "email"


class AddressType(StrEnum):
    """The kind of a contact's address. The database accepts any name: `slack:C024BE91L` is of the kind `slack`."""

    PHONE = "phone"  #: E.164, a short code, or an alphanumeric sender
    EMAIL = "email"
    GROUP = "group"  #: the members of a media message without us, sorted: `group:+18045551234,+18045557777`


class MessageStatus(StrEnum):
    """The state of a message. Later receipts can only raise its rank (`STATUS_RANK`)."""

    SCHEDULED = "scheduled"  #: stored, to be sent later.
    QUEUED = "queued"  #: stored, and waiting for its first or next attempt.
    SENDING = "sending"  #: claimed by a worker, outcome not yet known.
    UNKNOWN = "unknown"  #: the request left and no answer came: it may or may not have been sent.
    SENT = "sent"  #: accepted by the provider.
    UNDELIVERED = "undelivered"  #: accepted, but the provider could not deliver it.
    FAILED = "failed"  #: refused permanently, or out of attempts.
    CANCELED = "canceled"  #: canceled by us before it left, or by the provider.
    EXPIRED = "expired"  #: expired before it left, or at the provider.
    SUPPRESSED = "suppressed"  #: not sent, because the recipient has refused it or can't be reached.
    DELIVERED = "delivered"  #: it arrived, according to a receipt.
    READ = "read"  #: it was opened, according to a receipt.
    RECEIVED = "received"  #: inbound, and final.


#: The states of a message that has a time at which it is due. One in doubt may have one as well.
WAITING = (MessageStatus.SCHEDULED, MessageStatus.QUEUED, MessageStatus.SENDING)
#: A receipt can only raise the rank. `delivered` outranks the failures, because carriers correct themselves. For
#: `undelivered` that depends on the message: see `rank_of`.
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
    MessageStatus.READ: 9,
    MessageStatus.RECEIVED: 10,
}
#: The rank of an `undelivered` that no `delivered` takes back, and which takes one back.
FINAL_UNDELIVERED_RANK = 8
#: Begins the reason of an `undelivered` text of which some parts have arrived.
IN_PART = "In part"


def rank_of(status: MessageStatus, channel: str, reason: str | None) -> int:
    """The rank of a status that was given for a reason.

    In mail `delivered` only means that a server took it, and a bounce can follow. A text whose parts are reported one
    by one has not arrived if one of them has not.
    """
    is_final = channel == Channel.EMAIL or (reason or "").startswith(IN_PART)
    return FINAL_UNDELIVERED_RANK if is_final and status is MessageStatus.UNDELIVERED else STATUS_RANK[status]


class AttemptOutcome(StrEnum):
    """The outcome of one send to a provider. An attempt without an outcome is in flight, or its worker died."""

    ACCEPTED = "accepted"  #: the provider accepted the message.
    TEMPORARY = "temporary"  #: a retry can help.
    PERMANENT = "permanent"  #: a retry can't help.
    UNKNOWN = "unknown"  #: the request left, and no answer tells if it arrived.


class Keyword(StrEnum):
    """The kind of a text that as a whole is a keyword."""

    STOP = "stop"  #: the person opts out.
    START = "start"  #: the person opts in again.
    YES = "yes"  #: the person agrees to something; it opts in only after a STOP.
    HELP = "help"  #: the person asks who sends the messages.


class Purpose(StrEnum):
    """The purpose of a message, where it decides whether a refusal stops it."""

    SERVICE = "service"  #: an answer or a code: no refused topic stops it.
    CONFIRMATION = "confirmation"  #: our reply to a keyword; no client can set it.


class EventType(StrEnum):
    """The kind of an entry of the event log."""

    MESSAGE_ACCEPTED = "message.accepted"  #: stored, to be sent.
    MESSAGE_RECEIVED = "message.received"  #: inbound, and stored.
    MESSAGE_SENT = "message.sent"  #: accepted by the provider, or sent elsewhere.
    MESSAGE_DELIVERED = "message.delivered"
    MESSAGE_READ = "message.read"
    MESSAGE_UNDELIVERED = "message.undelivered"
    MESSAGE_FAILED = "message.failed"
    MESSAGE_UNKNOWN = "message.unknown"  #: the send is in doubt.
    MESSAGE_EXPIRED = "message.expired"
    MESSAGE_CANCELED = "message.canceled"
    MESSAGE_SUPPRESSED = "message.suppressed"  #: the recipient has refused it.
    MESSAGE_FILE_CHANGED = "message.file_changed"  #: a file was fetched from the vendor, or can't be had.
    CONVERSATION_CREATED = "conversation.created"
    CONVERSATION_UPDATED = "conversation.updated"  #: its status, assignee, tags or number of unread messages.
    CONVERSATION_PAUSED = "conversation.paused"  #: two programs seem to answer each other.
    CONVERSATION_RESUMED = "conversation.resumed"
    CONTACT_CREATED = "contact.created"
    CONTACT_ERASED = "contact.erased"
    CONSENT_REVOKED = "consent.revoked"  #: an address must not be written to, for everything or a part.
    CONSENT_GRANTED = "consent.granted"  #: it may be written to again.
    WEBHOOK_ENDPOINT_DISABLED = "webhook_endpoint.disabled"  #: by the service, because it fails.
    WEBHOOK_ENDPOINT_TEST = "webhook_endpoint.test"  #: sent to one endpoint on demand, and never logged.


@dataclass(frozen=True, slots=True)
class Address:
    """One end of a message.

    `value` is the normalised address, which is compared. `written` is the caller's text. `spelling` is shown and sent
    to: the address in the case that it was written in. `doubt` is the reason to refuse it as a recipient, unless it
    is a contact's.
    """

    type: str
    value: str
    written: str
    spelling: str = ""  #: `value`, if left out
    doubt: str | None = None
    name: str | None = None  #: the display name, where one was written

    def __post_init__(self) -> None:
        if not self.spelling:
            object.__setattr__(self, "spelling", self.value)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored. Times are aware UTC. `sent_at` is the time that the caller or the sender gives; None
    means the moment it is stored.

    An outbound message leaves at `send_at`, or at once, and not after `expires_at`. One with a `provider_message_id`
    was sent elsewhere: it is stored as sent. Within a tenant and channel, an equal `idempotency_key` is a repeat,
    and with another `fingerprint` a conflict. `quoted` is the part of an inbound mail that repeats earlier ones.
    `html` is the HTML form of a mail whose `body` is its plain text, and empty if it has none. If it is None, the
    body may be HTML itself. `topic` and `purpose` decide which refusals stop an outbound message.
    `handled_keyword` is the keyword in an inbound text that the vendor has already acted on and replied to.
    `copies` are the recipients of copies, each once, which `details` show as `cc` and `bcc`.
    `priority` is the number of one (`app.batches`). A line of a batch is known by `batch_id` and `batch_line`.
    `author` is the name of the key that sent an outbound message.
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
    html: str | None = None
    details: MessageDetails = NO_DETAILS
    topic: str | None = None
    purpose: Purpose | None = None
    copies: tuple[Address, ...] = ()
    handled_keyword: Keyword | None = None
    priority: int | None = None
    batch_id: int | None = None
    batch_line: int | None = None
    author: str | None = None

    @property
    def customer(self) -> Address:
        return self.sender if self.direction is Direction.OUTBOUND else self.recipient

    @property
    def contact(self) -> Address:
        return self.recipient if self.direction is Direction.OUTBOUND else self.sender


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """The ids of a message, after the commit.

    A `duplicate` has the provider id or the idempotency key of an earlier message. A `conflict` has the key of an
    earlier message with another request. In both cases nothing was stored, and the ids are the earlier message's.
    `begins` is true where the conversation was created for it.
    """

    id: int
    conversation_id: int
    duplicate: bool = False
    conflict: bool = False
    begins: bool = False
