"""How long a tenant's messages are kept, who is being erased, and how old a parked receipt is

Revision ID: 20261122_05
Revises: 20261122_04
"""

import sqlalchemy as sa
from alembic import op

revision = "20261122_05"
down_revision = "20261122_04"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("retention_days", sa.Integer()))
    op.create_check_constraint(op.f("ck_tenants_retention_days"), "tenants", "retention_days >= 1")
    op.add_column("contacts", sa.Column("erasing_since", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_contacts_erasing",
        "contacts",
        ["tenant_id", "id"],
        postgresql_where=sa.text("erasing_since IS NOT NULL"),
    )
    op.create_index(
        "ix_provider_events_parked_age",
        "provider_events",
        ["tenant_id", "received_at"],
        postgresql_where=sa.text("message_id IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_provider_events_parked_age", "provider_events")
    op.drop_index("ix_contacts_erasing", "contacts")
    op.drop_column("contacts", "erasing_since")
    op.drop_constraint(op.f("ck_tenants_retention_days"), "tenants")
    op.drop_column("tenants", "retention_days")
