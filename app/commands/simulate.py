"""`python -m app simulate`: a carrier to try things against, told in docs/simulator.md."""

import argparse
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.config import Settings
from app.providers.simulated.behaviours import SimulatorSettings
from app.simulator import create_simulator, server_of
from app.simulator.application import vendor_formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the options leave out is read from SIMULATOR_*."""
    parser.add_argument("--port", type=int, default=9100, help="on 127.0.0.1 (9100)")
    parser.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="where it writes what it accepted")
    parser.add_argument("--callback", metavar="URL", help="where receipts and answers are posted in its own format")
    parser.add_argument("--service", metavar="URL", help="the service, whose /api/webhooks/... vendors would call")
    parser.add_argument("--seed", type=int, help="another seed, another story")
    parser.add_argument("--mix", help='such as "ok:0.9 failing:0.1"')
    parser.add_argument("--ignore-keys", action="store_true", help="accept a repeated Idempotency-Key once more")


def run(_: Settings, chosen: argparse.Namespace) -> int:
    """Simulate until a signal ends it. Raises `ConfigurationError` when it may not run."""
    values: dict[str, Any] = {name: value for name in ("seed", "mix") if (value := getattr(chosen, name)) is not None}
    if chosen.ignore_keys:
        values["honours_idempotency_key"] = False
    vendors = vendor_formats(chosen.service)
    app = create_simulator(SimulatorSettings(**values), chosen.ledger, chosen.callback, vendors)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # which uvicorn raises once more when it has shut down in order
        server_of(app, chosen.port).run()
    return 0
