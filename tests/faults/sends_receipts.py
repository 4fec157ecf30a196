"""`python -m app` with a carrier that can't be asked what became of a message, as most carriers can't."""

import sys

from app.__main__ import main
from app.providers.base import BaseProvider
from app.providers.simulator import SimulatorProvider

if __name__ == "__main__":
    SimulatorProvider.look_up = BaseProvider.look_up  # type: ignore[method-assign]
    sys.exit(main())
