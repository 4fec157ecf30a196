"""The carrier simulator, also in the wire formats of Twilio, SendGrid and WhatsApp (docs/simulator.md)."""

import argparse

from app.commands.simulate import add_arguments, simulate
from tests.providers.wire import vendor_formats

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.providers.wire", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--service", metavar="URL", help="the service's address, to which the vendors call back")
    chosen = parser.parse_args()
    simulate(chosen, vendor_formats(chosen.service))
