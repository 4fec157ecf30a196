"""The built-in SMS and MMS carrier: simulated, in the process, so that a fresh clone sends without an account."""

from typing import ClassVar

from app.providers.simulated.in_process import SimulatedCarrier


class SmsProvider(SimulatedCarrier):
    """Takes texts and media messages as the script says (docs/simulator.md). Nothing leaves the machine."""

    channels: ClassVar = {"sms": "phone"}
    prefix = "sms"
