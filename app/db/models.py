"""The tables. Every key starts with `tenant_id`, so a row can't refer to another tenant's.

Status and role are text with a CHECK; the names of channels, types and providers are only checked in form, so
that a provider can bring its own. Constraint names come from the convention below, and migrations spell them out.
"""

from datetime import date, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from app.domain import (
    DATES_END,
    EARLIEST_DATE,
    AttemptOutcome,
    CallbackVerdict,
    Direction,
    MessageStatus,
    ParticipantRole,
)

#: The revision of `app/db/migrations` that leaves these tables.
REVISION = "20261127_02"

_IS_PENDING = text("due_at IS NOT NULL")
#: Of a call: somebody may have to look at it, or look through it for an address.
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


def _one_of(
    column: str, words: type[Direction | MessageStatus | ParticipantRole | AttemptOutcome | CallbackVerdict]
) -> CheckConstraint:
    allowed = ", ".join(f"'{word.value}'" for word in words)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


def _is_name(column: str) -> CheckConstraint:
    # `{0,62}` in the expression would cost ten times as much, at every update of a row.
    return CheckConstraint(f"{column} ~ '^[a-z][a-z0-9_-]*$' AND length({column}) <= 63", name=column)


class Tenant(Base):
    """A customer of this installation. Without tenants everything lives in tenant 1.

    `retention_days` is how long its messages are kept; null leaves that to the settings, and so it does for the
    limits: requests a second and at once, and units (texts by their segments) a day for each destination.
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


class Contact(Base):
    """An address that takes part in conversations, on either side. `address` is normalised, `written` is not.

    `erasing_since` is set once everything about it has to go; the address is gone from then on.
    """

    __tablename__ = "contacts"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
    address: Mapped[str]
    address_type: Mapped[str]
    written: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    erasing_since: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "address", "address_type"),
        _is_name("address_type"),
        Index("ix_contacts_erasing", "tenant_id", "id", postgresql_where=text("erasing_since IS NOT NULL")),
    )


class Conversation(Base):
    """Everything said between one customer address and one contact address, whatever the channel.

    `last_activity_at` and `message_count` are kept by the writer, so that no page has to count.
    """

    __tablename__ = "conversations"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
    customer_address: Mapped[str]
    contact_address: Mapped[str]
    message_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_activity_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    participants: Mapped[list["ConversationParticipant"]] = relationship(
        lazy="raise", viewonly=True, order_by="ConversationParticipant.role.desc()"
    )
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "customer_address", "contact_address"),
    )


Index(
    "ix_conversations_recent",
    Conversation.tenant_id,
    Conversation.last_activity_at.desc(),
    Conversation.id.desc(),
)


class ConversationParticipant(Base):
    """Who plays which role in a conversation: exactly one customer and one contact."""

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
        Index("ix_conversation_participants_contact", "tenant_id", "contact_id"),
    )


class Message(Base):
    """One message, in or out; an outbound one is its own place in the delivery queue.

    `sent_at` is the caller's time, `created_at` ours. `due_at` is when a worker has to look at it next: the next
    try of a queued message, the end of the lease of one being sent, null for what is finished; of what has not left
    it is never later than `expires_at`. `attempt_count` fences: a failure only counts for the attempt that is the
    latest, and `attempt_limit` is the last attempt there will be. `worker_deaths` counts the workers that died with
    it in hand, `retry_count` how often somebody had it tried again. `provider_type` is whom an inbound message came
    from; of an outbound one who has it, as an answer or a receipt says, and until somebody has, who was the last to
    be asked. `quoted` is what a mail repeats of those before it. `idempotency_key` is the caller's, kept with a
    fingerprint of the request for a time.
    """

    __tablename__ = "messages"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
    conversation_id: Mapped[int]
    direction: Mapped[str]
    channel: Mapped[str]
    type: Mapped[str]
    from_address: Mapped[str]
    to_address: Mapped[str]
    subject: Mapped[str | None]
    body: Mapped[str]
    quoted: Mapped[str | None]
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
    expires_at: Mapped[datetime | None]
    sent_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[list["DeliveryAttempt"]] = relationship(
        lazy="raise", viewonly=True, order_by="DeliveryAttempt.number"
    )
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        ForeignKeyConstraint(["tenant_id", "conversation_id"], ["conversations.tenant_id", "conversations.id"]),
        _one_of("direction", Direction),
        _one_of("status", MessageStatus),
        _is_name("channel"),
        _is_name("type"),
        _is_name("provider_type"),
        CheckConstraint(f"sent_at >= '{EARLIEST_DATE}' AND sent_at < '{DATES_END}'", name="sent_at"),
        CheckConstraint("length(provider_message_id) <= 512", name="provider_message_id"),
        Index(
            "uq_messages_provider_message_id",
            "tenant_id",
            "provider_type",
            "provider_message_id",
            unique=True,
            postgresql_where=text("provider_message_id IS NOT NULL"),
        ),
        Index("ix_messages_conversation", "tenant_id", "conversation_id", "sent_at", "id"),
        Index(
            "uq_messages_idempotency_key",
            "tenant_id",
            "channel",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index(
            "ix_messages_idempotency_age",
            "tenant_id",
            "created_at",
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index("ix_messages_due", "tenant_id", "channel", "due_at", "id", postgresql_where=_IS_PENDING),
        Index(
            "ix_messages_tried",
            "tenant_id",
            "channel",
            "due_at",
            "id",
            postgresql_where=text("due_at IS NOT NULL AND attempt_count > 0"),
        ),
        Index(
            "ix_messages_expiring",
            "tenant_id",
            "channel",
            "expires_at",
            postgresql_where=text("due_at IS NOT NULL AND expires_at IS NOT NULL"),
        ),
        Index("ix_messages_pending", "tenant_id", "conversation_id", "id", postgresql_where=_IS_PENDING),
        Index(
            "ix_messages_attention",
            "tenant_id",
            "status",
            "id",
            postgresql_where=text("status IN ('unknown', 'undelivered', 'failed')"),
        ),
    )


class DeliveryAttempt(Base):
    """One hand-over of a message to a provider by a worker; stored before the call, closed after it.

    An attempt that has no `outcome` after its lease is in doubt: the worker died between the two.
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
        Index(
            "ix_delivery_attempts_provider_message_id",
            "tenant_id",
            "provider_type",
            "provider_message_id",
            postgresql_where=text("provider_message_id IS NOT NULL"),
        ),
    )


class StoredReceipt(Base):
    """What a provider said about a message, as it came in; rows are only added.

    `message_id` is null while the event is parked: it names a provider's id that no attempt has yet.
    """

    __tablename__ = "provider_events"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
    provider_type: Mapped[str]
    event_id: Mapped[str]
    message_id: Mapped[int | None]
    provider_message_id: Mapped[str | None]
    status: Mapped[str | None]
    detail: Mapped[str | None]
    raw: Mapped[dict[str, object]] = mapped_column(JSONB)
    occurred_at: Mapped[datetime | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        ForeignKeyConstraint(["tenant_id", "message_id"], ["messages.tenant_id", "messages.id"]),
        UniqueConstraint("tenant_id", "provider_type", "event_id"),
        _is_name("provider_type"),
        _one_of("status", MessageStatus),
        Index("ix_provider_events_message", "tenant_id", "message_id", "id"),
        Index(
            "ix_provider_events_parked",
            "tenant_id",
            "provider_type",
            "provider_message_id",
            postgresql_where=text("message_id IS NULL"),
        ),
        Index(
            "ix_provider_events_parked_age",
            "tenant_id",
            "received_at",
            postgresql_where=text("message_id IS NULL"),
        ),
    )


class KeptCallback(Base):
    """A call of a provider as it came, kept for a time: to be looked at, and to be read again.

    Its tenant is the one that all of its events name, else tenant 1. `headers` are pairs of name and value, in their
    order; of a value that lets somebody in there is the hash. `reason` says why it was not taken, `seen` and
    `expected` are the beginnings of signatures. `addresses` are the normalised ones that its events name, for when
    somebody's data is erased. Ids are of one sequence, so that an id alone names a call.
    """

    __tablename__ = "webhook_calls"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
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
        PrimaryKeyConstraint("tenant_id", "id"),
        _is_name("provider_type"),
        _one_of("verdict", CallbackVerdict),
        # The next three are about the installation: its list is everybody's, and an address is looked for everywhere.
        Index("ix_webhook_calls_newest", "id"),
        Index("ix_webhook_calls_attention", "id", postgresql_where=CALL_NEEDS_ATTENTION),
        Index("ix_webhook_calls_addresses", "addresses", postgresql_using="gin"),
    )


class SignatureToken(Base):
    """What came with a token by which a provider signs, where its signature covers that alone: a hash of the events.

    All are tenant 1's: whose the events are, who forges one may choose. It is kept for as long as it can be shown.
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
        Index("ix_signature_tokens_age", "tenant_id", "created_at"),
    )


class File(Base):
    """What hung on a message that came in. `name` and `content_type` are as its sender wrote them, made harmless.

    It belongs to the one message that has this provider's id, which is stored after it. `id` is a hash of both, so
    that what comes again is the same file. Its bytes are in `content`, or in the file system at `path`.
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
        Index("ix_files_message", "tenant_id", "provider_type", "provider_message_id"),
        Index("ix_files_age", "tenant_id", "created_at"),
    )


class MessageEvent(Base):
    """What somebody did with a message besides delivering it: canceled, retried, expired, recovered."""

    __tablename__ = "message_events"
    tenant_id: Mapped[int]
    id: Mapped[int] = mapped_column(Identity())
    message_id: Mapped[int]
    kind: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        ForeignKeyConstraint(["tenant_id", "message_id"], ["messages.tenant_id", "messages.id"]),
        _is_name("kind"),
        Index("ix_message_events_message", "tenant_id", "message_id", "id"),
    )


class ProviderState(Base):
    """How a provider fares, shared by all workers. The installation's accounts are everybody's, so no tenant here.

    `failure_count` are failures in a row; `open_until` is set while its breaker is open. `throttled_until` is what it
    asked for, `next_slot_at` when its rate allows the next message. A paused provider waits to be resumed.
    """

    __tablename__ = "provider_states"
    provider_type: Mapped[str] = mapped_column(primary_key=True)
    failure_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    open_until: Mapped[datetime | None]
    throttled_until: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    paused_reason: Mapped[str | None]
    next_slot_at: Mapped[datetime | None]
    __table_args__ = (_is_name("provider_type"),)


class ApiKey(Base):
    """What a client shows to be let in. The token is shown once and not kept; `prefix` is the part of it that names
    the key, `secret_hash` the SHA-256 of the whole.

    When it was used last is not kept: every read would be a write.
    """

    __tablename__ = "api_keys"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
    prefix: Mapped[str]
    name: Mapped[str]
    secret_hash: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "prefix"),
        CheckConstraint("length(secret_hash) = 32", name="secret_hash"),
    )


class TenantAddress(Base):
    """Which tenant a number or a mail address belongs to; one that nobody owns is tenant 1's.

    The key leads with the address and not with the tenant, because this is how the tenant of what comes in is found:
    an address has one owner in the whole installation. Where tables are distributed, this one is a reference table.
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
        Index("ix_tenant_addresses_tenant", "tenant_id", "id"),
    )


class AuditEvent(Base):
    """Who changed what about the installation, and who was turned away; rows are only added.

    `actor` is a key's prefix or `command line`, null for somebody unknown. `client` is the address that the request
    came from, without its last part. The primary key, read backwards, lists the newest first.
    """

    __tablename__ = "audit_events"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    id: Mapped[int] = mapped_column(Identity())
    kind: Mapped[str]
    actor: Mapped[str | None]
    detail: Mapped[dict[str, object]] = mapped_column(JSONB)
    client: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "id"), _is_name("kind"))


class RateBudget(Base):
    """The token bucket of a tenant, as it was when a process last took from it.

    Not logged: a crash leaves it empty, which means a full bucket, and taking from it waits for no disk.
    """

    __tablename__ = "rate_budgets"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    tokens: Mapped[float]
    refilled_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)


class DailyBudget(Base):
    """What processes have taken, to send in a day (UTC), of what a tenant may send to a destination."""

    __tablename__ = "daily_budgets"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    day: Mapped[date]
    destination: Mapped[str]
    used: Mapped[int] = mapped_column(server_default=text("0"))
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "day", "destination"),)
