"""What came with the tokens of signatures that don't cover it

Revision ID: 20261127_01
Revises: 20261122_08
"""

import sqlalchemy as sa
from alembic import op

revision = "20261127_01"
down_revision = "20261122_08"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "signature_tokens",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("provider_type", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "provider_type", "token", name="pk_signature_tokens"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_signature_tokens_tenants_tenant_id"),
        sa.CheckConstraint(
            "provider_type ~ '^[a-z][a-z0-9_-]{0,62}$'", name=op.f("ck_signature_tokens_provider_type")
        ),
    )
    op.create_index("ix_signature_tokens_age", "signature_tokens", ["tenant_id", "created_at"])


def downgrade() -> None:
    op.drop_table("signature_tokens")
