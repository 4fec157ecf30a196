"""Structured logs: constant event names with facts as fields; a line of JSON each, or colours for a person.

Whatever is logged, by us or by a library, loses its secrets and whole addresses on the way, and can neither begin a
line of its own nor steer a terminal. Exceptions are shown with every frame; their texts only where they can't hold
what somebody sent.
"""

import logging
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from app.config import Settings
from app.errors import ConfigurationError, ServiceError
from app.redaction import redacted

log = structlog.get_logger(__name__)

_SELDOM_SECONDS = 1.0
#: What is known of the request that is being answered: one dictionary, which learns more on its way. To bind fact by
#: fact, as structlog does, costs several times as much, and every request does it.
_facts: ContextVar[dict[str, object]] = ContextVar("facts")
_NOTHING: dict[str, object] = {}


def begin_request(id_: str) -> None:
    """From here on this task, and what it starts, is about a request of this id, and of none before."""
    _facts.set({"request_id": id_})


def bind(**facts: object) -> None:
    """Add facts (`tenant=...`, `message_id=...`) to everything that is logged from here on about the same request."""
    known = _facts.get(_NOTHING)
    if known is _NOTHING:
        _facts.set(facts)
    else:
        known.update(facts)


def request_id() -> str | None:
    """The id of the request that is being answered."""
    id_ = _facts.get(_NOTHING).get("request_id")
    return None if id_ is None else str(id_)


def _with_facts(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {**_facts.get(_NOTHING), **event}


class Seldom:
    """An event that strangers can cause in any number: a warning once a second at most, with how often it came."""

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
    """Send our events, uvicorn's and every library's through one formatter to standard error."""
    shared: list[Processor] = [
        _with_facts,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if settings.logs_json
        else structlog.processors.TimeStamper("%H:%M:%S"),
    ]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.logs_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _first_line_of_asyncio],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_Traceback(with_texts=level <= logging.DEBUG)),
                _cleaned,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Ours is a line of `routers.answers`, with the request's id and without its query.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


# Characters that end a line or steer a terminal: controls, line separators, those that turn the direction of
# writing, and halves of characters, which no stream can encode.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def _escaped(text: str) -> str:
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(_clean(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return _escaped(redacted(value if isinstance(value, str) else repr(value)))


def _cleaned(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Every value without secrets and without steering characters; a traceback keeps its lines, all of them indented.

    So each line of the console form that begins at its edge is an event, whatever an exception says.
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
    """asyncio's further lines are representations of tasks and their exceptions, with all that these may hold."""
    if event["_record"].name == "asyncio":
        event["event"] = event["event"].partition("\n")[0]
    return event


#: Texts that the interpreter, the system or we have written; others may quote what somebody sent.
_TELLING = (
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


class _Traceback:
    """Shows exceptions from the first cause to the last effect; `with_texts` for debugging only."""

    def __init__(self, *, with_texts: bool) -> None:
        self._with_texts = with_texts

    def __call__(self, exc_info: ExcInfo) -> str:
        return "\n".join(_shown(exc_info[1], self._with_texts))


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
        is_telling = with_texts or isinstance(link, _TELLING)
        yield f"{kind}: {link}" if is_telling else f"{kind} (LOG_LEVEL=debug shows its text)"
        if isinstance(link, BaseExceptionGroup):
            for member in link.exceptions:
                yield from ("  " + line for line in _shown(member, with_texts))
