"""Lists by any status that is at rest, and by provider

Revision ID: 20261129_05
Revises: 20261129_04
"""

import sqlalchemy as sa
from alembic import op

revision = "20261129_05"
down_revision = "20261129_04"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_messages_status",
        "messages",
        ["tenant_id", "status", sa.text("(-id)")],
        postgresql_where=sa.text("status NOT IN ('scheduled', 'queued', 'sending')"),
    )
    op.drop_index("ix_messages_attention", "messages")
    op.create_index(
        "ix_messages_provider",
        "messages",
        ["tenant_id", "provider_type", sa.text("(-id)")],
        postgresql_where=sa.text("provider_type IS NOT NULL"),
    )
    op.create_index(
        "ix_delivery_attempts_provider",
        "delivery_attempts",
        ["tenant_id", "provider_type", sa.text("(-message_id)")],
        postgresql_where=sa.text("outcome IS DISTINCT FROM 'accepted'"),
    )


def downgrade() -> None:
    op.drop_index("ix_delivery_attempts_provider", "delivery_attempts")
    op.drop_index("ix_messages_provider", "messages")
    op.drop_index("ix_messages_status", "messages")
    op.create_index(
        "ix_messages_attention",
        "messages",
        ["tenant_id", "status", "id"],
        postgresql_where=sa.text("status IN ('unknown', 'undelivered', 'failed')"),
    )
