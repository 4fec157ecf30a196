"""Webhook endpoints

Revision ID: 20261129_02
Revises: 20261129_01
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261129_02"
down_revision = "20261129_01"
branch_labels = None
depends_on = None


def upgrade() -> None:
    zero, now, time = sa.text("0"), sa.text("now()"), sa.DateTime(timezone=True)
    op.create_table(
        "webhook_leases",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("changes", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("leased_until", time),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_webhook_leases"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_leases_tenants_tenant_id"),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("types", sa.ARRAY(sa.Text())),
        sa.Column("conversation_id", sa.BigInteger()),
        sa.Column("description", sa.Text()),
        sa.Column("headers", JSONB(), nullable=False),
        sa.Column("suppress_automatic", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text()),
        sa.Column("previous_secret_until", time),
        sa.Column("version", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("cursor_generation", sa.BigInteger(), nullable=False),
        sa.Column("cursor_transaction", sa.BigInteger(), nullable=False),
        sa.Column("cursor_id", sa.BigInteger(), nullable=False),
        sa.Column("failing_since", time),
        sa.Column("last_success_at", time),
        sa.Column("probe_at", time),
        sa.Column("paused_until", time),
        sa.Column("disabled_at", time),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("skipped_at", time),
        sa.Column("created_at", time, server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_webhook_endpoints"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_endpoints_tenants_tenant_id"),
        sa.CheckConstraint("length(url) <= 2000", name=op.f("ck_webhook_endpoints_url")),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)", name=op.f("ck_webhook_endpoints_disabled")
        ),
    )
    op.create_table(
        "webhook_retries",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("first_failed_at", time, nullable=False),
        sa.Column("due_at", time, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "endpoint_id", "generation", "transaction_id", "event_id", name="pk_webhook_retries"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"],
            ["webhook_endpoints.tenant_id", "webhook_endpoints.id"],
            name="fk_webhook_retries_webhook_endpoints_tenant_id",
        ),
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("message_id", sa.BigInteger()),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("answer", sa.Text()),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("started_at", time, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_webhook_attempts"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_attempts_tenants_tenant_id"),
    )
    op.create_index("ix_webhook_attempts_endpoint", "webhook_attempts", ["tenant_id", "endpoint_id", "id"])
    op.create_index(
        "ix_webhook_attempts_message",
        "webhook_attempts",
        ["tenant_id", "message_id"],
        postgresql_where=sa.text("message_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("webhook_attempts")
    op.drop_table("webhook_retries")
    op.drop_table("webhook_endpoints")
    op.drop_table("webhook_leases")
