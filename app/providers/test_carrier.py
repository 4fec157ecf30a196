"""The carrier of test tenants: simulated in the process, on every channel, also in production."""

from typing import ClassVar

from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.in_process import SimulatedCarrier


class TestCarrier(SimulatedCarrier):
    """Accepts or refuses the messages of test tenants by the script (docs/simulator.md), with receipts and replies.

    The script also holds in production: no message of a live tenant comes here.
    """

    __test__ = False  # pytest takes it for a test otherwise
    channels: ClassVar = {"sms": "phone", "email": "email"}
    prefix = "test"

    def __init__(self) -> None:
        super().__init__(SimulatorSettings().model_copy(update={"environment": "test"}))
