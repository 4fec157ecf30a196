"""`python -m app` with a carrier that can't be asked what became of a message, and whose receipts tell nothing."""

import sys

from app.__main__ import main
from app.providers.base import BaseProvider
from app.providers.simulator import SimulatorProvider

if __name__ == "__main__":
    SimulatorProvider.look_up = BaseProvider.look_up  # type: ignore[method-assign]
    SimulatorProvider.receipts_carry_key = False
    sys.exit(main())
