"""The command line: `python -m app serve`, worker, migrate, tenants, keys, webhooks, doctor, repair, simulate."""

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

#: What each is for. What it does is in the file of its name in `app/commands`.
_COMMANDS = {
    "serve": "serve HTTP, and deliver in the background",
    "worker": "only deliver; run as many as you like",
    "simulate": "a carrier to try things against, over HTTP",
    "migrate": "bring the database to this version's schema",
    "tenants": "create and list tenants, and give them addresses",
    "keys": "create, list and revoke API keys",
    "webhooks": "look at the calls of providers, and take them again",
    "doctor": "check the installation, and say how to mend it",
    "repair": "fetch what came in while a provider's calls were lost",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it ended as it should, 2 when the configuration does not allow it, 1 when `doctor`
    found a problem, `repair` broke off, or `webhooks` found a call that is not taken.

    Only the chosen one is loaded: each by itself needs a second, or half of one, to load what it stands on.
    """
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help in _COMMANDS.items():
        command = commands.add_parser(name, help=help)
        if name in words[:1]:
            chosen = _loaded(name)
            chosen.add_arguments(command)
            command.set_defaults(run=chosen.run)
    options = parser.parse_args(words)

    from app.commands import run

    return run(options)


def _loaded(command: str) -> ModuleType:
    """The file of a command. What is loaded is no garbage: to look through it for some took a tenth of the time."""
    gc.disable()
    try:
        return import_module(f"app.commands.{command}")
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
