"""Tenants, contacts, conversations, messages and delivery attempts

Revision ID: 20261122_01
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261122_01"
down_revision = None
branch_labels = None
depends_on = None

_NAME = "~ '^[a-z][a-z0-9_-]{0,62}$'"


def _moment(name: str, *, nullable: bool = False, now: bool = False) -> sa.Column[object]:
    default = sa.func.now() if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def _number(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _count(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False)


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _id() -> sa.Column[object]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False)


def _tenant(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=f"fk_{table}_tenants_tenant_id")


def upgrade() -> None:
    op.create_table(
        "tenants",
        _id(),
        _text("name"),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("name", name="uq_tenants_name"),
    )
    op.execute("INSERT INTO tenants (name) VALUES ('default')")
    op.create_table(
        "contacts",
        _number("tenant_id"),
        _id(),
        _text("address"),
        _text("address_type"),
        _text("written"),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_contacts"),
        _tenant("contacts"),
        sa.UniqueConstraint(
            "tenant_id", "address", "address_type", name="uq_contacts_tenant_id_address_address_type"
        ),
        sa.CheckConstraint(f"address_type {_NAME}", name=op.f("ck_contacts_address_type")),
    )
    op.create_table(
        "conversations",
        _number("tenant_id"),
        _id(),
        _text("customer_address"),
        _text("contact_address"),
        _count("message_count"),
        _moment("last_activity_at"),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_conversations"),
        _tenant("conversations"),
        sa.UniqueConstraint(
            "tenant_id",
            "customer_address",
            "contact_address",
            name="uq_conversations_tenant_id_customer_address_contact_address",
        ),
    )
    op.create_index(
        "ix_conversations_recent",
        "conversations",
        ["tenant_id", sa.text("last_activity_at DESC"), sa.text("id DESC")],
    )
    op.create_table(
        "conversation_participants",
        _number("tenant_id"),
        _number("conversation_id"),
        _text("role"),
        _number("contact_id"),
        sa.PrimaryKeyConstraint("tenant_id", "conversation_id", "role", name="pk_conversation_participants"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name="fk_conversation_participants_conversations_conversation_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "contact_id"],
            ["contacts.tenant_id", "contacts.id"],
            name="fk_conversation_participants_contacts_contact_id",
        ),
        sa.CheckConstraint("role IN ('customer', 'contact')", name=op.f("ck_conversation_participants_role")),
    )
    op.create_index("ix_conversation_participants_contact", "conversation_participants", ["tenant_id", "contact_id"])
    op.create_table(
        "messages",
        _number("tenant_id"),
        _id(),
        _number("conversation_id"),
        _text("direction"),
        _text("channel"),
        _text("type"),
        _text("from_address"),
        _text("to_address"),
        _text("subject", nullable=True),
        _text("body"),
        sa.Column("attachments", JSONB(), nullable=False),
        _text("status"),
        _text("status_reason", nullable=True),
        _text("provider_type", nullable=True),
        _text("provider_message_id", nullable=True),
        _count("attempt_count"),
        _moment("due_at", nullable=True),
        _moment("sent_at"),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_messages"),
        _tenant("messages"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name="fk_messages_conversations_conversation_id",
        ),
        sa.CheckConstraint("direction IN ('inbound', 'outbound')", name=op.f("ck_messages_direction")),
        sa.CheckConstraint(
            "status IN ('queued', 'sending', 'unknown', 'sent', 'failed', 'received')",
            name=op.f("ck_messages_status"),
        ),
        sa.CheckConstraint(f"channel {_NAME}", name=op.f("ck_messages_channel")),
        sa.CheckConstraint(f"type {_NAME}", name=op.f("ck_messages_type")),
        sa.CheckConstraint(f"provider_type {_NAME}", name=op.f("ck_messages_provider_type")),
        sa.CheckConstraint(
            "sent_at >= '1970-01-01 00:00:00+00' AND sent_at < '2101-01-01 00:00:00+00'",
            name=op.f("ck_messages_sent_at"),
        ),
        sa.CheckConstraint("length(provider_message_id) <= 512", name=op.f("ck_messages_provider_message_id")),
    )
    op.create_index(
        "uq_messages_provider_message_id",
        "messages",
        ["tenant_id", "provider_type", "provider_message_id"],
        unique=True,
        postgresql_where=sa.text("provider_message_id IS NOT NULL"),
    )
    op.create_index("ix_messages_conversation", "messages", ["tenant_id", "conversation_id", "sent_at", "id"])
    op.create_index(
        "ix_messages_due",
        "messages",
        ["tenant_id", "due_at", "id"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "delivery_attempts",
        _number("tenant_id"),
        _number("message_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        _text("provider_type"),
        _text("outcome", nullable=True),
        _text("detail", nullable=True),
        _text("provider_message_id", nullable=True),
        _moment("started_at"),
        _moment("finished_at", nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "message_id", "number", name="pk_delivery_attempts"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "message_id"],
            ["messages.tenant_id", "messages.id"],
            name="fk_delivery_attempts_messages_message_id",
        ),
        sa.CheckConstraint(
            "outcome IN ('accepted', 'temporary', 'permanent', 'unknown')",
            name=op.f("ck_delivery_attempts_outcome"),
        ),
        sa.CheckConstraint(f"provider_type {_NAME}", name=op.f("ck_delivery_attempts_provider_type")),
    )


def downgrade() -> None:
    for table in (
        "delivery_attempts",
        "messages",
        "conversation_participants",
        "conversations",
        "contacts",
        "tenants",
    ):
        op.drop_table(table)
