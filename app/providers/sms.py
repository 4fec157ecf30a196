"""The built-in SMS and MMS carrier, simulated in the process: a fresh clone sends without an account."""

from typing import ClassVar

from app.providers.simulated.in_process import SimulatedCarrier


class SmsProvider(SimulatedCarrier):
    """Accepts or refuses texts and media messages by the script (docs/simulator.md). Nothing leaves the machine."""

    channels: ClassVar = {"sms": "phone"}
    prefix = "sms"
