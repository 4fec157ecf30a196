"""The command line: `python -m app serve`, worker, migrate, tenants, keys, webhooks, doctor, repair, simulate."""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import structlog
import uvicorn
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.supervisors import Multiprocess

from app import administration, doctor, repair, simulator, webhook_commands
from app.assembly import must_have_providers, running_services
from app.config import Settings
from app.database import provided_database
from app.embedded import EmbeddedPostgresError
from app.errors import ConfigurationError
from app.log import configure_logging
from app.migrate import migrate, prepare
from app.protocol import TimedProtocol

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)

_ACCEPTED_A_TURN = 32
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it ended as it should, 2 when the configuration does not allow it, 1 when `doctor`
    found a problem, `repair` broke off, or `webhooks` found a call that is not taken."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve HTTP, and deliver in the background")
    serving.add_argument("--reload", action="store_true", help="start again when the code changes")
    commands.add_parser("worker", help="only deliver; run as many as you like")
    simulator.add_arguments(commands.add_parser("simulate", help="a carrier to try things against, over HTTP"))
    commands.add_parser("migrate", help="bring the database to this version's schema")
    administration.add_commands(commands)
    webhook_commands.add_commands(commands)
    doctor.add_arguments(commands.add_parser("doctor", help="check the installation, and say how to mend it"))
    repair.add_arguments(commands.add_parser("repair", help="fetch what came in while a provider's calls were lost"))
    chosen = parser.parse_args(arguments)
    try:
        settings = Settings()
        configure_logging(settings)
        if chosen.command == "serve":
            return serve(settings, reload=chosen.reload)
        if chosen.command == "simulate":
            return simulator.run(chosen)
        if chosen.command == "worker":
            with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                return runner.run(work(settings))
        if chosen.command in {"tenants", "keys"}:
            return administration.run(settings, chosen)
        if chosen.command == "webhooks":
            return webhook_commands.run(settings, chosen)
        if chosen.command == "doctor":
            return doctor.run(settings, chosen)
        if chosen.command == "repair":
            return repair.run(settings, chosen)
        with provided_database(settings) as url:
            migrate(url)
        return 0
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = "".join(f"{part}: ".upper() for part in problem["loc"][:1])
            print(name + problem["msg"].removeprefix("Value error, "), file=sys.stderr)  # noqa: T201 - no log yet
    except (ConfigurationError, EmbeddedPostgresError) as error:
        log.error("cannot_start", reason=str(error))
    except OperationalError as error:
        log.error("cannot_start", reason=f"PostgreSQL can't be reached: {error.orig}".strip())
    return 2


def serve(settings: Settings, *, reload: bool) -> int:
    """Serve until a signal ends it. The database outlives reloads and worker processes, and is stopped last."""
    must_have_providers(settings)
    if not settings.is_production and settings.host not in _LOOPBACK:
        log.warning(
            "development_profile_is_public", host=settings.host, reason="anybody who reaches it may do anything"
        )
    _leave_no_core()
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
        if reload:
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


def _leave_no_core() -> None:
    """Have the system write no memory to disk when the process crashes, or one that it has started: keys and what
    people have written are in it."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def work(settings: Settings) -> int:
    """Deliver until a signal ends it, and finish what is in hand; a second signal ends it at once.

    Nothing is lost by that: what was in hand is taken over.
    """
    must_have_providers(settings)
    _leave_no_core()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        loop.call_soon_threadsafe(stop.set)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signalled)
    with provided_database(settings) as url:
        await asyncio.to_thread(prepare, url, production=settings.is_production)
        async with running_services(url, settings, deliver=True):
            log.info("worker_started")
            await stop.wait()
            log.info("worker_stopping")
    return 0


if __name__ == "__main__":
    sys.exit(main())
