"""The HTML form of a mail, and what only some messages have

Revision ID: 20261128_01
Revises: 20261127_02
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261128_01"
down_revision = "20261127_02"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("html", sa.Text()))
    op.add_column("messages", sa.Column("details", JSONB()))


def downgrade() -> None:
    op.drop_column("messages", "details")
    op.drop_column("messages", "html")
