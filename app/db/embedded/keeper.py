"""Starts the embedded server again when it dies under its users, such as by the system's out-of-memory killer."""

from __future__ import annotations

import threading
from types import TracebackType

import structlog

from app.db.embedded.server import EmbeddedPostgres

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
#: After a failed restart. The next one may find the port free, or the files back.
_PAUSE_SECONDS = 5.0


class Keeper:
    """Looks after a server that was started, in a thread, while its context is open.

    Every process that uses the server has one. A server that its last user has stopped has none any more.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._look, name="postgres-keeper", daemon=True)
        self._reason = ""

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Return when no restart is under way any more, so that the server can be stopped."""
        self._leaving.set()
        self._thread.join()

    def _look(self) -> None:
        pause = _LOOK_SECONDS
        while not self._leaving.wait(pause):
            pause = _LOOK_SECONDS if self._is_up() else _PAUSE_SECONDS

    def _is_up(self) -> bool:
        """Restart the server if that is needed. A failure is logged once for each reason."""
        try:
            if self._server.is_down():
                log.warning("postgres_is_down", action="starting it again")
                self._server.restart()
        except Exception as error:
            reason = str(error)
            if reason != self._reason:
                log.error("postgres_not_restarted", reason=reason)
            self._reason = reason
            return False
        self._reason = ""
        return True
