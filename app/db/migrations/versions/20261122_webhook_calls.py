"""The calls of providers as they came

Revision ID: 20261122_07
Revises: 20261122_06
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "20261122_07"
down_revision = "20261122_06"
branch_labels = None
depends_on = None


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "webhook_calls",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        _text("provider_type"),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        _text("method"),
        _text("url"),
        sa.Column("headers", JSONB(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _text("verdict"),
        _text("reason", nullable=True),
        _text("seen", nullable=True),
        _text("expected", nullable=True),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("addresses", ARRAY(sa.Text()), nullable=False),
        sa.Column("replayed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_webhook_calls"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_webhook_calls_tenants_tenant_id"),
        sa.CheckConstraint("provider_type ~ '^[a-z][a-z0-9_-]{0,62}$'", name=op.f("ck_webhook_calls_provider_type")),
        sa.CheckConstraint(
            "verdict IN ('taken', 'not_understood', 'refused')", name=op.f("ck_webhook_calls_verdict")
        ),
    )
    op.create_index("ix_webhook_calls_newest", "webhook_calls", ["id"])
    op.create_index(
        "ix_webhook_calls_attention",
        "webhook_calls",
        ["id"],
        postgresql_where=sa.text("verdict <> 'taken' OR addresses = '{}'::text[]"),
    )
    op.create_index("ix_webhook_calls_addresses", "webhook_calls", ["addresses"], postgresql_using="gin")


def downgrade() -> None:
    op.drop_table("webhook_calls")
