"""The signals that stop a server, noticed before it waits for the requests that are open."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def called_at_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Have `callback` called in the event loop when a signal stops the server, which handles it as before.

    uvicorn first waits for all answers, and then ends the lifespan. An answer that has no end of its own would keep
    the process. A signal without a handler is left as it is.
    """
    loop = asyncio.get_running_loop()
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
