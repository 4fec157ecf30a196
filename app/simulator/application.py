"""The simulator as an application: wire formats in front of one carrier and one ledger."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from app.errors import ConfigurationError
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.in_process import Outbox
from app.simulator.carrier import Carrier
from app.simulator.ledger import Ledger
from app.simulator.own import OwnFormat
from app.simulator.wire import WireFormat


def create_simulator(
    settings: SimulatorSettings, ledger_path: Path, callback_url: str | None, formats: Sequence[WireFormat] = ()
) -> Starlette:
    """The simulator in its own format, which calls back at `callback_url`, and in any other `formats`.

    Its ledger is open, and its callbacks go out, during its lifespan. Serve it with `server_of`, which can reset
    connections. Raises `ConfigurationError` with ENV=production.
    """
    if settings.in_production:
        raise ConfigurationError("The carrier simulator never runs with ENV=production.")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        ledger = Ledger(ledger_path)
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        async with httpx.AsyncClient(trust_env=False, timeout=10, limits=limits) as client:
            # More concurrency makes each call dearer: the client searches its connections for every request.
            outbox = Outbox(concurrency=8)
            yield {"carrier": Carrier(settings, ledger, outbox), "settings": settings, "client": client}
            await outbox.close()
        ledger.close()

    routes = [route for each in (OwnFormat(callback_url), *formats) for route in each.routes()]
    return Starlette(routes=routes, lifespan=lifespan)
