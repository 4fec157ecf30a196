"""The pool of serving connections, which tells how much of it is used."""

import logging
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool

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
