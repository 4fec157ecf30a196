"""The files of mails that came in, and what those repeat of earlier ones

Revision ID: 20261122_08
Revises: 20261122_07
"""

import sqlalchemy as sa
from alembic import op

revision = "20261122_08"
down_revision = "20261122_07"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("quoted", sa.Text()))
    op.create_table(
        "files",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("provider_type", sa.Text(), nullable=False),
        sa.Column("provider_message_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary()),
        sa.Column("path", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_files"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_files_tenants_tenant_id"),
        sa.CheckConstraint("provider_type ~ '^[a-z][a-z0-9_-]{0,62}$'", name=op.f("ck_files_provider_type")),
        sa.CheckConstraint("(content IS NULL) <> (path IS NULL)", name=op.f("ck_files_content")),
    )
    # Most files are compressed already, and one that is not stored compressed can be read in pieces.
    op.execute("ALTER TABLE files ALTER COLUMN content SET STORAGE EXTERNAL")
    op.create_index("ix_files_message", "files", ["tenant_id", "provider_type", "provider_message_id"])
    op.create_index("ix_files_age", "files", ["tenant_id", "created_at"])


def downgrade() -> None:
    op.drop_table("files")
    op.drop_column("messages", "quoted")
