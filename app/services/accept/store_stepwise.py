"""Stores a batch of messages in several statements: what another writer has left over for the single ones.

The order of inserts and locks is that of `store.py`, so that no two writers can deadlock.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import given
from app.domain import NewMessage, StoredMessage
from app.services.accept.conversations import make_conversations
from app.services.accept.loops import NO_LIMIT, LoopLimit
from app.services.accept.statements import FIND_BY_KEY, FIND_BY_PROVIDER_ID
from app.services.accept.store import Identity, Place, duplicate_of, identity_of, store_known


async def store_messages(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage]:
    """Store one tenant's messages in the transaction open on `connection`; the answer is in their order.

    It takes several statements, and leaves no message over. A message is a duplicate if its provider id or
    idempotency key is stored already, or stands earlier in the batch. A duplicate is not stored; its place is that of
    the first one.
    """
    first: dict[Identity, int] = {}
    for position, message in enumerate(messages):
        if identity := identity_of(message):
            first.setdefault(identity, position)
    known = await _find_stored(connection, tenant_id, first)

    fresh = [
        position
        for position, message in enumerate(messages)
        if (identity := identity_of(message)) is None or (identity not in known and first[identity] == position)
    ]
    await make_conversations(connection, tenant_id, [messages[position] for position in fresh])
    stored = await store_known(connection, tenant_id, [messages[position] for position in fresh], loops)
    places = dict(zip(fresh, stored, strict=True))
    for identity, position in first.items():
        place = places.get(position)
        if place is not None and not place.duplicate:
            known[identity] = Place(place.id, place.conversation_id, messages[position].fingerprint)
    # Another writer may have committed some of them meanwhile.
    if missing := [identity for identity in first if identity not in known]:
        known |= await _find_stored(connection, tenant_id, missing)
    return [places.get(position) or duplicate_of(message, known) for position, message in enumerate(messages)]


async def _find_stored(
    connection: AsyncConnection, tenant_id: int, identities: Iterable[Identity]
) -> dict[Identity, Place]:
    """The places of the messages that have one of these identities."""
    ids = [(type_, id) for kind, type_, id in identities if kind == "provider"]
    keys = [(channel, key) for kind, channel, key in identities if kind == "caller"]
    found: dict[Identity, Place] = {}
    if ids:
        parameters = given(tenant_id, ("provider_type", "provider_message_id"), ids)
        for row in await connection.execute(FIND_BY_PROVIDER_ID, parameters):
            found["provider", row[0], row[1]] = Place(row.id, row.conversation_id, None)
    if keys:
        parameters = given(tenant_id, ("channel", "idempotency_key"), keys)
        for row in await connection.execute(FIND_BY_KEY, parameters):
            found["caller", row[0], row[1]] = Place(row.id, row.conversation_id, row.request_fingerprint)
    return found
