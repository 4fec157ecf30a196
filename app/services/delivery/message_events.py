"""The history of messages besides their delivery: called back, tried again, expired, recovered."""

from collections.abc import Iterable

from sqlalchemy import BigInteger, Text, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import TENANT, given, rows
from app.db.models import MessageEvent

_noted = rows(message_id=BigInteger(), kind=Text())
_NOTE = insert(MessageEvent).from_select(
    ["tenant_id", "message_id", "kind"], select(TENANT, _noted.c.message_id, _noted.c.kind)
)


async def note(connection: AsyncConnection, tenant_id: int, kind: str, message_ids: Iterable[int]) -> None:
    """Write into the history of messages what was done with them besides delivering."""
    noted = given(tenant_id, ("message_id", "kind"), [(id, str(kind)) for id in message_ids])
    await connection.execute(_NOTE, noted)
