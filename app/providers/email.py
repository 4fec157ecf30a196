"""The built-in mail carrier: simulated, in the process, so that a fresh clone sends without an account."""

from app.providers.simulated import SimulatedCarrier


class EmailProvider(SimulatedCarrier):
    """Takes mail as the script says (docs/simulator.md). Nothing leaves the machine."""

    prefix = "email"
