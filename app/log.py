"""Structured logs: constant event names with facts as fields, as lines of JSON or in colours for a person.

Secrets and whole addresses are redacted from all events, ours and those of libraries. Line breaks and control
characters are escaped. Exceptions are logged with every frame, but with their text only if it can't hold user input.
"""

import logging
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from app.config import Settings
from app.errors import ConfigurationError, ServiceError
from app.redaction import redacted

log = structlog.get_logger(__name__)

_SELDOM_SECONDS = 1.0
#: Facts of the current request, in one dictionary that grows. Every request binds facts, and structlog's way of doing
#: so costs several times as much.
_facts: ContextVar[dict[str, object]] = ContextVar("facts")
_NOTHING: dict[str, object] = {}


def begin_request(id_: str) -> None:
    """Begin a request: later events of this task, and of tasks that it starts, carry this id and no earlier facts."""
    _facts.set({"request_id": id_})


def bind(**facts: object) -> None:
    """Add facts (`tenant=...`, `message_id=...`) to all later events of the same request."""
    known = _facts.get(_NOTHING)
    if known is _NOTHING:
        _facts.set(facts)
    else:
        known.update(facts)


def request_id() -> str | None:
    """The id of the current request."""
    id_ = _facts.get(_NOTHING).get("request_id")
    return None if id_ is None else str(id_)


def _with_facts(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {**_facts.get(_NOTHING), **event}


class Seldom:
    """An event that outsiders can cause in any number, logged as a warning once a second at most, with its count."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._count = 0
        self._logged_at = 0.0

    def note(self, **facts: object) -> None:
        self._count += 1
        now = time.monotonic()
        if now - self._logged_at >= _SELDOM_SECONDS:
            log.warning(self._event, count=self._count, **facts)
            self._logged_at, self._count = now, 0


def configure_logging(settings: Settings) -> None:
    """Send the events of this service and of all libraries through one formatter to standard error."""
    timestamper = TimeStamper("iso" if settings.logs_json else "%H:%M:%S")
    shared: list[Processor] = [_with_facts, structlog.stdlib.add_log_level, timestamper]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Processor = JSONRenderer()
    if not settings.logs_json:
        renderer = ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain_traceback)
    handler = logging.StreamHandler()
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*shared, _first_line_of_asyncio],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                ExceptionRenderer(partial(_traceback, with_texts=level <= logging.DEBUG)),
                _cleaned,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # The access log is a line of `app.http.envelope`, with the request's id and without its query.
        logger.propagate = name != "uvicorn.access"
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


# Characters that end a line or control a terminal: controls, line separators and direction marks. Halves of surrogate
# pairs are among them, because no stream can encode them.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def _escaped(text: str) -> str:
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(_clean(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return _escaped(redacted(value if isinstance(value, str) else repr(value)))


def _cleaned(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Redact secrets and escape control characters in every value. The lines of a traceback are kept and indented.

    So each unindented line on the console is an event, and the text of an exception can't forge one.
    """
    written_at = event.pop("timestamp", None)
    shown = event.pop("exception", None)
    cleaned: EventDict = _clean(event)
    if written_at is not None:
        cleaned["timestamp"] = written_at
    if shown is not None:
        cleaned["exception"] = "\n".join("  " + _escaped(redacted(line)) for line in shown.split("\n"))
    return cleaned


def _first_line_of_asyncio(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Drop further lines of asyncio: they show tasks and exceptions, which may hold user input."""
    if event["_record"].name == "asyncio":
        event["event"] = event["event"].partition("\n")[0]
    return event


#: Exceptions whose texts come from the interpreter, the system or us. Others may quote user input.
_SAFE_TO_SHOW = (
    AttributeError,
    ImportError,
    NameError,
    NotImplementedError,
    RecursionError,
    TypeError,
    OSError,
    ConfigurationError,
    ServiceError,
)


def _traceback(exc_info: ExcInfo, *, with_texts: bool) -> str:
    """Exceptions from the first cause to the last effect; `with_texts` for debugging only."""
    return "\n".join(_shown(exc_info[1], with_texts))


def _shown(error: BaseException, with_texts: bool) -> Iterator[str]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    for link in reversed(chain):
        yield "Traceback (most recent call last):"
        for entry in traceback.format_tb(link.__traceback__):
            yield from entry.rstrip("\n").split("\n")
        kind = f"{type(link).__module__}.{type(link).__qualname__}".removeprefix("builtins.")
        shows_text = with_texts or isinstance(link, _SAFE_TO_SHOW)
        yield f"{kind}: {link}" if shows_text else f"{kind} (LOG_LEVEL=debug shows its text)"
        if isinstance(link, BaseExceptionGroup):
            for member in link.exceptions:
                yield from ("  " + line for line in _shown(member, with_texts))
