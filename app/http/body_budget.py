"""Memory for the bodies of providers that are larger than others may be."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from app.errors import Overloaded

#: Bytes: what any request may have.
SMALL = 1_000_000


class BodyBudget:
    """Holds what bodies have beyond the megabyte that any may have, up to `size` bytes in all.

    Who has shown a secret in front of the body may fill it. All others are strangers until the body is there: one
    address may hold a third, and together they hold two, so what they leave is enough for a mail of somebody known.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: Counter[str | None] = Counter()  # by a stranger's address; None is everybody else

    @property
    def held(self) -> int:
        return self._held.total()

    @contextmanager
    def metered(self, receive: Receive, stranger: Callable[[], str | None]) -> Iterator[Receive]:
        """Receives as `receive` does, and raises `Overloaded` where there is no room for more; gives all of it back
        at the end.

        `stranger` is called once the body turns out to be a large one, and says at which address a stranger is, or
        None. What it raises is raised into whoever reads.
        """
        read = held = 0
        holder: str | None = None

        async def receiving() -> Message:
            nonlocal read, held, holder
            message = await receive()
            was_small = read <= SMALL
            read += len(message.get("body", b""))
            if read > SMALL:
                holder = stranger() if was_small else holder
                self._take(read - SMALL - held, holder)
                held = read - SMALL
            return message

        try:
            yield receiving
        finally:
            self._held -= Counter({holder: held})

    def _take(self, size: int, holder: str | None) -> None:
        fits = self.held + size <= self._size
        if holder is not None:
            fits &= self.held - self._held[None] + size <= self._size * 2 // 3
            fits &= self._held[holder] + size <= self._size // 3
        if not fits:
            raise Overloaded("Other large bodies are being read. Try again shortly.")
        self._held[holder] += size
