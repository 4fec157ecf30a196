"""Who made an attempt, so that a dead worker's are found at once; what it took down with it; rounds of retries;
what is looked for every second, however long the queue

Revision ID: 20261122_03
Revises: 20261122_02
"""

import sqlalchemy as sa
from alembic import op

revision = "20261122_03"
down_revision = "20261122_02"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("delivery_attempts", sa.Column("worker", sa.Text()))
    for name in ("worker_deaths", "retry_count"):
        op.add_column("messages", sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.create_index(
        "ix_messages_tried",
        "messages",
        ["tenant_id", "channel", "due_at", "id"],
        postgresql_where=sa.text("due_at IS NOT NULL AND attempt_count > 0"),
    )
    op.create_index(
        "ix_messages_expiring",
        "messages",
        ["tenant_id", "channel", "expires_at"],
        postgresql_where=sa.text("due_at IS NOT NULL AND expires_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_messages_expiring", "messages")
    op.drop_index("ix_messages_tried", "messages")
    for name in ("retry_count", "worker_deaths"):
        op.drop_column("messages", name)
    op.drop_column("delivery_attempts", "worker")
