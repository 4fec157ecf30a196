"""What delivery needs to survive everything: receipts, provider states, idempotency keys, schedules

Revision ID: 20261122_02
Revises: 20261122_01
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261122_02"
down_revision = "20261122_01"
branch_labels = None
depends_on = None

_NAME = "~ '^[a-z][a-z0-9_-]{0,62}$'"
_STATUSES = (
    "status IN ('scheduled', 'queued', 'sending', 'unknown', 'sent', 'undelivered', 'failed', 'canceled',"
    " 'expired', 'suppressed', 'delivered', 'read', 'received')"
)
_FIRST_STATUSES = "status IN ('queued', 'sending', 'unknown', 'sent', 'failed', 'received')"


def _moment(name: str, *, nullable: bool = True, now: bool = False) -> sa.Column[object]:
    default = sa.func.now() if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def upgrade() -> None:
    op.drop_constraint(op.f("ck_messages_status"), "messages")
    op.create_check_constraint(op.f("ck_messages_status"), "messages", _STATUSES)
    op.add_column("messages", sa.Column("idempotency_key", sa.Text()))
    op.add_column("messages", sa.Column("request_fingerprint", sa.Text()))
    op.add_column("messages", sa.Column("attempt_limit", sa.Integer()))
    op.add_column("messages", _moment("expires_at"))
    op.drop_index("ix_messages_due", "messages")
    op.create_index(
        "ix_messages_due",
        "messages",
        ["tenant_id", "channel", "due_at", "id"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_pending",
        "messages",
        ["tenant_id", "conversation_id", "id"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_attention",
        "messages",
        ["tenant_id", "status", "id"],
        postgresql_where=sa.text("status IN ('unknown', 'undelivered', 'failed')"),
    )
    op.create_index(
        "uq_messages_idempotency_key",
        "messages",
        ["tenant_id", "channel", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_idempotency_age",
        "messages",
        ["tenant_id", "created_at"],
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.add_column("delivery_attempts", sa.Column("routed_because", sa.Text()))
    op.create_index(
        "ix_delivery_attempts_provider_message_id",
        "delivery_attempts",
        ["tenant_id", "provider_type", "provider_message_id"],
        postgresql_where=sa.text("provider_message_id IS NOT NULL"),
    )
    op.create_table(
        "provider_events",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("provider_type", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.BigInteger()),
        sa.Column("provider_message_id", sa.Text()),
        sa.Column("status", sa.Text()),
        sa.Column("detail", sa.Text()),
        sa.Column("raw", JSONB(), nullable=False),
        _moment("occurred_at"),
        _moment("received_at", nullable=False, now=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_provider_events"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_provider_events_tenants_tenant_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_provider_events_messages_message_id",
        ),
        sa.UniqueConstraint(
            "tenant_id", "provider_type", "event_id", name="uq_provider_events_tenant_id_provider_type_event_id"
        ),
        sa.CheckConstraint(f"provider_type {_NAME}", name=op.f("ck_provider_events_provider_type")),
        sa.CheckConstraint(_STATUSES, name=op.f("ck_provider_events_status")),
    )
    op.create_index("ix_provider_events_message", "provider_events", ["tenant_id", "message_id", "id"])
    op.create_index(
        "ix_provider_events_parked",
        "provider_events",
        ["tenant_id", "provider_type", "provider_message_id"],
        postgresql_where=sa.text("message_id IS NULL"),
    )
    op.create_table(
        "message_events",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        _moment("created_at", nullable=False, now=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_message_events"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_message_events_messages_message_id",
        ),
        sa.CheckConstraint(f"kind {_NAME}", name=op.f("ck_message_events_kind")),
    )
    op.create_index("ix_message_events_message", "message_events", ["tenant_id", "message_id", "id"])
    op.create_table(
        "provider_states",
        sa.Column("provider_type", sa.Text(), nullable=False),
        sa.Column("failure_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _moment("open_until"),
        _moment("throttled_until"),
        _moment("paused_at"),
        sa.Column("paused_reason", sa.Text()),
        _moment("next_slot_at"),
        sa.PrimaryKeyConstraint("provider_type", name="pk_provider_states"),
        sa.CheckConstraint(f"provider_type {_NAME}", name=op.f("ck_provider_states_provider_type")),
    )


def downgrade() -> None:
    op.drop_table("provider_states")
    op.drop_table("message_events")
    op.drop_table("provider_events")
    op.drop_index("ix_delivery_attempts_provider_message_id", "delivery_attempts")
    op.drop_column("delivery_attempts", "routed_because")
    for name in (
        "ix_messages_idempotency_age",
        "uq_messages_idempotency_key",
        "ix_messages_attention",
        "ix_messages_pending",
        "ix_messages_due",
    ):
        op.drop_index(name, "messages")
    op.create_index(
        "ix_messages_due", "messages", ["tenant_id", "due_at", "id"], postgresql_where=sa.text("due_at IS NOT NULL")
    )
    for name in ("expires_at", "attempt_limit", "request_fingerprint", "idempotency_key"):
        op.drop_column("messages", name)
    op.drop_constraint(op.f("ck_messages_status"), "messages")
    op.create_check_constraint(op.f("ck_messages_status"), "messages", _FIRST_STATUSES)
