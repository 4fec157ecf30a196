"""The learned pace of providers, the turns of shared tasks, and earlier vacuuming of busy tables

Revision ID: 20261129_04
Revises: 20261129_03
"""

import sqlalchemy as sa
from alembic import op

revision = "20261129_04"
down_revision = "20261129_03"
branch_labels = None
depends_on = None

_BUSY = ("messages", "delivery_attempts", "provider_events", "conversations", "events")
# A hundredth of the table instead of a fifth. By default a million dead rows of five million are left lying.
_SETTINGS = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_insert_scale_factor": "0.02",
    "autovacuum_analyze_scale_factor": "0.02",
}


def upgrade() -> None:
    for name in ("learned_rate", "rate_ceiling"):
        op.add_column("provider_states", sa.Column(name, sa.Float()))
    op.add_column("provider_states", sa.Column("rate_changed_at", sa.DateTime(timezone=True)))
    op.create_table(
        "shared_tasks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_shared_tasks"),
    )
    settings = ", ".join(f"{name} = {value}" for name, value in _SETTINGS.items())
    for table in _BUSY:
        op.execute(f"ALTER TABLE {table} SET ({settings})")


def downgrade() -> None:
    for table in _BUSY:
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(_SETTINGS)})")
    op.drop_table("shared_tasks")
    for name in ("rate_changed_at", "rate_ceiling", "learned_rate"):
        op.drop_column("provider_states", name)
