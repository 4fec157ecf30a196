"""The commands of the messaging service."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from app import __version__
from app.installation import command_name

#: Each command and its purpose. Its code is in the file of its name in `app/commands`.
_COMMANDS = {
    "serve": "serve HTTP, and deliver in the background",
    "worker": "only deliver; run as many as you like",
    "simulate": "run a simulated carrier, to try things against over HTTP",
    "migrate": "bring the database to the schema of this version",
    "backup": "back up the database and files, also while it is served",
    "restore": "restore a backup, without sending anything twice",
    "psql": "open the database that is served",
    "tenants": "create and list tenants, and give them addresses",
    "keys": "create, list and revoke API keys",
    "suppressions": "export the addresses that must not be written to, and import more",
    "events": "print events as they happen, or post them to a local port",
    "webhooks": "list the callbacks of providers, verify and replay them",
    "doctor": "check the installation, and say how to fix it",
    "repair": "fetch messages that came in while a provider's callbacks were lost",
}
#: A command that passes unknown arguments on to another program.
_PASSES_ON = "psql"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without a command, show the menu.

    0 is success, 2 a configuration that does not allow the command. 1 is a failure that the command reports itself.
    Only the chosen command is loaded, because each needs half a second or more to import its dependencies.
    """
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    parser = argparse.ArgumentParser(
        prog=command_name(),
        description=__doc__,
        epilog="`<command> --help` shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"messaging-service {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", title="commands")
    for name, help in _COMMANDS.items():
        command = commands.add_parser(name, help=help)
        if name in words[:1]:
            try:
                chosen = _loaded(name)
            except ValueError as error:  # of the settings, which providers read when they are loaded
                return _refused(error)
            if hasattr(chosen, "add_arguments"):
                chosen.add_arguments(command)
            command.set_defaults(run=chosen.run)
    options, further = parser.parse_known_args(words)
    if further and options.command != _PASSES_ON:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    options.further = further

    from app.commands import run

    return run(options)


def _refused(error: ValueError) -> int:
    from app.commands import refusals, refuse

    if not (sentences := refusals(error)):
        raise error
    return refuse(*sentences)


def _loaded(command: str) -> ModuleType:
    """Import the file of a command, without garbage collection, which would take a tenth of the time."""
    gc.disable()
    try:
        return import_module(f"app.commands.{command}")
    finally:
        gc.enable()


def start() -> NoReturn:
    """Run the command of the command line, and exit with its code."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only add a traceback
        sys.exit(130)  # as shells report a program that Ctrl-C has ended


def installed() -> NoReturn:
    """Run as the program that the wheel installs."""
    os.environ["APP_COMMAND"] = "messaging-service"
    start()


if __name__ == "__main__":
    start()
