"""Addresses are compared without case, and numbers in today's numbering plans

Contacts, conversations, tenants' addresses and those of kept callbacks are merged where their forms become one. The
eldest row stays. Messages keep their ids and their spelling, and move to the conversation that stays.

Revision ID: 20261128_02
Revises: 20261128_01
"""

import re
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "20261128_02"
down_revision = "20261128_01"
branch_labels = None
depends_on = None

_VIETNAM = (
    "120:70 121:79 122:77 126:76 128:78 123:83 124:84 125:85 127:81 129:82 "
    "162:32 163:33 164:34 165:35 166:36 167:37 168:38 169:39 186:56 188:58 199:59"
)
#: Written so that Python and PostgreSQL read them alike.
_PLANS = [
    (r"\+([0-9]{5,6})", r"\1"),  # a short code
    (r"\+52(?:1|01|044|045)([1-9][0-9]{9})", r"+52\1"),
    (r"\+55([1-9]{2})([6-9][0-9]{7})", r"+55\g<1>9\2"),
    (r"\+54((?:11|2[0-9]|3[0-9])[0-9]{8})", r"+549\1"),
    (r"\+225((?!80|90)[04-9][0-3][0-9]{6})", r"+22501\1"),
    (r"\+225([04-9][4-6][0-9]{6})", r"+22505\1"),
    (r"\+225([04-9][7-9][0-9]{6})", r"+22507\1"),
    (r"\+225([23][0-9]8[0-9]{5})", r"+22521\1"),
    (r"\+225([23][0-9]0[0-9]{5})", r"+22525\1"),
    (r"\+225([23][0-9][1-79][0-9]{5})", r"+22527\1"),
    (r"\+229([2-9][0-9]{7})", r"+22901\1"),
    (r"\+237([79][0-9]{7})", r"+2376\1"),
    (r"\+237([23][0-9]{7})", r"+2372\1"),
    (r"\+2410?(1[0-9]{6})", r"+2411\1"),
    (r"\+2410?([256][0-9]{6})", r"+2416\1"),
    (r"\+2410?([47][0-9]{6})", r"+2417\1"),
    *((rf"\+84{old}([0-9]{{7}})", rf"+84{new}\1") for old, new in (pair.split(":") for pair in _VIETNAM.split())),
]
#: A quoted local part that needs no quotes but for its dots.
_QUOTED_FOR_DOTS = re.compile(r'"([^\s"(),:;<>@\[\\\]]+)"')
_BATCH = 10_000

#: Addresses that may have another form, which Python decides.
_FIND = """
    SELECT DISTINCT address FROM (
        SELECT address FROM contacts WHERE address_type IN ('email', 'phone')
        UNION ALL SELECT address FROM tenant_addresses WHERE address_type IN ('email', 'phone')
        UNION ALL SELECT unnest(addresses) FROM webhook_calls
    ) AS known
    WHERE address ~ :numbers
    OR (address LIKE '%@%' AND address !~ '^[a-z][a-z0-9_-]*:'
        AND (address ~ '[A-Z]|^"|[.]$' OR octet_length(address) <> length(address)))
"""
#: In each table, `kept` is the eldest of the rows that have become one.
_STEPS = [
    # Contacts.
    """
    CREATE TEMPORARY TABLE merged_contacts ON COMMIT DROP AS
    WITH keyed AS (
        SELECT tenant_id, id, address_type, coalesce(new, address) AS address, new IS NOT NULL AS is_renamed
        FROM contacts LEFT JOIN renamed ON old = address
    ), touched AS (SELECT DISTINCT tenant_id, address, address_type FROM keyed WHERE is_renamed)
    SELECT tenant_id, id, address, min(id) OVER (PARTITION BY tenant_id, address, address_type) AS kept
    FROM keyed JOIN touched USING (tenant_id, address, address_type)
    """,
    "ANALYZE merged_contacts",
    """
    UPDATE conversation_participants AS participant SET contact_id = kept FROM merged_contacts AS merged
    WHERE participant.tenant_id = merged.tenant_id AND participant.contact_id = merged.id AND merged.id <> kept
    """,
    """
    DELETE FROM contacts USING merged_contacts AS merged
    WHERE contacts.tenant_id = merged.tenant_id AND contacts.id = merged.id AND merged.id <> kept
    """,
    """
    UPDATE contacts SET address = merged.address FROM merged_contacts AS merged
    WHERE contacts.tenant_id = merged.tenant_id AND contacts.id = merged.id AND contacts.address <> merged.address
    """,
    # Conversations.
    """
    CREATE TEMPORARY TABLE merged_conversations ON COMMIT DROP AS
    WITH keyed AS (
        SELECT tenant_id, id, message_count, last_activity_at, created_at,
            coalesce(customer.new, customer_address) AS customer, coalesce(contact.new, contact_address) AS contact,
            customer.new IS NOT NULL OR contact.new IS NOT NULL AS is_renamed
        FROM conversations
        LEFT JOIN renamed AS customer ON customer.old = customer_address
        LEFT JOIN renamed AS contact ON contact.old = contact_address
    ), touched AS (SELECT DISTINCT tenant_id, customer, contact FROM keyed WHERE is_renamed)
    SELECT keyed.*, min(id) OVER (PARTITION BY tenant_id, customer, contact) AS kept
    FROM keyed JOIN touched USING (tenant_id, customer, contact)
    """,
    "ANALYZE merged_conversations",
    """
    UPDATE messages SET conversation_id = kept FROM merged_conversations AS merged
    WHERE messages.tenant_id = merged.tenant_id AND messages.conversation_id = merged.id AND merged.id <> kept
    """,
    """
    DELETE FROM conversation_participants AS participant USING merged_conversations AS merged
    WHERE participant.tenant_id = merged.tenant_id AND participant.conversation_id = merged.id AND merged.id <> kept
    """,
    """
    DELETE FROM conversations USING merged_conversations AS merged
    WHERE conversations.tenant_id = merged.tenant_id AND conversations.id = merged.id AND merged.id <> kept
    """,
    """
    UPDATE conversations SET customer_address = whole.customer, contact_address = whole.contact,
        message_count = whole.messages, last_activity_at = whole.latest, created_at = whole.earliest
    FROM (
        SELECT tenant_id, kept, customer, contact, sum(message_count) AS messages,
            max(last_activity_at) AS latest, min(created_at) AS earliest
        FROM merged_conversations GROUP BY tenant_id, kept, customer, contact
    ) AS whole
    WHERE conversations.tenant_id = whole.tenant_id AND conversations.id = whole.kept
    """,
    # Addresses of tenants: the first owner stays, and what another one loses is in the audit log.
    """
    CREATE TEMPORARY TABLE merged_addresses ON COMMIT DROP AS
    WITH keyed AS (
        SELECT tenant_id, id, address_type, coalesce(new, address) AS address
        FROM tenant_addresses LEFT JOIN renamed ON old = address
    )
    SELECT *, min(id) OVER same AS kept, first_value(tenant_id) OVER (same ORDER BY id) AS owner
    FROM keyed WINDOW same AS (PARTITION BY address, address_type)
    """,
    """
    INSERT INTO audit_events (tenant_id, kind, actor, detail)
    SELECT tenant_id, 'address_removed', 'migration',
        jsonb_build_object('address_id', id, 'address_type', address_type)
    FROM merged_addresses WHERE tenant_id <> owner
    """,
    """
    DELETE FROM tenant_addresses USING merged_addresses AS merged
    WHERE tenant_addresses.id = merged.id AND merged.id <> kept
    """,
    """
    UPDATE tenant_addresses SET address = merged.address FROM merged_addresses AS merged
    WHERE tenant_addresses.id = merged.id AND tenant_addresses.address <> merged.address
    """,
    # Kept callbacks.
    """
    UPDATE webhook_calls SET addresses = ARRAY(
        SELECT DISTINCT coalesce(new, address) FROM unnest(addresses) AS address LEFT JOIN renamed ON old = address
        ORDER BY 1
    )
    WHERE addresses && ARRAY(SELECT old FROM renamed)
    """,
    "DROP TABLE renamed, merged_contacts, merged_conversations, merged_addresses",
]


def upgrade() -> None:
    """Merge in a few statements, each over all rows that it concerns; most databases have none or few."""
    connection = op.get_bind()
    connection.execute(sa.text("CREATE TEMPORARY TABLE renamed (old text PRIMARY KEY, new text) ON COMMIT DROP"))
    numbers = "^(?:" + "|".join(old for old, _ in _PLANS) + ")$"
    found = connection.execute(sa.text(_FIND), {"numbers": numbers})
    for rows in found.partitions(_BATCH):
        renamed = [{"old": old, "new": new} for (old,) in rows if (new := _compared(old)) != old]
        if renamed:
            connection.execute(sa.text("INSERT INTO renamed VALUES (:old, :new)"), renamed)
    connection.execute(sa.text("ANALYZE renamed"))
    for step in _STEPS:
        connection.execute(sa.text(step))


def downgrade() -> None:
    """Rows that are one can't be told apart again."""


def _compared(address: str) -> str:
    if "@" not in address:
        for old, today in _PLANS:
            if match := re.fullmatch(old, address):
                return match.expand(today)
        return address
    local, _, domain = address.rpartition("@")
    local = _QUOTED_FOR_DOTS.sub(r"\1", local) if local.startswith('"') else local
    lower = unicodedata.normalize("NFC", local).lower().replace("ς", "σ")  # noqa: RUF001 - the letter is meant
    return f"{unicodedata.normalize('NFC', lower)}@{domain.lower().removesuffix('.')}"
