"""`python -m app simulate`: a simulated carrier over HTTP (docs/simulator.md)."""

import argparse
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.commands import bound
from app.config import Settings
from app.providers.simulated.behaviours import SimulatorSettings
from app.simulator.application import create_simulator
from app.simulator.server import server_of
from app.simulator.wire import WireFormat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that are left out are read from SIMULATOR_*."""
    parser.add_argument("--port", type=int, default=9100, help="on 127.0.0.1 (9100)")
    parser.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="the record of all requests")
    parser.add_argument("--callback", metavar="URL", help="the address for receipts and replies of recipients")
    parser.add_argument("--seed", type=int, help="another seed draws other behaviours")
    parser.add_argument("--mix", help='such as "ok:0.9 failing:0.1"')
    parser.add_argument("--ignore-keys", action="store_true", help="accept a repeated Idempotency-Key once more")


def run(_: Settings, chosen: argparse.Namespace) -> int:
    """Simulate until a signal ends it. Raises `ConfigurationError` with ENV=production."""
    simulate(chosen)
    return 0


def simulate(chosen: argparse.Namespace, formats: Sequence[WireFormat] = ()) -> None:
    """The same, with more wire formats than the simulator's own."""
    values: dict[str, Any] = {name: value for name in ("seed", "mix") if (value := getattr(chosen, name)) is not None}
    if chosen.ignore_keys:
        values["honours_idempotency_key"] = False
    app = create_simulator(SimulatorSettings(**values), chosen.ledger, chosen.callback, formats)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly shutdown
        server_of(app, chosen.port).run(sockets=[bound("127.0.0.1", chosen.port, "--port")])
