"""The vocabulary of an installation: its command, the scopes of keys, the verdicts on callbacks."""

import os
from enum import StrEnum


def command_name() -> str:
    """The words that start a command here: `bin/app`, `messaging-service` of the wheel, or `python -m app`."""
    return os.environ.get("APP_COMMAND", "python -m app")


class KeyScope(StrEnum):
    """A permission of an API key. No scope includes another."""

    SEND = "send"  #: send, cancel and retry messages.
    READ = "read"  #: read messages, conversations and the health of providers.
    SERVICE = "service"  #: with `send`: send service messages, such as codes, in spite of a refused topic.
    ADMIN = "admin"  #: erase contacts, lift refusals; of tenant 1, also manage tenants, keys and providers.


class CallbackVerdict(StrEnum):
    """The result of a callback."""

    TAKEN = "taken"  #: genuine, and all of its items are stored.
    NOT_UNDERSTOOD = "not_understood"  #: genuine, but some item could not be read or stored.
    REFUSED = "refused"  #: not genuine, as far as can be verified.
