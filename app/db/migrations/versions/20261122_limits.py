"""How much each tenant may ask for in a second, and send in a day

Revision ID: 20261122_06
Revises: 20261122_05
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261122_06"
down_revision = "20261122_05"
branch_labels = None
depends_on = None


def _tenant_id() -> sa.Column[object]:
    return sa.Column("tenant_id", sa.BigInteger(), nullable=False)


def _tenant(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=f"fk_{table}_tenants_tenant_id")


def upgrade() -> None:
    op.add_column("tenants", sa.Column("rate_limit_per_second", sa.Float()))
    op.add_column("tenants", sa.Column("rate_limit_burst", sa.Integer()))
    op.add_column("tenants", sa.Column("daily_caps", JSONB()))
    op.create_check_constraint(
        op.f("ck_tenants_rate_limit"), "tenants", "rate_limit_per_second >= 0 AND rate_limit_burst >= 1"
    )
    op.create_table(
        "rate_budgets",
        _tenant_id(),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("refilled_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_rate_budgets"),
        _tenant("rate_budgets"),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "daily_budgets",
        _tenant_id(),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("tenant_id", "day", "destination", name="pk_daily_budgets"),
        _tenant("daily_budgets"),
    )


def downgrade() -> None:
    op.drop_table("daily_budgets")
    op.drop_table("rate_budgets")
    op.drop_constraint(op.f("ck_tenants_rate_limit"), "tenants")
    for name in ("daily_caps", "rate_limit_burst", "rate_limit_per_second"):
        op.drop_column("tenants", name)
