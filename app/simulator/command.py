"""The simulator's command line, and the server that lets it cut connections."""

import argparse
import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from app.errors import ConfigurationError
from app.providers.simulation import SimulatorSettings
from app.simulator.application import create_simulator, vendor_formats

log = structlog.get_logger(__name__)


class _TellsItsTransport:
    """Puts the connection's transport into the state that requests see, for the one who has to cut it."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)  # type: ignore[misc]


def server_of(app: Starlette, port: int) -> uvicorn.Server:
    """The server for `create_simulator`, on loopback; requests that are held don't hold up its end."""
    protocol = cast(type[asyncio.Protocol], type("Protocol", (_TellsItsTransport, AutoHTTPProtocol), {}))
    config = uvicorn.Config(
        app,
        port=port,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m app simulate`; what they leave out is read from SIMULATOR_*."""
    parser.add_argument("--port", type=int, default=9100, help="on 127.0.0.1 (9100)")
    parser.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="where it writes what it accepted")
    parser.add_argument("--callback", metavar="URL", help="where receipts and answers are posted in its own format")
    parser.add_argument("--service", metavar="URL", help="the service, whose /api/webhooks/... vendors would call")
    parser.add_argument("--seed", type=int, help="another seed, another story")
    parser.add_argument("--mix", help='such as "ok:0.9 failing:0.1"')
    parser.add_argument("--ignore-keys", action="store_true", help="accept a repeated Idempotency-Key once more")


def run(arguments: argparse.Namespace) -> int:
    """Simulate until a signal ends it. 0 when it ended as it should, 2 when it may not run."""
    chosen: dict[str, Any] = {
        name: value for name in ("seed", "mix") if (value := getattr(arguments, name)) is not None
    }
    if arguments.ignore_keys:
        chosen["honours_idempotency_key"] = False
    try:
        vendors = vendor_formats(arguments.service)
        app = create_simulator(SimulatorSettings(**chosen), arguments.ledger, arguments.callback, vendors)
    except ConfigurationError as error:
        log.error("cannot_start", reason=str(error))
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # which uvicorn raises once more when it has shut down in order
        server_of(app, arguments.port).run()
    return 0
