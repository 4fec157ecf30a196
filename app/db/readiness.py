"""Whether the database is reached. Everybody may ask, so asking has to cost the same however many do."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.short_cache import ShortCache

_SECONDS = 0.5
_DATABASE = "database"


class Readiness:
    """At most one look-up at a time, on one connection, and none for half a second after one that succeeded."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._reached: ShortCache[str, bool] = ShortCache(size=1)

    async def confirm(self) -> None:
        """Raises what the database raises where it is away; that is asked again by whoever comes next."""
        await self._reached.get_or_load(_DATABASE, self._reach)

    async def _reach(self) -> tuple[bool, float]:
        async with self._sessions() as session:
            await session.execute(text("SELECT 1"))
        return True, _SECONDS
