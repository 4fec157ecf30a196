"""The schema of version 1.0.0

Revision ID: 20261130_17
Revises:
"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR

revision = "20261130_17"
down_revision = None
branch_labels = None
depends_on = None

_STATUSES = (
    "scheduled",
    "queued",
    "sending",
    "unknown",
    "sent",
    "undelivered",
    "failed",
    "canceled",
    "expired",
    "suppressed",
    "delivered",
    "read",
    "received",
)
_SOURCES = (
    "keyword",
    "vendor",
    "unsubscribe_link",
    "mail",
    "complaint",
    "hard_bounce",
    "soft_bounces",
    "api",
    "import",
)
#: Each before those that it refers to.
_TABLES = (
    "provider_events",
    "named_addresses",
    "message_files",
    "message_events",
    "delivery_attempts",
    "webhook_retries",
    "sessions",
    "messages",
    "conversation_tags",
    "conversation_participants",
    "webhook_leases",
    "webhook_endpoints",
    "webhook_calls",
    "webhook_attempts",
    "tenant_addresses",
    "suppressions",
    "signature_tokens",
    "rate_budgets",
    "quiet_hours",
    "provider_pauses",
    "metadata_entries",
    "files",
    "event_logs",
    "daily_budgets",
    "conversations",
    "contacts",
    "consent_entries",
    "batches",
    "audit_events",
    "api_keys",
    "aliases",
    "tenants",
    "shared_tasks",
    "search_texts",
    "search_queue",
    "search_contacts",
    "provider_states",
    "installation",
    "figures",
    "events",
)
_BUSY = ("messages", "delivery_attempts", "provider_events", "conversations", "events")
_ZERO = sa.text("0")
_TIME = sa.DateTime(timezone=True)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _number(name: str, *, nullable: bool = False, default: sa.TextClause | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable, server_default=default)


def _integer(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=_ZERO)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False)


def _time(name: str, *, nullable: bool = False, is_now: bool = False) -> sa.Column[datetime]:
    default = sa.func.now() if is_now else None
    return sa.Column(name, _TIME, nullable=nullable, server_default=default)


def _json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, JSONB(), nullable=nullable)


def _bytes(name: str, *, nullable: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=nullable)


def _of_tenant(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=f"fk_{table}_tenants_tenant_id")


def _is_name(table: str, column: str) -> sa.CheckConstraint:
    rule = f"{column} ~ '^[a-z][a-z0-9_-]*$' AND length({column}) <= 63"
    return sa.CheckConstraint(rule, name=op.f(f"ck_{table}_{column}"))


def _is_one_of(table: str, column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{column}"))


def upgrade() -> None:
    op.create_table(
        "events",
        _number("tenant_id"),
        _number("generation"),
        _number("transaction_id"),
        _id(),
        _text("type"),
        _number("message_id", nullable=True),
        _number("conversation_id", nullable=True),
        _number("contact_id", nullable=True),
        _json("facts", nullable=True),
        _bytes("previous_hash", nullable=True),
        _number("key_id", nullable=True),
        _time("created_at", is_now=True),
        sa.PrimaryKeyConstraint("tenant_id", "generation", "transaction_id", "id", name="pk_events"),
    )
    op.create_table(
        "figures",
        _time("taken_at", is_now=True),
        _text("source"),
        _json("content"),
        sa.PrimaryKeyConstraint("taken_at", "source", name="pk_figures"),
    )
    op.create_table(
        "installation",
        sa.Column("is_only", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("is_distributed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("is_only", name=op.f("ck_installation_is_only")),
        sa.PrimaryKeyConstraint("is_only", name="pk_installation"),
    )
    op.create_table(
        "provider_states",
        _text("provider_type"),
        _count("failure_count"),
        _time("open_until", nullable=True),
        _time("throttled_until", nullable=True),
        _time("paused_at", nullable=True),
        _text("paused_reason", nullable=True),
        _time("stopped_at", nullable=True),
        _text("stopped_reason", nullable=True),
        _time("next_slot_at", nullable=True),
        sa.Column("learned_rate", sa.Float(), nullable=True),
        sa.Column("rate_ceiling", sa.Float(), nullable=True),
        _time("rate_changed_at", nullable=True),
        _is_name("provider_states", "provider_type"),
        sa.PrimaryKeyConstraint("provider_type", name="pk_provider_states"),
    )
    op.create_table(
        "search_contacts",
        _number("tenant_id"),
        _number("contact_id"),
        _text("content"),
        sa.Column("words", TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "contact_id", name="pk_search_contacts"),
    )
    op.create_index(
        "ix_search_contacts_words",
        "search_contacts",
        ["words"],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 512},
    )
    op.create_table(
        "search_queue",
        _number("tenant_id"),
        _text("subject"),
        _number("subject_id"),
        _is_one_of("search_queue", "subject", ("message", "contact")),
    )
    op.create_table(
        "search_texts",
        _number("tenant_id"),
        _number("message_id"),
        sa.Column("words", TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "message_id", name="pk_search_texts"),
    )
    op.create_index(
        "ix_search_texts_words",
        "search_texts",
        ["words"],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 512},
    )
    op.create_table(
        "shared_tasks", _text("name"), _time("due_at"), sa.PrimaryKeyConstraint("name", name="pk_shared_tasks")
    )
    op.create_table(
        "tenants",
        _id(),
        _text("name"),
        _number("test_of", nullable=True),
        _integer("retention_days", nullable=True),
        sa.Column("rate_limit_per_second", sa.Float(), nullable=True),
        _integer("rate_limit_burst", nullable=True),
        _json("daily_caps", nullable=True),
        _time("created_at", is_now=True),
        sa.CheckConstraint(
            "rate_limit_per_second >= 0 AND rate_limit_burst >= 1", name=op.f("ck_tenants_rate_limit")
        ),
        sa.CheckConstraint("retention_days >= 1", name=op.f("ck_tenants_retention_days")),
        sa.ForeignKeyConstraint(["test_of"], ["tenants.id"], name="fk_tenants_tenants_test_of"),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("name", name="uq_tenants_name"),
        sa.UniqueConstraint("test_of", name="uq_tenants_test_of"),
    )
    op.create_table(
        "aliases",
        _number("tenant_id"),
        _text("alias"),
        _text("address"),
        _text("address_type"),
        _of_tenant("aliases"),
        sa.PrimaryKeyConstraint("tenant_id", "alias", name="pk_aliases"),
    )
    op.create_index("ix_aliases_address", "aliases", ["tenant_id", "address"])
    op.create_table(
        "api_keys",
        _number("tenant_id"),
        _id(),
        _text("prefix"),
        _text("name"),
        _bytes("secret_hash"),
        _json("scopes"),
        _time("created_at", is_now=True),
        _time("expires_at", nullable=True),
        _time("revoked_at", nullable=True),
        sa.CheckConstraint("length(secret_hash) = 32", name=op.f("ck_api_keys_secret_hash")),
        _of_tenant("api_keys"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_api_keys"),
        sa.UniqueConstraint("tenant_id", "prefix", name="uq_api_keys_tenant_id_prefix"),
    )
    op.create_table(
        "audit_events",
        _number("tenant_id"),
        _id(),
        _text("kind"),
        _text("actor", nullable=True),
        _json("detail"),
        _text("client", nullable=True),
        _time("created_at", is_now=True),
        _is_name("audit_events", "kind"),
        _of_tenant("audit_events"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_audit_events"),
    )
    op.create_table(
        "batches",
        _number("tenant_id"),
        _id(),
        _text("key"),
        _text("name", nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        _text("topic", nullable=True),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        _time("changed_at", is_now=True),
        _integer("lines", nullable=True),
        _integer("refused", nullable=True),
        _time("completed_at", nullable=True),
        _time("created_at", is_now=True),
        _is_one_of("batches", "state", ("running", "paused", "resuming", "canceling", "canceled")),
        sa.CheckConstraint("priority BETWEEN 0 AND 2", name=op.f("ck_batches_priority")),
        _of_tenant("batches"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_batches"),
        sa.UniqueConstraint("tenant_id", "key", name="uq_batches_tenant_id_key"),
    )
    op.create_index(
        "ix_batches_unsettled",
        "batches",
        ["tenant_id", "id"],
        postgresql_where=sa.text("state NOT IN ('running', 'canceled')"),
    )
    op.create_table(
        "consent_entries",
        _number("tenant_id"),
        _id(),
        _text("address"),
        _text("address_type"),
        _text("action"),
        _text("scope"),
        sa.Column("scope_value", sa.Text(), server_default=sa.text("''"), nullable=False),
        _text("source"),
        _number("message_id", nullable=True),
        _number("receipt_id", nullable=True),
        _text("detail", nullable=True),
        _text("actor", nullable=True),
        _time("created_at", is_now=True),
        _is_one_of("consent_entries", "action", ("granted", "revoked")),
        _is_name("consent_entries", "address_type"),
        _is_one_of("consent_entries", "scope", ("everything", "channel", "sender", "topic")),
        _is_one_of("consent_entries", "source", _SOURCES),
        _of_tenant("consent_entries"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_consent_entries"),
    )
    op.create_index("ix_consent_entries_address", "consent_entries", ["tenant_id", "address", "id"])
    op.create_table(
        "contacts",
        _number("tenant_id"),
        _id(),
        _text("address"),
        _text("address_type"),
        _text("written"),
        _text("name", nullable=True),
        _json("metadata_pairs", nullable=True),
        _time("created_at", is_now=True),
        _time("erasing_since", nullable=True),
        _json("erasing_addresses", nullable=True),
        _is_name("contacts", "address_type"),
        _of_tenant("contacts"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_contacts"),
        sa.UniqueConstraint(
            "tenant_id", "address", "address_type", name="uq_contacts_tenant_id_address_address_type"
        ),
    )
    op.create_index(
        "ix_contacts_erasing", "contacts", ["tenant_id", "id"], postgresql_where=sa.text("erasing_since IS NOT NULL")
    )
    op.create_index(
        "ix_contacts_groups", "contacts", ["tenant_id", "id"], postgresql_where=sa.text("address_type = 'group'")
    )
    op.create_index(
        "ix_contacts_named", "contacts", ["tenant_id", "id"], postgresql_where=sa.text("name IS NOT NULL")
    )
    op.create_table(
        "conversations",
        _number("tenant_id"),
        _id(),
        _text("customer_address"),
        _text("contact_address"),
        _count("message_count"),
        _time("last_activity_at"),
        _time("created_at", is_now=True),
        sa.Column("awaits_answer", sa.Boolean(), server_default=sa.false(), nullable=False),
        _count("answer_count"),
        _time("answers_since", nullable=True),
        _time("paused_until", nullable=True),
        _json("metadata_pairs", nullable=True),
        _time("window_until", nullable=True),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        _time("snoozed_until", nullable=True),
        _count("unread_count"),
        _text("assignee", nullable=True),
        sa.Column("tags", ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("channels", ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        _is_one_of("conversations", "status", ("open", "snoozed", "closed")),
        _of_tenant("conversations"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_conversations"),
        sa.UniqueConstraint(
            "tenant_id",
            "customer_address",
            "contact_address",
            name="uq_conversations_tenant_id_customer_address_contact_address",
        ),
    )
    op.create_index(
        "ix_conversations_assigned",
        "conversations",
        ["tenant_id", "assignee", sa.text("last_activity_at DESC"), sa.text("id DESC")],
        postgresql_where=sa.text("assignee IS NOT NULL"),
    )
    op.create_index(
        "ix_conversations_listed",
        "conversations",
        ["tenant_id", "status", sa.text("last_activity_at DESC"), sa.text("id DESC")],
    )
    op.create_index(
        "ix_conversations_snoozed",
        "conversations",
        ["tenant_id", "snoozed_until"],
        postgresql_where=sa.text("snoozed_until IS NOT NULL"),
    )
    op.create_index(
        "ix_conversations_unread",
        "conversations",
        ["tenant_id", sa.text("last_activity_at DESC"), sa.text("id DESC")],
        postgresql_where=sa.text("unread_count > 0"),
    )
    op.create_table(
        "daily_budgets",
        _number("tenant_id"),
        sa.Column("day", sa.Date(), nullable=False),
        _text("destination"),
        _number("used", default=_ZERO),
        _of_tenant("daily_budgets"),
        sa.PrimaryKeyConstraint("tenant_id", "day", "destination", name="pk_daily_budgets"),
    )
    op.create_table(
        "event_logs",
        _number("tenant_id"),
        _number("generation", default=_ZERO),
        _time("server_started_at", nullable=True),
        _number("trimmed_to_generation", default=_ZERO),
        _number("trimmed_to_transaction", default=_ZERO),
        _number("trimmed_to_id", default=_ZERO),
        _of_tenant("event_logs"),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_event_logs"),
    )
    op.create_table(
        "files",
        _number("tenant_id"),
        _text("id"),
        _text("provider_type", nullable=True),
        _text("provider_message_id", nullable=True),
        _text("name"),
        _text("content_type"),
        _number("size"),
        _bytes("content", nullable=True),
        _text("path", nullable=True),
        _time("created_at", is_now=True),
        sa.Column("status", sa.Text(), server_default=sa.text("'stored'"), nullable=False),
        _text("reason", nullable=True),
        sa.Column("is_gone", sa.Boolean(), server_default=sa.false(), nullable=False),
        _text("source", nullable=True),
        _time("due_at", nullable=True),
        _count("attempt_count"),
        _time("settled_at", nullable=True),
        sa.CheckConstraint(
            "CASE WHEN status = 'stored' THEN (content IS NULL) <> (path IS NULL)"
            " ELSE content IS NULL AND (status = 'pending' OR path IS NULL) END",
            name=op.f("ck_files_content"),
        ),
        _is_name("files", "provider_type"),
        _is_one_of("files", "status", ("pending", "stored", "unavailable")),
        sa.CheckConstraint("(provider_type IS NULL) = (provider_message_id IS NULL)", name=op.f("ck_files_origin")),
        _of_tenant("files"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_files"),
    )
    op.create_index("ix_files_age", "files", ["tenant_id", "created_at"])
    op.create_index("ix_files_due", "files", ["tenant_id", "due_at"], postgresql_where=sa.text("status = 'pending'"))
    op.create_index("ix_files_message", "files", ["tenant_id", "provider_type", "provider_message_id"])
    op.create_table(
        "metadata_entries",
        _number("tenant_id"),
        _text("subject"),
        _text("key"),
        _text("value"),
        _number("subject_id"),
        _is_one_of("metadata_entries", "subject", ("message", "conversation", "contact")),
        _of_tenant("metadata_entries"),
        sa.PrimaryKeyConstraint("tenant_id", "subject", "key", "value", "subject_id", name="pk_metadata_entries"),
    )
    op.create_index("ix_metadata_entries_subject", "metadata_entries", ["tenant_id", "subject", "subject_id"])
    op.create_table(
        "provider_pauses",
        _number("tenant_id"),
        _text("provider_type"),
        _text("reason"),
        _time("paused_at", is_now=True),
        _is_name("provider_pauses", "provider_type"),
        _of_tenant("provider_pauses"),
        sa.PrimaryKeyConstraint("tenant_id", "provider_type", name="pk_provider_pauses"),
    )
    op.create_table(
        "quiet_hours",
        _number("tenant_id"),
        _text("topic"),
        sa.Column("begins", sa.Time(), nullable=False),
        sa.Column("ends", sa.Time(), nullable=False),
        _text("time_zone"),
        _of_tenant("quiet_hours"),
        sa.PrimaryKeyConstraint("tenant_id", "topic", name="pk_quiet_hours"),
    )
    op.create_table(
        "rate_budgets",
        _number("tenant_id"),
        sa.Column("tokens", sa.Float(), nullable=False),
        _time("refilled_at", is_now=True),
        _of_tenant("rate_budgets"),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_rate_budgets"),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "signature_tokens",
        _number("tenant_id"),
        _text("provider_type"),
        _text("token"),
        _text("events"),
        _time("created_at", is_now=True),
        _is_name("signature_tokens", "provider_type"),
        _of_tenant("signature_tokens"),
        sa.PrimaryKeyConstraint("tenant_id", "provider_type", "token", name="pk_signature_tokens"),
    )
    op.create_index("ix_signature_tokens_age", "signature_tokens", ["tenant_id", "created_at"])
    op.create_table(
        "suppressions",
        _number("tenant_id"),
        _id(),
        _text("address"),
        _text("address_type"),
        _text("scope"),
        _text("scope_value"),
        _text("source"),
        _number("entry_id"),
        sa.Column("is_hashed", sa.Boolean(), server_default=sa.false(), nullable=False),
        _time("created_at", is_now=True),
        _is_name("suppressions", "address_type"),
        _is_one_of("suppressions", "scope", ("everything", "channel", "sender", "topic")),
        _is_one_of("suppressions", "source", _SOURCES),
        _of_tenant("suppressions"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_suppressions"),
        sa.UniqueConstraint(
            "tenant_id", "address", "address_type", "scope", "scope_value", "source", name="uq_suppressions_refusal"
        ),
    )
    op.create_index(
        "ix_suppressions_hashed", "suppressions", ["tenant_id", "id"], postgresql_where=sa.text("is_hashed")
    )
    op.create_index("ix_suppressions_source", "suppressions", ["tenant_id", "source", sa.text("(-id)")])
    op.create_table(
        "tenant_addresses",
        _text("address"),
        _text("address_type"),
        _number("tenant_id"),
        _id(),
        _time("created_at", is_now=True),
        _is_name("tenant_addresses", "address_type"),
        _of_tenant("tenant_addresses"),
        sa.PrimaryKeyConstraint("address", "address_type", name="pk_tenant_addresses"),
    )
    op.create_index("ix_tenant_addresses_tenant", "tenant_addresses", ["tenant_id", "id"])
    op.create_table(
        "webhook_attempts",
        _number("tenant_id"),
        _id(),
        _number("endpoint_id"),
        _text("event"),
        _text("type"),
        _number("message_id", nullable=True),
        _integer("number"),
        _integer("status", nullable=True),
        _text("error", nullable=True),
        _text("answer", nullable=True),
        _integer("duration_ms"),
        _time("started_at"),
        _of_tenant("webhook_attempts"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_webhook_attempts"),
    )
    op.create_index("ix_webhook_attempts_endpoint", "webhook_attempts", ["tenant_id", "endpoint_id", "id"])
    op.create_index(
        "ix_webhook_attempts_message",
        "webhook_attempts",
        ["tenant_id", "message_id"],
        postgresql_where=sa.text("message_id IS NOT NULL"),
    )
    op.create_table(
        "webhook_calls",
        _number("tenant_id"),
        _id(),
        _text("provider_type"),
        _time("received_at"),
        _text("method"),
        _text("url"),
        _json("headers"),
        _bytes("body"),
        _text("verdict"),
        _text("reason", nullable=True),
        _text("seen", nullable=True),
        _text("expected", nullable=True),
        _integer("events"),
        sa.Column("addresses", ARRAY(sa.Text()), nullable=False),
        _time("replayed_at", nullable=True),
        _is_name("webhook_calls", "provider_type"),
        _is_one_of("webhook_calls", "verdict", ("taken", "not_understood", "refused")),
        _of_tenant("webhook_calls"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_webhook_calls"),
    )
    op.create_index("ix_webhook_calls_addresses", "webhook_calls", ["addresses"], postgresql_using="gin")
    op.create_index(
        "ix_webhook_calls_attention",
        "webhook_calls",
        ["id"],
        postgresql_where=sa.text("(verdict <> 'taken' OR addresses = '{}'::text[])"),
    )
    op.create_index("ix_webhook_calls_newest", "webhook_calls", ["id"])
    op.create_table(
        "webhook_endpoints",
        _number("tenant_id"),
        _id(),
        _text("url"),
        sa.Column("types", ARRAY(sa.Text()), nullable=True),
        _number("conversation_id", nullable=True),
        _text("description", nullable=True),
        _json("headers"),
        sa.Column("suppress_automatic", sa.Boolean(), nullable=False),
        _text("secret"),
        _text("previous_secret", nullable=True),
        _time("previous_secret_until", nullable=True),
        _number("version", default=_ZERO),
        _number("cursor_generation"),
        _number("cursor_transaction"),
        _number("cursor_id"),
        _time("failing_since", nullable=True),
        _time("last_success_at", nullable=True),
        _time("probe_at", nullable=True),
        _time("paused_until", nullable=True),
        _time("disabled_at", nullable=True),
        _text("disabled_reason", nullable=True),
        _time("skipped_at", nullable=True),
        _time("created_at", is_now=True),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)", name=op.f("ck_webhook_endpoints_disabled")
        ),
        sa.CheckConstraint("length(url) <= 2000", name=op.f("ck_webhook_endpoints_url")),
        _of_tenant("webhook_endpoints"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_webhook_endpoints"),
    )
    op.create_table(
        "webhook_leases",
        _number("tenant_id"),
        _number("number", default=_ZERO),
        _number("changes", default=_ZERO),
        _time("leased_until", nullable=True),
        _of_tenant("webhook_leases"),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_webhook_leases"),
    )
    op.create_table(
        "conversation_participants",
        _number("tenant_id"),
        _number("conversation_id"),
        _text("role"),
        _number("contact_id"),
        _is_one_of("conversation_participants", "role", ("customer", "contact")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "contact_id"],
            ["contacts.tenant_id", "contacts.id"],
            name="fk_conversation_participants_contacts_contact_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name="fk_conversation_participants_conversations_conversation_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "conversation_id", "role", name="pk_conversation_participants"),
    )
    op.create_index("ix_conversation_participants_contact", "conversation_participants", ["tenant_id", "contact_id"])
    op.create_table(
        "conversation_tags",
        _number("tenant_id"),
        _text("tag"),
        _number("conversation_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name="fk_conversation_tags_conversations_conversation_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "tag", "conversation_id", name="pk_conversation_tags"),
    )
    op.create_index("ix_conversation_tags_conversation", "conversation_tags", ["tenant_id", "conversation_id"])
    op.create_table(
        "messages",
        _number("tenant_id"),
        _id(),
        _number("conversation_id"),
        _text("direction"),
        _text("channel"),
        _text("type"),
        _text("from_address"),
        _text("to_address"),
        _text("subject", nullable=True),
        _text("body"),
        _text("quoted", nullable=True),
        _text("html", nullable=True),
        _json("details", nullable=True),
        _text("author", nullable=True),
        _text("topic", nullable=True),
        _text("purpose", nullable=True),
        _json("attachments"),
        _text("status"),
        _text("status_reason", nullable=True),
        _text("provider_type", nullable=True),
        _text("provider_message_id", nullable=True),
        _text("idempotency_key", nullable=True),
        _text("request_fingerprint", nullable=True),
        _count("attempt_count"),
        _integer("attempt_limit", nullable=True),
        _count("worker_deaths"),
        _count("retry_count"),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        _number("batch_id", nullable=True),
        _integer("batch_line", nullable=True),
        _time("due_at", nullable=True),
        _time("send_at", nullable=True),
        _time("expires_at", nullable=True),
        _time("sent_at"),
        _time("created_at", is_now=True),
        _is_name("messages", "channel"),
        _is_one_of("messages", "direction", ("inbound", "outbound")),
        _is_name("messages", "provider_type"),
        _is_one_of("messages", "purpose", ("service", "confirmation")),
        sa.CheckConstraint(
            "sent_at >= '1970-01-01 00:00:00+00:00' AND sent_at < '2101-01-01 00:00:00+00:00'",
            name=op.f("ck_messages_sent_at"),
        ),
        _is_one_of("messages", "status", _STATUSES),
        _is_name("messages", "type"),
        sa.CheckConstraint("length(provider_message_id) <= 512", name=op.f("ck_messages_provider_message_id")),
        sa.CheckConstraint("priority BETWEEN 0 AND 2", name=op.f("ck_messages_priority")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name="fk_messages_conversations_conversation_id",
        ),
        _of_tenant("messages"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_messages"),
    )
    op.create_index(
        "ix_messages_batch_due",
        "messages",
        ["tenant_id", "batch_id", "due_at"],
        postgresql_where=sa.text("batch_id IS NOT NULL AND due_at IS NOT NULL"),
    )
    op.create_index("ix_messages_conversation", "messages", ["tenant_id", "conversation_id", "sent_at", "id"])
    op.create_index(
        "ix_messages_due",
        "messages",
        ["tenant_id", "channel", "priority", "due_at", "id"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_expiring",
        "messages",
        ["tenant_id", "channel", "expires_at"],
        postgresql_where=sa.text("due_at IS NOT NULL AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_idempotency_age",
        "messages",
        ["tenant_id", "created_at"],
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_pending",
        "messages",
        ["tenant_id", "conversation_id", "id"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_provider",
        "messages",
        ["tenant_id", "provider_type", sa.text("(-id)")],
        postgresql_where=sa.text("provider_type IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_status",
        "messages",
        ["tenant_id", "status", sa.text("(-id)")],
        postgresql_where=sa.text("status NOT IN ('scheduled', 'queued', 'sending')"),
    )
    op.create_index(
        "ix_messages_tried",
        "messages",
        ["tenant_id", "channel", "due_at", "id"],
        postgresql_where=sa.text("due_at IS NOT NULL AND attempt_count > 0"),
    )
    op.create_index(
        "uq_messages_batch_line",
        "messages",
        ["tenant_id", "batch_id", "batch_line"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "uq_messages_idempotency_key",
        "messages",
        ["tenant_id", "channel", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "uq_messages_provider_message_id",
        "messages",
        ["tenant_id", "provider_type", "provider_message_id"],
        unique=True,
        postgresql_where=sa.text("provider_message_id IS NOT NULL"),
    )
    op.create_table(
        "sessions",
        _number("tenant_id"),
        _id(),
        _number("key_id"),
        _bytes("secret_hash"),
        _time("created_at", is_now=True),
        _time("expires_at"),
        sa.CheckConstraint("length(secret_hash) = 32", name=op.f("ck_sessions_secret_hash")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "key_id"], ["api_keys.tenant_id", "api_keys.id"], name="fk_sessions_api_keys_key_id"
        ),
        _of_tenant("sessions"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_expired", "sessions", ["tenant_id", "expires_at"])
    op.create_table(
        "webhook_retries",
        _number("tenant_id"),
        _number("endpoint_id"),
        _number("generation"),
        _number("transaction_id"),
        _number("event_id"),
        _integer("tries"),
        _time("first_failed_at"),
        _time("due_at"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"],
            ["webhook_endpoints.tenant_id", "webhook_endpoints.id"],
            name="fk_webhook_retries_webhook_endpoints_endpoint_id",
        ),
        sa.PrimaryKeyConstraint(
            "tenant_id", "endpoint_id", "generation", "transaction_id", "event_id", name="pk_webhook_retries"
        ),
    )
    op.create_table(
        "delivery_attempts",
        _number("tenant_id"),
        _number("message_id"),
        _integer("number"),
        _text("provider_type"),
        _text("routed_because", nullable=True),
        _text("worker", nullable=True),
        _text("outcome", nullable=True),
        _text("detail", nullable=True),
        _text("provider_message_id", nullable=True),
        _time("started_at"),
        _time("finished_at", nullable=True),
        _is_one_of("delivery_attempts", "outcome", ("accepted", "temporary", "permanent", "unknown")),
        _is_name("delivery_attempts", "provider_type"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_delivery_attempts_messages_message_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "message_id", "number", name="pk_delivery_attempts"),
    )
    op.create_index(
        "ix_delivery_attempts_provider",
        "delivery_attempts",
        ["tenant_id", "provider_type", sa.text("(-message_id)")],
        postgresql_where=sa.text("(outcome IS NULL OR outcome = 'unknown')"),
    )
    op.create_index(
        "ix_delivery_attempts_provider_message_id",
        "delivery_attempts",
        ["tenant_id", "provider_type", "provider_message_id"],
        postgresql_where=sa.text("provider_message_id IS NOT NULL"),
    )
    op.create_table(
        "message_events",
        _number("tenant_id"),
        _id(),
        _number("message_id"),
        _text("kind"),
        _number("consent_entry_id", nullable=True),
        _time("created_at", is_now=True),
        _is_name("message_events", "kind"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_message_events_messages_message_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_message_events"),
    )
    op.create_index("ix_message_events_message", "message_events", ["tenant_id", "message_id", "id"])
    op.create_table(
        "message_files",
        _number("tenant_id"),
        _number("message_id"),
        _text("file_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "file_id"], ["files.tenant_id", "files.id"], name="fk_message_files_files_file_id"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_message_files_messages_message_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "message_id", "file_id", name="pk_message_files"),
    )
    op.create_index("ix_message_files_file", "message_files", ["tenant_id", "file_id"])
    op.create_table(
        "named_addresses",
        _number("tenant_id"),
        _number("message_id"),
        _text("address"),
        _text("role"),
        _is_one_of("named_addresses", "role", ("cc", "bcc", "reply_to")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_named_addresses_messages_message_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "message_id", "address", "role", name="pk_named_addresses"),
    )
    op.create_index("ix_named_addresses_address", "named_addresses", ["tenant_id", "address"])
    op.create_table(
        "provider_events",
        _number("tenant_id"),
        _id(),
        _text("provider_type"),
        _text("event_id"),
        _number("message_id", nullable=True),
        _text("provider_message_id", nullable=True),
        _text("status", nullable=True),
        _text("detail", nullable=True),
        _text("consent", nullable=True),
        _text("recipient", nullable=True),
        _json("raw"),
        _time("occurred_at", nullable=True),
        _time("received_at", is_now=True),
        _is_one_of(
            "provider_events",
            "consent",
            (
                "complaint",
                "hard_bounce",
                "soft_bounce",
                "unsubscribed",
                "subscribed",
                "left_group",
                "joined_group",
                "opted_out",
                "no_marketing",
                "opted_in",
            ),
        ),
        _is_name("provider_events", "provider_type"),
        _is_one_of("provider_events", "status", _STATUSES),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_provider_events_messages_message_id",
        ),
        _of_tenant("provider_events"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_provider_events"),
        sa.UniqueConstraint(
            "tenant_id", "provider_type", "event_id", name="uq_provider_events_tenant_id_provider_type_event_id"
        ),
    )
    op.create_index("ix_provider_events_message", "provider_events", ["tenant_id", "message_id", "id"])
    op.create_index(
        "ix_provider_events_parked",
        "provider_events",
        ["tenant_id", "provider_type", "provider_message_id"],
        postgresql_where=sa.text("message_id IS NULL"),
    )
    op.create_index(
        "ix_provider_events_parked_age",
        "provider_events",
        ["tenant_id", "received_at"],
        postgresql_where=sa.text("message_id IS NULL"),
    )

    op.execute("ALTER TABLE files ALTER COLUMN content SET STORAGE EXTERNAL")
    # Autovacuum waits for 20 % of a table by default, a million messages, and then changes 40 MB a second.
    for table in _BUSY:
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_limit = 1000,"
            " autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)"
        )
    # It is always short, and all of its rows are soon dead.
    op.execute(
        "ALTER TABLE search_queue SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,"
        " autovacuum_vacuum_cost_limit = 1000)"
    )
    op.execute("INSERT INTO tenants (name) VALUES ('default')")
    op.execute("INSERT INTO event_logs (tenant_id) SELECT id FROM tenants")
    op.execute("INSERT INTO installation DEFAULT VALUES")


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
