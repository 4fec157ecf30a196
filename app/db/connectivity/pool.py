"""The pool of serving connections, which tells how much of it is used, and when a connection is checked."""

import logging
import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

#: Seconds between two checks of a connection. One that the server has closed shows it without a check, once the event
#: loop has read so. Until then a statement can fail, and its request is answered 503.
CHECKED_SECONDS = 1.0

#: SQLAlchemy names the logger of a pool by its class, and tells there of each connection.
logging.getLogger(f"{__name__}.MeasuredPool").setLevel(logging.WARNING)


class MeasuredPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, which also knows how many tasks wait for a connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.waiting = 0

    @property
    def limit(self) -> int:
        """The number of connections that it may have."""
        return self.size() + self._max_overflow

    def _do_get(self) -> Any:
        if self.checkedout() < self.limit:
            return super()._do_get()
        self.waiting += 1
        try:
            return super()._do_get()
        finally:
            self.waiting -= 1


def check_before_use(engine: AsyncEngine) -> None:
    """Have a connection checked before use, once a second at most: the check is three round trips.

    All connections are replaced when a check finds that one is lost.
    """
    dialect = engine.sync_engine.dialect

    def check(connection: Any, record: Any, _: object) -> None:
        now = time.monotonic()
        is_closed = connection.driver_connection.is_closed()
        if not is_closed and now - record.info.setdefault("checked_at", now) < CHECKED_SECONDS:
            return
        try:
            dialect.do_ping(connection)
        except Exception as error:
            if dialect.is_disconnect(error, connection, None):  # type: ignore[arg-type]  # any error of the driver
                raise InvalidatePoolError from error
            raise
        record.info["checked_at"] = now

    event.listen(engine.sync_engine, "checkout", check)
