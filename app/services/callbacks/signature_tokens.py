"""Tokens of signatures that don't cover what they come with: each is good for the events that it came with first."""

from sqlalchemy import Text, bindparam, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.batches import TENANT
from app.db.models import SignatureToken
from app.db.sanitize import storable_text
from app.domain import DEFAULT_TENANT_ID

_PROVIDER, _TOKEN = bindparam("provider", type_=Text()), bindparam("shown", type_=Text())
_CLAIM = (
    insert(SignatureToken)
    .values(tenant_id=TENANT, provider_type=_PROVIDER, token=_TOKEN, events=bindparam("came_with", type_=Text()))
    .on_conflict_do_nothing()
)
#: A statement of its own, so that it sees whom the first one has waited for.
_CAME_WITH = select(SignatureToken.events).where(
    SignatureToken.tenant_id == TENANT, SignatureToken.provider_type == _PROVIDER, SignatureToken.token == _TOKEN
)


async def is_good_for(connection: AsyncConnection, provider_type: str, token: str, events: str) -> bool:
    """Whether a token has come with these events only; from the commit on it is good for no others.

    Whose they are doesn't matter, so that nothing can be forged for another tenant either.
    """
    parameters = {"tenant": DEFAULT_TENANT_ID, "provider": provider_type, "shown": storable_text(token)}
    await connection.execute(_CLAIM, parameters | {"came_with": events})
    came_with: str = (await connection.execute(_CAME_WITH, parameters)).scalar_one()
    return came_with == events
