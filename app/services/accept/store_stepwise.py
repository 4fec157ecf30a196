"""Stores a batch of messages in several statements: what another writer has left over for the single ones.

The order of inserts and locks is that of `store.py`, so that no two writers can deadlock.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import NewMessage, StoredMessage
from app.services.accept.conversations import make_conversations
from app.services.accept.loops import NO_LIMIT, LoopLimit
from app.services.accept.steps import Identity, Place, find_stored, identity_of
from app.services.accept.store import duplicate_of, store_known


async def store_messages(
    connection: AsyncConnection, tenant_id: int, messages: Sequence[NewMessage], loops: LoopLimit = NO_LIMIT
) -> list[StoredMessage]:
    """Store one tenant's messages in the transaction open on `connection`; the answer is in their order.

    It takes several statements, and leaves no message over. A message is a duplicate if its identity is stored
    already, or stands earlier among `messages`. A duplicate is not stored; its place is that of the first one.
    """
    first: dict[Identity, int] = {}
    for position, message in enumerate(messages):
        if identity := identity_of(message):
            first.setdefault(identity, position)
    known = await find_stored(connection, tenant_id, first)

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
        known |= await find_stored(connection, tenant_id, missing)
    return [places.get(position) or duplicate_of(message, known) for position, message in enumerate(messages)]
