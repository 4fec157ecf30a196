"""The event log

Revision ID: 20261129_01
Revises: 20261128_03
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261129_01"
down_revision = "20261128_03"
branch_labels = None
depends_on = None


def upgrade() -> None:
    zero = sa.text("0")
    op.create_table(
        "event_logs",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("server_started_at", sa.DateTime(timezone=True)),
        sa.Column("trimmed_to_generation", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("trimmed_to_transaction", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("trimmed_to_id", sa.BigInteger(), server_default=zero, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_event_logs"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_event_logs_tenants_tenant_id"),
    )
    op.execute("INSERT INTO event_logs (tenant_id) SELECT id FROM tenants")
    op.create_table(
        "events",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("message_id", sa.BigInteger()),
        sa.Column("conversation_id", sa.BigInteger()),
        sa.Column("contact_id", sa.BigInteger()),
        sa.Column("facts", JSONB()),
        sa.Column("previous_hash", sa.LargeBinary()),
        sa.Column("key_id", sa.BigInteger()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "generation", "transaction_id", "id", name="pk_events"),
    )


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("event_logs")
