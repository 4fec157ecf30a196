"""The command line: `python -m app serve | worker | migrate | simulate`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

import structlog
import uvicorn
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from app import simulator
from app.assembly import running_services
from app.config import Settings
from app.database import provided_database
from app.embedded import EmbeddedPostgresError
from app.errors import ConfigurationError
from app.log import configure_logging
from app.migrate import migrate, prepare

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it ended as it should, 2 when the configuration does not allow it."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve HTTP, and deliver in the background")
    serving.add_argument("--reload", action="store_true", help="start again when the code changes")
    commands.add_parser("worker", help="only deliver; run as many as you like")
    simulator.add_arguments(commands.add_parser("simulate", help="a carrier to try things against, over HTTP"))
    commands.add_parser("migrate", help="bring the database to this version's schema")
    chosen = parser.parse_args(arguments)
    try:
        settings = Settings()
        configure_logging(settings)
        if chosen.command == "serve":
            return serve(settings, reload=chosen.reload)
        if chosen.command == "simulate":
            return simulator.run(chosen)
        if chosen.command == "worker":
            return asyncio.run(work(settings))
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
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises the signal again when it has shut down in order
    with provided_database(settings) as url:
        prepare(url, production=settings.is_production)
        uvicorn.run(
            "app.main:app",
            host=settings.host,
            port=settings.port,
            workers=None if reload else settings.web_concurrency,
            reload=reload,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_grace_seconds,
        )
    return 0


def _leave(*_: object) -> None:
    raise SystemExit(0)


async def work(settings: Settings) -> int:
    """Deliver until a signal ends it, and finish what is in hand; a second signal ends it at once.

    Nothing is lost by that: what was in hand is taken over when its lease ends.
    """
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
