"""`python -m app worker`: only delivers. Any number of workers, on any machines, share the work."""

import argparse
import asyncio
import contextlib
import os
import signal

import structlog
from uvicorn.loops.auto import auto_loop_factory

from app.commands import leave_no_core
from app.config import Settings
from app.db.engine import connect, is_unavailable, provided_database
from app.db.migrate import prepare
from app.db.outage import outage
from app.wiring import must_have_providers, running_services

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
    with provided_database(settings, keep_running=True) as url:
        if not await _reached(url, stop):
            return 0
        await asyncio.to_thread(prepare, url, production=settings.is_production)
        async with running_services(url, settings, deliver=True):
            log.info("worker_started")
            await stop.wait()
            log.info("worker_stopping")
    return 0


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
