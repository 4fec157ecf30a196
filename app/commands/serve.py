"""`python -m app serve`: serves HTTP, and delivers in the background."""

import argparse
import contextlib
import os
import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from uvicorn.supervisors import ChangeReload, Multiprocess

from app.commands import allow_open_files, bound, bound_internally, leave_no_core
from app.config import Settings
from app.db.schema.migrate import prepared_database
from app.http.protocol import TimedProtocol
from app.providers.registry import provider_registry
from app.routing import channels_served, route_of
from app.wiring import must_have_providers

log = structlog.get_logger(__name__)

_ACCEPTED_A_TURN = 32
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reload", action="store_true", help="start again when the code changes")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Serve until a signal arrives. The database outlives reloads and worker processes, and is stopped last."""
    must_have_providers(settings)
    if not settings.is_production and settings.host not in _LOOPBACK:
        reason = "anyone who reaches it may do anything"
        log.warning("development_profile_is_public", host=settings.host, reason=reason)
    leave_no_core()
    allow_open_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again after an orderly shutdown
    listener = bound(settings.host, settings.port, "PORT=…")
    internal = [bound_internally(settings, settings.metrics_port, "METRICS_PORT=…")] if settings.metrics_port else []
    with prepared_database(settings):
        try:
            return _serve(settings, listener, internal, reload=chosen.reload)
        finally:
            # A further Ctrl-C would interrupt the stop of the embedded server, and leave it running.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _serve(settings: Settings, listener: socket.socket, internal: list[socket.socket], *, reload: bool) -> int:
    config = uvicorn.Config(
        "app.main:app",
        workers=settings.web_concurrency,
        reload=reload,
        log_config=None,
        access_log=False,
        server_header=False,
        http=TimedProtocol,
        reset_contextvars=True,  # otherwise later requests of a connection inherit the log facts of its first one
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
        # A process that has not answered by then is killed, even while it starts, which can take seconds.
        timeout_worker_healthcheck=30,
    )
    # uvloop accepts one connection per socket and turn of its loop. Under load turns are long, and new clients would
    # wait for seconds. Duplicates of the socket multiply the number.
    listeners = [listener, *(listener.dup() for _ in range(_ACCEPTED_A_TURN - 1)), *internal]
    if reload or settings.web_concurrency > 1:
        _announce(settings, listener)
        if reload:
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener, *internal]).run()
        else:
            _Supervisor(config, listeners).run()
        return 0
    server = _Server(config, settings)
    with contextlib.suppress(KeyboardInterrupt):  # raised again after an orderly shutdown
        server.run(sockets=listeners)
    return 0 if server.started else 3


def _announce(settings: Settings, listener: socket.socket) -> None:
    """Tell a person where to go first, or the log where the service listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    if settings.logs_json:
        log.info("listening", url=url)
        return
    lines = [f"The service is at {url}. Ctrl-C stops it."]
    lines.append(f"The inbox: {url}/inbox")
    if settings.serves_docs:
        lines.append(f"The API reference, to try it in the browser: {url}/docs")
    if settings.database_url is None:
        lines.append(f"Its data: {settings.data_dir.absolute()}")
    simulated = {name for name, provider in provider_registry.items() if provider.simulated}
    if taken := [each for each in sorted(channels_served(settings)) if simulated & set(route_of(settings, each))]:
        channels = ", ".join(taken)
        lines.append(f"Simulated carriers take {channels}: they send nothing. Add a provider: docs/providers.md")
    print("", *(f"  {line}" for line in lines), "", sep="\n", file=sys.stderr, flush=True)  # noqa: T201 - to a person


class _Server(uvicorn.Server):
    """A server that a second signal ends at once. Nothing is lost: other workers take over what was in flight."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets:
            _announce(self._settings, sockets[0])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


class _Supervisor(Multiprocess):
    """A supervisor that kills its processes at a second signal, where uvicorn's goes on waiting for them."""

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
