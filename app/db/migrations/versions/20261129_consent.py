"""Consent: its ledger, the refusals that hold, the topic and purpose of messages, the meaning of receipts

Revision ID: 20261129_07
Revises: 20261129_06
"""

import sqlalchemy as sa
from alembic import op

revision = "20261129_07"
down_revision = "20261129_06"
branch_labels = None
depends_on = None

_NAME = "address_type ~ '^[a-z][a-z0-9_-]*$' AND length(address_type) <= 63"
_SCOPES = "scope IN ('everything', 'channel', 'sender', 'topic')"
_SOURCES = (
    "source IN ('keyword', 'vendor', 'unsubscribe_link', 'mail', 'complaint', 'hard_bounce', 'soft_bounces', 'api',"
    " 'import')"
)
_REPORTS = (
    "consent IN ('complaint', 'hard_bounce', 'soft_bounce', 'unsubscribed', 'subscribed', 'left_group',"
    " 'joined_group', 'opted_out', 'no_marketing', 'opted_in')"
)


def upgrade() -> None:
    now, time = sa.text("now()"), sa.DateTime(timezone=True)
    op.create_table(
        "consent_entries",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("address_type", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_value", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("message_id", sa.BigInteger()),
        sa.Column("receipt_id", sa.BigInteger()),
        sa.Column("detail", sa.Text()),
        sa.Column("actor", sa.Text()),
        sa.Column("created_at", time, server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_consent_entries"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_consent_entries_tenants_tenant_id"),
        sa.CheckConstraint(_NAME, name=op.f("ck_consent_entries_address_type")),
        sa.CheckConstraint("action IN ('granted', 'revoked')", name=op.f("ck_consent_entries_action")),
        sa.CheckConstraint(_SCOPES, name=op.f("ck_consent_entries_scope")),
        sa.CheckConstraint(_SOURCES, name=op.f("ck_consent_entries_source")),
    )
    op.create_index("ix_consent_entries_address", "consent_entries", ["tenant_id", "address", "id"])
    op.create_table(
        "suppressions",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("address_type", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("scope_value", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("is_hashed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", time, server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_suppressions"),
        sa.UniqueConstraint(
            "tenant_id",
            "address",
            "address_type",
            "scope",
            "scope_value",
            "source",
            name="uq_suppressions_refusal",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_suppressions_tenants_tenant_id"),
        sa.CheckConstraint(_NAME, name=op.f("ck_suppressions_address_type")),
        sa.CheckConstraint(_SCOPES, name=op.f("ck_suppressions_scope")),
        sa.CheckConstraint(_SOURCES, name=op.f("ck_suppressions_source")),
    )
    op.create_index("ix_suppressions_source", "suppressions", ["tenant_id", "source", sa.text("(-id)")])
    op.create_index(
        "ix_suppressions_hashed", "suppressions", ["tenant_id", "id"], postgresql_where=sa.text("is_hashed")
    )
    op.add_column("messages", sa.Column("topic", sa.Text()))
    op.add_column("messages", sa.Column("purpose", sa.Text()))
    op.create_check_constraint(op.f("ck_messages_purpose"), "messages", "purpose IN ('service', 'confirmation')")
    # Failed attempts, which can be many, are not looked for: their messages name the provider.
    op.drop_index("ix_delivery_attempts_provider", "delivery_attempts")
    _index_of_attempts("(outcome IS NULL OR outcome = 'unknown')")
    op.add_column("message_events", sa.Column("consent_entry_id", sa.BigInteger()))
    op.add_column("provider_events", sa.Column("consent", sa.Text()))
    op.create_check_constraint(op.f("ck_provider_events_consent"), "provider_events", _REPORTS)


def _index_of_attempts(condition: str) -> None:
    op.create_index(
        "ix_delivery_attempts_provider",
        "delivery_attempts",
        ["tenant_id", "provider_type", sa.text("(-message_id)")],
        postgresql_where=sa.text(condition),
    )


def downgrade() -> None:
    op.drop_index("ix_delivery_attempts_provider", "delivery_attempts")
    _index_of_attempts("outcome IS DISTINCT FROM 'accepted'")
    op.drop_column("provider_events", "consent")
    op.drop_column("message_events", "consent_entry_id")
    op.drop_column("messages", "purpose")
    op.drop_column("messages", "topic")
    op.drop_table("suppressions")
    op.drop_table("consent_entries")
