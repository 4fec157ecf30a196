"""`python -m app worker`: only delivers. Any number of workers, on any machines, share the work."""

import argparse
import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from app.commands import bound_internally, leave_no_core
from app.config import Settings
from app.db.connectivity.connections import connect
from app.db.connectivity.outage import outage
from app.db.engine import is_unavailable, provided_database
from app.db.schema.migrate import prepare
from app.wiring import Services, must_have_providers, running_services

log = structlog.get_logger(__name__)

_CONNECT_SECONDS = 5.0
_PAUSE_SECONDS = 1.0  # between two attempts to reach a database that is away


def run(settings: Settings, _: argparse.Namespace) -> int:
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(work(settings))


async def work(settings: Settings) -> int:
    """Deliver until a signal arrives, then finish what is in flight; after a second, other workers take it over."""
    must_have_providers(settings)
    leave_no_core()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        loop.call_soon_threadsafe(stop.set)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signalled)
    services: Services | None = None
    async with _answering(settings, lambda: services):
        with provided_database(settings, keep_running=True) as url:
            if not await _reached(url, stop):
                return 0
            await asyncio.to_thread(prepare, url, production=settings.is_production)
            async with running_services(url, settings, deliver=True, role="worker") as services:
                log.info("worker_started")
                await stop.wait()
                log.info("worker_stopping")
    return 0


@asynccontextmanager
async def _answering(settings: Settings, services: Callable[[], Services | None]) -> AsyncIterator[None]:
    """Serve figures and health at WORKER_PORT while the context is open, if that is set."""
    if settings.worker_port is None:
        yield
        return
    from app.routers.internal import internal_application  # FastAPI, which no other worker needs

    application = internal_application(services)
    listener = bound_internally(settings, settings.worker_port, "WORKER_PORT=…")
    server = _QuietServer(uvicorn.Config(application, log_config=None, access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="internal-port")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _QuietServer(uvicorn.Server):
    """A server that leaves the signals to the worker."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _reached(url: str, stop: asyncio.Event) -> bool:
    """Wait until the database answers, as after a restart of the machine; False if a signal comes first.

    An error that passes by no waiting, such as a wrong password, is left to the first use of the database.
    """
    while not stop.is_set():
        try:
            connection = await connect(url, timeout=_CONNECT_SECONDS)
        except Exception as error:
            if not is_unavailable(error):
                return True
            outage.note(error, action="waiting for it")
        else:
            await connection.close()
            outage.end()
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE_SECONDS):
                await stop.wait()
    return False
