"""Messages and settings for providers, naming only what a test is about."""

from itertools import count
from typing import Any

from app.providers.base import OutboundMessage
from app.providers.simulated.behaviours import SimulatorSettings

_keys = count(1)


def simulator_settings(**values: Any) -> SimulatorSettings:
    """Settings that read nothing of the environment, and wait for nothing unless told to."""
    quick = {
        "ENV": "development",
        "timeout_seconds": 60,
        "slow_seconds": 0.01,
        "receipt_delay_seconds": 0.0,
        "late_receipt_seconds": 0.05,
    }
    return SimulatorSettings(_env_file=None, **{**quick, **values})


def outbound(to: str = "+18045551234", *, key: str | None = None, **values: Any) -> OutboundMessage:
    """A message with a key of its own, unless one is given."""
    kind = "email" if "@" in to else "sms"
    facts = {"message_id": 1, "channel": kind, "type": kind, "from_address": "+12016661234", "body": "Hello!"}
    return OutboundMessage(**{**facts, **values}, to_address=to, idempotency_key=key or f"key-{next(_keys)}")
