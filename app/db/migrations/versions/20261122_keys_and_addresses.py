"""Who may come in, which tenant an address belongs to, and a record of both

Revision ID: 20261122_04
Revises: 20261122_03
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261122_04"
down_revision = "20261122_03"
branch_labels = None
depends_on = None

_NAME = "~ '^[a-z][a-z0-9_-]{0,62}$'"


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _moment(name: str, *, now: bool = False) -> sa.Column[object]:
    default = sa.func.now() if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not now, server_default=default)


def _tenant_id() -> sa.Column[object]:
    return sa.Column("tenant_id", sa.BigInteger(), nullable=False)


def _id() -> sa.Column[object]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False)


def _tenant(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=f"fk_{table}_tenants_tenant_id")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        _tenant_id(),
        _id(),
        _text("prefix"),
        _text("name"),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", JSONB(), nullable=False),
        _moment("created_at", now=True),
        _moment("expires_at"),
        _moment("revoked_at"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_api_keys"),
        sa.UniqueConstraint("tenant_id", "prefix", name="uq_api_keys_tenant_id_prefix"),
        sa.CheckConstraint("length(secret_hash) = 32", name=op.f("ck_api_keys_secret_hash")),
        _tenant("api_keys"),
    )
    op.create_table(
        "tenant_addresses",
        _text("address"),
        _text("address_type"),
        _tenant_id(),
        _id(),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("address", "address_type", name="pk_tenant_addresses"),
        sa.CheckConstraint(f"address_type {_NAME}", name=op.f("ck_tenant_addresses_address_type")),
        _tenant("tenant_addresses"),
    )
    op.create_index("ix_tenant_addresses_tenant", "tenant_addresses", ["tenant_id", "id"])
    op.create_table(
        "audit_events",
        _tenant_id(),
        _id(),
        _text("kind"),
        _text("actor", nullable=True),
        sa.Column("detail", JSONB(), nullable=False),
        _text("client", nullable=True),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_audit_events"),
        sa.CheckConstraint(f"kind {_NAME}", name=op.f("ck_audit_events_kind")),
        _tenant("audit_events"),
    )


def downgrade() -> None:
    for table in ("audit_events", "tenant_addresses", "api_keys"):
        op.drop_table(table)
