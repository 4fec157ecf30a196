"""Conversations in which two programs answer each other are paused; the time that a message is scheduled for

Revision ID: 20261129_03
Revises: 20261129_02
"""

import sqlalchemy as sa
from alembic import op

revision = "20261129_03"
down_revision = "20261129_02"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "conversations", sa.Column("awaits_answer", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column(
        "conversations", sa.Column("answer_count", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("conversations", sa.Column("answers_since", sa.DateTime(timezone=True)))
    op.add_column("conversations", sa.Column("paused_until", sa.DateTime(timezone=True)))
    op.add_column("messages", sa.Column("send_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE messages SET send_at = due_at WHERE status = 'scheduled' AND due_at IS NOT NULL")


def downgrade() -> None:
    op.drop_column("messages", "send_at")
    for name in ("paused_until", "answers_since", "answer_count", "awaits_answer"):
        op.drop_column("conversations", name)
