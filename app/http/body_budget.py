"""A bound on the memory that request bodies take while they are read, so that no sender can use it up.

`OverloadGuard` counts the bodies of all requests that are not complete, and the webhooks count large callbacks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from app.errors import Overloaded

#: Bytes that any callback may have without being metered.
SMALL = 1_000_000


class BodyBudget:
    """Counts bytes by sender: all hold at most `size` together, one sender `of_one`, those not authenticated
    `of_strangers`.

    A sender is a network address, or None once a secret in the head has authenticated it. Only `size` binds None.
    """

    def __init__(self, size: int, *, of_one: int, of_strangers: int | None = None) -> None:
        self.held = 0
        self._size = size
        self._of_one = of_one
        self._of_strangers = size if of_strangers is None else of_strangers
        self._by_sender: dict[str | None, int] = {}

    def take(self, sender: str | None, size: int) -> None:
        """Count bytes of a sender. Raises `Overloaded`, and counts nothing, where a limit would be exceeded."""
        own = self._by_sender.get(sender, 0) + size
        fits = self.held + size <= self._size
        if sender is not None:
            fits &= self.held + size - self._by_sender.get(None, 0) <= self._of_strangers
            fits &= own <= self._of_one
        if not fits:
            raise Overloaded("Other large bodies are being read. Try again shortly.")
        self.held += size
        self._by_sender[sender] = own

    def give_back(self, sender: str | None, size: int) -> None:
        self.held -= size
        self._by_sender[sender] = self._by_sender.get(sender, 0) - size
        if not self._by_sender[sender]:
            del self._by_sender[sender]

    @contextmanager
    def metered(self, receive: Receive, sender_of: Callable[[], str | None]) -> Iterator[Receive]:
        """A `receive` that takes from the budget what a body has beyond `SMALL`; all is given back at the end.

        It raises `Overloaded` as `take` does. `sender_of` is called once, when the body turns out to be a large one;
        what it raises is raised to the reader.
        """
        read = held = 0
        sender: str | None = None

        async def receiving() -> Message:
            nonlocal read, held, sender
            message = await receive()
            was_small = read <= SMALL
            read += len(message.get("body", b""))
            if read > SMALL:
                sender = sender_of() if was_small else sender
                self.take(sender, read - SMALL - held)
                held = read - SMALL
            return message

        try:
            yield receiving
        finally:
            self.give_back(sender, held)
