"""The signals that stop a server, noticed before it waits for the requests that are open."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def called_at_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Have `callback` called in the event loop when a signal stops the server, which handles it as before.

    uvicorn first waits for all answers, and then ends the lifespan. An answer that has no end of its own would keep
    the process. A signal without a handler is left as it is.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None, go_on: _Handler) -> None:
        loop.call_soon_threadsafe(callback)
        go_on(number, frame)

    with _handled_by(handle, _SIGNALS):
        yield


class Drain:
    """The last seconds of a process before it stops, in which it serves as before and reports itself as not ready.

    A proxy sends it nothing more by the end of them, so no request meets a closed port.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.has_begun = False

    @contextmanager
    def begun_at_stop(self) -> Iterator[None]:
        """Begin at SIGTERM, and pass it on at the end, or at the next signal. Ctrl-C passes at once."""
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None, go_on: _Handler) -> None:
            if self.has_begun or not self._seconds:
                go_on(number, frame)
                return
            self.has_begun = True
            log.info("draining", seconds=self._seconds)
            loop.call_soon_threadsafe(loop.call_later, self._seconds, go_on, number, None)

        with _handled_by(handle, (signal.SIGTERM,)):
            yield


@contextmanager
def _handled_by(
    handle: Callable[[int, FrameType | None, _Handler], object], numbers: tuple[signal.Signals, ...]
) -> Iterator[None]:
    """Have signals handled by a function that gets the handler before it; one without a handler is left as it is."""
    before: dict[int, _Handler] = {}

    def handle_with_before(number: int, frame: FrameType | None) -> None:
        handle(number, frame, before[number])

    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in numbers}
        before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, handle_with_before)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle_with_before:
                signal.signal(number, handler)
