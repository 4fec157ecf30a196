"""The simulator as an application: every wire format in front of one carrier and one ledger."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from app.errors import ConfigurationError
from app.providers.sendgrid import SendgridSettings
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.in_process import Outbox
from app.providers.twilio import TwilioSettings
from app.providers.whatsapp import WhatsappSettings
from app.simulator.carrier import Carrier
from app.simulator.ledger import Ledger
from app.simulator.own import OwnFormat
from app.simulator.sendgrid import SendgridFormat
from app.simulator.twilio import TwilioFormat
from app.simulator.whatsapp import WhatsappFormat
from app.simulator.wire import WireFormat


def vendor_formats(service_url: str | None) -> list[WireFormat]:
    """The formats of vendors, which call back at the service as it is configured for them.

    They sign with the secrets that the service verifies with, from the same variables.
    """

    def webhook(vendor: str) -> str | None:
        return f"{service_url.rstrip('/')}/api/webhooks/{vendor}" if service_url else None

    return [
        TwilioFormat(TwilioSettings(), webhook("twilio")),
        SendgridFormat(SendgridSettings(), webhook("sendgrid")),
        WhatsappFormat(WhatsappSettings(), webhook("whatsapp")),
    ]


def create_simulator(
    settings: SimulatorSettings, ledger_path: Path, callback_url: str | None, vendors: Sequence[WireFormat] = ()
) -> Starlette:
    """The simulator as an application; its ledger is open, and its callbacks go out, while its lifespan is.

    Its own format calls back at `callback_url`. Raises `ConfigurationError` with ENV=production. Connections are only
    cut under `server_of`.
    """
    if settings.in_production:
        raise ConfigurationError("The carrier simulator never runs with ENV=production.")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        ledger = Ledger(ledger_path)
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        async with httpx.AsyncClient(trust_env=False, timeout=10, limits=limits) as client:
            # More at once makes each dearer: the client looks through its connections for every request.
            outbox = Outbox(lanes=8)
            yield {"carrier": Carrier(settings, ledger, outbox), "settings": settings, "client": client}
            await outbox.close()
        ledger.close()

    formats = [OwnFormat(callback_url), *vendors]
    return Starlette(routes=[route for each in formats for route in each.routes()], lifespan=lifespan)
