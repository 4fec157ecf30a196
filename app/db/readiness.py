"""The readiness check of the database. Anyone may ask, so the cost must not grow with the number of requests."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.short_cache import ShortCache

_SECONDS = 0.5
_DATABASE = "database"


class Readiness:
    """At most one query at a time, on one connection, and none for half a second after a success."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._reached: ShortCache[str, bool] = ShortCache(size=1)

    async def confirm(self) -> None:
        """Return if the database answers, else raise its error, which is not cached."""
        await self._reached.get_or_load(_DATABASE, self._reach)

    async def _reach(self) -> tuple[bool, float]:
        async with self._sessions() as session:
            await session.execute(text("SELECT 1"))
        return True, _SECONDS
