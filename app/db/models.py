"""The tables. Every key starts with `tenant_id`, so a row can't refer to another tenant's.

Status and role are text with a CHECK. The names of channels, types and providers are checked in form only, because a
provider can bring its own. Constraint names follow the convention below, and migrations spell them out.
"""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, MetaData, TextClause, false, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.schema import CheckConstraint, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.types import BigInteger, Date, DateTime, Float, Integer, LargeBinary, Text

from app.consent import ConsentAction, ConsentScope, ConsentSource, ReportedConsent
from app.domain import (
    DATES_END,
    EARLIEST_DATE,
    WAITING,
    AttemptOutcome,
    CallbackVerdict,
    Direction,
    MessageStatus,
    ParticipantRole,
    Purpose,
)

#: The revision of `app/db/migrations` that results in these tables.
REVISION = "20261129_07"

_IS_PENDING = "due_at IS NOT NULL"
#: What waits is found by its due time. While it does, its status changes too often for an index.
_IS_LISTED_BY_STATUS = f"status NOT IN ({', '.join(repr(each.value) for each in WAITING)})"
#: Of an attempt: its message may not name the provider yet.
_IS_UNDECIDED = "(outcome IS NULL OR outcome = 'unknown')"
_HAS_KEY = "idempotency_key IS NOT NULL"
_PROVIDER_HAS_IT = "provider_message_id IS NOT NULL"
_PROVIDERS_ID = ("provider_type", "provider_message_id")
#: Of a kept callback: it was not taken, or erasure has to search its content for an address.
CALL_NEEDS_ATTENTION = text("(verdict <> 'taken' OR addresses = '{}'::text[])")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(referred_table_name)s_%(column_1_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it off the class
        datetime: DateTime(timezone=True),
        date: Date,
        int: BigInteger,
        float: Float,
        str: Text,
        bytes: LargeBinary,
        list[str]: JSONB,
    }


def _one_of(column: str, words: type[StrEnum]) -> CheckConstraint:
    allowed = ", ".join(f"'{word.value}'" for word in words)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


def _is_name(column: str) -> CheckConstraint:
    # `{0,62}` in the expression would take ten times as long, at every update of a row.
    return CheckConstraint(f"{column} ~ '^[a-z][a-z0-9_-]*$' AND length({column}) <= 63", name=column)


def _index(name: str, *columns: str | TextClause, where: str | None = None, unique: bool = False) -> Index:
    """An index by tenant first; `where` makes it a partial one."""
    return Index(name, "tenant_id", *columns, unique=unique, postgresql_where=None if where is None else text(where))


class _OfTenant(Base):
    """A row of a tenant, with an id of its own. Its key is the first two columns of the table."""

    __abstract__ = True
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"), primary_key=True, sort_order=-1)
    id: Mapped[int] = mapped_column(Identity(), primary_key=True, sort_order=-1)


class Tenant(Base):
    """A customer of this installation. Without tenants everything belongs to tenant 1.

    `retention_days` is how long its messages are kept. The limits are requests a second and in a burst, and units
    (texts by their segments) a day for each destination. Null means the default of the settings.
    """

    __tablename__ = "tenants"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    retention_days: Mapped[int | None] = mapped_column(Integer)
    rate_limit_per_second: Mapped[float | None]
    rate_limit_burst: Mapped[int | None] = mapped_column(Integer)
    daily_caps: Mapped[dict[str, int] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        CheckConstraint("retention_days >= 1", name="retention_days"),
        CheckConstraint("rate_limit_per_second >= 0 AND rate_limit_burst >= 1", name="rate_limit"),
    )


class Contact(_OfTenant):
    """An address on either side of conversations. `address` is normalised, `written` is not.

    `erasing_since` is set when its erasure begins; the address itself is removed at that moment.
    """

    __tablename__ = "contacts"
    address: Mapped[str]
    address_type: Mapped[str]
    written: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    erasing_since: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("tenant_id", "address", "address_type"),
        _is_name("address_type"),
        _index("ix_contacts_erasing", "id", where="erasing_since IS NOT NULL"),
        _index("ix_contacts_groups", "id", where="address_type = 'group'"),
    )


class Conversation(_OfTenant):
    """All messages between one customer address and one contact address, on any channel.

    `last_activity_at` and `message_count` are maintained by the writer, so that no page has to count. It also counts
    the answers of the minute that began at `answers_since`: outbound messages while `awaits_answer`, which an inbound
    one sets. Too many set `paused_until`: messages that are accepted before then leave after it.
    """

    __tablename__ = "conversations"
    customer_address: Mapped[str]
    contact_address: Mapped[str]
    message_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_activity_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    awaits_answer: Mapped[bool] = mapped_column(server_default=false())
    answer_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    answers_since: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    participants: Mapped[list["ConversationParticipant"]] = relationship(
        lazy="raise", viewonly=True, order_by="ConversationParticipant.role.desc()"
    )
    __table_args__ = (UniqueConstraint("tenant_id", "customer_address", "contact_address"),)


class Alias(Base):
    """Another address of a contact, by which a vendor names it at times: `alias` stands for `address`.

    There may be no contact yet. The alias goes with the contact, when it is erased or out of use.
    """

    __tablename__ = "aliases"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    alias: Mapped[str]
    address: Mapped[str]
    address_type: Mapped[str]
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "alias"), _index("ix_aliases_address", "address"))


Index("ix_conversations_recent", Conversation.tenant_id, Conversation.last_activity_at.desc(), Conversation.id.desc())


class ConversationParticipant(Base):
    """The contact in a role of a conversation, which has exactly one customer and one contact."""

    __tablename__ = "conversation_participants"
    tenant_id: Mapped[int]
    conversation_id: Mapped[int]
    role: Mapped[str]
    contact_id: Mapped[int]
    contact: Mapped[Contact] = relationship(lazy="raise", viewonly=True)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "conversation_id", "role"),
        ForeignKeyConstraint(["tenant_id", "conversation_id"], ["conversations.tenant_id", "conversations.id"]),
        ForeignKeyConstraint(["tenant_id", "contact_id"], ["contacts.tenant_id", "contacts.id"]),
        _one_of("role", ParticipantRole),
        _index("ix_conversation_participants_contact", "contact_id"),
    )


class Message(_OfTenant):
    """One message, in or out; an outbound one is its own place in the delivery queue.

    - `sent_at` is the caller's time, `created_at` ours.
    - `due_at` is when a worker looks at it next: for its next attempt, or at the end of a lease. It is null for a
      finished message, and never later than `expires_at` before the message has left.
    - `send_at` is the time from which the caller wants it sent, if it is scheduled.
    - `attempt_count` is a fence: a failure counts only for the latest attempt. `attempt_limit` is the last attempt.
    - `worker_deaths` counts workers that died while sending it, `retry_count` the retries that a client asked for.
    - `provider_type` is the provider that an inbound message came from, or that has an outbound one, according to its
      answer or a receipt. Until a provider has it, it is the last one that was tried.
    - `quoted` is the part of a mail that repeats earlier ones.
    - `html` is the HTML form of an outbound mail whose `body` is its plain text, empty if it has none. If null, the
      body may be HTML itself.
    - `details` is what only some messages have (`app.domain.MessageDetails`).
    - `topic` and `purpose` decide which refusals of the recipient stop it.
    - `idempotency_key` is the caller's, kept for some hours with a fingerprint of the request.
    """

    __tablename__ = "messages"
    conversation_id: Mapped[int]
    direction: Mapped[str]
    channel: Mapped[str]
    type: Mapped[str]
    from_address: Mapped[str]
    to_address: Mapped[str]
    subject: Mapped[str | None]
    body: Mapped[str]
    quoted: Mapped[str | None]
    html: Mapped[str | None]
    details: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    topic: Mapped[str | None]
    purpose: Mapped[str | None]
    attachments: Mapped[list[str]]
    status: Mapped[str]
    status_reason: Mapped[str | None]
    provider_type: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    request_fingerprint: Mapped[str | None]
    attempt_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    attempt_limit: Mapped[int | None] = mapped_column(Integer)
    worker_deaths: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    retry_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    due_at: Mapped[datetime | None]
    send_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    sent_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[list["DeliveryAttempt"]] = relationship(
        lazy="raise", viewonly=True, order_by="DeliveryAttempt.number"
    )
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "conversation_id"], ["conversations.tenant_id", "conversations.id"]),
        _one_of("direction", Direction),
        _one_of("status", MessageStatus),
        _one_of("purpose", Purpose),
        _is_name("channel"),
        _is_name("type"),
        _is_name("provider_type"),
        CheckConstraint(f"sent_at >= '{EARLIEST_DATE}' AND sent_at < '{DATES_END}'", name="sent_at"),
        CheckConstraint("length(provider_message_id) <= 512", name="provider_message_id"),
        _index("uq_messages_provider_message_id", *_PROVIDERS_ID, where=_PROVIDER_HAS_IT, unique=True),
        _index("ix_messages_conversation", "conversation_id", "sent_at", "id"),
        _index("uq_messages_idempotency_key", "channel", "idempotency_key", where=_HAS_KEY, unique=True),
        _index("ix_messages_idempotency_age", "created_at", where=_HAS_KEY),
        _index("ix_messages_due", "channel", "due_at", "id", where=_IS_PENDING),
        _index("ix_messages_tried", "channel", "due_at", "id", where=f"{_IS_PENDING} AND attempt_count > 0"),
        _index("ix_messages_expiring", "channel", "expires_at", where=f"{_IS_PENDING} AND expires_at IS NOT NULL"),
        _index("ix_messages_pending", "conversation_id", "id", where=_IS_PENDING),
        _index("ix_messages_status", "status", text("(-id)"), where=_IS_LISTED_BY_STATUS),
        _index("ix_messages_provider", "provider_type", text("(-id)"), where="provider_type IS NOT NULL"),
    )


class DeliveryAttempt(Base):
    """One send of a message by a worker; stored before the request, completed after it.

    An attempt without `outcome` after its lease is in doubt: the worker died in between.
    """

    __tablename__ = "delivery_attempts"
    tenant_id: Mapped[int]
    message_id: Mapped[int]
    number: Mapped[int] = mapped_column(Integer)
    provider_type: Mapped[str]
    routed_because: Mapped[str | None]
    worker: Mapped[str | None]
    outcome: Mapped[str | None]
    detail: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "message_id", "number"),
        ForeignKeyConstraint(["tenant_id", "message_id"], ["messages.tenant_id", "messages.id"]),
        _one_of("outcome", AttemptOutcome),
        _is_name("provider_type"),
        _index("ix_delivery_attempts_provider_message_id", *_PROVIDERS_ID, where=_PROVIDER_HAS_IT),
        _index("ix_delivery_attempts_provider", "provider_type", text("(-message_id)"), where=_IS_UNDECIDED),
    )


class StoredReceipt(_OfTenant):
    """A receipt of a provider, as it came in; rows are only added.

    `message_id` is null while the receipt is parked: no attempt has its provider message id yet. `consent` is what it
    means for the recipient's consent.
    """

    __tablename__ = "provider_events"
    provider_type: Mapped[str]
    event_id: Mapped[str]
    message_id: Mapped[int | None]
    provider_message_id: Mapped[str | None]
    status: Mapped[str | None]
    detail: Mapped[str | None]
    consent: Mapped[str | None]
    raw: Mapped[dict[str, object]] = mapped_column(JSONB)
    occurred_at: Mapped[datetime | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "message_id"], ["messages.tenant_id", "messages.id"]),
        UniqueConstraint("tenant_id", "provider_type", "event_id"),
        _is_name("provider_type"),
        _one_of("status", MessageStatus),
        _one_of("consent", ReportedConsent),
        _index("ix_provider_events_message", "message_id", "id"),
        _index("ix_provider_events_parked", *_PROVIDERS_ID, where="message_id IS NULL"),
        _index("ix_provider_events_parked_age", "received_at", where="message_id IS NULL"),
    )


class KeptCallback(_OfTenant):
    """A callback as it came, kept for some days to be inspected and replayed.

    Its tenant is the one that all of its items name, else tenant 1. `headers` are ordered pairs of name and value;
    credentials are replaced by their hash. `reason` says why it was not taken, `seen` and `expected` are the
    beginnings of signatures. `addresses` are the normalised ones in its items, which erasure looks for. All ids come
    from one sequence, so that an id alone names a callback.
    """

    __tablename__ = "webhook_calls"
    provider_type: Mapped[str]
    received_at: Mapped[datetime]
    method: Mapped[str]
    url: Mapped[str]
    headers: Mapped[list[tuple[str, str | None]]] = mapped_column(JSONB)
    body: Mapped[bytes]
    verdict: Mapped[str]
    reason: Mapped[str | None]
    seen: Mapped[str | None]
    expected: Mapped[str | None]
    events: Mapped[int] = mapped_column(Integer)
    addresses: Mapped[list[str]] = mapped_column(ARRAY(Text))
    replayed_at: Mapped[datetime | None]
    __table_args__ = (
        _is_name("provider_type"),
        _one_of("verdict", CallbackVerdict),
        # The next three span tenants: the operator lists all, and erasure looks for an address everywhere.
        Index("ix_webhook_calls_newest", "id"),
        Index("ix_webhook_calls_attention", "id", postgresql_where=CALL_NEEDS_ATTENTION),
        Index("ix_webhook_calls_addresses", "addresses", postgresql_using="gin"),
    )


class SignatureToken(Base):
    """A token of a provider whose signature covers the token alone, with a hash of the events that came with it.

    All rows belong to tenant 1, because a forger could choose the tenant of the events. A row is kept for as long as
    its token is valid.
    """

    __tablename__ = "signature_tokens"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    provider_type: Mapped[str]
    token: Mapped[str]
    events: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "provider_type", "token"),
        _is_name("provider_type"),
        _index("ix_signature_tokens_age", "created_at"),
    )


class File(Base):
    """An attachment of an inbound message. `name` and `content_type` are the sender's, sanitised.

    It belongs to the message with this provider message id, which is stored after it. `id` is a hash of that id and
    the content, so that a duplicate is the same file. The bytes are in `content`, or in the file system at `path`.
    """

    __tablename__ = "files"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[str]
    provider_type: Mapped[str]
    provider_message_id: Mapped[str]
    name: Mapped[str]
    content_type: Mapped[str]
    size: Mapped[int]
    content: Mapped[bytes | None] = mapped_column(deferred=True)
    path: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        _is_name("provider_type"),
        CheckConstraint("(content IS NULL) <> (path IS NULL)", name="content"),
        _index("ix_files_message", *_PROVIDERS_ID),
        _index("ix_files_age", "created_at"),
    )


class MessageEvent(Base):
    """An action on a message other than delivery: canceled, retried, expired, recovered, suppressed.

    `consent_entry_id` is the refusal that suppressed it.
    """

    __tablename__ = "message_events"
    tenant_id: Mapped[int]
    id: Mapped[int] = mapped_column(Identity())
    message_id: Mapped[int]
    kind: Mapped[str]
    consent_entry_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        ForeignKeyConstraint(["tenant_id", "message_id"], ["messages.tenant_id", "messages.id"]),
        _is_name("kind"),
        _index("ix_message_events_message", "message_id", "id"),
    )


class ConsentEntry(_OfTenant):
    """Consent of an address that was given or revoked; rows are only added.

    `scope_value` is the channel, the sender's address or the topic; empty for everything. `message_id` or
    `receipt_id` is the evidence, which may be removed before the entry. `detail` is what was said or why. `actor` is
    a key's prefix or `command line`. When the person is erased, a keyed hash replaces the address, and the detail is
    removed.
    """

    __tablename__ = "consent_entries"
    address: Mapped[str]
    address_type: Mapped[str]
    action: Mapped[str]
    scope: Mapped[str]
    scope_value: Mapped[str] = mapped_column(server_default=text("''"))
    source: Mapped[str]
    message_id: Mapped[int | None]
    receipt_id: Mapped[int | None]
    detail: Mapped[str | None]
    actor: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        _is_name("address_type"),
        _one_of("action", ConsentAction),
        _one_of("scope", ConsentScope),
        _one_of("source", ConsentSource),
        _index("ix_consent_entries_address", "address", "id"),
    )


class Suppression(_OfTenant):
    """A refusal that holds: consent that was revoked and not given again, once for each source.

    `entry_id` is the entry that revoked it. With `is_hashed` the address is the keyed hash of an erased person's.
    """

    __tablename__ = "suppressions"
    address: Mapped[str]
    address_type: Mapped[str]
    scope: Mapped[str]
    scope_value: Mapped[str]
    source: Mapped[str]
    entry_id: Mapped[int]
    is_hashed: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        UniqueConstraint(
            "tenant_id",
            "address",
            "address_type",
            "scope",
            "scope_value",
            "source",
            name="uq_suppressions_refusal",
        ),
        _is_name("address_type"),
        _one_of("scope", ConsentScope),
        _one_of("source", ConsentSource),
        _index("ix_suppressions_source", "source", text("(-id)")),
        _index("ix_suppressions_hashed", "id", where="is_hashed"),
    )


class EventLog(Base):
    """The state of a tenant's event log: one row per tenant, which `app.db.event_generation` maintains.

    `generation` leads the key of new entries. It rises with every start of a database server, because transaction ids
    can go back then: `server_started_at` is the start that it holds for. Entries up to `trimmed_to_…`, inclusive, are
    removed.
    """

    __tablename__ = "event_logs"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    generation: Mapped[int] = mapped_column(server_default=text("0"))
    server_started_at: Mapped[datetime | None]
    trimmed_to_generation: Mapped[int] = mapped_column(server_default=text("0"))
    trimmed_to_transaction: Mapped[int] = mapped_column(server_default=text("0"))
    trimmed_to_id: Mapped[int] = mapped_column(server_default=text("0"))


class Event(Base):
    """An entry of the event log. It holds ids and small facts, never bodies or whole addresses.

    The primary key is the order of the log. `transaction_id` is that of the transaction that wrote the entry, so that
    readers can leave out entries behind which another one may still appear (`app.services.events.reading`). There are
    no foreign keys: entries outlive what they tell of, and each key would cost an insert as much as the entry itself.
    `previous_hash` and `key_id` are for a log that can be verified; both are null so far.
    """

    __tablename__ = "events"
    tenant_id: Mapped[int]
    generation: Mapped[int]
    transaction_id: Mapped[int]
    id: Mapped[int] = mapped_column(Identity())
    type: Mapped[str]
    message_id: Mapped[int | None]
    conversation_id: Mapped[int | None]
    contact_id: Mapped[int | None]
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    previous_hash: Mapped[bytes | None]
    key_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "generation", "transaction_id", "id"),)


class WebhookLease(Base):
    """The right to serve a tenant's webhook endpoints, which one worker has until `leased_until`.

    `number` rises with each worker that takes it, so that an earlier one records nothing more. `changes` rises when a
    client has changed an endpoint, so that the worker reads them again. Both follow the clock.
    """

    __tablename__ = "webhook_leases"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    number: Mapped[int] = mapped_column(server_default=text("0"))
    changes: Mapped[int] = mapped_column(server_default=text("0"))
    leased_until: Mapped[datetime | None]


class WebhookEndpoint(_OfTenant):
    """A client's receiver of events.

    - `types` and `conversation_id` choose the events; null stands for all. A conversation may be gone.
    - `headers` go with each request. They can hold credentials, as `url` can.
    - `secret` signs: `whsec_` and a key for HMAC, or `whsk_` and a private one. Until `previous_secret_until` the
      previous one signs as well.
    - `version` rises with each change by a client. A worker that has read an earlier one records no state.
    - `cursor_…` is the position up to which events were taken, or wait for a retry.
    - `failing_since` is the first failure after the last success. While as many events as may wait for a retry, the
      next one is tried at `probe_at`. Until `paused_until` nothing is sent, because the receiver has asked for that.
    - `skipped_at` is when events were found to be removed from the log before they were sent.
    """

    __tablename__ = "webhook_endpoints"
    url: Mapped[str]
    types: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    conversation_id: Mapped[int | None]
    description: Mapped[str | None]
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    suppress_automatic: Mapped[bool]
    secret: Mapped[str]
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("0"))
    cursor_generation: Mapped[int]
    cursor_transaction: Mapped[int]
    cursor_id: Mapped[int]
    failing_since: Mapped[datetime | None]
    last_success_at: Mapped[datetime | None]
    probe_at: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    skipped_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        CheckConstraint("length(url) <= 2000", name="url"),
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
    )


class WebhookRetry(Base):
    """An event that an endpoint has not taken yet, and that the cursor has passed. `tries` are those that failed."""

    __tablename__ = "webhook_retries"
    tenant_id: Mapped[int]
    endpoint_id: Mapped[int]
    generation: Mapped[int]
    transaction_id: Mapped[int]
    event_id: Mapped[int]
    tries: Mapped[int] = mapped_column(Integer)
    first_failed_at: Mapped[datetime]
    due_at: Mapped[datetime]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "endpoint_id", "generation", "transaction_id", "event_id"),
        ForeignKeyConstraint(["tenant_id", "endpoint_id"], ["webhook_endpoints.tenant_id", "webhook_endpoints.id"]),
    )


class WebhookAttempt(_OfTenant):
    """One request to an endpoint; `event` is the id that the receiver sees, `number` counts the tries of an event.

    `status` is that of the answer. `error` says in words what went wrong, null after a success. `answer` is its
    beginning. It can repeat what was sent, so it is kept only for events of a message, with which it is removed. An
    attempt may outlive its endpoint.
    """

    __tablename__ = "webhook_attempts"
    endpoint_id: Mapped[int]
    event: Mapped[str]
    type: Mapped[str]
    message_id: Mapped[int | None]
    number: Mapped[int] = mapped_column(Integer)
    status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None]
    answer: Mapped[str | None]
    duration_ms: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[datetime]
    __table_args__ = (
        _index("ix_webhook_attempts_endpoint", "endpoint_id", "id"),
        _index("ix_webhook_attempts_message", "message_id", where="message_id IS NOT NULL"),
    )


class ProviderState(Base):
    """The health of a provider, shared by all workers. It has no tenant, because all tenants share its account.

    `failure_count` is of consecutive failures, `open_until` is set while the breaker is open. `throttled_until` ends
    the pause that the provider asked for, `next_slot_at` is when its rate allows the next message. A paused provider
    has to be resumed. `learned_rate` is the calls a second that it gets at most. `rate_ceiling` is the rate at which
    it last said 429. Both are null unless it did so lately.
    """

    __tablename__ = "provider_states"
    provider_type: Mapped[str] = mapped_column(primary_key=True)
    failure_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    open_until: Mapped[datetime | None]
    throttled_until: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    paused_reason: Mapped[str | None]
    next_slot_at: Mapped[datetime | None]
    learned_rate: Mapped[float | None]
    rate_ceiling: Mapped[float | None]
    rate_changed_at: Mapped[datetime | None]
    __table_args__ = (_is_name("provider_type"),)


class SharedTask(Base):
    """A periodic task that one of all workers does each time: the one that moves `due_at` to the next time."""

    __tablename__ = "shared_tasks"
    name: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime]


class ApiKey(_OfTenant):
    """An API key. Its token is shown once and not stored: `prefix` is the part that names the key, `secret_hash` the
    SHA-256 of the whole.

    The time of its last use is not stored, because every read would become a write.
    """

    __tablename__ = "api_keys"
    prefix: Mapped[str]
    name: Mapped[str]
    secret_hash: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("tenant_id", "prefix"),
        CheckConstraint("length(secret_hash) = 32", name="secret_hash"),
    )


class TenantAddress(Base):
    """A phone number or mail address of a tenant. An address without a row belongs to tenant 1.

    The key starts with the address, because it finds the tenant of an inbound message: an address has one owner in
    the whole installation. In a distributed database this is a reference table.
    """

    __tablename__ = "tenant_addresses"
    address: Mapped[str]
    address_type: Mapped[str]
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        PrimaryKeyConstraint("address", "address_type"),
        _is_name("address_type"),
        _index("ix_tenant_addresses_tenant", "id"),
    )


class AuditEvent(_OfTenant):
    """A change to the installation, or a refused access; rows are only added.

    `actor` is a key's prefix or `command line`, null if unknown. `client` is the address that the request came from,
    without its last part. The primary key, read backwards, lists the newest first.
    """

    __tablename__ = "audit_events"
    kind: Mapped[str]
    actor: Mapped[str | None]
    detail: Mapped[dict[str, object]] = mapped_column(JSONB)
    client: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (_is_name("kind"),)


class RateBudget(Base):
    """The token bucket of a tenant, as it was when a process last took from it.

    The table is unlogged, so that taking waits for no disk. A crash empties it, which means full buckets.
    """

    __tablename__ = "rate_budgets"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    tokens: Mapped[float]
    refilled_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)


class DailyBudget(Base):
    """The part of a tenant's daily cap (UTC) for a destination that processes have taken to send."""

    __tablename__ = "daily_budgets"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    day: Mapped[date]
    destination: Mapped[str]
    used: Mapped[int] = mapped_column(server_default=text("0"))
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "day", "destination"),)
