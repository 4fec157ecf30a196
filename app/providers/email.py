"""The built-in mail carrier, simulated in the process: a fresh clone sends without an account."""

from typing import ClassVar

from app.providers.simulated.in_process import SimulatedCarrier


class EmailProvider(SimulatedCarrier):
    """Accepts or refuses mail by the script (docs/simulator.md). Nothing leaves the machine."""

    channels: ClassVar = {"email": "email"}
    takes_mail_fields: ClassVar = True
    prefix = "email"
