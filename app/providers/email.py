"""The built-in mail carrier: simulated, in the process, so that a fresh clone sends without an account."""

from typing import ClassVar

from app.providers.simulated.in_process import SimulatedCarrier


class EmailProvider(SimulatedCarrier):
    """Takes mail as the script says (docs/simulator.md). Nothing leaves the machine."""

    channels: ClassVar = {"email": "email"}
    prefix = "email"
