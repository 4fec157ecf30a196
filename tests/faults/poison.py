"""`python -m app` with a provider that kills its process over certain messages, as a fault in a C library would."""

import os
import sys

from app.__main__ import main
from app.providers.base import OutboundMessage, ProviderResult
from app.providers.simulator import SimulatorProvider

POISON = "poison"
_send = SimulatorProvider.send


async def _send_or_die(self: SimulatorProvider, payload: OutboundMessage) -> ProviderResult:
    if payload.body.startswith(POISON):
        os._exit(11)
    return await _send(self, payload)


if __name__ == "__main__":
    SimulatorProvider.send = _send_or_die  # type: ignore[method-assign]
    sys.exit(main())
