"""Other addresses of people on chat channels, and an index of groups

Revision ID: 20261128_03
Revises: 20261128_02
"""

import sqlalchemy as sa
from alembic import op

revision = "20261128_03"
down_revision = "20261128_02"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "aliases",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("address_type", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_aliases_tenants_tenant_id"),
    )
    op.create_index("ix_aliases_address", "aliases", ["tenant_id", "address"])
    op.create_index(
        "ix_contacts_groups", "contacts", ["tenant_id", "id"], postgresql_where=sa.text("address_type = 'group'")
    )


def downgrade() -> None:
    op.drop_index("ix_contacts_groups", "contacts")
    op.drop_table("aliases")
