"""The tables. Every key starts with `tenant_id`, so a row can't refer to another tenant's.

Status and role are text with a CHECK. The names of channels, types and providers are checked in form only, because a
provider can bring its own. Constraint names follow the convention below, and migrations spell them out.
"""

from datetime import date, datetime, time
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, MetaData, TextClause, false, func, text, true
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.schema import CheckConstraint, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.types import BigInteger, Date, DateTime, Float, Integer, LargeBinary, SmallInteger, Text, Time

from app.batches import BatchState
from app.consent import ConsentAction, ConsentScope, ConsentSource, ReportedConsent
from app.domain import (
    DATES_END,
    EARLIEST_DATE,
    WAITING,
    AttemptOutcome,
    ConversationStatus,
    Direction,
    MessageStatus,
    ParticipantRole,
    Purpose,
)
from app.files import FileStatus
from app.installation import CallbackVerdict

#: The revision of `app/db/schema/migrations` that results in these tables.
REVISION = "20261130_17"

_IS_PENDING = "due_at IS NOT NULL"
#: What waits is found by its due time. While it does, its status changes too often for an index.
_IS_LISTED_BY_STATUS = f"status NOT IN ({', '.join(repr(each.value) for each in WAITING)})"
#: Of an attempt: its message may not name the provider yet.
_IS_UNDECIDED = "(outcome IS NULL OR outcome = 'unknown')"
_HAS_KEY = "idempotency_key IS NOT NULL"
_IS_OF_BATCH = "batch_id IS NOT NULL"
_PROVIDER_HAS_IT = "provider_message_id IS NOT NULL"
_PROVIDERS_ID = ("provider_type", "provider_message_id")
#: Conversations in the order of their lists.
_RECENT = (text("last_activity_at DESC"), text("id DESC"))
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
        time: Time,
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
    (texts by their segments) a day for each destination. Null means the default of the settings. `test_of` is set for
    a test tenant: it belongs to the test keys of that tenant, and only a simulated carrier gets its messages.
    """

    __tablename__ = "tenants"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    test_of: Mapped[int | None] = mapped_column(ForeignKey("tenants.id"), unique=True)
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

    `erasing_since` is set when its erasure begins; the address itself is removed at that moment. Until the mails of
    others do not name the person any more, `erasing_addresses` has the addresses to look for.
    """

    __tablename__ = "contacts"
    address: Mapped[str]
    address_type: Mapped[str]
    written: Mapped[str]
    #: None until one is known; empty if the team has removed it.
    name: Mapped[str | None]
    metadata_pairs: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    erasing_since: Mapped[datetime | None]
    erasing_addresses: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    __table_args__ = (
        UniqueConstraint("tenant_id", "address", "address_type"),
        _is_name("address_type"),
        _index("ix_contacts_erasing", "id", where="erasing_since IS NOT NULL"),
        _index("ix_contacts_groups", "id", where="address_type = 'group'"),
        _index("ix_contacts_named", "id", where="name IS NOT NULL"),
    )


class Conversation(_OfTenant):
    """All messages between one customer address and one contact address, on any channel.

    `last_activity_at` and `message_count` are maintained by the writer, so that no page has to count. It also counts
    the answers of the minute that began at `answers_since`: outbound messages while `awaits_answer`, which an inbound
    one sets. Too many set `paused_until`: messages that are accepted before then leave after it.
    Free text reaches the contact until `window_until`, where a vendor limits that.

    `status`, `assignee` and `tags` are set by the team. A snoozed conversation opens at `snoozed_until`, and before
    that with an inbound message, as a closed one does. `unread_count` is of inbound messages since it was last read.
    `channels` are those of its messages.
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
    metadata_pairs: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    window_until: Mapped[datetime | None]
    status: Mapped[str] = mapped_column(server_default=ConversationStatus.OPEN.value)
    snoozed_until: Mapped[datetime | None]
    unread_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    assignee: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    channels: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    participants: Mapped[list["ConversationParticipant"]] = relationship(
        lazy="raise", viewonly=True, order_by="ConversationParticipant.role.desc()"
    )
    __table_args__ = (
        UniqueConstraint("tenant_id", "customer_address", "contact_address"),
        _one_of("status", ConversationStatus),
        _index("ix_conversations_listed", "status", *_RECENT),
        _index("ix_conversations_unread", *_RECENT, where="unread_count > 0"),
        _index("ix_conversations_assigned", "assignee", *_RECENT, where="assignee IS NOT NULL"),
        _index("ix_conversations_snoozed", "snoozed_until", where="snoozed_until IS NOT NULL"),
    )


class ConversationTag(Base):
    """A tag of a conversation, by which it is found. It also stands in `tags` of the conversation."""

    __tablename__ = "conversation_tags"
    tenant_id: Mapped[int]
    tag: Mapped[str]
    conversation_id: Mapped[int]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "tag", "conversation_id"),
        ForeignKeyConstraint(["tenant_id", "conversation_id"], ["conversations.tenant_id", "conversations.id"]),
        _index("ix_conversation_tags_conversation", "conversation_id"),
    )


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
    - `priority` is its lane in the queue (`app.batches.Priority`).
    - `batch_id` and `batch_line` are its place in a batch, which may be removed before it. While that is paused,
      `due_at` is `app.batches.HELD`.
    - `send_at` is the time from which the caller wants it sent, if it is scheduled.
    - `attempt_count` is a fence: a failure counts only for the latest attempt. `attempt_limit` is the last attempt.
    - `worker_deaths` counts workers that died while sending it, `retry_count` the retries that a client asked for.
    - `provider_type` is the provider that an inbound message came from, or that has an outbound one, according to its
      answer or a receipt. Until a provider has it, it is the last one that was tried.
    - `quoted` is the part of a mail that repeats earlier ones.
    - `html` is the HTML form of a mail whose `body` is its plain text, empty if it has none. If null, the body may be
      HTML itself.
    - `details` is what only some messages have (`app.domain.MessageDetails`).
    - `author` is the name of the key that sent it, or the address of the person who wrote to a group.
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
    author: Mapped[str | None]
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
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    batch_id: Mapped[int | None]
    batch_line: Mapped[int | None] = mapped_column(Integer)
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
        CheckConstraint("priority BETWEEN 0 AND 2", name="priority"),
        _index("uq_messages_provider_message_id", *_PROVIDERS_ID, where=_PROVIDER_HAS_IT, unique=True),
        _index("ix_messages_conversation", "conversation_id", "sent_at", "id"),
        _index("uq_messages_idempotency_key", "channel", "idempotency_key", where=_HAS_KEY, unique=True),
        _index("ix_messages_idempotency_age", "created_at", where=_HAS_KEY),
        _index("ix_messages_due", "channel", "priority", "due_at", "id", where=_IS_PENDING),
        _index("ix_messages_tried", "channel", "due_at", "id", where=f"{_IS_PENDING} AND attempt_count > 0"),
        _index("ix_messages_expiring", "channel", "expires_at", where=f"{_IS_PENDING} AND expires_at IS NOT NULL"),
        _index("ix_messages_pending", "conversation_id", "id", where=_IS_PENDING),
        _index("uq_messages_batch_line", "batch_id", "batch_line", where=_IS_OF_BATCH, unique=True),
        _index("ix_messages_batch_due", "batch_id", "due_at", where=f"{_IS_OF_BATCH} AND {_IS_PENDING}"),
        _index("ix_messages_status", "status", text("(-id)"), where=_IS_LISTED_BY_STATUS),
        _index("ix_messages_provider", "provider_type", text("(-id)"), where="provider_type IS NOT NULL"),
    )


class MetadataEntry(Base):
    """One pair of the metadata of a message, a conversation or a contact, by which it is found.

    The pairs also stand in the row that they belong to: in `details` of a message, or in `metadata_pairs`.
    """

    __tablename__ = "metadata_entries"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    subject: Mapped[str]
    key: Mapped[str]
    value: Mapped[str]
    subject_id: Mapped[int]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "subject", "key", "value", "subject_id"),
        CheckConstraint("subject IN ('message', 'conversation', 'contact')", name="subject"),
        _index("ix_metadata_entries_subject", "subject", "subject_id"),
    )


class NamedAddress(Base):
    """An address that a mail names besides its two ends: in `cc`, `bcc` or `reply_to` of its `details`.

    It is normalised. Receipts of copies and the erasure of a person look for it.
    """

    __tablename__ = "named_addresses"
    tenant_id: Mapped[int]
    message_id: Mapped[int]
    address: Mapped[str]
    role: Mapped[str]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "message_id", "address", "role"),
        ForeignKeyConstraint(["tenant_id", "message_id"], ["messages.tenant_id", "messages.id"]),
        CheckConstraint("role IN ('cc', 'bcc', 'reply_to')", name="role"),
        _index("ix_named_addresses_address", "address"),
    )


class QueuedForSearch(Base):
    """A message or contact that is to be indexed: `subject` and `subject_id`.

    The table has no key and no index, because each message that is accepted adds a row. A row may stand here twice,
    and name something that is gone.
    """

    __tablename__ = "search_queue"
    tenant_id: Mapped[int]
    subject: Mapped[str]
    subject_id: Mapped[int]
    #: The place of a row in the table, which PostgreSQL gives each.
    ctid: Mapped[str] = mapped_column(Text, system=True)
    __table_args__ = (CheckConstraint("subject IN ('message', 'contact')", name="subject"),)
    __mapper_args__ = {"primary_key": [ctid]}  # noqa: RUF012 - SQLAlchemy reads it off the class


class MessageWords(Base):
    """The words of a message, by which it is found. Each begins with the tenant and a section of ids.

    So the index needs no tenant in front. There is no foreign key: it would cost as much as the index.
    """

    __tablename__ = "search_texts"
    tenant_id: Mapped[int]
    message_id: Mapped[int]
    words: Mapped[str] = mapped_column(TSVECTOR)
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "message_id"),)


class ContactWords(Base):
    """The words and the sequences of three characters of a contact's address and name, as `MessageWords`.

    `content` is both as they are compared.
    """

    __tablename__ = "search_contacts"
    tenant_id: Mapped[int]
    contact_id: Mapped[int]
    content: Mapped[str]
    words: Mapped[str] = mapped_column(TSVECTOR)
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "contact_id"),)


for _table in (MessageWords, ContactWords):
    _pending = {"gin_pending_list_limit": 512}  # kB
    Index(f"ix_{_table.__tablename__}_words", _table.words, postgresql_using="gin", postgresql_with=_pending)


class Batch(_OfTenant):
    """Messages that a client sends together, one on each line of a request.

    `key` is the client's. `priority` and `topic` are those of lines that name none. `state` was changed last at
    `changed_at`. Once all lines have been read, at `completed_at`, `lines` is the number of the last one, and
    `refused` counts those that were not stored.
    """

    __tablename__ = "batches"
    key: Mapped[str]
    name: Mapped[str | None]
    priority: Mapped[int] = mapped_column(SmallInteger)
    topic: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lines: Mapped[int | None] = mapped_column(Integer)
    refused: Mapped[int | None] = mapped_column(Integer)
    completed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        UniqueConstraint("tenant_id", "key"),
        CheckConstraint("priority BETWEEN 0 AND 2", name="priority"),
        _one_of("state", BatchState),
        _index("ix_batches_unsettled", "id", where="state NOT IN ('running', 'canceled')"),
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
    means for the recipient's consent. `recipient` is a normalised mail address, by which a receipt of a copy is told.
    """

    __tablename__ = "provider_events"
    provider_type: Mapped[str]
    event_id: Mapped[str]
    message_id: Mapped[int | None]
    provider_message_id: Mapped[str | None]
    status: Mapped[str | None]
    detail: Mapped[str | None]
    consent: Mapped[str | None]
    recipient: Mapped[str | None]
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
    """A file of messages. `name` and `content_type` are the sender's, sanitised.

    An inbound file belongs to the message with this provider message id, which is stored after it. `id` is a hash of
    that id and of the content, or of `source`, so that a duplicate is the same file. `source` is the address or id of
    a file that the vendor keeps. While that is `pending`, `due_at` is its next fetch or the end of a lease. `reason`
    says why it is not there; `is_gone` if the vendor has it no more. `settled_at` is when it stopped to be pending.

    An uploaded file has no provider, and belongs to the messages that `MessageFile` names. The bytes are in
    `content`, or in the file system at `path`.
    """

    __tablename__ = "files"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[str]
    provider_type: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    name: Mapped[str]
    content_type: Mapped[str]
    size: Mapped[int]
    content: Mapped[bytes | None] = mapped_column(deferred=True)
    path: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    status: Mapped[str] = mapped_column(server_default=text("'stored'"))
    reason: Mapped[str | None]
    is_gone: Mapped[bool] = mapped_column(server_default=false())
    source: Mapped[str | None]
    due_at: Mapped[datetime | None]
    attempt_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    settled_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        _is_name("provider_type"),
        _one_of("status", FileStatus),
        CheckConstraint("(provider_type IS NULL) = (provider_message_id IS NULL)", name="origin"),
        CheckConstraint(
            "CASE WHEN status = 'stored' THEN (content IS NULL) <> (path IS NULL) "
            "ELSE content IS NULL AND (status = 'pending' OR path IS NULL) END",
            name="content",
        ),
        _index("ix_files_message", *_PROVIDERS_ID),
        _index("ix_files_age", "created_at"),
        _index("ix_files_due", "due_at", where="status = 'pending'"),
    )


class MessageFile(Base):
    """An outbound message that has a file among its attachments."""

    __tablename__ = "message_files"
    tenant_id: Mapped[int]
    message_id: Mapped[int]
    file_id: Mapped[str]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "message_id", "file_id"),
        ForeignKeyConstraint(["tenant_id", "message_id"], ["messages.tenant_id", "messages.id"]),
        ForeignKeyConstraint(["tenant_id", "file_id"], ["files.tenant_id", "files.id"]),
        _index("ix_message_files_file", "file_id"),
    )


class MessageEvent(Base):
    """An action on a message other than delivery: canceled, retried, expired, recovered, suppressed, copy_left_out.

    `consent_entry_id` is the refusal that suppressed it, or left out a copy.
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


class QuietHours(Base):
    """The span of a day in which a tenant's messages wait, by the time of their recipients.

    `topic` is empty for the messages whose topic has no span of its own. `time_zone` is an IANA name, for recipients
    whose own zone is not certain. A span may pass midnight.
    """

    __tablename__ = "quiet_hours"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    topic: Mapped[str]
    begins: Mapped[time]
    ends: Mapped[time]
    time_zone: Mapped[str]
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "topic"),)


class EventLog(Base):
    """The state of a tenant's event log: one row per tenant, which `app.db.connectivity.event_generation` maintains.

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
    the pause that the provider asked for, `next_slot_at` is when its rate allows the next message. It has to be
    resumed after it has refused our credentials, at `paused_at`, or the operator has paused it, at `stopped_at`.
    `learned_rate` is the calls a second that it gets at most. `rate_ceiling` is the rate at which it last said 429.
    Both are null unless it did so lately.
    """

    __tablename__ = "provider_states"
    provider_type: Mapped[str] = mapped_column(primary_key=True)
    failure_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    open_until: Mapped[datetime | None]
    throttled_until: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    paused_reason: Mapped[str | None]
    stopped_at: Mapped[datetime | None]
    stopped_reason: Mapped[str | None]
    next_slot_at: Mapped[datetime | None]
    learned_rate: Mapped[float | None]
    rate_ceiling: Mapped[float | None]
    rate_changed_at: Mapped[datetime | None]
    __table_args__ = (_is_name("provider_type"),)


class ProviderPause(Base):
    """A tenant's own pause of a provider: none of its messages are handed to that provider, until it is resumed."""

    __tablename__ = "provider_pauses"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    provider_type: Mapped[str]
    reason: Mapped[str]
    paused_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "provider_type"), _is_name("provider_type"))


class SharedTask(Base):
    """A periodic task that one of all workers does each time: the one that moves `due_at` to the next time."""

    __tablename__ = "shared_tasks"
    name: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime]


class Figures(Base):
    """The figures of a process, or of the queue, over some seconds. `app.services.figures` writes them."""

    __tablename__ = "figures"
    taken_at: Mapped[datetime] = mapped_column(server_default=func.now())
    source: Mapped[str]
    content: Mapped[dict[str, Any]] = mapped_column(JSONB)
    __table_args__ = (PrimaryKeyConstraint("taken_at", "source"),)


class Installation(Base):
    """The facts of the whole installation, in one row. `is_distributed` is set by `app.db.schema.distribution`."""

    __tablename__ = "installation"
    is_only: Mapped[bool] = mapped_column(primary_key=True, server_default=true())
    is_distributed: Mapped[bool] = mapped_column(server_default=false())
    __table_args__ = (CheckConstraint("is_only", name="is_only"),)


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


class BrowserSession(_OfTenant):
    """A session of a browser, which a key has begun. Its cookie is not stored: `secret_hash` is the SHA-256 of the
    secret in it.
    """

    __tablename__ = "sessions"
    key_id: Mapped[int]
    secret_hash: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "key_id"], ["api_keys.tenant_id", "api_keys.id"]),
        CheckConstraint("length(secret_hash) = 32", name="secret_hash"),
        _index("ix_sessions_expired", "expires_at"),
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
