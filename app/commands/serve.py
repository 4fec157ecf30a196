"""`python -m app serve`: serves HTTP, and delivers in the background."""

import argparse
import contextlib
import os
import signal
import socket
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.supervisors import Multiprocess

from app.commands import leave_no_core
from app.config import Settings
from app.db.engine import provided_database
from app.db.migrate import prepare
from app.http.protocol import TimedProtocol
from app.wiring import must_have_providers

log = structlog.get_logger(__name__)

_ACCEPTED_A_TURN = 32
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reload", action="store_true", help="start again when the code changes")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Serve until a signal ends it. The database outlives reloads and worker processes, and is stopped last."""
    must_have_providers(settings)
    if not settings.is_production and settings.host not in _LOOPBACK:
        log.warning(
            "development_profile_is_public", host=settings.host, reason="anybody who reaches it may do anything"
        )
    leave_no_core()
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises the signal again when it has shut down in order
    with provided_database(settings) as url:
        prepare(url, production=settings.is_production)
        options: dict[str, Any] = {
            "host": settings.host,
            "port": settings.port,
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "http": TimedProtocol,
            # Without it a connection's later requests inherit what its first has bound to the log.
            "reset_contextvars": True,
            "timeout_keep_alive": settings.keep_alive_seconds,
            "timeout_graceful_shutdown": settings.shutdown_grace_seconds,
            # One that has not answered by then is killed, also while it starts: seconds, on a busy machine.
            "timeout_worker_healthcheck": 30,
        }
        if chosen.reload:
            uvicorn.run("app.main:app", reload=True, **options)
            return 0
        config = uvicorn.Config("app.main:app", workers=settings.web_concurrency, **options)
        if settings.web_concurrency > 1:
            _Supervisor(config, _listeners(config)).run()
            return 0
        server = _Server(config)
        with contextlib.suppress(KeyboardInterrupt):  # raised again when it has shut down in order
            server.run(sockets=_listeners(config))
        return 0 if server.started else 3


def _listeners(config: uvicorn.Config) -> list[socket.socket]:
    """One listening socket, many times: uvloop accepts one connection for each in a turn of its loop, which is not
    enough when turns are long because there is much to do. Whoever is new then waits for seconds."""
    listener = config.bind_socket()
    return [listener, *(listener.dup() for _ in range(_ACCEPTED_A_TURN - 1))]


class _Server(uvicorn.Server):
    """One that a second signal ends at once. Nothing is lost by that: what was in hand is taken over."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


class _Supervisor(Multiprocess):
    """One that a second signal has kill its processes, where uvicorn's goes on waiting for them."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._signalled = False
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._leave)

    def _leave(self, number: int, _: FrameType | None) -> None:
        self.signal_queue.append(number)
        if self._signalled:
            for worker in self.processes:
                worker.process.kill()
        self._signalled = True


def _leave(*_: object) -> None:
    raise SystemExit(0)
