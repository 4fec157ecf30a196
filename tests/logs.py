"""The log of this process, for tests that read it."""

import io
import logging

from structlog.stdlib import ProcessorFormatter


def captured() -> io.StringIO:
    """The lines that are logged from now on, in the format of the application that was made last."""
    written = io.StringIO()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.formatter, ProcessorFormatter):
            handler.stream = written  # `setStream` flushes the one of before, which may be closed
    return written
