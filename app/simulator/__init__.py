"""The carrier simulator as a process of its own: `python -m app simulate`, told in docs/simulator.md.

It stands apart so that tests can kill the service, the worker or the simulator itself, and then count in its ledger
what the carrier has seen.
"""

from app.simulator.application import create_simulator
from app.simulator.server import server_of

__all__ = ["create_simulator", "server_of"]
